"""Image preprocessing against the arithmetic of torchvision's transforms."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from edgec.models.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess


def gradient(width: int, height: int) -> Image.Image:
    y, x = np.mgrid[:height, :width]
    rgb = np.stack(
        [x * 255 // max(width - 1, 1), y * 255 // max(height - 1, 1), x * 0 + 7], axis=-1
    )
    return Image.fromarray(rgb.astype(np.uint8))


@pytest.mark.parametrize(
    ("source", "resized"),
    # Resize(256): the shorter side becomes 256, the longer int(256 * long / short)
    [
        ((500, 375), (341, 256)),
        ((375, 500), (256, 341)),
        ((300, 300), (256, 256)),
        ((64, 100), (256, 400)),
    ],
)
def test_resize_and_crop(source: tuple[int, int], resized: tuple[int, int]) -> None:
    image = gradient(*source)
    expected = image.resize(resized, Image.Resampling.BICUBIC)
    left, top = round((resized[0] - 224) / 2), round((resized[1] - 224) / 2)
    pixels = np.asarray(expected, dtype=np.float32)[top : top + 224, left : left + 224]
    normalised = (pixels / 255 - np.float32(IMAGENET_MEAN)) / np.float32(IMAGENET_STD)
    tensor = Preprocess(size=(224, 224))(image)
    assert tensor.shape == (3, 224, 224)
    assert tensor.dtype == np.float32
    assert tensor.flags.c_contiguous
    np.testing.assert_allclose(tensor, normalised.transpose(2, 0, 1), rtol=0, atol=1e-6)


def test_channel_orders() -> None:
    image = gradient(8, 8)
    plain = {"size": (8, 8), "resize": "none", "mean": (0.0,) * 3, "std": (1.0,) * 3}
    rgb = Preprocess(**plain)(image)  # type: ignore[arg-type]
    bgr = Preprocess(**plain, channels="BGR")(image)  # type: ignore[arg-type]
    np.testing.assert_array_equal(rgb[::-1], bgr)
    grey = Preprocess(size=(8, 8), resize="none", mean=(0.5,), std=(0.5,), channels="L")(image)
    assert grey.shape == (1, 8, 8)
    assert -1 <= grey.min() < grey.max() <= 1


def test_stretch_ignores_the_aspect() -> None:
    tensor = Preprocess(size=(32, 48), resize="stretch")(gradient(100, 10))
    assert tensor.shape == (3, 32, 48)


def test_size_without_resize() -> None:
    with pytest.raises(ValueError, match="10x100"):
        Preprocess(size=(32, 48), resize="none")(gradient(100, 10))


def test_json_round_trip() -> None:
    original = Preprocess(size=(192, 256), crop=0.95, interpolation="bilinear")
    assert Preprocess.from_json(original.to_json()) == original
    with pytest.raises(TypeError):
        Preprocess.from_json({"size": [1, 1], "sizes": 3})
