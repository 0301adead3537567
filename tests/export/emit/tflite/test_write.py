"""Files: precisions, names, signature, metadata, and refusals that say what cannot be written."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgec.export.capture import from_tflite
from edgec.export.emit.onnx_file import serialize
from edgec.export.emit.tflite.flavour import flavour_for
from edgec.export.emit.tflite.lower import lower
from edgec.export.emit.tflite.write import convert
from edgec.export.errors import UnsupportedError
from edgec.export.quantize.calibrate import calibrate
from edgec.export.quantize.insert import quantize
from edgec.export.quantize.scheme import TFLITE
from edgec.export.rewrite.inference import infer_shapes
from edgec.export.tflite import Model, decode
from edgec.export.tflite.marks import METADATA
from edgec.export.tflite.schema import default_options
from edgec.runtime.onnx_runner import OnnxRunner
from edgec.targets.operators.table import select_table

RNG = np.random.default_rng(4)

NETWORK = """
net (float[1,3,8,8] image, float[1] w, float[1] k, float[1] m, float[1] b) => (scores) {
    c = Conv<pads=[1,1,1,1], strides=[2,2]>(image, w)  r = Relu(c)
    d = Conv<group=32, pads=[1,1,1,1]>(r, k)  t = Sigmoid(d)  g = Mul(d, t)  s = Add(g, r)
    p = GlobalAveragePool(s)  f = Flatten(p)  scores = Gemm<transB=1>(f, m, b)
}"""


def network(graph: Callable[..., Any]) -> Any:
    arrays = {
        "w": RNG.standard_normal((32, 3, 3, 3)).astype(np.float32),
        "k": RNG.standard_normal((32, 1, 3, 3)).astype(np.float32),
        "m": RNG.standard_normal((40, 32)).astype(np.float32),
        "b": RNG.standard_normal(40).astype(np.float32),
    }
    return graph(NETWORK, arrays)


def dump(model: Model) -> list[str]:
    """One line per operator: output, type and shape, code/version, inputs, unusual options."""
    tensors = model.main.tensors
    lines = []
    for op in model.main.operators:
        out = tensors[op.outputs[0]]
        shape = ",".join(map(str, out.shape))
        names = ", ".join(tensors[i].name for i in op.inputs)
        usual = default_options(op.code)
        told = {k: v for k, v in sorted(op.options.items()) if v != usual[k]}
        options = " ".join(f"{k}={v}" for k, v in told.items())
        lines.append(f"{out.name} {out.dtype}[{shape}] {op.code}/{op.version} ({names}) {options}")
    return [line.rstrip() for line in lines]


def test_golden_dump(graph: Callable[..., Any]) -> None:
    assert dump(lower(network(graph)).model) == [
        "r/padded FLOAT32[1,10,10,3] PAD/1 (image, pads/0_0_1_1_1_1_0_0)",
        "r FLOAT32[1,4,4,32] CONV_2D/1 (r/padded, w, zero_bias) "
        "fused_activation_function=RELU padding=VALID stride_h=2 stride_w=2",
        "d FLOAT32[1,4,4,32] DEPTHWISE_CONV_2D/1 (r, k, zero_bias) "
        "depth_multiplier=1 stride_h=1 stride_w=1",
        "t FLOAT32[1,4,4,32] LOGISTIC/1 (d)",
        "g FLOAT32[1,4,4,32] MUL/1 (d, t)",
        "s FLOAT32[1,4,4,32] ADD/1 (g, r)",
        "p FLOAT32[1,1,1,32] MEAN/1 (s, axes/1_2) keep_dims=True",
        "f FLOAT32[1,32] RESHAPE/1 (p, shape/1_32) new_shape=[1, 32]",
        "scores FLOAT32[1,40] FULLY_CONNECTED/1 (f, m, b)",
    ]


def test_signature_and_metadata(graph: Callable[..., Any]) -> None:
    entry = {"producer": "edgec 1", "labels": ["Käse", "b"], "preprocess": {"mean": [0.5]}}
    model = decode(convert(network(graph), metadata=entry).content)
    signature = model.signatures[0]
    assert signature.key == "serving_default"
    assert signature.inputs == {"image": model.main.inputs[0]}
    assert signature.outputs == {"scores": model.main.outputs[0]}
    found = json.loads(model.metadata[METADATA])
    assert found["labels"] == ["Käse", "b"]
    assert found["layout"] == "NHWC"
    assert found["schema"] == "edgec.tflite/1"
    assert model.description == "edgec 1"


@pytest.mark.parametrize(("precision", "tolerance"), [("fp16", 2e-3), ("dyn8", 5e-2)])
def test_weights_in_fewer_bits(
    precision: str, tolerance: float, graph: Callable[..., Any], same: Callable[..., Any]
) -> None:
    model = network(graph)
    file = same(model, tolerance=tolerance, precision=precision)
    whole = convert(model)
    assert len(file.content) < 0.75 * len(whole.content)
    tensors = file.lowered.model.main.tensors
    if precision == "fp16":
        assert file.lowered.operators["DEQUANTIZE"] == 3
        assert {t.dtype for t in tensors if t.data is not None and t.elements > 40} == {"FLOAT16"}
    else:
        # the other weights are few
        assert [t.name for t in tensors if t.dtype == "INT8"] == ["m"]
        assert "DEQUANTIZE" not in file.lowered.operators
        head = file.lowered.model.main.operators[-1]
        assert head.version == 12
        assert head.options["asymmetric_quantize_inputs"]


FOLDED = {
    "depthwise": ("c = Conv<group=128>(x, w)", (128, 1, 3, 3), "DEPTHWISE_CONV_2D", 3),
    "transposed": ("c = ConvTranspose(x, w)", (128, 4, 2, 2), "TRANSPOSE_CONV", 0),
    "right": ("c = MatMul(x, w)", (1, 128, 5, 8), "BATCH_MATMUL", 3),
    "left": ("c = MatMul(w, x)", (1, 128, 8, 4), "BATCH_MATMUL", 2),
}


@pytest.mark.parametrize("precision", ["fp16", "dyn8"])
@pytest.mark.parametrize("name", FOLDED)
def test_weights_without_a_kernel_for_them_are_folded_at_load(
    name: str,
    precision: str,
    graph: Callable[..., Any],
    same: Callable[..., Any],
    written_again: Callable[..., Any],
) -> None:
    body, shape, code, axis = FOLDED[name]
    weight = RNG.standard_normal(shape).astype(np.float32)
    text = f"a (float[1,128,4,5] x, float[1] w) => (y) {{ {body}  y = Relu(c) }}"
    model = graph(text, {"w": weight})
    tolerance = 2e-3 if precision == "fp16" else 2e-2
    file = same(model, tolerance=tolerance, precision=precision)  # in one piece, see there
    main = file.lowered.model.main
    head, product = main.operators[0], next(op for op in main.operators if op.code == code)
    assert head.code == "DEQUANTIZE"
    assert head.outputs[0] in product.inputs
    stored = main.tensors[head.inputs[0]]
    assert len(file.lowered.modules) == len(main.operators)
    if precision == "dyn8":
        assert stored.dtype == "INT8"
        assert stored.quantization is not None
        assert stored.quantization.axis == axis
        assert stored.quantization.scale.size == stored.shape[axis] > 1
        assert head.version == 5
    written_again(model)


@pytest.mark.parametrize("precision", ["fp16", "dyn8"])
def test_large_operands_are_stored_as_float16(
    precision: str,
    graph: Callable[..., Any],
    same: Callable[..., Any],
    written_again: Callable[..., Any],
) -> None:
    """Position embeddings; what a product reads as well is its weight."""
    position = RNG.standard_normal((1, 16, 8, 8)).astype(np.float32)
    model = graph(
        "a (float[1,16,8,8] x, float[1] p, float[1] w) => (float[1,16,8,8] y) "
        "{ c = Conv (x, w)  d = Add (c, p)  y = Relu (d) }",
        {"p": position, "w": RNG.standard_normal((16, 16, 1, 1)).astype(np.float32)},
    )
    file = same(model, tolerance=2e-3, precision=precision)
    main = file.lowered.model.main
    add = next(op for op in main.operators if op.code == "ADD")
    heads = {op.outputs[0]: op.inputs[0] for op in main.operators if op.code == "DEQUANTIZE"}
    (stored,) = [main.tensors[heads[i]] for i in add.inputs if i in heads]
    assert stored.dtype == "FLOAT16"
    assert len(file.lowered.modules) == len(main.operators)
    written_again(model)


def test_integers_of_a_stack_stay_integers(
    graph: Callable[..., Any], near: Callable[..., Any], written_again: Callable[..., Any]
) -> None:
    """Their product computes in float: behind DEQUANTIZE, folded at load, they are exact."""
    model = graph(
        "a (float[1,16,8,8] x, float[1] k, float[1] w, float[1] v) => (y) "
        "{ c = Conv (x, k)  m = MatMul (c, w)  n = MatMul (v, m)  y = Conv (n, k) }",
        {
            "k": RNG.standard_normal((16, 16, 1, 1)).astype(np.float32),
            "w": RNG.standard_normal((1, 16, 8, 8)).astype(np.float32),
            "v": RNG.standard_normal((16, 4, 8)).astype(np.float32),
        },
    )
    file = near(model, TFLITE)
    main = file.lowered.model.main
    products = [op for op in main.operators if op.code == "BATCH_MATMUL"]
    heads = {op.outputs[0]: op.inputs[0] for op in main.operators if op.code == "DEQUANTIZE"}
    stored = [main.tensors[heads[i]] for op in products for i in op.inputs if i in heads]
    (large,) = [t for t in stored if t.data is not None]
    assert large.dtype == "INT8"
    assert large.elements == 16 * 8 * 8  # the other one is too small to matter
    assert large.quantization is not None
    assert large.quantization.scale.size == 8
    written_again(model)


@pytest.mark.parametrize(
    ("line", "shape"),
    [
        ("y = Conv (x, w)", (16, 16, 3, 3)),
        ("y = Conv <group=16> (x, w)", (32, 1, 8, 8)),
        ("y = ConvTranspose (x, w)", (16, 8, 3, 3)),
        ("f = Flatten (x)  y = MatMul (f, w)", (1024, 4)),
        ("f = Flatten (x)  y = Gemm <transB=1> (f, w)", (4, 1024)),
    ],
)
def test_weights_of_float_products_stay_integers(
    line: str, shape: tuple[int, ...], graph: Callable[..., Any]
) -> None:
    """What `QuantScheme.stored` names computes in float with the integers' values."""
    model = graph(
        f"a (float[1,16,8,8] x, float[1] k, float[1] w) => (z, y) {{ z = Conv (x, k)  {line} }}",
        {
            "k": RNG.standard_normal((16, 16, 1, 1)).astype(np.float32),
            "w": RNG.standard_normal(shape).astype(np.float32),
        },
    )
    pytest.importorskip("ai_edge_litert")
    from edgec.runtime.tflite_artifact import TfliteArtifactRunner

    last = str(model.graph[-1].name)
    rules = replace(TFLITE, stored=frozenset({last}))
    calibration = calibrate(model, [{"x": RNG.standard_normal((1, 16, 8, 8)).astype(np.float32)}])
    made = quantize(model, calibration, rules, exclude=(last,))
    file = convert(made, precision="int8")
    main = file.lowered.model.main
    heads = {op.outputs[0]: op.inputs[0] for op in main.operators if op.code == "DEQUANTIZE"}
    stored = [main.tensors[i] for i in heads.values() if main.tensors[i].data is not None]
    assert sum(t.elements for t in stored) == np.prod(shape)
    assert {t.dtype for t in stored} == {"INT8"}
    read = [main.tensors[op.inputs[0]] for op in main.operators if op.code != "DEQUANTIZE"]
    assert "INT8" in {t.dtype for t in read}, "the other product"
    feed = {"x": RNG.standard_normal((1, 16, 8, 8)).astype(np.float32)}
    want = OnnxRunner(serialize(made, ""), emulate=True).run(feed)["y"]
    for kernels in ("xnnpack", "builtin"):
        runner = TfliteArtifactRunner(file.content, kernels=kernels)
        np.testing.assert_allclose(runner.run(feed)["y"], want, rtol=0, atol=1e-5 * abs(want).max())
    again = from_tflite(decode(file.content))
    assert convert(again, precision="int8").content == file.content


@pytest.mark.parametrize(("low", "high"), [(-0.25, 0.5), (0.0, 0.75), (-100.0, 100.0)])
def test_a_grid_within_the_limits_of_a_clip_clips(
    graph: Callable[..., Any], near: Callable[..., Any], low: float, high: float
) -> None:
    """TFLite has three fused activations; integers saturate at any limits."""
    model = graph(
        "a (float[1,4,8,8] x, float[1] k) => (y) {"
        f" l = Constant<value_float={low}>()  h = Constant<value_float={high}>()"
        " c = Conv (x, k)  d = Clip (c, l, h)  y = Conv (d, k) }",
        {"k": RNG.standard_normal((4, 4, 1, 1)).astype(np.float32)},
    )
    file = near(model, TFLITE)
    assert set(file.lowered.operators) == {"CONV_2D", "QUANTIZE", "DEQUANTIZE"}


def test_convolutions_take_integer_weights(
    graph: Callable[..., Any], same: Callable[..., Any]
) -> None:
    weight = RNG.standard_normal((16, 128, 1, 1)).astype(np.float32)
    model = graph("a (float[1,128,4,5] x, float[1] w) => (y) { y = Conv(x, w) }", {"w": weight})
    file = same(model, tolerance=2e-2, precision="dyn8")
    (op,) = [op for op in file.lowered.model.main.operators if op.code == "CONV_2D"]
    assert file.lowered.model.main.tensors[op.inputs[1]].dtype == "INT8"
    assert op.version == 5
    assert "DEQUANTIZE" not in file.lowered.operators


def test_weights_that_float16_cannot_hold_stay(graph: Callable[..., Any]) -> None:
    text = "a (float[1,4] x, float[1] w) => (y) { y = MatMul(x, w) }"
    model = graph(text, {"w": np.full((4, 4), 1e5, np.float32)})
    file = convert(model, precision="fp16")
    assert "DEQUANTIZE" not in file.lowered.operators


def test_networks_beyond_two_gigabytes_are_refused(graph: Callable[..., Any]) -> None:
    text = "a (float[1,4] x, float[1] w) => (y) { y = MatMul(x, w) }"
    model = graph(text, {"w": np.zeros((4, 4), np.float32)})
    # 40 GB that take no memory: a single number, repeated
    huge = np.broadcast_to(np.float32(0.5), (100_000, 100_000))
    model.graph.initializers["w"].const_value = ir.tensor(huge, name="w")
    for precision in ("fp32", "fp16", "dyn8"):
        with pytest.raises(UnsupportedError, match="GiB") as caught:
            convert(model, precision=precision)
        assert caught.value.code == "EC392"


def test_module_paths_reach_the_operators(graph: Callable[..., Any]) -> None:
    model = network(graph)
    for node in model.graph:
        node.metadata_props["edgec.module"] = f"block.{node.op_type}"
    lowered = lower(model)
    modules = dict(
        zip((op.code for op in lowered.model.main.operators), lowered.modules, strict=True)
    )
    assert modules["CONV_2D"] == "block.Conv"
    assert modules["MEAN"] == "block.GlobalAveragePool"


def test_a_graph_that_passes_its_input_on(
    graph: Callable[..., Any], same: Callable[..., Any]
) -> None:
    file = same(graph("a (float[1,3,4,5] x) => (y, z) { y = Identity(x)  z = Neg(x) }"))
    assert file.lowered.model.signatures[0].outputs.keys() == {"y", "z"}


REFUSED = {
    "erf": ("a (float[1,4] x) => (y) { y = Erf(x) }", "EC390", "no builtin"),
    "groups of a transposed convolution": (
        "a (float[1,4,5,5] x, float[1] w) => (y) { y = ConvTranspose<group=2>(x, w) }",
        "EC390",
        "groups",
    ),
    "cubic": (
        "a (float[1,4,5,5] x) => (y) { s = Constant<value_ints=[1,4,9,9]>()"
        '  y = Resize<mode="cubic">(x, , , s) }',
        "EC390",
        "cubic",
    ),
    "volumes": (
        "a (float[1,2,4,4,4] x) => (y) { y = MaxPool<kernel_shape=[2,2,2]>(x) }",
        "EC390",
        "5 dimensions",
    ),
    "L1 norm": ("a (float[1,4] x) => (y) { y = LpNormalization<p=1>(x) }", "EC390", "Euclidean"),
    "computed weight": (
        "a (float[1,4,5,5] x, float[2,4,1,1] w) => (y) { y = Conv(x, w) }",
        "EC390",
        "computed",
    ),
    "computed shape": (
        "a (float[1,4] x, int64[2] s) => (float[2,2] y) { y = Reshape(x, s) }",
        "EC391",
        "static",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_name_node_module_and_reason(name: str, graph: Callable[..., Any]) -> None:
    text, code, word = REFUSED[name]
    weights = {"w": np.ones((4, 2, 2, 2), np.float32)} if "float[1] w" in text else {}
    model = graph(text, weights)
    for node in model.graph:
        node.metadata_props["edgec.module"] = "head.part"
    with pytest.raises(UnsupportedError) as caught:
        lower(model)
    assert caught.value.code == code
    assert word in f"{caught.value.what} {caught.value.why}"
    assert caught.value.fix
    if code == "EC390":
        assert "head.part" in (caught.value.where or "")


def test_open_shapes_are_refused() -> None:
    text = (
        '<ir_version: 9, opset_import: ["" : 20]> a (float[N,4] x) => (float[N,4] y) { y = Neg(x) }'
    )
    with pytest.raises(UnsupportedError) as caught:
        lower(ir.from_proto(onnx.parser.parse_model(text)))
    assert "--shape" in (caught.value.fix or "")


def test_the_file_of_a_real_export_runs(tiny_onnx: Path, same: Callable[..., Any]) -> None:
    model = ir.load(tiny_onnx)
    for node in model.graph:
        node.name = node.name or node.outputs[0].name
    infer_shapes(model)
    content = same(model).content
    assert content[4:8] == b"TFL3"
    assert OnnxRunner(tiny_onnx).inputs["image"][0] == (1, 3, 16, 16)


def test_an_old_runtime_gets_what_it_executes(graph: Callable[..., Any]) -> None:
    table = select_table("tflite-runtime", "2.14").table
    model = network(graph)
    feed = {"image": RNG.standard_normal((1, 3, 8, 8)).astype(np.float32)}
    made = quantize(model, calibrate(model, [feed], method="minmax"), TFLITE)
    with pytest.raises(UnsupportedError) as caught:
        convert(made, precision="int8", table=table)
    assert caught.value.code == "EC394"
    assert "version 12" in (caught.value.why or "")
    old = flavour_for("tflite", "tflite-runtime")
    file = convert(made, precision="int8", flavour=old, table=table)
    assert "FULLY_CONNECTED" not in file.lowered.operators
    for precision in ("fp32", "fp16", "dyn8"):
        convert(model, precision=precision, flavour=old, table=table)
    pytest.importorskip("ai_edge_litert")
    from edgec.runtime.tflite_artifact import TfliteArtifactRunner

    want = TfliteArtifactRunner(convert(made, precision="int8").content).run(feed)["scores"]
    got = TfliteArtifactRunner(file.content).run(feed)["scores"]
    np.testing.assert_array_equal(got, want)


def test_microcontrollers_have_no_gelu(graph: Callable[..., Any]) -> None:
    table = select_table("tflm", "2026.8").table
    with pytest.raises(UnsupportedError) as caught:
        convert(graph("a (float[1,4] x) => (y) { y = Gelu(x) }"), table=table)
    assert caught.value.code == "EC394"
    assert "GELU" in caught.value.what
