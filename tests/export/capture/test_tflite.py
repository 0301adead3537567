"""Reading .tflite files: interface, layout, metadata, kinds of quantization, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from edgec.export.capture import from_tflite
from edgec.export.capture.tflite.context import OPERATOR_KEY, module_path
from edgec.export.errors import InputError, UnsupportedError, UsageError
from edgec.export.options import ExportOptions
from edgec.export.progress import Reporter
from edgec.export.rewrite.channels.remove_channels import RemoveChannels
from edgec.export.rewrite.graph import MODULE_KEY
from edgec.export.source import capture, describe
from edgec.export.tflite import Model, Operator, Quantization, Signature, Subgraph, Tensor, save
from edgec.profiles.macs import count_graph_macs
from edgec.runtime.onnx_runner import OnnxRunner

pytest.importorskip("ai_edge_litert")
from edgec.runtime.litert_runner import LiteRTRunner, dequantized

UNIT = {"padding": "SAME", "stride_h": 1, "stride_w": 1}


def runner(graph: ir.Model) -> OnnxRunner:
    return OnnxRunner(ir.to_proto(graph).SerializeToString(), emulate=True)


def quantized_network(*, last: str = "SOFTMAX") -> Model:
    """uint8 image → QUANTIZE → 3x3 conv → residual ADD → pool → RESHAPE → FC → `last`, int8."""
    rng = np.random.default_rng(0)

    def weight(*shape: int) -> tuple[np.ndarray, Quantization]:
        scale = rng.uniform(0.005, 0.02, shape[0]).astype(np.float32)
        data = rng.integers(-127, 128, shape).astype(np.int8)
        return data, Quantization(scale, np.zeros(shape[0], np.int64), 0)

    def activation(name: str, shape: tuple[int, ...], scale: float, zero: int) -> Tensor:
        return Tensor(name, shape, "INT8", None, Quantization.per_tensor(scale, zero))

    def bias(name: str, x: Tensor, w: Quantization) -> Tensor:
        assert x.quantization is not None
        scale = (w.scale * x.quantization.scale).astype(np.float32)
        data = rng.integers(-200, 200, scale.size).astype(np.int32)
        return Tensor(
            name, data.shape, "INT32", data, Quantization(scale, np.zeros(scale.size, np.int64))
        )

    conv, fully = weight(4, 3, 3, 4), weight(5, 4)
    x = activation("net/quantize", (1, 8, 8, 4), 0.02, 0)
    pooled = activation("net/pool/AvgPool", (1, 1, 1, 4), 0.04, -40)
    tensors = [
        Tensor("pixels", (1, 8, 8, 4), "UINT8", None, Quantization.per_tensor(0.02, 128)),
        x,
        Tensor("w1", conv[0].shape, "INT8", *conv),
        bias("b1", x, conv[1]),
        activation("net/block/conv/Relu;net/block/bn/add", (1, 8, 8, 4), 0.03, -128),
        activation("net/block/add", (1, 8, 8, 4), 0.04, -40),
        pooled,
        activation("net/flatten", (1, 4), 0.04, -40),
        Tensor("w2", fully[0].shape, "INT8", *fully),
        bias("b2", pooled, fully[1]),
        activation("net/head/fc", (1, 5), 0.02, 3),
        activation("net/probabilities", (1, 5), 1 / 256, -128),
    ]
    tensors[7].shape_signature = (-1, 4)
    tensors.append(Tensor("target", (2,), "INT32", np.array([-1, 4], np.int32)))
    pool = {"padding": "VALID", "stride_h": 8, "stride_w": 8, "filter_height": 8, "filter_width": 8}
    operators = [
        Operator("QUANTIZE", [0], [1]),
        Operator("CONV_2D", [1, 2, 3], [4], UNIT | {"fused_activation_function": "RELU"}, 3),
        Operator("ADD", [1, 4], [5], {}, 2),
        Operator("AVERAGE_POOL_2D", [5], [6], pool, 2),
        Operator("RESHAPE", [6, 12], [7]),
        Operator("FULLY_CONNECTED", [7, 8, 9], [10], {}, 4),
        Operator(last, [10], [11], {"beta": 1.0} if last == "SOFTMAX" else {}, 2),
    ]
    signature = Signature("serving_default", {"image": 0}, {"probabilities": 11})
    return Model([Subgraph(tensors, [0], [11], operators, "main")], signatures=[signature])


def test_integers_as_in_the_file() -> None:
    model = quantized_network()
    graph = from_tflite(model, integers=True, channels_first=False)
    ours, theirs = runner(graph), LiteRTRunner(model, kernels="reference")
    assert ours.inputs == theirs.inputs == {"image": ((1, 8, 8, 4), "uint8")}
    assert ours.outputs == theirs.outputs == {"probabilities": ((1, 5), "int8")}
    rng = np.random.default_rng(1)
    for _ in range(8):
        feeds = {"image": rng.integers(0, 256, (1, 8, 8, 4)).astype(np.uint8)}
        want, got = theirs.run(feeds)["probabilities"], ours.run(feeds)["probabilities"]
        # one step in each operator (test_tflite_operators), which the weights of the head amplify
        assert np.abs(want.astype(int) - got.astype(int)).max() <= 4


def test_real_numbers_channels_first() -> None:
    model = quantized_network()
    ours, theirs = runner(from_tflite(model)), LiteRTRunner(model, kernels="reference")
    assert ours.inputs == {"image": ((1, 4, 8, 8), "float32")}
    assert ours.outputs == {"probabilities": ((1, 5), "float32")}
    pixels = np.random.default_rng(1).integers(0, 256, (1, 8, 8, 4)).astype(np.uint8)
    real = dequantized(pixels, model.main.tensors[0]).transpose(0, 3, 1, 2)
    want = dequantized(theirs.run({"image": pixels})["probabilities"], model.main.tensors[11])
    got = ours.run({"image": real})["probabilities"]
    np.testing.assert_allclose(got, want, atol=4.01 / 256)


def test_no_transpose_between_spatial_operators() -> None:
    graph = from_tflite(quantized_network())
    kinds = [node.op_type for node in graph.graph]
    assert "Transpose" not in kinds  # flattening a pooled vector needs none either
    inside = from_tflite(quantized_network(), channels_first=False)
    assert [node.op_type for node in inside.graph].count("Transpose") == 1


def test_nodes_know_where_they_come_from() -> None:
    graph = from_tflite(quantized_network())
    (conv,) = [n for n in graph.graph if n.op_type == "Conv"]
    assert conv.metadata_props[MODULE_KEY] == "net.block.conv"
    assert conv.metadata_props[OPERATOR_KEY] == "1 CONV_2D"
    weight = conv.inputs[1]
    assert weight is not None
    dequantize = weight.producer()
    assert dequantize is not None
    stored = dequantize.inputs[0]
    assert stored is not None
    assert stored.dtype == ir.DataType.INT8  # the file's integers, not their real numbers
    assert dequantize.attributes["axis"].as_int() == 0


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("model/conv1/Relu;model/bn/add", "model.conv1"),
        ("StatefulPartitionedCall:0", ""),
        ("", ""),
        ("/features/0/conv", "features.0"),
    ],
)
def test_module_path(name: str, path: str) -> None:
    assert module_path(name) == path


def test_same_bytes_every_time() -> None:
    first, second = (
        ir.to_proto(from_tflite(quantized_network())).SerializeToString(deterministic=True)
        for _ in range(2)
    )
    assert first == second


def test_input_that_is_an_output_and_two_names_for_one_value() -> None:
    tensors = [Tensor("x", (2, 3), "FLOAT32"), Tensor("y", (2, 3), "FLOAT32")]
    model = Model([Subgraph(tensors, [0], [0, 1, 1], [Operator("NEG", [0], [1])], "main")])
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    found = runner(from_tflite(model)).run({"x": x})
    assert list(found) == list(LiteRTRunner(model).outputs) == ["x_2", "y", "y_2"]
    np.testing.assert_array_equal(list(found.values()), [x, -x, -x])


def test_quantize_and_dequantize_at_the_ends() -> None:
    scale = Quantization.per_tensor(0.1, 5)
    tensors = [
        Tensor("x", (1, 4), "FLOAT32"),
        Tensor("q", (1, 4), "INT8", None, scale),
        Tensor("r", (1, 4), "INT8", None, scale),
        Tensor("y", (1, 4), "FLOAT32"),
    ]
    operators = [
        Operator("QUANTIZE", [0], [1]),
        Operator("RELU", [1], [2], {}, 2),
        Operator("DEQUANTIZE", [2], [3], {}, 2),
    ]
    model = Model([Subgraph(tensors, [0], [3], operators, "main")])
    x = np.array([[-1, 0.04, 0.26, 100]], np.float32)
    want = LiteRTRunner(model, kernels="reference").run({"x": x})["y"]
    np.testing.assert_allclose(runner(from_tflite(model)).run({"x": x})["y"], want, rtol=1e-6)


def test_float16_weights() -> None:
    weight = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float16)
    tensors = [
        Tensor("x", (2, 4), "FLOAT32"),
        Tensor("w16", (3, 4), "FLOAT16", weight),
        Tensor("w", (3, 4), "FLOAT32"),
        Tensor("y", (2, 3), "FLOAT32"),
    ]
    operators = [
        Operator("DEQUANTIZE", [1], [2], {}, 3),
        Operator("FULLY_CONNECTED", [0, 2], [3]),
    ]
    model = Model([Subgraph(tensors, [0], [3], operators, "main")])
    x = np.random.default_rng(1).standard_normal((2, 4)).astype(np.float32)
    want = LiteRTRunner(model, kernels="reference").run({"x": x})["y"]
    np.testing.assert_allclose(runner(from_tflite(model)).run({"x": x})["y"], want, rtol=1e-5)


@pytest.mark.parametrize("kind", ["FLOAT16", "INT8"])
def test_convolution_with_weights_behind_dequantize(kind: str) -> None:
    rng = np.random.default_rng(0)
    if kind == "FLOAT16":
        stored = Tensor("w", (4, 3, 3, 3), kind, rng.standard_normal((4, 3, 3, 3)).astype("<f2"))
    else:
        data = rng.integers(-127, 128, (4, 3, 3, 3)).astype(np.int8)
        scale = Quantization(np.full(4, 0.01, np.float32) * np.arange(1, 5), np.zeros(4, int), 0)
        stored = Tensor("w", data.shape, kind, data, scale)
    tensors = [
        Tensor("x", (1, 6, 6, 3), "FLOAT32"),
        stored,
        Tensor("real", (4, 3, 3, 3), "FLOAT32"),
        Tensor("b", (4,), "FLOAT32", rng.standard_normal(4).astype(np.float32)),
        Tensor("y", (1, 6, 6, 4), "FLOAT32"),
    ]
    version = 3 if kind == "FLOAT16" else 5
    operators = [
        Operator("DEQUANTIZE", [1], [2], {}, version),
        Operator("CONV_2D", [0, 2, 3], [4], UNIT),
    ]
    graph = from_tflite(
        Model([Subgraph(tensors, [0], [4], operators, "main")]), channels_first=False
    )
    (conv,) = [n for n in graph.graph if n.op_type == "Conv"]
    weight = conv.inputs[1]
    assert weight is not None
    assert (weight.producer() is None) == (kind == "FLOAT16")
    x = rng.standard_normal((1, 6, 6, 3)).astype(np.float32)
    tensors[2].data = dequantized(np.asarray(stored.data), stored).astype(np.float32)
    plain = Model([Subgraph(tensors, [0], [4], operators[1:], "main")])
    want = LiteRTRunner(plain, kernels="reference").run({"x": x})["y"]
    np.testing.assert_allclose(runner(graph).run({"x": x})["y"], want, rtol=1e-4, atol=1e-5)


def test_dynamic_range_weights() -> None:
    """LiteRT rounds the activations at run time; the graph keeps them float."""
    rng = np.random.default_rng(0)
    weight = rng.integers(-127, 128, (3, 16)).astype(np.int8)
    tensors = [
        Tensor("x", (2, 16), "FLOAT32"),
        Tensor("w", (3, 16), "INT8", weight, Quantization.per_tensor(0.01)),
        Tensor("y", (2, 3), "FLOAT32"),
    ]
    operator = Operator("FULLY_CONNECTED", [0, 1], [2], {}, 3)
    model = Model([Subgraph(tensors, [0], [2], [operator], "main")])
    x = rng.standard_normal((2, 16)).astype(np.float32)
    got = runner(from_tflite(model)).run({"x": x})["y"]
    np.testing.assert_allclose(got, x @ (weight * np.float32(0.01)).T, rtol=1e-4, atol=1e-5)
    want = LiteRTRunner(model, kernels="reference").run({"x": x})["y"]
    np.testing.assert_allclose(got, want, atol=0.05 * np.abs(want).max())


def test_16_bit_activations() -> None:
    rng = np.random.default_rng(0)
    scale = np.array([0.01, 0.02], np.float32)
    x, y = Quantization.per_tensor(0.001), Quantization.per_tensor(0.002)
    tensors = [
        Tensor("x", (1, 4, 4, 3), "INT16", None, x),
        Tensor(
            "w",
            (2, 1, 1, 3),
            "INT8",
            rng.integers(-127, 128, (2, 1, 1, 3)).astype(np.int8),
            Quantization(scale, np.zeros(2, np.int64), 0),
        ),
        Tensor(
            "b",
            (2,),
            "INT64",
            np.array([30000, -20000], np.int64),
            Quantization(scale * np.float32(0.001), np.zeros(2, np.int64), 0),
        ),
        Tensor("y", (1, 4, 4, 2), "INT16", None, y),
    ]
    model = Model(
        [Subgraph(tensors, [0], [3], [Operator("CONV_2D", [0, 1, 2], [3], UNIT, 4)], "m")]
    )
    graph = from_tflite(model, integers=True, channels_first=False)
    assert graph.opset_imports[""] == 21
    feeds = {"x": rng.integers(-32767, 32768, (1, 4, 4, 3)).astype(np.int16)}
    want = LiteRTRunner(model, kernels="reference").run(feeds)["y"].astype(int)
    assert np.abs(runner(graph).run(feeds)["y"].astype(int) - want).max() <= 1


@pytest.mark.parametrize(
    ("code", "inputs", "shape"),
    [
        ("SHAPE", [(2, 3)], (2,)),
        ("ZEROS_LIKE", [(2, 3)], (2, 3)),
        ("FILL", [np.array([2, 3], np.int32), np.float32(1.5)], (2, 3)),
    ],
)
def test_made_up_constants(code: str, inputs: list[Any], shape: tuple[int, ...]) -> None:
    tensors = [
        Tensor(f"c{i}", v.shape, "FLOAT32" if v.dtype == np.float32 else "INT32", np.asarray(v))
        if isinstance(v, np.ndarray | np.generic)
        else Tensor("x", v, "FLOAT32")
        for i, v in enumerate(inputs)
    ]
    kind = "INT32" if code == "SHAPE" else "FLOAT32"
    given = [i for i, t in enumerate(tensors) if t.data is None]
    # an input that nothing depends on is still an input
    tensors += [Tensor("y", shape, kind), Tensor("z", shape, kind)]
    n = len(tensors)
    operators = [
        Operator(
            code, list(range(n - 2)), [n - 2], {"out_type": "INT32"} if code == "SHAPE" else {}
        ),
        Operator("NEG", [n - 2], [n - 1]),
    ]
    model = Model([Subgraph(tensors, given, [n - 1], operators, "main")])
    feeds = {"x": np.ones((2, 3), np.float32)} if given else {}
    want = LiteRTRunner(model, kernels="reference").run(feeds)["z"]
    np.testing.assert_array_equal(runner(from_tflite(model)).run(feeds)["z"], want)


def test_channels_that_carry_nothing_leave_exactly() -> None:
    model = quantized_network()
    weight = model.main.tensors[2]
    dead = np.array(weight.data)
    dead[1] = 0  # a channel that holds its bias, whatever the image
    weight.data = dead
    # without the residual sum, which ties the channels to the input's
    pool, total = model.main.operators[3], model.main.operators[2]
    pool.inputs[0] = model.main.operators[1].outputs[0]
    model.main.operators.remove(total)
    for tensor in (model.main.tensors[6], model.main.tensors[7]):
        tensor.quantization = model.main.tensors[4].quantization
    scales = model.main.tensors[8].quantization
    assert scales is not None
    model.main.tensors[9].quantization = Quantization(
        scales.scale * np.float32(0.03), scales.zero_point
    )
    graph = from_tflite(model, integers=True, channels_first=False)
    before, macs = runner(graph), count_graph_macs(graph).total
    assert RemoveChannels()(graph).modified
    assert count_graph_macs(graph).total < 0.8 * macs
    after = runner(graph)
    rng = np.random.default_rng(1)
    for _ in range(8):
        feeds = {"image": rng.integers(0, 256, (1, 8, 8, 4)).astype(np.uint8)}
        want = before.run(feeds)["probabilities"]
        np.testing.assert_array_equal(after.run(feeds)["probabilities"], want)


def test_unknown_operators_are_named_together() -> None:
    model = quantized_network()
    model.main.operators[3].code = "L2_POOL_2D"
    model.main.operators[6].code = "CUSTOM"
    model.main.operators[6].custom_code = "TFLite_Detection_PostProcess"
    model.main.operators[6].options = {}
    with pytest.raises(
        UnsupportedError, match="L2_POOL_2D, TFLite_Detection_PostProcess"
    ) as caught:
        from_tflite(model, where="net.tflite")
    assert caught.value.code == "EC304"
    assert caught.value.where == "net.tflite"


def test_computed_axes_are_refused() -> None:
    tensors = [
        Tensor("x", (2, 3), "FLOAT32"),
        Tensor("axes", (1,), "INT32"),
        Tensor("y", (2,), "FLOAT32"),
    ]
    model = Model([Subgraph(tensors, [0, 1], [2], [Operator("SUM", [0, 1], [2])], "main")])
    with pytest.raises(UnsupportedError, match="computed") as caught:
        from_tflite(model)
    assert caught.value.code == "EC305"
    assert "operator 0 SUM" in str(caught.value.where)


def test_scales_that_kernels_ignore_are_refused() -> None:
    model = quantized_network()
    model.main.tensors[7].quantization = Quantization.per_tensor(0.03, -40)
    with pytest.raises(UnsupportedError, match="different scales") as caught:
        from_tflite(model)
    assert "operator 4 RESHAPE" in str(caught.value.where)


@pytest.mark.parametrize("operator", [0, 1, 2, 3, 4, 5, 6])
def test_shapes_that_contradict_the_operators(operator: int) -> None:
    model = quantized_network()
    output = model.main.tensors[model.main.operators[operator].outputs[0]]
    output.shape, output.shape_signature = (1, 9, 8, 4), None
    with pytest.raises(InputError) as caught:
        from_tflite(model)
    assert caught.value.code == "EC709"


def test_command_line(tmp_path: Path) -> None:
    path = tmp_path / "net.tflite"
    save(quantized_network(), path)
    assert describe(str(path)) == ("tflite", "net")
    captured = capture(
        str(path), ExportOptions(), needs_accuracy=False, reporter=Reporter(quiet=True)
    )
    assert captured.model["source"] == "tflite"
    assert [v.name for v in captured.graph.graph.inputs] == ["image"]
    with pytest.raises(UsageError) as caught:
        capture(
            str(path),
            ExportOptions(input_size=(16, 16)),
            needs_accuracy=False,
            reporter=Reporter(quiet=True),
        )
    assert caught.value.code == "EC224"
