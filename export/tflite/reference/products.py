"""Sums of products: convolutions, FULLY_CONNECTED, BATCH_MATMUL."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgec.export.tflite.reference.call import Call
from edgec.export.tflite.reference.fixed_point import (
    Integers,
    Multiplier,
    finish,
    parameters,
    rounded,
    scale_of,
    zero_of,
)

Floats = NDArray[np.float64]


def conv_2d(call: Call) -> NDArray[Any]:
    """Weights OHWI; groups where they have fewer input channels than the image."""
    x, weight = call.array(0), call.array(1)
    windows = _windows(call, x, weight.shape[1:3])
    groups = x.shape[3] // weight.shape[3]
    outputs = weight.shape[0] // groups
    parts = []
    for group in range(groups):
        channels = slice(group * weight.shape[3], (group + 1) * weight.shape[3])
        kernel = weight[group * outputs : (group + 1) * outputs].astype(np.float64)
        parts.append(np.tensordot(windows[..., channels], kernel, ((3, 4, 5), (1, 2, 3))))
    return _requantized(call, np.concatenate(parts, axis=-1))


def depthwise_conv_2d(call: Call) -> NDArray[Any]:
    """Weights 1HWC, with the outputs of an input channel side by side."""
    x, weight = call.array(0), call.array(1)
    windows = _windows(call, x, weight.shape[1:3])
    channels = x.shape[3]
    kernel = weight[0].reshape(*weight.shape[1:3], channels, -1).astype(np.float64)
    sums = np.einsum("nyxhwc,hwcm->nyxcm", windows, kernel, optimize=True)
    return _requantized(call, sums.reshape(*sums.shape[:3], -1))


def fully_connected(call: Call) -> NDArray[Any]:
    """Weights (outputs, inputs). LiteRT scales the sums in double precision here, and rounds halves
    away from zero."""
    sums = _linear_sums(call)
    scaled = rounded(sums * _scale(call)).astype(np.int64)
    activation = call.options["fused_activation_function"]
    return finish(scaled, call.output, activation).reshape(call.output.shape)


def fully_connected_in_fixed_point(call: Call) -> NDArray[Any]:
    """The same with sums scaled by 31 bits and rounded once: one step off `fully_connected` where
    they come within 2**-31 of a half, about twice in a million."""
    scaled = Multiplier.of(_scale(call)).once(_linear_sums(call).astype(np.int64))
    activation = call.options["fused_activation_function"]
    return finish(scaled, call.output, activation).reshape(call.output.shape)


def _linear_sums(call: Call) -> Floats:
    """(rows, outputs), whole numbers."""
    x, weight = call.array(0), call.array(1)
    rows = (x.astype(np.float64) - zero_of(call.tensor(0))).reshape(-1, weight.shape[1])
    kernel = weight.astype(np.float64) - _weight_zero(call)
    sums: Floats = np.rint(rows @ kernel.T)
    return sums + call.array(2) if call.has(2) else sums


def batch_matmul(call: Call) -> NDArray[Any]:
    """Both operands have zero points."""
    sides = []
    for position, option in enumerate(("adj_x", "adj_y")):
        side = call.array(position).astype(np.float64) - zero_of(call.tensor(position))
        sides.append(np.swapaxes(side, -1, -2) if call.options[option] else side)
    sums = np.rint(sides[0] @ sides[1]).astype(np.int64)
    scale = _one_multiplier(call)
    multiply = scale.short.once if call.array(0).dtype == np.int16 else scale
    return finish(multiply(sums), call.output)


def _windows(call: Call, x: NDArray[Any], kernel: tuple[int, ...]) -> Floats:
    """Centred windows of the padded image: (N, rows, columns, height, width, C).

    float64 holds every sum of products of 16 and 8 bits exactly, and multiplies matrices fast.
    """
    tensor = call.tensor(0)
    strides = (call.options["stride_h"], call.options["stride_w"])
    dilations = (call.options["dilation_h_factor"], call.options["dilation_w_factor"])
    size, before, after = call.output.shape[1:3], [], []
    for axis in (0, 1):
        reach = (kernel[axis] - 1) * dilations[axis] + 1
        total = max((size[axis] - 1) * strides[axis] + reach - x.shape[axis + 1], 0)
        total = 0 if call.options["padding"] == "VALID" else total
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


def _weight_zero(call: Call) -> int:
    weight = call.tensor(1)
    return 0 if parameters(weight).per_channel else zero_of(weight)


def _requantized(call: Call, sums: Floats) -> NDArray[Any]:
    accumulator: Integers = np.rint(sums).astype(np.int64)
    if call.has(2):
        accumulator = accumulator + call.array(2).astype(np.int64)
    activation = call.options["fused_activation_function"]
    multiplier = Multiplier.of(_scale(call))
    # with biases of 32 bits the accumulator has as many, and the mantissa all of its bits
    wide = call.array(0).dtype == np.int16 and not (call.has(2) and call.array(2).dtype == np.int32)
    scaled = (multiplier.short.once if wide else multiplier)(accumulator)
    return finish(scaled, call.output, activation)


def _scale(call: Call) -> Floats:
    """What a sum of products counts, in steps of the output: one number, or one per channel."""
    x, weight, y = call.tensor(0), call.tensor(1), call.output
    product = np.float64(scale_of(x)) * np.asarray(scale_of(weight), np.float64)
    return product / np.float64(scale_of(y))


def _one_multiplier(call: Call) -> Multiplier:
    """The kernels multiply the two scales in single precision where each is one number."""
    a, b, y = call.tensor(0), call.tensor(1), call.output
    product = np.float32(scale_of(a)) * np.float32(scale_of(b))
    return Multiplier.of(np.float64(product) / np.float64(scale_of(y)))
