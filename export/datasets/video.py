"""Frames of a video as a set of images: what a camera on the device will see."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgec.export.datasets.images import ImageSet
from edgec.export.errors import InputError, MissingToolError


def open_video(path: Path, limit: int | None = None) -> ImageSet:
    """The frames of a video file, or `limit` of them at even distances.

    Neighbouring frames show nearly the same: a random sample would tell less than an even one.

    Args:
        path: of the file.
        limit: at most this many frames, one at least.

    Returns:
        Unlabelled images named ``frame 000017``, decoded while iterating.

    Raises:
        MissingToolError: EC670, OpenCV is not installed.
        InputError: EC771, not a video that OpenCV can decode; EC773, it has no frames.
    """
    count = _count(path)
    if limit is not None and limit < 1:
        raise InputError("EC773", f"a limit of {limit} leaves no frame", where=str(path))
    kept = count if limit is None else min(limit, count)
    # the middles of equal parts: neither the first frame nor the last is special
    indices = tuple(int((i + 0.5) * count / kept) for i in range(kept))
    return ImageSet(
        source=str(path),
        kind="video",
        names=tuple(f"frame {index:06d}" for index in indices),
        _open=lambda: _VideoDecoder(path),
        _indices=indices,
    )


class _VideoDecoder:
    """Frames by index; ascending ones are read in one go."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._capture: Any = None
        self._next = 0

    def __enter__(self) -> _VideoDecoder:
        self._rewind()
        return self

    def __exit__(self, *args: object) -> None:
        self._capture.release()

    def raw(self, index: int) -> bytes:
        return self._frame(index).tobytes()

    def image(self, index: int) -> Image.Image:
        return Image.fromarray(np.ascontiguousarray(self._frame(index)[:, :, ::-1]))

    def _rewind(self) -> None:
        if self._capture is not None:
            self._capture.release()
        self._capture, self._next = _opened(self._path), 0

    def _frame(self, index: int) -> NDArray[np.uint8]:
        """Frame in BGR, as OpenCV gives it."""
        # seeking by number is wrong in files with variable frame rates: skip instead
        if index < self._next:
            self._rewind()
        while self._next < index and self._capture.grab():
            self._next += 1
        good, frame = self._capture.read()
        if not good:
            raise InputError(
                "EC772",
                f"frame {index} cannot be decoded",
                where=str(self._path),
                fix="convert the video, for example with ffmpeg, or give a folder of images",
            )
        self._next = index + 1
        found: NDArray[np.uint8] = frame
        return found


def _count(path: Path) -> int:
    """Number of frames; counted, because headers are often wrong."""
    capture = _opened(path)
    count = 0
    while capture.grab():
        count += 1
    capture.release()
    if count == 0:
        raise InputError("EC773", "the video has no frames", where=str(path))
    return count


def _opened(path: Path) -> Any:
    try:
        import cv2
    except ImportError as error:
        raise MissingToolError(
            "EC670",
            "reading a video needs OpenCV",
            where=str(path),
            why="the package opencv-python-headless is not installed",
            fix="pip install 'edgec[video]', or give a folder of images",
        ) from error
    capture = cv2.VideoCapture(str(path))
    if not capture.isOpened():
        raise InputError(
            "EC771",
            "the video cannot be opened",
            where=str(path),
            why="OpenCV knows neither its container nor its codec, or the file is damaged",
            fix="convert it, for example with ffmpeg, or give a folder of images",
        )
    return capture
