"""What the kernels of the byte interpreter have in common: operands as bytes, walks over images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[Any]
Values = Mapping[str, Any]
"""Fields of a parameter struct."""
Kernel = Callable[[Values, Sequence[Bytes], Bytes], None]
"""Reads operands and writes an output; all of them as bytes, which may overlap."""


def windows(p: Values, image: NDArray[Any], row: int, fill: float) -> NDArray[Any]:
    """Windows of an output row, [out_w][k_h][k_w][channels], `fill` in the padding.

    Integers come widened to 64 bits.
    """
    kind = np.float32 if image.dtype == np.float32 else np.int64
    block = np.full((p["k_h"], p["in_w"] + 1, image.shape[-1]), fill, kind)
    top = row * p["stride_h"] - p["pad_h"]
    for tap in range(p["k_h"]):
        line = top + tap * p.get("dilation_h", 1)
        if 0 <= line < p["in_h"]:
            block[tap, :-1] = image[line]
    left = np.arange(p["out_w"])[:, None] * p["stride_w"] - p["pad_w"]
    columns = left + np.arange(p["k_w"]) * p.get("dilation_w", 1)
    # the column after the last holds what lies outside
    columns = np.where((columns >= 0) & (columns < p["in_w"]), columns, p["in_w"])
    return block[:, columns].transpose(1, 0, 2, 3)


def images(
    p: Values, x: NDArray[Any], y: NDArray[Any], channels: str = "in_c"
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Input and output as (batch, height, width, channels)."""
    out = p.get("out_c", p[channels])
    return (
        x.reshape(p["batch"], p["in_h"], p["in_w"], p[channels]),
        y.reshape(p["batch"], p["out_h"], p["out_w"], out),
    )


def grid(start: int, *loops: tuple[int, int]) -> NDArray[np.int64]:
    """Addresses of nested loops of (size, stride)."""
    found = np.array(start, np.int64)
    for size, stride in loops:
        found = found[..., None] + np.arange(size) * stride
    return found


def start(place: Sequence[int], strides: Sequence[int]) -> int:
    """Address of a place in outer loops."""
    return sum(i * stride for i, stride in zip(place, strides, strict=True))
