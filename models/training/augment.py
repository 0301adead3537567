"""Batch-wise image augmentation on tensors: crop, flip, and two random RandAugment-like ops.

Every image draws its own operations and strengths (Cubuk et al., RandAugment, arXiv 1909.13719);
all images of a batch are computed together, which is what a CPU needs to keep up.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def augment(images: Tensor, generator: torch.Generator, *, strength: float = 1.0) -> Tensor:
    """Augment a batch.

    Args:
        images: float32 (N, 3, H, W) in [0, 1].
        generator: source of all randomness, so that a run can be repeated.
        strength: 0 leaves crop and flip only, 1 is the usual amount.

    Returns:
        The same shape, in [0, 1].
    """
    images = _crop_and_flip(images, generator)
    if strength <= 0:
        return images
    images = _geometric(images, generator, strength)
    images = _colour(images, generator, strength)
    return _cutout(images, generator, strength)


def _uniform(count: int, generator: torch.Generator, low: float, high: float) -> Tensor:
    return torch.empty(count, 1, 1, 1).uniform_(low, high, generator=generator)


def _crop_and_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    count, _, height, width = images.shape
    pad = height // 8
    padded = F.pad(images, (pad, pad, pad, pad), mode="reflect")
    top = torch.randint(0, 2 * pad + 1, (count,), generator=generator)
    left = torch.randint(0, 2 * pad + 1, (count,), generator=generator)
    rows = top[:, None] + torch.arange(height)
    columns = left[:, None] + torch.arange(width)
    flip = torch.rand(count, generator=generator) < 0.5
    columns = torch.where(flip[:, None], columns.flip(1), columns)
    index = torch.arange(count)[:, None, None]
    return padded.permute(0, 2, 3, 1)[index, rows[:, :, None], columns[:, None, :]].permute(
        0, 3, 1, 2
    )


def _geometric(images: Tensor, generator: torch.Generator, strength: float) -> Tensor:
    """Rotation, shear and scale of half of the images."""
    count = len(images)
    chosen = torch.rand(count, generator=generator) < 0.5
    if not chosen.any():
        return images
    angle, shear, scale = (
        _uniform(count, generator, -limit * strength, limit * strength).flatten()
        for limit in (0.3, 0.2, 0.15)
    )
    cos, sin = torch.cos(angle), torch.sin(angle)
    zero = torch.zeros_like(angle)
    matrix = torch.stack(
        [
            torch.stack([cos * (1 + scale), -sin + shear, zero], -1),
            torch.stack([sin, cos * (1 + scale), zero], -1),
        ],
        1,
    )[chosen]
    grid = F.affine_grid(matrix, list(images[chosen].shape), align_corners=False)
    images = images.clone()
    images[chosen] = F.grid_sample(
        images[chosen], grid, padding_mode="reflection", align_corners=False
    )
    return images


def _colour(images: Tensor, generator: torch.Generator, strength: float) -> Tensor:
    """Brightness, contrast and saturation, each for half of the images."""
    count = len(images)
    for reference in ("black", "mean", "grey"):
        amount = _uniform(count, generator, -0.5 * strength, 0.5 * strength)
        amount = amount * (torch.rand(count, 1, 1, 1, generator=generator) < 0.5)
        if reference == "black":
            base = torch.zeros_like(images[:, :1, :1, :1])
        elif reference == "mean":
            base = images.mean(dim=(1, 2, 3), keepdim=True)
        else:
            base = images.mean(dim=1, keepdim=True)
        images = images + amount * (images - base)
    return images.clamp(0, 1)


def _cutout(images: Tensor, generator: torch.Generator, strength: float) -> Tensor:
    """A grey square of up to a quarter of the edge in half of the images (arXiv 1708.04552)."""
    count, _, height, width = images.shape
    size = max(1, int(height * 0.25 * strength))
    top = torch.randint(-size + 1, height, (count, 1), generator=generator)
    left = torch.randint(-size + 1, width, (count, 1), generator=generator)
    rows, columns = torch.arange(height), torch.arange(width)
    inside = ((rows >= top) & (rows < top + size))[:, :, None] & (
        (columns >= left) & (columns < left + size)
    )[:, None, :]
    inside &= (torch.rand(count, generator=generator) < 0.5)[:, None, None]
    return torch.where(inside[:, None], torch.full((), 0.5), images)
