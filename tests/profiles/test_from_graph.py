"""Layers of ONNX graphs: kernels joined as runtimes do, bytes as they are stored."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgec.export.errors import UnsupportedError
from edgec.export.rewrite.graph import MODULE_KEY
from edgec.profiles.from_graph import profile_graph
from edgec.profiles.layers import Layer
from edgec.profiles.macs import count_graph_macs


def tensor(name: str, *shape: int, dtype=np.float32):
    return numpy_helper.from_array(np.ones(shape, dtype), name)


def network(*, quantized: bool = False, batch: int | str = 1) -> ir.Model:
    """3x3 convolution, ReLU, depthwise, residual, mean, linear; optionally with quantizers."""
    nodes, constants = [], []

    def q(name: str) -> str:
        if not quantized:
            return name
        nodes.append(helper.make_node("QuantizeLinear", [name, "s", "z"], [f"{name}_q"]))
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}_q", "s", "z"], [f"{name}_d"]))
        return f"{name}_d"

    def weight(name: str, *shape: int) -> str:
        if not quantized:
            constants.append(tensor(name, *shape))
            return name
        constants.append(tensor(name, *shape, dtype=np.int8))
        nodes.append(helper.make_node("DequantizeLinear", [name, "s", "z"], [f"{name}_d"]))
        return f"{name}_d"

    if quantized:
        constants += [tensor("s"), numpy_helper.from_array(np.int8(0), "z")]
    conv = [q("x"), weight("w1", 8, 3, 3, 3), "b1"]
    constants.append(tensor("b1", 8))
    nodes.append(helper.make_node("Conv", conv, ["c"], "conv", pads=[1] * 4, strides=[2, 2]))
    nodes.append(helper.make_node("Relu", ["c"], ["r"], "relu"))
    r = q("r")
    dw = [r, weight("w2", 8, 1, 3, 3)]
    nodes.append(helper.make_node("Conv", dw, ["d"], "dw", pads=[1] * 4, group=8))
    nodes.append(helper.make_node("Add", [q("d"), r], ["a"], "add"))
    nodes.append(helper.make_node("GlobalAveragePool", [q("a")], ["p"], "pool"))
    nodes.append(helper.make_node("Flatten", [q("p")], ["f"], "flatten"))
    nodes.append(helper.make_node("MatMul", ["f", weight("w3", 8, 5)], ["y"], "head"))
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 5])],
        constants,
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model = ir.from_proto(onnx.shape_inference.infer_shapes(proto))
    for node in model.graph:
        if node.name:
            node.metadata_props[MODULE_KEY] = f"net.{node.name}"
    return model


def by_name(layers: tuple[Layer, ...]) -> dict[str, Layer]:
    return {layer.name: layer for layer in layers}


@pytest.mark.parametrize("quantized", [False, True])
def test_kernels_and_their_facts(quantized: bool) -> None:
    model = network(quantized=quantized)
    profile = profile_graph(model, "net")
    layers = by_name(profile.layers)
    assert list(layers) == ["conv", "dw", "add", "pool", "head"]
    kinds = [layer.kind for layer in profile.layers]
    assert kinds == ["3x3", "depthwise", "elementwise", "pool", "linear"]
    assert layers["conv"].macs == 8 * 16 * 27
    assert layers["dw"].macs == 8 * 16 * 9
    assert layers["head"].macs == 40
    assert profile.macs == count_graph_macs(model).total
    assert "relu" in layers["conv"].nodes
    assert layers["conv"].module == "net.conv"
    width = 1 if quantized else 4
    assert layers["conv"].in_bytes == 3 * 64 * width
    assert layers["conv"].out_bytes == 8 * 16 * width
    assert layers["add"].in_bytes == 2 * 8 * 16 * width
    assert layers["conv"].weight_bytes == 8 * 27 * width + 8 * 4
    assert (layers["conv"].stride, layers["conv"].in_ch, layers["conv"].out_hw) == (2, 3, 16)
    assert layers["dw"].groups == 8
    assert layers["head"].weights == 40
    assert profile.parameters == 8 * 27 + 8 + 72 + 40
    assert profile.precision == ("int8" if quantized else "fp32")
    assert profile.peak_bytes >= width * (3 * 64)
    assert profile.macs_by_kind() == {"3x3": 3456, "depthwise": 1152, "linear": 40}


def test_a_product_of_activations_and_one_of_rows() -> None:
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["t"], "rows"),
            helper.make_node("Transpose", ["t"], ["tt"], "turn", perm=[0, 2, 1]),
            helper.make_node("MatMul", ["t", "tt"], ["s"], "scores"),
            helper.make_node("Softmax", ["s"], ["y"], "softmax"),
        ],
        "attention",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 6, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 6, 6])],
        [tensor("w", 4, 8)],
    )
    proto = onnx.shape_inference.infer_shapes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    )
    layers = by_name(profile_graph(ir.from_proto(proto), "attention").layers)
    assert [layer.kind for layer in layers.values()] == ["1x1", "move", "matmul", "softmax"]
    assert (layers["rows"].in_ch, layers["rows"].out_ch, layers["rows"].out_hw) == (4, 8, 6)
    assert (layers["scores"].macs, layers["scores"].weights) == (6 * 6 * 8, 0)


@pytest.mark.parametrize(("axis", "divisor"), [(1, 4), (2, 0)])
def test_channels_put_together_tell_what_divides_them(axis: int, divisor: int) -> None:
    shapes = ([1, 12, 4, 4], [1, 20, 4, 4]) if axis == 1 else ([1, 12, 4, 4], [1, 12, 2, 4])
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in zip("ab", shapes, strict=True)
    ]
    node = helper.make_node("Concat", ["a", "b"], ["y"], axis=axis)
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "join", inputs, [out])
    model = onnx.shape_inference.infer_shapes(helper.make_model(graph))
    (layer,) = profile_graph(ir.from_proto(model), "join").layers
    assert (layer.kind, layer.in_ch) == ("move", divisor)


def test_unknown_shapes_are_refused() -> None:
    with pytest.raises(UnsupportedError, match=r"shape|MACs"):
        profile_graph(network(batch="n"), "net")


def test_functions_that_joined_a_kernel_are_counted() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "conv"),
        helper.make_node("Sigmoid", ["c"], ["s"], "sigmoid"),
        helper.make_node("Mul", ["c", "s"], ["y"], "silu"),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 8, 8])],
        [tensor("w", 4, 3, 1, 1)],
    )
    model = onnx.shape_inference.infer_shapes(helper.make_model(graph))
    (layer,) = profile_graph(ir.from_proto(model), "net").layers
    assert (layer.operator, layer.functions) == ("Conv", 4 * 64)
    assert layer.joined == 2 * 4 * 64, "one pass for all of them"
