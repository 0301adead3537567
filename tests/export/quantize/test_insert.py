from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from edgec.export.errors import InputError, UnsupportedError, UsageError
from edgec.export.quantize.calibrate import Calibration, calibrate
from edgec.export.quantize.graph import constant_of
from edgec.export.quantize.insert import quantize
from edgec.export.quantize.kernels import count_integer_kernels, emulation_options
from edgec.export.quantize.scheme import (
    ORT_ARM,
    ORT_X86,
    ORT_X86_VNNI,
    SCHEMES,
    TENSORRT,
    get_scheme,
)

ALL = list(SCHEMES.values())


def run(model: ir.Model, feeds, options=None) -> np.ndarray:
    data = ir.to_proto(model).SerializeToString()
    session = ort.InferenceSession(data, options or emulation_options())
    return np.concatenate([session.run(None, feed)[0] for feed in feeds])


def sqnr(reference: np.ndarray, other: np.ndarray) -> float:
    return float(10 * np.log10((reference**2).sum() / ((other - reference) ** 2).sum()))


def by_output(model: ir.Model) -> dict[str, ir.Node]:
    return {str(v.name): n for n in model.graph for v in n.outputs}


def edges_through_dq(model: ir.Model) -> set[tuple[str, int]]:
    """(node name, input index) of activations that are read from a DequantizeLinear."""
    found = set()
    for node in model.graph:
        for i, value in enumerate(node.inputs):
            producer = value.producer() if value is not None else None
            if producer is not None and producer.op_type == "DequantizeLinear":
                source = producer.inputs[0].producer()
                if source is not None and node.op_type != "QuantizeLinear":
                    found.add((node.name, i))
    return found


@pytest.mark.parametrize("scheme", ALL, ids=lambda s: s.name)
def test_graph_is_valid_accurate_and_keeps_its_face(hybrid, feeds, calibration, scheme):
    before = ir.to_proto(hybrid).SerializeToString(deterministic=True)
    quantized = quantize(hybrid, calibration, scheme)
    onnx.checker.check_model(ir.to_proto(quantized), full_check=True)
    assert [v.name for v in quantized.graph.inputs] == ["x"]
    assert [v.name for v in quantized.graph.outputs] == ["y"]
    assert quantized.metadata_props["edgec.quant_scheme"] == scheme.name
    assert sqnr(run(hybrid, feeds), run(quantized, feeds)) > 25
    assert ir.to_proto(hybrid).SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("scheme", ALL, ids=lambda s: s.name)
def test_deterministic(hybrid, calibration, scheme):
    def data():
        return ir.to_proto(quantize(hybrid, calibration, scheme)).SerializeToString(
            deterministic=True
        )

    assert data() == data()


@pytest.mark.parametrize("scheme", ALL, ids=lambda s: s.name)
def test_every_new_node_has_a_module_and_names_are_unique(hybrid, calibration, scheme):
    quantized = quantize(hybrid, calibration, scheme)
    assert all(node.metadata_props.get("edgec.module") for node in quantized.graph)
    names = [node.name for node in quantized.graph]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("scheme", [ORT_X86, ORT_X86_VNNI, ORT_ARM], ids=lambda s: s.name)
def test_onnxruntime_runs_every_weighted_operator_on_integers(hybrid, calibration, scheme):
    counts = count_integer_kernels(quantize(hybrid, calibration, scheme))
    assert counts["weighted"]["Conv"] == {"integer": 3, "float": 0}
    products = counts["weighted"]["MatMul"]["integer"] + counts["weighted"]["Gemm"]["integer"]
    assert products == 5
    assert counts["weighted"]["MatMul"]["float"] == counts["weighted"]["Gemm"]["float"] == 0
    assert counts["integer"]["QLinearAdd"] == 2
    assert counts["integer"]["QLinearMul"] == counts["integer"]["QLinearSigmoid"] == 1
    assert "Clip" not in counts["float"]


def test_float_graph_has_no_integer_kernels(hybrid):
    counts = count_integer_kernels(hybrid)
    assert counts["integer"] == {}
    assert counts["qdq"] == 0
    assert counts["weighted"]["Conv"]["float"] == 3


def test_x86_kernels_equal_emulation(hybrid, feeds, calibration):
    """With pair-safe weights the integer kernels of any x86 CPU do what the graph says."""
    quantized = quantize(hybrid, calibration, ORT_X86)
    integer = ort.SessionOptions()
    integer.intra_op_num_threads = 1
    assert sqnr(run(quantized, feeds), run(quantized, feeds, integer)) > 30


def test_same_scale_operators_share_parameters(hybrid, calibration):
    quantized = quantize(hybrid, calibration, ORT_X86)
    nodes = by_output(quantized)
    first = nodes["a2_quantized"]
    for name in ("t0_quantized", "t1_quantized"):
        assert nodes[name].inputs[1] is first.inputs[1]
        assert nodes[name].inputs[2] is first.inputs[2]


def test_absorbed_activation_has_no_quantizer_before_it(hybrid, calibration):
    nodes = by_output(quantize(hybrid, calibration, ORT_X86))
    assert nodes["r0"].inputs[0] is nodes["c0"].outputs[0]
    assert "c0_quantized" not in nodes
    scale = constant_of(nodes["r0_quantized"].inputs[1])
    assert constant_of(nodes["r0_quantized"].inputs[2]) == 0
    assert scale * 255 <= 6.0


def test_integer_bias_has_the_product_scale(hybrid, calibration):
    quantized = quantize(hybrid, calibration, ORT_X86)
    nodes = by_output(quantized)
    for output, x in (("c2", "m1"), ("y", "g")):
        node = nodes.get(output)
        bias_dq = node.inputs[2].producer()
        weight_dq = node.inputs[1].producer()
        assert constant_of(bias_dq.inputs[0]).dtype == np.int32
        s_x = constant_of(nodes[f"{x}_quantized"].inputs[1])
        s_w = constant_of(weight_dq.inputs[1])
        np.testing.assert_array_equal(constant_of(bias_dq.inputs[1]), s_x * s_w)


def test_tensorrt_rules(hybrid, calibration):
    quantized = quantize(hybrid, calibration, TENSORRT)
    nodes = by_output(quantized)
    weight_axes = {}
    for node in quantized.graph:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        data, scale, zero = (constant_of(v) for v in node.inputs)
        assert zero.dtype == np.int8
        assert not zero.any()
        assert (scale > 0).all()
        if data is None:
            assert scale.shape == ()
        else:
            # constants are integers that feed a DequantizeLinear directly; none is a bias
            assert node.op_type == "DequantizeLinear"
            assert data.dtype == np.int8
            assert data.min() >= -127
            assert scale.shape == (data.shape[node.attributes["axis"].as_int()],)
            weight_axes[node.name] = node.attributes["axis"].as_int()
    assert weight_axes == {
        "stem.w_DequantizeLinear": 0,
        "dw.w_DequantizeLinear": 0,
        "pw.w_DequantizeLinear": 0,
        "qkv.w_DequantizeLinear": 1,
        "proj.w_DequantizeLinear": 1,
        "head.w_DequantizeLinear": 0,
    }
    through = edges_through_dq(quantized)
    assert {("node_a2", 0), ("node_a2", 1), ("node_a3", 0), ("node_a3", 1)} <= through
    assert {("node_c0", 0), ("node_c1", 0), ("node_c2", 0), ("node_l0", 0)} <= through
    # nothing between Conv and its activation, and no integers around float operators
    assert nodes["r0"].inputs[0] is nodes["c0"].outputs[0]
    for name in ("node_s1", "node_n1", "node_p", "node_qk", "node_av", "node_l1", "node_g"):
        assert not any(edge[0] == name for edge in through)


@pytest.mark.parametrize("scheme", ALL, ids=lambda s: s.name)
def test_no_tensor_is_quantized_twice(hybrid, calibration, scheme):
    quantized = quantize(hybrid, calibration, scheme)
    sources = Counter(n.inputs[0].name for n in quantized.graph if n.op_type == "QuantizeLinear")
    assert max(sources.values()) == 1
    for node in quantized.graph:
        if node.op_type == "QuantizeLinear":
            producer = node.inputs[0].producer()
            assert producer is None or producer.op_type != "DequantizeLinear"


def test_skip_arm_only(hybrid, calibration):
    through = edges_through_dq(
        quantize(hybrid, calibration, replace(TENSORRT, residual_arms="skip"))
    )
    assert ("node_a2", 0) in through
    assert ("node_a2", 1) not in through  # from the pointwise Conv, which can fuse


def test_attention_products_have_both_operands_or_none(hybrid, calibration):
    with_attention = edges_through_dq(
        quantize(hybrid, calibration, replace(TENSORRT, attention=True))
    )
    assert {("node_qk", 0), ("node_qk", 1), ("node_av", 0), ("node_av", 1)} <= with_attention


def test_per_tensor_weights(hybrid, feeds, calibration):
    per_tensor = quantize(hybrid, calibration, replace(ORT_X86, per_channel=False))
    onnx.checker.check_model(ir.to_proto(per_tensor), full_check=True)
    assert count_integer_kernels(per_tensor)["weighted"]["Conv"]["integer"] == 3
    weight = by_output(per_tensor)["stem.w_dequantized"]
    assert constant_of(weight.inputs[1]).shape == ()
    assert "axis" not in weight.attributes
    per_channel = quantize(hybrid, calibration, ORT_X86)
    reference = run(hybrid, feeds)
    assert sqnr(reference, run(per_tensor, feeds)) < sqnr(reference, run(per_channel, feeds)) + 3


def test_unsigned_weights_mean_the_same(hybrid, feeds, calibration):
    signed = quantize(hybrid, calibration, ORT_X86_VNNI)
    unsigned = quantize(hybrid, calibration, replace(ORT_X86_VNNI, weight="uint8"))
    np.testing.assert_array_equal(run(signed, feeds), run(unsigned, feeds))
    assert count_integer_kernels(unsigned)["weighted"]["Conv"]["integer"] == 3


def test_weights_take_a_quarter_of_the_bytes(build, node):
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((128, 128, 3, 3)).astype(np.float32)
    model = build(
        [node("Conv", ["x", "w"], ["y"])],
        {"x": [1, 128, 8, 8]},
        {"y": [1, 128, 6, 6]},
        {"w": weight},
    )
    calibration = calibrate(model, [{"x": rng.standard_normal((1, 128, 8, 8)).astype(np.float32)}])
    for scheme in ALL:
        size = len(ir.to_proto(quantize(model, calibration, scheme)).SerializeToString())
        assert size < 0.27 * weight.nbytes


@pytest.mark.parametrize("scheme", ALL, ids=lambda s: s.name)
@pytest.mark.parametrize("name", ["block", "block.c2", "node_c2", "Conv"])
def test_exclude(hybrid, feeds, calibration, scheme, name):
    quantized = quantize(hybrid, calibration, scheme, exclude=[name])
    nodes = by_output(quantized)
    output = nodes.get("c2") or nodes["c2_float"]
    assert constant_of(output.inputs[1]) is not None  # the weight is float still
    assert sqnr(run(hybrid, feeds), run(quantized, feeds)) > 25


def test_exclude_that_names_nothing(hybrid, calibration):
    with pytest.raises(UsageError, match="EC265"):
        quantize(hybrid, calibration, ORT_X86, exclude=["blocks"])


def test_calibration_of_another_graph(hybrid, calibration):
    with pytest.raises(UsageError, match="EC262"):
        quantize(hybrid, Calibration({}), ORT_X86)


def test_unknown_scheme():
    assert get_scheme("tensorrt") is TENSORRT
    with pytest.raises(UsageError, match="EC264"):
        get_scheme("ort")


def test_old_opset_is_refused(build, node):
    model = build([node("Relu", ["x"], ["y"])], {"x": [1, 2]}, {"y": [1, 2]}, {}, opset=11)
    with pytest.raises(UnsupportedError, match="EC362"):
        quantize(model, Calibration({}), ORT_X86)


def test_quantized_graph_is_refused(hybrid, calibration):
    once = quantize(hybrid, calibration, ORT_X86)
    with pytest.raises(UnsupportedError, match="EC363"):
        quantize(once, calibration, ORT_X86)


def test_half_precision_graph_is_refused(hybrid, calibration):
    from edgec.export.quantize.float16 import to_float16

    with pytest.raises(UnsupportedError, match="EC360"):
        quantize(to_float16(hybrid), calibration, TENSORRT)


def test_nan_weights_are_refused(build, node):
    weight = np.full((1, 1, 1, 1), np.nan, np.float32)
    model = build(
        [node("Conv", ["x", "w"], ["y"])], {"x": [1, 1, 2, 2]}, {"y": [1, 1, 2, 2]}, {"w": weight}
    )
    from edgec.export.quantize.ranges import Range

    ranges = {"x": Range(-1, 1), "y": Range(-1, 1)}
    with pytest.raises(InputError, match="EC764"):
        quantize(model, Calibration({}, ranges=ranges), ORT_X86)


def test_shared_weight_is_stored_once(build, node):
    weight = np.random.default_rng(0).standard_normal((4, 4, 1, 1)).astype(np.float32)
    model = build(
        [node("Conv", ["x", "w"], ["a"]), node("Conv", ["a", "w"], ["y"])],
        {"x": [1, 4, 2, 2]},
        {"y": [1, 4, 2, 2]},
        {"w": weight},
    )
    calibration = calibrate(model, [{"x": np.ones((1, 4, 2, 2), np.float32)}])
    quantized = quantize(model, calibration, ORT_X86)
    assert [n for n in quantized.graph.initializers if n.startswith("w")] == [
        "w_quantized",
        "w_scale",
        "w_zero_point",
    ]


def test_transposed_convolution_axis(build, node):
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((4, 6, 2, 2)).astype(np.float32)
    model = build(
        [node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2])],
        {"x": [1, 4, 5, 5]},
        {"y": [1, 6, 10, 10]},
        {"w": weight},
    )
    calibration = calibrate(model, [{"x": rng.standard_normal((1, 4, 5, 5)).astype(np.float32)}])
    nodes = by_output(quantize(model, calibration, TENSORRT))
    assert nodes["w_dequantized"].attributes["axis"].as_int() == 1
    assert constant_of(nodes["w_dequantized"].inputs[1]).shape == (6,)


def test_integer_tensors_are_left_alone(build, node):
    model = build(
        [
            node("Shape", ["x"], ["s"]),
            node("Add", ["s", "s"], ["d"]),
            node("Cast", ["d"], ["y"], to=1),
        ],
        {"x": [1, 2]},
        {"y": [2]},
        {},
    )
    calibration = calibrate(model, [{"x": np.ones((1, 2), np.float32)}])
    for scheme in ALL:
        quantized = quantize(model, calibration, scheme)
        assert not any(n.op_type == "QuantizeLinear" for n in quantized.graph)
