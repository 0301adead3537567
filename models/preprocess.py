"""Image preprocessing as data: resize, centre crop, scale, normalise."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

Interpolation = Literal["nearest", "bilinear", "bicubic"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocess:
    """From a decoded image to the network's input tensor.

    Attributes:
        size: (height, width) of the network input in pixels.
        resize: ``"shorter"`` scales the shorter side to ``int(size / crop)`` and cuts the
            centre; ``"stretch"`` scales both sides to ``size``; ``"none"`` takes images that
            already have ``size``.
        crop: share of the resized image that the centre crop keeps, 0 < crop <= 1.
        interpolation: resampling filter (Pillow's, with antialiasing).
        mean, std: per channel, in units of the scaled pixel: y = (x / 255 - mean) / std.
        channels: ``"RGB"``, ``"BGR"`` or ``"L"`` (one channel).
    """

    size: tuple[int, int]
    resize: Literal["shorter", "stretch", "none"] = "shorter"
    crop: float = 0.875
    interpolation: Interpolation = "bicubic"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    channels: Literal["RGB", "BGR", "L"] = "RGB"

    def __call__(self, image: Image) -> NDArray[np.float32]:
        """Return the float32 tensor of shape (C, H, W)."""
        import numpy as np
        from PIL import Image as PILImage

        filters = {
            "nearest": PILImage.Resampling.NEAREST,
            "bilinear": PILImage.Resampling.BILINEAR,
            "bicubic": PILImage.Resampling.BICUBIC,
        }
        height, width = self.size
        image = image.convert("L" if self.channels == "L" else "RGB")
        if self.resize == "stretch":
            image = image.resize((width, height), filters[self.interpolation])
        elif self.resize == "shorter":
            # as torchvision's Resize: one side exact, the other truncated
            wanted_h, wanted_w = int(height / self.crop), int(width / self.crop)
            if image.height * wanted_w <= image.width * wanted_h:
                new = (int(wanted_h * image.width / image.height), wanted_h)
            else:
                new = (wanted_w, int(wanted_w * image.height / image.width))
            image = image.resize(new, filters[self.interpolation])
            # torchvision's CenterCrop rounds half to even, so do we
            left = round((image.width - width) / 2.0)
            top = round((image.height - height) / 2.0)
            image = image.crop((left, top, left + width, top + height))
        elif (image.height, image.width) != self.size:
            raise ValueError(
                f"image is {image.height}x{image.width}, the network takes {height}x{width}"
            )
        pixels = np.asarray(image, dtype=np.float32) / np.float32(255)
        if pixels.ndim == 2:
            pixels = pixels[:, :, None]
        if self.channels == "BGR":
            pixels = pixels[:, :, ::-1]
        mean = np.asarray(self.mean, dtype=np.float32)
        std = np.asarray(self.std, dtype=np.float32)
        return np.ascontiguousarray(((pixels - mean) / std).transpose(2, 0, 1))

    def to_json(self) -> dict[str, Any]:
        """All fields, JSON-ready; `from_json` reads them back."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Preprocess:
        """Inverse of `to_json`; unknown fields raise TypeError."""
        data = dict(data)
        for key in ("size", "mean", "std"):
            if key in data:
                data[key] = tuple(data[key])
        return cls(**data)
