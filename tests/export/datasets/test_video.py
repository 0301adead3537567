"""Frames of a video: even distances, the right ones, and clear errors."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgec.export.datasets.images import open_images
from edgec.export.errors import InputError, MissingToolError

cv2 = pytest.importorskip("cv2")

FRAMES = 30


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Frame i is grey of value 8·i, with a red corner."""
    path = tmp_path_factory.mktemp("video") / "drive.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    assert writer.isOpened()
    for index in range(FRAMES):
        frame = np.full((48, 64, 3), 8 * index, np.uint8)
        frame[:16, :16] = (0, 0, 255)  # BGR
        writer.write(frame)
    writer.release()
    return path


def greys(images: Any) -> list[int]:
    return [round(float(np.asarray(image)[30, 40].mean()) / 8) for image in images]


def test_all_frames_in_order_and_in_rgb(video: Path) -> None:
    images = open_images(video)
    assert len(images) == FRAMES
    assert greys(images) == list(range(FRAMES))
    first = np.asarray(next(iter(images)))
    assert first.shape == (48, 64, 3)
    red, green, blue = first[4, 4]
    assert red > 200
    assert max(green, blue) < 60
    assert greys(images) == list(range(FRAMES)), "it can be read again"


@pytest.mark.parametrize("limit", [1, 7, 30, 100])
def test_a_limit_takes_frames_at_even_distances(video: Path, limit: int) -> None:
    images = open_images(video, limit=limit)
    found = greys(images)
    assert len(found) == min(limit, FRAMES)
    steps = np.diff(found)
    assert steps.size == 0 or steps.max() - steps.min() <= 1
    assert images.names == tuple(f"frame {index:06d}" for index in found)
    assert greys(images.subset([len(found) - 1])) == found[-1:]


def test_provenance_depends_on_the_frames(video: Path) -> None:
    some, others = open_images(video, limit=4), open_images(video, limit=5)
    assert some.sha256 == open_images(video, limit=4).sha256
    assert some.sha256 != others.sha256
    assert some.labels is None


def test_what_is_no_video_is_refused(tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"this is no video" * 100)
    with pytest.raises(InputError) as caught:
        open_images(broken)
    assert caught.value.code == "EC771"
    with pytest.raises(InputError):
        open_images(tmp_path / "none.mp4")


def test_labels_and_silly_limits_are_refused(video: Path) -> None:
    with pytest.raises(InputError):
        open_images(video, labels=True)
    with pytest.raises(InputError):
        open_images(video, limit=0)


def test_without_opencv_the_extra_is_named(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(MissingToolError) as caught:
        open_images(video)
    assert caught.value.code == "EC670"
    assert "edgec[video]" in (caught.value.fix or "")
