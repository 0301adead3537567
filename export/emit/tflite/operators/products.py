"""Matrix products: FULLY_CONNECTED with a constant matrix, BATCH_MATMUL of two activations."""

from __future__ import annotations

from edgec.export.emit.tflite.emitter import Emitter
from edgec.export.emit.tflite.graph import Node
from edgec.export.emit.tflite.operators.convolution import bias_tensor


def linear_obstacle(node: Node) -> str:
    """Why a product with a constant matrix cannot be written."""
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is not None and bias.const is None:
        return "its bias is computed"
    return ""


def emit_linear(emitter: Emitter, node: Node) -> None:
    """Linear: the matrix is stored output × input."""
    weight = node.inputs[1]
    assert weight is not None
    assert weight.const is not None
    inputs = [emitter.input(0), emitter.constant(weight.const, weight.name, weight.quantization)]
    if node.integer or len(node.inputs) > 2:
        inputs.append(bias_tensor(emitter, node, weight.shape[0]))
    result = emitter.output()
    emitter.op(
        "FULLY_CONNECTED",
        inputs,
        result,
        fused_activation_function=node.activation,
        weights_format="DEFAULT",
        keep_num_dims=len(emitter.shape(result)) != 2,
    )


def emit_product(emitter: Emitter, node: Node) -> None:
    """MatMul of two activations, in the form that the layout chose."""
    config = emitter.layout[node]
    rank = len(node.outputs[0].shape)
    turned = [perm[-1] == rank - 2 for perm in config.inputs]
    first, second = emitter.input(0), emitter.input(1)
    adj_x, adj_y = turned
    if config.form == "exchanged":
        # (A·B)ᵀ = Bᵀ·Aᵀ
        first, second = second, first
        adj_x, adj_y = not turned[1], not turned[0]
    emitter.op("BATCH_MATMUL", [first, second], emitter.output(), adj_x=adj_x, adj_y=adj_y)


def product_obstacle(node: Node) -> str:
    """Why a product of activations cannot be written."""
    if len(node.outputs[0].shape) > 5:
        return f"it has {len(node.outputs[0].shape)} dimensions; BATCH_MATMUL takes five"
    return ""
