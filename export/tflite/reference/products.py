"""Sums of products: convolutions, FULLY_CONNECTED, BATCH_MATMUL."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgec.export.tflite.model import Operator
from edgec.export.tflite.reference.fixed_point import (
    Integers,
    Multiplier,
    finish,
    scale_of,
    zero_of,
)
from edgec.export.tflite.reference.frame import Frame, Values

Floats = NDArray[np.float64]


def conv_2d(frame: Frame, op: Operator, values: Values) -> NDArray[Any]:
    """Weights OHWI; groups where they have fewer input channels than the image."""
    x, weight = values[0], values[1]
    assert x is not None
    assert weight is not None
    windows = _windows(frame, op, x, weight.shape[1:3])
    groups = x.shape[3] // weight.shape[3]
    outputs = weight.shape[0] // groups
    parts = []
    for group in range(groups):
        channels = slice(group * weight.shape[3], (group + 1) * weight.shape[3])
        kernel = weight[group * outputs : (group + 1) * outputs].astype(np.float64)
        parts.append(np.tensordot(windows[..., channels], kernel, ((3, 4, 5), (1, 2, 3))))
    return _requantized(frame, op, np.concatenate(parts, axis=-1), values)


def depthwise_conv_2d(frame: Frame, op: Operator, values: Values) -> NDArray[Any]:
    """Weights 1HWC, with the outputs of an input channel side by side."""
    x, weight = values[0], values[1]
    assert x is not None
    assert weight is not None
    windows = _windows(frame, op, x, weight.shape[1:3])
    channels = x.shape[3]
    kernel = weight[0].reshape(*weight.shape[1:3], channels, -1).astype(np.float64)
    sums = np.einsum("nyxhwc,hwcm->nyxcm", windows, kernel, optimize=True)
    return _requantized(frame, op, sums.reshape(*sums.shape[:3], -1), values)


def fully_connected(frame: Frame, op: Operator, values: Values) -> NDArray[Any]:
    """Weights (outputs, inputs)."""
    x, weight = values[0], values[1]
    assert x is not None
    assert weight is not None
    rows = (x.astype(np.float64) - zero_of(frame.inputs[0])).reshape(-1, weight.shape[1])  # type: ignore[arg-type]
    kernel = weight.astype(np.float64) - _weight_zero(frame)
    result = _requantized(frame, op, rows @ kernel.T, values)
    return result.reshape(frame.outputs[0].shape)


def batch_matmul(frame: Frame, op: Operator, values: Values) -> NDArray[Any]:
    """Both operands have zero points."""
    sides = []
    for value, tensor, swapped in zip(
        values, frame.inputs, (op.options["adj_x"], op.options["adj_y"]), strict=True
    ):
        assert value is not None
        assert tensor is not None
        centred = value.astype(np.float64) - zero_of(tensor)
        sides.append(np.swapaxes(centred, -1, -2) if swapped else centred)
    sums = np.rint(sides[0] @ sides[1]).astype(np.int64)
    return finish(_one_multiplier(frame)(sums), frame.outputs[0])


def _windows(frame: Frame, op: Operator, x: NDArray[Any], kernel: tuple[int, ...]) -> Floats:
    """Centred windows of the padded image: (N, rows, columns, height, width, C).

    float64 holds every sum of 8-bit products exactly, and multiplies matrices fast.
    """
    tensor = frame.inputs[0]
    assert tensor is not None
    strides = (op.options["stride_h"], op.options["stride_w"])
    dilations = (op.options["dilation_h_factor"], op.options["dilation_w_factor"])
    size, before, after = frame.outputs[0].shape[1:3], [], []
    for axis in (0, 1):
        reach = (kernel[axis] - 1) * dilations[axis] + 1
        total = max((size[axis] - 1) * strides[axis] + reach - x.shape[axis + 1], 0)
        total = 0 if op.options["padding"] == "VALID" else total
        before.append(total // 2)
        after.append(total - total // 2)
    centred = np.pad(
        x.astype(np.float64) - zero_of(tensor),
        ((0, 0), (before[0], after[0]), (before[1], after[1]), (0, 0)),
    )
    taps = [
        [
            centred[
                :,
                row * dilations[0] :: strides[0],
                column * dilations[1] :: strides[1],
            ][:, : size[0], : size[1]]
            for column in range(kernel[1])
        ]
        for row in range(kernel[0])
    ]
    return np.stack([np.stack(row, axis=3) for row in taps], axis=3)


def _weight_zero(frame: Frame) -> int:
    weight = frame.inputs[1]
    assert weight is not None
    assert weight.quantization is not None
    return 0 if weight.quantization.per_channel else zero_of(weight)


def _requantized(frame: Frame, op: Operator, sums: Floats, values: Values) -> NDArray[Any]:
    accumulator: Integers = np.rint(sums).astype(np.int64)
    if len(values) > 2 and values[2] is not None:
        accumulator = accumulator + values[2].astype(np.int64)
    activation = op.options["fused_activation_function"]
    x, weight, y = frame.inputs[0], frame.inputs[1], frame.outputs[0]
    assert x is not None
    assert weight is not None
    product = np.float64(scale_of(x)) * np.asarray(scale_of(weight), np.float64)
    multiplier = Multiplier.of(product / np.float64(scale_of(y)))
    multiply = multiplier.once if op.code == "FULLY_CONNECTED" else multiplier
    return finish(multiply(accumulator), y, activation)


def _one_multiplier(frame: Frame) -> Multiplier:
    """The kernels multiply the two scales in single precision where each is one number."""
    a, b, y = frame.inputs[0], frame.inputs[1], frame.outputs[0]
    assert a is not None
    assert b is not None
    product = np.float32(scale_of(a)) * np.float32(scale_of(b))
    return Multiplier.of(np.float64(product) / np.float64(scale_of(y)))
