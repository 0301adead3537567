"""One view of the linear operators: Conv, ConvTranspose, Gemm, MatMul with constant weights.

A MatMul followed by the addition of a constant vector counts as one operator with a bias; it stays
MatMul + Add in the graph, because converters and quantizers handle that better than Gemm between
two Reshapes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgec.export.rewrite.graph import (
    Array,
    Builder,
    constant,
    float_attr,
    int_attr,
    is_op,
    shape_of,
    sole_user,
)


@dataclass(frozen=True)
class Linear:
    """A linear operator with constant weights.

    Attributes:
        node: the operator.
        last: the node whose output is the result (`node`, or the Add after a MatMul).
        weight: its constant weights as stored.
        bias: one number per output channel, or None.
        weight_axis: axis of the output channels in `weight`.
        axis: axis of the output channels in the result.
        channels: number of output channels.
        groups: convolution groups.
    """

    node: ir.Node
    last: ir.Node
    weight: Array
    bias: Array | None
    weight_axis: int
    axis: int
    channels: int
    groups: int = 1

    @property
    def output(self) -> ir.Value:
        """The result."""
        return self.last.outputs[0]


def match_linear(node: ir.Node | None) -> Linear | None:
    """`node` as linear operator, or None.

    Refuses weights that are computed, biases that are not one number per channel, and Gemm with
    alpha or beta other than 1. A transposed first input (transA) is left to who asks what the input
    channels are: it does not matter to the output channels.
    """
    if node is None or not is_op(node, "Conv", "ConvTranspose", "Gemm", "MatMul"):
        return None
    weight, shape = constant(node.inputs[1]), shape_of(node.outputs[0])
    if weight is None or shape is None or weight.dtype.kind not in "fV":
        return None
    if node.op_type == "MatMul":
        return _match_matmul(node, weight, shape)
    bias = _bias(node)
    if bias is None and len(node.inputs) > 2 and node.inputs[2] is not None:
        return None
    groups = int_attr(node, "group", 1)
    if node.op_type == "Conv":
        return Linear(node, node, weight, bias, 0, 1, weight.shape[0], groups)
    if node.op_type == "ConvTranspose":
        return Linear(node, node, weight, bias, 1, 1, weight.shape[1] * groups, groups)
    if float_attr(node, "alpha", 1.0) != 1.0 or float_attr(node, "beta", 1.0) != 1.0:
        return None
    axis = 0 if int_attr(node, "transB", 0) else 1
    return Linear(node, node, weight, bias, axis, 1, weight.shape[axis])


def _bias(node: ir.Node) -> Array | None:
    array = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    shape = shape_of(node.outputs[0])
    if array is None or shape is None:
        return None
    flat = array.reshape(-1)
    if flat.size != shape[1] or array.shape[-1] != flat.size:
        return None
    return flat


def _match_matmul(node: ir.Node, weight: Array, shape: tuple[int, ...]) -> Linear | None:
    if weight.ndim != 2 or len(shape) < 2:
        return None
    axis, channels = len(shape) - 1, weight.shape[1]
    add = sole_user(node.outputs[0])
    if add is not None and is_op(add, "Add") and add.graph is node.graph:
        other = add.inputs[1] if add.inputs[0] is node.outputs[0] else add.inputs[0]
        array = constant(other)
        vector = array is not None and array.size == channels and array.shape[-1:] == (channels,)
        if array is not None and vector and shape_of(add.outputs[0]) == shape:
            return Linear(node, add, weight, array.reshape(-1), 1, axis, channels)
    return Linear(node, node, weight, None, 1, axis, channels)


def base_name(value: ir.Value | None, default: str) -> str:
    """Name of an initializer to derive the name of its successor from."""
    return value.name if value is not None and value.name else default


def rebuilt(
    linear: Linear, builder: Builder, weight: Array, bias: Array | None, x: ir.Value | None = None
) -> ir.Value:
    """The same operator on other weights (and input); emitted by `builder`, returns the result.

    Attributes stay, so `weight` may differ in the number of output channels only.
    """
    node = linear.node
    shape = list(shape_of(linear.output) or ())
    channels = weight.shape[linear.weight_axis]
    shape[linear.axis] = channels * linear.groups if node.op_type == "ConvTranspose" else channels
    dtype = linear.output.dtype
    x = x if x is not None else node.inputs[0]
    stored = np.ascontiguousarray(weight.astype(linear.weight.dtype))
    w = builder.constant(stored, base_name(node.inputs[1], "weight"))
    attributes = {name: a.value for name, a in node.attributes.items()}
    b = None
    if bias is not None:
        old = node.inputs[2] if len(node.inputs) > 2 else None
        default = base_name(node.inputs[1], "weight") + "_bias"
        b = builder.constant(bias.astype(linear.weight.dtype), base_name(old, default))
    inputs = [x, w]
    if node.op_type == "MatMul":
        result = builder.op("MatMul", inputs, shape=shape, dtype=dtype)
        return result if b is None else builder.op("Add", [result, b], shape=shape, dtype=dtype)
    if b is not None:
        inputs.append(b)
    return builder.op(node.op_type, inputs, shape=shape, dtype=dtype, **attributes)


def with_channels(linear: Linear, builder: Builder, index: Array) -> ir.Value:
    """The operator restricted to some of its output channels."""
    weight = np.take(linear.weight, index, axis=linear.weight_axis)
    bias = None if linear.bias is None else linear.bias[index]
    return rebuilt(linear, builder, weight, bias)
