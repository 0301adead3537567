"""Reductions and pooling."""

from __future__ import annotations

import numpy as np

from edgec.export.emit.tflite.emitter import Emitter
from edgec.export.emit.tflite.graph import Node
from edgec.export.emit.tflite.layouts import stored_axis
from edgec.export.emit.tflite.operators.padding import padded, window_of
from edgec.export.tflite.schema import tensor_type

CODES = {
    "ReduceMean": "MEAN",
    "ReduceSum": "SUM",
    "ReduceMax": "REDUCE_MAX",
    "ReduceMin": "REDUCE_MIN",
    "ReduceProd": "REDUCE_PROD",
}


def emit_reduce(emitter: Emitter, node: Node) -> None:
    """One of `CODES`."""
    source, axes, keep = _reduced(emitter, node)
    emitter.op(CODES[node.op], [source, axes], emitter.output(), keep_dims=keep)


def emit_reduce_square(emitter: Emitter, node: Node) -> None:
    """ReduceSumSquare and ReduceL2."""
    source, axes, keep = _reduced(emitter, node)
    square = emitter.op("MUL", [source, source], emitter.like(source, "square"))
    result = emitter.output()
    if node.op == "ReduceSumSquare":
        emitter.op("SUM", [square, axes], result, keep_dims=keep)
        return
    total = emitter.op(
        "SUM", [square, axes], emitter.temporary("sum", emitter.shape(result)), keep_dims=keep
    )
    emitter.op("SQRT", [total], result)


def _reduced(emitter: Emitter, node: Node) -> tuple[int, int, bool]:
    perm = emitter.layout[node].inputs[0]
    axes = sorted(stored_axis(perm, axis) for axis in node.attrs["axes"])
    return emitter.input(0), emitter.integers(axes, "axes"), bool(node.attrs["keepdims"])


def pool_obstacle(node: Node) -> str:
    """Why a pooling cannot be written."""
    if len(node.operands[0].shape) != 4:
        return f"it works on {len(node.operands[0].shape)} dimensions; TFLite pools images"
    if set(node.attrs.get("dilations", (1,))) != {1}:
        return "it has dilations"
    if len(node.outputs) > 1:
        return "the places of the maxima are used"
    if node.op == "AveragePool" and not int(node.attrs.get("count_include_pad", 0)):
        window = window_of(node, node.attrs["kernel_shape"])
        if window.scheme(node.operands[0].shape[2:]) == "EXPLICIT":
            return (
                "its padding is not TensorFlow's SAME, and is not counted (count_include_pad = 0)"
            )
    return ""


def emit_pool(emitter: Emitter, node: Node) -> None:
    """MaxPool and AveragePool."""
    window = window_of(node, node.attrs["kernel_shape"])
    average = node.op == "AveragePool"
    source = emitter.input(0)
    if average and int(node.attrs.get("count_include_pad", 0)) and any(window.pads):
        source, padding = _counted(emitter, source, node)
    else:
        source, padding = padded(emitter, source, window, lowest=not average)
    emitter.op(
        "AVERAGE_POOL_2D" if average else "MAX_POOL_2D",
        [source],
        emitter.output(),
        padding=padding,
        stride_h=window.stride[0],
        stride_w=window.stride[1],
        filter_height=window.kernel[0],
        filter_width=window.kernel[1],
        fused_activation_function=node.activation,
    )


def _counted(emitter: Emitter, source: int, node: Node) -> tuple[int, str]:
    """Zeros that count: an explicit PAD whatever the scheme."""
    top, left, bottom, right = window_of(node, node.attrs["kernel_shape"]).pads
    n, h, w, c = emitter.shape(source)
    pads = np.array([[0, 0], [top, bottom], [left, right], [0, 0]])
    result = emitter.like(source, "padded", (n, h + top + bottom, w + left + right, c))
    inputs = [source, emitter.pads(pads)]
    return emitter.op("PAD", inputs, result), "VALID"


def arg_obstacle(node: Node) -> str:
    """TFLite takes the first of equal elements."""
    return "it takes the last of equal ones" if node.attrs.get("select_last_index") else ""


def emit_arg(emitter: Emitter, node: Node) -> None:
    """ArgMax and ArgMin, which drop the axis."""
    axis = stored_axis(emitter.layout[node].inputs[0], node.attrs["axes"][0])
    source, result = emitter.input(0), emitter.output()
    shape = tuple(d for i, d in enumerate(emitter.shape(source)) if i != axis)
    target = result
    if node.attrs["keepdims"]:
        target = emitter.tensor(f"{node.outputs[0].name}/flat", shape, node.outputs[0].dtype)
    emitter.op(
        "ARG_MAX" if node.op == "ArgMax" else "ARG_MIN",
        [source, emitter.constant(np.array(axis, np.int32), f"axis/{axis}")],
        target,
        output_type=tensor_type(node.outputs[0].dtype),
    )
    if target != result:
        emitter.reshape(target, emitter.shape(result), result)
