"""Matrix products: FULLY_CONNECTED with a constant matrix, BATCH_MATMUL of two activations."""

from __future__ import annotations

from math import prod

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
    matrix = emitter.weight(weight, lambda array: array, lambda known: known.quantization)
    inputs = [emitter.input(0), matrix]
    if node.integer or len(node.inputs) > 2:
        inputs.append(bias_tensor(emitter, node, weight.shape[0]))
    result = emitter.output()
    grid = weight.quantization
    if grid is not None and grid.per_channel and not emitter.flavour.channel_linear:
        _as_convolution(emitter, node, inputs, result)
        return
    emitter.op(
        "FULLY_CONNECTED",
        inputs,
        result,
        fused_activation_function=node.activation,
        weights_format="DEFAULT",
        keep_num_dims=len(emitter.shape(result)) != 2,
    )


def _as_convolution(emitter: Emitter, node: Node, inputs: list[int], result: int) -> None:
    """The same product as a 1×1 convolution over an image of one row."""
    source, weight, bias = inputs
    tensor = emitter.subgraph.tensors[weight]
    assert tensor.data is not None
    outputs, depth = tensor.shape
    kernel = emitter.constant(
        tensor.data.reshape(outputs, 1, 1, depth), f"{tensor.name}/1x1", tensor.quantization
    )
    columns = prod(emitter.shape(source)[:-1])
    image = emitter.reshape(source, (1, 1, columns, depth))
    emitter.reshape(
        emitter.op(
            "CONV_2D",
            [image, kernel, bias],
            emitter.like(result, "image", (1, 1, columns, outputs)),
            padding="VALID",
            stride_h=1,
            stride_w=1,
            fused_activation_function=node.activation,
        ),
        emitter.shape(result),
        result,
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
