"""Convolutions: CONV_2D, DEPTHWISE_CONV_2D, TRANSPOSE_CONV."""

from __future__ import annotations

import numpy as np

from edgec.export.emit.tflite.emitter import Emitter
from edgec.export.emit.tflite.graph import Node, Value
from edgec.export.emit.tflite.operators.padding import padded, window_of
from edgec.export.tflite.model import Quantization

FEW_CHANNELS = 4
"""Up to this many, zeros around the kernel are cheaper than a PAD that copies the image pixel by
pixel. XNNPACK computes PAD and convolution in one, and the larger kernel would cost it 70 %."""


def conv_obstacle(node: Node) -> str:
    """Why a Conv cannot be written."""
    if len(node.operands[0].shape) != 4:
        return f"it works on {len(node.operands[0].shape)} dimensions; CONV_2D takes images"
    return _weight_obstacle(node)


def _weight_obstacle(node: Node) -> str:
    weight = node.inputs[1]
    if weight is None or weight.const is None:
        return "its weight is computed"
    if len(node.inputs) > 2 and node.inputs[2] is not None and node.inputs[2].const is None:
        return "its bias is computed"
    if (
        weight.quantized
        and weight.quantization is not None
        and weight.quantization.zero_point.any()
    ):
        return "its integer weights have a zero point; TFLite takes symmetric ones"
    return ""


def is_depthwise(node: Node) -> bool:
    """One group per input channel."""
    channels = node.operands[0].shape[1]
    return channels > 1 and int(node.attrs.get("group", 1)) == channels


def emit_conv(emitter: Emitter, node: Node) -> None:
    """Conv: OIHW becomes OHWI, or 1HWC for one filter per channel."""
    weight = node.inputs[1]
    assert weight is not None
    window = window_of(node, weight.shape[2:])
    more = [(0, 0), (0, 0)]
    size, channels = node.operands[0].shape[2:], node.operands[0].shape[1]
    few = channels <= FEW_CHANNELS and not emitter.flavour.fused_pads
    if few and window.scheme(size) == "EXPLICIT":
        larger = window.grown(size)
        if larger is not None:
            more = [(0, k - have) for k, have in zip(larger.kernel, window.kernel, strict=True)]
            window = larger
    source, padding = padded(emitter, emitter.input(0), window)
    options = {
        "padding": padding,
        "stride_h": window.stride[0],
        "stride_w": window.stride[1],
        "dilation_h_factor": window.dilation[0],
        "dilation_w_factor": window.dilation[1],
        "fused_activation_function": node.activation,
    }
    code, axes, axis = "CONV_2D", (0, 2, 3, 1), 0
    if is_depthwise(node):
        code, axes, axis = "DEPTHWISE_CONV_2D", (1, 2, 3, 0), 3
        options["depth_multiplier"] = weight.shape[0] // node.operands[0].shape[1]
    stored = emitter.weight(
        weight,
        lambda array: np.pad(array, [(0, 0), (0, 0), *more]).transpose(axes),
        lambda known: channel_grid(known, axis),
    )
    bias = bias_tensor(emitter, node, weight.shape[0])
    emitter.op(code, [source, stored, bias], emitter.output(), **options)


def channel_grid(weight: Value, axis: int) -> Quantization | None:
    """A weight's grid with the channels on another axis."""
    grid = weight.quantization
    if grid is None or not grid.per_channel:
        return grid
    return Quantization(grid.scale, grid.zero_point, axis)


def bias_tensor(emitter: Emitter, node: Node, channels: int) -> int:
    """The bias, zeros if there is none: float, or int32 (with int16 activations int64) on the grid
    s_x·s_w."""
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    weight, x = node.inputs[1], node.operands[0]
    assert weight is not None
    if bias is not None and not node.integer:
        return emitter.constant(bias.real().reshape(-1).astype(np.float32), bias.name)
    if not node.integer:
        return emitter.constant(np.zeros(channels, np.float32), "zero_bias")
    assert x.quantization is not None
    assert weight.quantization is not None
    wide = x.dtype == np.int16
    scale = (x.quantization.scale[0].astype(np.float64) * weight.quantization.scale).astype(
        np.float32
    )
    grid = Quantization(scale, np.zeros(scale.shape, np.int64))
    dtype = np.int64 if wide else np.int32
    if bias is None:
        array = np.zeros(channels, dtype)
    elif bias.quantization is not None and bias.const is not None and _on(bias.quantization, grid):
        array = bias.const.reshape(-1).astype(dtype)
    else:
        info = np.iinfo(dtype)
        levels = np.rint(bias.real().reshape(-1).astype(np.float64) / scale)
        array = np.clip(levels, info.min, info.max).astype(dtype)
    name = f"{node.name}/zero_bias" if bias is None else bias.name
    return emitter.constant(array, name, grid)


def _on(own: Quantization, grid: Quantization) -> bool:
    """Whether a bias counts in the steps of the kernel's accumulator, up to their rounding."""
    return not own.zero_point.any() and np.allclose(own.scale, grid.scale, rtol=1e-6, atol=0)


def transpose_conv_obstacle(node: Node) -> str:
    """Why a ConvTranspose cannot be written."""
    if len(node.operands[0].shape) != 4:
        return f"it works on {len(node.operands[0].shape)} dimensions; TRANSPOSE_CONV takes images"
    if int(node.attrs.get("group", 1)) != 1:
        return "it has groups; TRANSPOSE_CONV has none"
    if set(node.attrs.get("dilations", (1,))) != {1}:
        return "it has dilations; TRANSPOSE_CONV has none"
    return _weight_obstacle(node)


def emit_transpose_conv(emitter: Emitter, node: Node) -> None:
    """ConvTranspose without padding, cut to what ONNX's pads leave."""
    weight = node.inputs[1]
    assert weight is not None
    stride = [int(s) for s in node.attrs.get("strides", (1, 1))]
    size, kernel = node.operands[0].shape[2:], weight.shape[2:]
    out = node.outputs[0].shape[2:]
    full = [(size[i] - 1) * stride[i] + kernel[i] for i in (0, 1)]
    begin = _begin(node, full, list(out))
    result = emitter.output()
    n, _, _, channels = emitter.shape(result)
    same = all(
        full[i] >= out[i]
        and begin[i] == (full[i] - out[i]) // 2
        and -(-out[i] // stride[i]) == size[i]
        for i in (0, 1)
    )
    # output_padding may ask for rows that no window reaches: they hold the bias alone
    reach = [max(full[i], begin[i] + out[i]) for i in (0, 1)]
    direct = same or (begin == [0, 0] and reach == list(out))
    shape = list(emitter.shape(result)) if direct else [n, *reach, channels]
    target = result if direct else emitter.like(result, "uncut", shape)
    emitter.op(
        "TRANSPOSE_CONV",
        [
            emitter.integers(shape, "shape"),
            emitter.weight(
                weight,
                lambda array: array.transpose(1, 2, 3, 0),
                lambda known: channel_grid(known, 0),
            ),
            emitter.input(0),
            bias_tensor(emitter, node, weight.shape[1]),
        ],
        target,
        padding="SAME" if same else "VALID",
        stride_h=stride[0],
        stride_w=stride[1],
    )
    if not direct:
        where = [0, *begin, 0]
        emitter.op(
            "SLICE",
            [
                target,
                emitter.integers(where, "begin"),
                emitter.integers(emitter.shape(result), "size"),
            ],
            result,
        )


def _begin(node: Node, full: list[int], out: list[int]) -> list[int]:
    """Rows and columns cut off before the output."""
    auto = str(node.attrs.get("auto_pad", "NOTSET"))
    if auto.startswith("SAME"):
        total = [max(f - o, 0) for f, o in zip(full, out, strict=True)]
        return [t // 2 if auto == "SAME_UPPER" else t - t // 2 for t in total]
    return [int(p) for p in node.attrs.get("pads", (0, 0, 0, 0))[:2]]
