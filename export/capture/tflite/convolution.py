"""CONV_2D, DEPTHWISE_CONV_2D and TRANSPOSE_CONV."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from edgec.export.capture.tflite.context import Context, is_quantized, scales
from edgec.export.errors import InputError
from edgec.export.tflite import ABSENT, Operator
from edgec.export.tflite.marks import mark


def conv_2d(ctx: Context, op: Operator) -> None:
    """Weights are OHWI in the file and OIHW in ONNX."""
    x, w = op.inputs[:2]
    weight = _rank_4(ctx, w)
    channels = _rank_4(ctx, x)[3]
    if weight[3] == 0 or channels % weight[3]:
        raise InputError(
            "EC709", f"weights for {weight[3]} of {channels} channels", where=ctx.place
        )
    _conv(ctx, op, ctx.weight(w, (0, 3, 1, 2)).real, weight[1:3], channels // weight[3])


def depthwise_conv_2d(ctx: Context, op: Operator) -> None:
    """Weights are 1HWC in the file; output channel c·m + j reads input channel c."""
    x, w = op.inputs[:2]
    weight = _rank_4(ctx, w)
    _conv(ctx, op, ctx.weight(w, (3, 0, 1, 2)).real, weight[1:3], _rank_4(ctx, x)[3])


def _conv(
    ctx: Context, op: Operator, weight: ir.Value, kernel: tuple[int, ...], groups: int
) -> None:
    x, y = op.inputs[0], op.outputs[0]
    strides = stride_of(ctx, op)
    dilations = [op.options["dilation_h_factor"], op.options["dilation_w_factor"]]
    pads = padding(ctx, op, kernel, strides, dilations)
    inputs: list[ir.Value | None] = [ctx.read(x, first=True), weight]
    if len(op.inputs) > 2 and op.inputs[2] != ABSENT:
        inputs.append(bias(ctx, op.inputs[2], x, op.inputs[1]))
    value = ctx.emit(
        "Conv",
        inputs,
        kernel_shape=list(kernel),
        strides=strides,
        dilations=dilations,
        pads=pads,
        group=groups,
    )
    ctx.write(y, value, first=True, activation=op.options["fused_activation_function"])


def transpose_conv(ctx: Context, op: Operator) -> None:
    """Inputs: output shape, weights OHWI, image and (from version 3) bias."""
    w, x = op.inputs[1:3]
    y = op.outputs[0]
    weight, size, result = _rank_4(ctx, w), _rank_4(ctx, x), _rank_4(ctx, y)
    strides = stride_of(ctx, op)
    kernel = list(weight[1:3])
    before, after, extra = [], [], []
    for axis in (0, 1):
        full = (size[axis + 1] - 1) * strides[axis] + kernel[axis]
        total = max(full - result[axis + 1], 0) if op.options["padding"] == "SAME" else 0
        before.append(total // 2)
        after.append(total - total // 2)
        extra.append(result[axis + 1] - full + total)
    inputs: list[ir.Value | None] = [
        ctx.read(x, first=True),
        ctx.weight(w, (3, 0, 1, 2)).real,
    ]
    if len(op.inputs) > 3 and op.inputs[3] != ABSENT:
        inputs.append(bias(ctx, op.inputs[3], x, w))
    value = ctx.emit(
        "ConvTranspose",
        inputs,
        kernel_shape=kernel,
        strides=strides,
        pads=[*before, *after],
        output_padding=extra,
    )
    ctx.write(y, value, first=True, activation=op.options["fused_activation_function"])


def bias(ctx: Context, index: int, x: int, w: int) -> ir.Value:
    """A bias; integers count in steps of the product of the scales of input and weights.

    The kernels add it to the accumulator as it is, whatever scale the file gives it.
    """
    tensor = ctx.tensor(index)
    data = ctx.constant(index, "the bias").reshape(-1)
    base = tensor.name or "bias"
    if data.dtype.kind == "f":
        return ctx.initializer(data, base)
    if not (is_quantized(ctx.tensor(x)) and is_quantized(ctx.tensor(w))):
        raise ctx.unsupported("the bias holds integers, but input and weights do not")
    step = scales(ctx.tensor(x)).scale.astype(np.float64) * scales(ctx.tensor(w)).scale
    if data.dtype == np.int64:  # with int16 activations; ONNX has no such DequantizeLinear
        limits = np.iinfo(np.int32)
        if data.size and (data.min() < limits.min or data.max() > limits.max):
            return ctx.initializer((data * step).astype(np.float32), base)
        data = data.astype(np.int32)
    stored = ctx.initializer(data, base)
    per_channel = step.size > 1
    scale = (step if per_channel else step.reshape(())).astype(np.float32)
    attributes: dict[str, Any] = {"axis": 0} if per_channel else {}
    found = ctx.emit(
        "DequantizeLinear", [stored, ctx.initializer(scale, f"{base}_scale")], **attributes
    )
    if ctx.marked:
        mark(found, base, [0])
    return found


def stride_of(ctx: Context, op: Operator) -> list[int]:
    """Strides of height and width.

    Raises:
        InputError: they are not positive (EC709).
    """
    strides = [op.options["stride_h"], op.options["stride_w"]]
    if min(strides) < 1:
        raise InputError("EC709", f"the strides are {strides}", where=ctx.place)
    return strides


def padding(
    ctx: Context,
    op: Operator,
    kernel: tuple[int, ...],
    strides: list[int],
    dilations: list[int] | None = None,
) -> list[int]:
    """ONNX's pads (top, left, bottom, right) of SAME or VALID.

    SAME pads so that the output has ⌈input / stride⌉ pixels, the odd one at the end, which for
    strides above 1 is not symmetric.
    """
    if op.options["padding"] == "VALID":
        return [0, 0, 0, 0]
    size, result = _rank_4(ctx, op.inputs[0]), _rank_4(ctx, op.outputs[0])
    before, after = [], []
    for axis in (0, 1):
        reach = (kernel[axis] - 1) * (dilations or (1, 1))[axis] + 1
        total = max((result[axis + 1] - 1) * strides[axis] + reach - size[axis + 1], 0)
        before.append(total // 2)
        after.append(total - total // 2)
    return [*before, *after]


def _rank_4(ctx: Context, index: int) -> tuple[int, ...]:
    shape = ctx.shape(index)
    if len(shape) != 4:
        raise InputError("EC709", f"the shape {list(shape)} has no height", where=ctx.place)
    return shape
