"""Arithmetic element by element and along axes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgec.export.tflite.model import Tensor
from edgec.export.tflite.reference.call import Call
from edgec.export.tflite.reference.fixed_point import (
    Integers,
    Multiplier,
    finish,
    limits,
    rounded,
    scale_of,
    zero_of,
)

_SUM_SHIFT = {"INT8": 20, "INT16": 15}
_DIFFERENCE_SHIFT = 7


def _pair(call: Call) -> tuple[tuple[Integers, Tensor], tuple[Integers, Tensor]]:
    first, second = call.tensor(0), call.tensor(1)
    a = call.array(0).astype(np.int64) - zero_of(first)
    b = call.array(1).astype(np.int64) - zero_of(second)
    return (a, first), (b, second)


def _aligned(call: Call, shift: int) -> tuple[Integers, Integers, float]:
    """Both operands on one grid of steps of twice the larger scale, `shift` bits finer."""
    (a, a_tensor), (b, b_tensor) = _pair(call)
    scales = np.float32(scale_of(a_tensor)), np.float32(scale_of(b_tensor))
    twice = float(np.float32(2) * max(scales))
    first, second = (Multiplier.of(float(scale) / twice) for scale in scales)
    return first(a << shift), second(b << shift), twice


def add(call: Call) -> NDArray[Any]:
    """ADD and SUB."""
    if (floats := _floats(call)) is not None:
        return floats
    y = call.output
    shift = _SUM_SHIFT[y.dtype]
    a, b, twice = _aligned(call, shift)
    total = a + b if call.code == "ADD" else a - b
    back = Multiplier.of(twice / ((1 << shift) * float(scale_of(y))))
    return finish(back(total), y, call.options["fused_activation_function"])


def squared_difference(call: Call) -> NDArray[Any]:
    """(a − b)²."""
    if (floats := _floats(call)) is not None:
        return floats
    a, b, twice = _aligned(call, _DIFFERENCE_SHIFT)
    y = call.output
    back = Multiplier.of(twice * twice / ((1 << 2 * _DIFFERENCE_SHIFT) * float(scale_of(y))))
    return finish(back((a - b) ** 2), y)


def _floats(call: Call) -> NDArray[Any] | None:
    """The result in single precision, if the operands are floats."""
    a, b = call.array(0), call.array(1)
    if a.dtype != np.float32 or b.dtype != np.float32:
        return None
    if call.code in ("ADD", "MUL"):
        result: NDArray[Any] = a + b if call.code == "ADD" else a * b
    else:
        result = a - b if call.code == "SUB" else (a - b) * (a - b)
    activation = call.options.get("fused_activation_function", "NONE")
    low, high = {"RELU": (0, np.inf), "RELU6": (0, 6), "RELU_N1_TO_1": (-1, 1)}.get(
        activation, (-np.inf, np.inf)
    )
    clamped: NDArray[Any] = np.clip(result, np.float32(low), np.float32(high))
    return clamped


def mul(call: Call) -> NDArray[Any]:
    """The scales are multiplied and divided in single precision."""
    if (floats := _floats(call)) is not None:
        return floats
    (a, a_tensor), (b, b_tensor) = _pair(call)
    y = call.output
    real = np.float32(scale_of(a_tensor)) * np.float32(scale_of(b_tensor)) / np.float32(scale_of(y))
    return finish(Multiplier.of(real)(a * b), y, call.options["fused_activation_function"])


def average_pool_2d(call: Call) -> NDArray[Any]:
    """Integer division of the sum, rounded half away from zero; no change of scale."""
    x = call.array(0)
    n, height, width, channels = call.output.shape
    low, high = limits(call.output)
    result = np.zeros((n, height, width, channels), np.int64)
    for row, column in np.ndindex(height, width):
        window = _window(call, x, row, column).astype(np.int64)
        count = window.shape[1] * window.shape[2]
        total = window.sum(axis=(1, 2))
        half = np.where(total > 0, count // 2, -(count // 2))
        result[:, row, column] = np.trunc((total + half) / count)
    zero_free = np.clip(result, low, high) - zero_of(call.output)
    return finish(zero_free, call.output, call.options["fused_activation_function"])


def max_pool_2d(call: Call) -> NDArray[Any]:
    """The largest integer of the window."""
    x = call.array(0)
    y = call.output
    result = np.zeros(y.shape, np.int64)
    for row, column in np.ndindex(*y.shape[1:3]):
        result[:, row, column] = _window(call, x, row, column).max(axis=(1, 2))
    return finish(result - zero_of(y), y, call.options["fused_activation_function"])


def _window(call: Call, x: NDArray[Any], row: int, column: int) -> NDArray[Any]:
    size = (call.options["filter_height"], call.options["filter_width"])
    strides = (call.options["stride_h"], call.options["stride_w"])
    spans = []
    for axis, place in enumerate((row, column)):
        total = (call.output.shape[axis + 1] - 1) * strides[axis] + size[axis]
        pad = max(total - x.shape[axis + 1], 0) // 2 if call.options["padding"] == "SAME" else 0
        start = place * strides[axis] - pad
        spans.append(slice(max(start, 0), min(start + size[axis], x.shape[axis + 1])))
    return x[:, spans[0], spans[1]]


def mean(call: Call) -> NDArray[Any]:
    """The number of elements goes into the multiplier, as far as that stays precise."""
    x, over, count = _reduced(call)
    tensor, y = call.tensor(0), call.output
    if x.dtype == np.float32:
        return (_sum_in_order(x, over) / np.float32(count)).reshape(y.shape)
    given = Multiplier.of(float(np.float32(scale_of(tensor)) / np.float32(scale_of(y))))
    exponent = int(given.exponent)
    shift = min(count.bit_length() - 1, 32, 31 + exponent)
    mantissa = (int(given.mantissa) << shift) // count
    multiplier = Multiplier(np.asarray(mantissa, np.int64), np.asarray(exponent - shift, np.int64))
    total = x.astype(np.int64).sum(axis=over) - zero_of(tensor) * count
    return finish(multiplier(total), y).reshape(y.shape)


def sum_(call: Call) -> NDArray[Any]:
    """One multiplication of the sum.

    As LiteRT's optimised kernel: the plain one of LiteRT 2.3 ignores the scales of int8 sums.
    """
    x, over, count = _reduced(call)
    tensor, y = call.tensor(0), call.output
    if x.dtype == np.float32:
        return _sum_in_order(x, over).reshape(y.shape)
    multiplier = Multiplier.of(float(np.float32(scale_of(tensor)) / np.float32(scale_of(y))))
    total = x.astype(np.int64).sum(axis=over) - zero_of(tensor) * count
    return finish(multiplier.once(total), y).reshape(y.shape)


def _reduced(call: Call) -> tuple[NDArray[Any], tuple[int, ...], int]:
    """Operand, axes and number of elements of a reduction."""
    x, axes = call.array(0), call.array(1)
    over = tuple(sorted({int(a) % x.ndim for a in np.asarray(axes).reshape(-1)}))
    return x, over, int(np.prod([x.shape[a] for a in over]))


def _sum_in_order(x: NDArray[Any], over: tuple[int, ...]) -> NDArray[Any]:
    """One element after the other in single precision, as a loop does."""
    kept = [a for a in range(x.ndim) if a not in over]
    rows = x.transpose(*kept, *over).reshape(*(x.shape[a] for a in kept), -1)
    return np.cumsum(rows, axis=-1, dtype=np.float32)[..., -1]


def resize_bilinear(call: Call) -> NDArray[Any]:
    """Positions and weights in tenths of bits: 1024 steps between two pixels."""
    x, y = call.array(0), call.output
    if x.dtype not in (np.int8, np.int16):
        raise ValueError("resizing of floats")
    rows, columns = (_interpolation(call, x.shape[a], y.shape[a]) for a in (1, 2))
    wide = x.astype(np.int64)
    total = np.zeros(y.shape, np.int64)
    for row, row_weight in rows:
        for column, column_weight in columns:
            weight = row_weight[:, None, None] * column_weight[None, :, None]
            total += wide[:, row][:, :, column] * weight
    half = np.where(total > 0, 1 << 19, -(1 << 19))
    return np.trunc((total + half) / (1 << 20)).astype(x.dtype)


def _interpolation(call: Call, size: int, target: int) -> list[tuple[Integers, Integers]]:
    """Lower and upper neighbour of each output with their weights out of 1024."""
    corners = call.options["align_corners"] and target > 1
    old, new = (size - 1, target - 1) if corners else (size, target)
    scale = ((1 << 10) * old + new // 2) // new
    place = np.arange(target, dtype=np.int64) * scale
    if call.options["half_pixel_centers"]:
        place += scale // 2 - (1 << 9)
    # C's division rounds towards zero
    lower = np.maximum(np.trunc(place / 1024).astype(np.int64), 0)
    upper = np.minimum(np.trunc((place + 1023) / 1024).astype(np.int64), size - 1)
    above = place - 1024 * lower
    return [(lower, 1024 - above), (upper, above)]


def neg(call: Call) -> NDArray[Any]:
    """Of floats."""
    negative: NDArray[Any] = -call.array(0)
    return negative


def quantize(call: Call) -> NDArray[Any]:
    """From floats, or from integers of another scale."""
    x, tensor, y = call.array(0), call.tensor(0), call.output
    if x.dtype.kind == "f":
        return finish(rounded(x / np.float32(scale_of(y))).astype(np.int64), y)
    real = float(scale_of(tensor)) / float(scale_of(y))
    return finish(Multiplier.of(real)(x.astype(np.int64) - zero_of(tensor)), y)


def dequantize(call: Call) -> NDArray[Any]:
    """To floats; from float16 as well."""
    x, tensor = call.array(0), call.tensor(0)
    if x.dtype.kind == "f":
        return x.astype(np.float32)
    return (x.astype(np.int64) - zero_of(tensor)) * np.float64(scale_of(tensor))


def relu(call: Call) -> NDArray[Any]:
    """RELU and RELU6 as operators of their own."""
    x, tensor, y = call.array(0), call.tensor(0), call.output
    real = np.float32(scale_of(tensor)) / np.float32(scale_of(y))
    return finish(Multiplier.of(real)(x.astype(np.int64) - zero_of(tensor)), y, call.code)
