"""Slow, plain integer arithmetic: what a quantized operator means.

Integers are exact (int64); the only rounding is where the formulas say so. Requantization is the
one of ONNX's QLinear operators: multiply the int32 accumulator by s_x·s_w / s_y in floating
point, round half to even, add the zero point, saturate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Grid:
    """Integer grid of a tensor: value = scale · (q − zero_point), low <= q <= high.

    `scale` is a scalar, or one per channel of axis 0 for weights.
    """

    scale: NDArray[np.float32]
    zero_point: int
    low: int
    high: int

    @classmethod
    def of(cls, scale: Any, zero_point: int, dtype: Any) -> Grid:
        """The full grid of an integer dtype."""
        info = np.iinfo(dtype)
        return cls(np.asarray(scale, np.float32), zero_point, int(info.min), int(info.max))


def quantize_linear(values: NDArray[np.float32], grid: Grid) -> Integers:
    """q = saturate(round_half_even(x / scale) + zero_point), in float32 as ONNX defines it."""
    scaled = np.rint(values.astype(np.float32) / grid.scale).astype(np.float64)
    saturated: Integers = np.clip(scaled + grid.zero_point, grid.low, grid.high).astype(np.int64)
    return saturated


def dequantize_linear(integers: Integers, grid: Grid) -> NDArray[np.float32]:
    """x = scale · (q − zero_point)."""
    return ((integers - grid.zero_point).astype(np.float32) * grid.scale).astype(np.float32)


def requantize(accumulator: Integers, multiplier: NDArray[np.float64], grid: Grid) -> Integers:
    """saturate(round_half_even(accumulator · multiplier) + zero_point)."""
    scaled = np.rint(accumulator.astype(np.float64) * multiplier)
    saturated: Integers = np.clip(scaled + grid.zero_point, grid.low, grid.high).astype(np.int64)
    return saturated


def conv(
    x: Integers,
    weight: Integers,
    bias: Integers | None,
    x_zero: int,
    *,
    stride: int = 1,
    pad: int = 0,
    groups: int = 1,
) -> Integers:
    """Accumulator of a 2-D convolution, N×C×H×W with M×(C/groups)×kH×kW.

    Padding inserts the zero point, which stands for real zero.
    """
    padded = np.pad(x - x_zero, ((0, 0), (0, 0), (pad, pad), (pad, pad)), constant_values=0)
    batch, _, height, width = padded.shape
    filters, depth, rows, columns = weight.shape
    out_height, out_width = (height - rows) // stride + 1, (width - columns) // stride + 1
    result = np.zeros((batch, filters, out_height, out_width), np.int64)
    for m in range(filters):
        first = (m // (filters // groups)) * depth
        for i in range(out_height):
            for j in range(out_width):
                window = padded[
                    :,
                    first : first + depth,
                    i * stride : i * stride + rows,
                    j * stride : j * stride + columns,
                ]
                result[:, m, i, j] = (window * weight[m]).sum(axis=(1, 2, 3))
    return result if bias is None else result + bias[None, :, None, None]


def matmul(a: Integers, b: Integers, a_zero: int, b_zero: int) -> Integers:
    """Accumulator of a matrix product."""
    product: Integers = np.matmul(a - a_zero, b - b_zero)
    return product


def add(a: Integers, a_grid: Grid, b: Integers, b_grid: Grid, y_grid: Grid) -> Integers:
    """Sum of two quantized tensors on a third grid (QLinearAdd)."""
    total = dequantize_linear(a, a_grid) + dequantize_linear(b, b_grid)
    return quantize_linear(total, y_grid)
