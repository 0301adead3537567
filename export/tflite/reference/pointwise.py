"""Element by element, along axes, or moving elements."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgec.export.tflite.model import Operator, Tensor
from edgec.export.tflite.reference.fixed_point import (
    Integers,
    Multiplier,
    finish,
    limits,
    rounded,
    scale_of,
    zero_of,
)
from edgec.export.tflite.reference.frame import Frame, Values
from edgec.export.tflite.schema import DTYPES

_SUM_SHIFT = 20
_DIFFERENCE_SHIFT = 7


def _pair(frame: Frame, values: Values) -> tuple[tuple[Integers, Tensor], tuple[Integers, Tensor]]:
    found = []
    for value, tensor in zip(values, frame.inputs, strict=True):
        assert value is not None
        assert tensor is not None
        found.append((value.astype(np.int64) - zero_of(tensor), tensor))
    return found[0], found[1]


def _aligned(frame: Frame, values: Values, shift: int) -> tuple[Integers, Integers, float]:
    """Both operands on one grid of steps of twice the larger scale, `shift` bits finer."""
    (a, a_tensor), (b, b_tensor) = _pair(frame, values)
    scales = np.float32(scale_of(a_tensor)), np.float32(scale_of(b_tensor))
    twice = float(np.float32(2) * max(scales))
    first, second = (Multiplier.of(float(scale) / twice) for scale in scales)
    return first(a << shift), second(b << shift), twice


def add(frame: Frame, op: Operator, values: Values) -> NDArray[Any]:
    """ADD and SUB."""
    a, b, twice = _aligned(frame, values, _SUM_SHIFT)
    y = frame.outputs[0]
    total = a + b if op.code == "ADD" else a - b
    back = Multiplier.of(twice / ((1 << _SUM_SHIFT) * float(scale_of(y))))
    return finish(back(total), y, op.options["fused_activation_function"])


def squared_difference(frame: Frame, op: Operator, values: Values) -> NDArray[Any]:
    """(a − b)²."""
    a, b, twice = _aligned(frame, values, _DIFFERENCE_SHIFT)
    y = frame.outputs[0]
    back = Multiplier.of(twice * twice / ((1 << 2 * _DIFFERENCE_SHIFT) * float(scale_of(y))))
    return finish(back((a - b) ** 2), y)


def mul(frame: Frame, op: Operator, values: Values) -> NDArray[Any]:
    """The scales are multiplied and divided in single precision."""
    (a, a_tensor), (b, b_tensor) = _pair(frame, values)
    y = frame.outputs[0]
    real = np.float32(scale_of(a_tensor)) * np.float32(scale_of(b_tensor)) / np.float32(scale_of(y))
    return finish(Multiplier.of(real)(a * b), y, op.options["fused_activation_function"])


def average_pool_2d(frame: Frame, op: Operator, values: Values) -> NDArray[Any]:
    """Integer division of the sum, rounded half away from zero; no change of scale."""
    x = values[0]
    assert x is not None
    n, height, width, channels = frame.outputs[0].shape
    low, high = limits(frame.outputs[0])
    result = np.zeros((n, height, width, channels), np.int64)
    for row, column in np.ndindex(height, width):
        window = _window(frame, op, x, row, column).astype(np.int64)
        count = window.shape[1] * window.shape[2]
        total = window.sum(axis=(1, 2))
        half = np.where(total > 0, count // 2, -(count // 2))
        result[:, row, column] = np.trunc((total + half) / count)
    zero_free = np.clip(result, low, high) - zero_of(frame.outputs[0])
    return finish(zero_free, frame.outputs[0], op.options["fused_activation_function"])


def max_pool_2d(frame: Frame, op: Operator, values: Values) -> NDArray[Any]:
    """The largest integer of the window."""
    x = values[0]
    assert x is not None
    y = frame.outputs[0]
    result = np.zeros(y.shape, np.int64)
    for row, column in np.ndindex(*y.shape[1:3]):
        result[:, row, column] = _window(frame, op, x, row, column).max(axis=(1, 2))
    return finish(result - zero_of(y), y, op.options["fused_activation_function"])


def _window(frame: Frame, op: Operator, x: NDArray[Any], row: int, column: int) -> NDArray[Any]:
    size = (op.options["filter_height"], op.options["filter_width"])
    strides = (op.options["stride_h"], op.options["stride_w"])
    spans = []
    for axis, place in enumerate((row, column)):
        total = (frame.outputs[0].shape[axis + 1] - 1) * strides[axis] + size[axis]
        pad = max(total - x.shape[axis + 1], 0) // 2 if op.options["padding"] == "SAME" else 0
        start = place * strides[axis] - pad
        spans.append(slice(max(start, 0), min(start + size[axis], x.shape[axis + 1])))
    return x[:, spans[0], spans[1]]


def mean(frame: Frame, op: Operator, values: Values) -> NDArray[Any]:
    """The number of elements goes into the multiplier, as far as that stays precise."""
    x, axes = values[0], values[1]
    assert x is not None
    assert axes is not None
    tensor, y = frame.inputs[0], frame.outputs[0]
    assert tensor is not None
    over = tuple(int(a) % x.ndim for a in np.asarray(axes).reshape(-1))
    count = int(np.prod([x.shape[a] for a in over]))
    total = x.astype(np.int64).sum(axis=over) - zero_of(tensor) * count
    given = Multiplier.of(float(np.float32(scale_of(tensor)) / np.float32(scale_of(y))))
    exponent = int(given.exponent)
    shift = min(count.bit_length() - 1, 32, 31 + exponent)
    mantissa = (int(given.mantissa) << shift) // count
    multiplier = Multiplier(np.asarray(mantissa, np.int64), np.asarray(exponent - shift, np.int64))
    return finish(multiplier(total), y).reshape(y.shape)


def neg(frame: Frame, op: Operator, values: Values) -> NDArray[Any]:
    """Of floats."""
    assert values[0] is not None
    return np.negative(values[0])


def quantize(frame: Frame, op: Operator, values: Values) -> NDArray[Any]:
    """From floats, or from integers of another scale."""
    x, tensor, y = values[0], frame.inputs[0], frame.outputs[0]
    assert x is not None
    assert tensor is not None
    if x.dtype.kind == "f":
        return finish(rounded(x / np.float32(scale_of(y))).astype(np.int64), y)
    real = float(scale_of(tensor)) / float(scale_of(y))
    return finish(Multiplier.of(real)(x.astype(np.int64) - zero_of(tensor)), y)


def dequantize(frame: Frame, op: Operator, values: Values) -> NDArray[Any]:
    """To floats; from float16 as well."""
    x, tensor = values[0], frame.inputs[0]
    assert x is not None
    assert tensor is not None
    if x.dtype.kind == "f":
        return x.astype(np.float32)
    return (x.astype(np.int64) - zero_of(tensor)) * np.float64(scale_of(tensor))


def relu(frame: Frame, op: Operator, values: Values) -> NDArray[Any]:
    """RELU and RELU6 as operators of their own."""
    x, tensor, y = values[0], frame.inputs[0], frame.outputs[0]
    assert x is not None
    assert tensor is not None
    real = np.float32(scale_of(tensor)) / np.float32(scale_of(y))
    return finish(Multiplier.of(real)(x.astype(np.int64) - zero_of(tensor)), y, op.code)


def reshape(frame: Frame, op: Operator, values: Values) -> NDArray[Any]:
    """RESHAPE, SQUEEZE, EXPAND_DIMS."""
    assert values[0] is not None
    return values[0].reshape(frame.outputs[0].shape)


def transpose(frame: Frame, op: Operator, values: Values) -> NDArray[Any]:
    """A permutation of the axes."""
    assert values[0] is not None
    assert values[1] is not None
    return values[0].transpose([int(a) for a in values[1]])


def pad(frame: Frame, op: Operator, values: Values) -> NDArray[Any]:
    """With the integer of zero."""
    x, amounts, tensor = values[0], values[1], frame.inputs[0]
    assert x is not None
    assert amounts is not None
    assert tensor is not None
    fill = 0 if tensor.quantization is None else zero_of(tensor)
    return np.pad(x, [(int(a), int(b)) for a, b in amounts], constant_values=fill)


def concatenation(frame: Frame, op: Operator, values: Values) -> NDArray[Any]:
    """int8 operands share the output's scale."""
    arrays = [value for value in values if value is not None]
    return np.concatenate(arrays, axis=op.options["axis"]).astype(DTYPES[frame.outputs[0].dtype])
