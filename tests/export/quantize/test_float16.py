from __future__ import annotations

import math
from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx.reference import ReferenceEvaluator

from edgec.export.errors import UnsupportedError
from edgec.export.quantize.calibrate import calibrate
from edgec.export.quantize.float16 import (
    float32_by_value,
    float32_islands,
    to_float16,
)
from edgec.export.quantize.insert import quantize
from edgec.export.quantize.kernels import emulation_options
from edgec.export.quantize.scheme import TENSORRT

# Half precision has 11 bits: 2^-11 per operator, growing with the square root of the depth.
TOLERANCE = 5e-3


def relative_error(reference: np.ndarray, other: np.ndarray) -> float:
    """‖other − reference‖₂ / ‖reference‖₂ (infinite if `other` is not finite)."""
    if not np.isfinite(other).all():
        return math.inf
    scale = float(np.linalg.norm(reference.astype(np.float64)))
    difference = float(np.linalg.norm(other.astype(np.float64) - reference.astype(np.float64)))
    return difference / max(scale, np.finfo(np.float64).tiny)


def run(model: ir.Model, feed) -> np.ndarray:
    """Run in onnx's reference implementation, which rounds after every operator.

    ONNX Runtime's CPU kernels compute float16 graphs in float32 and drop the roundings between
    them, so it would not show an overflow.
    """
    evaluator = ReferenceEvaluator(ir.to_proto(model))
    with np.errstate(all="ignore"):
        (output,) = evaluator.run(None, feed)
    return output


def casts(model: ir.Model) -> int:
    return Counter(node.op_type for node in model.graph)["Cast"]


@pytest.mark.parametrize("calibrated", [False, True])
@pytest.mark.parametrize("keep", [True, False])
def test_whole_graph(hybrid, feeds, keep, calibrated):
    calibration = calibrate(hybrid, feeds) if calibrated else None
    before = ir.to_proto(hybrid).SerializeToString(deterministic=True)
    half = to_float16(hybrid, keep_io_float32=keep, calibration=calibration)
    onnx.checker.check_model(ir.to_proto(half), full_check=True)
    io_type = ir.DataType.FLOAT if keep else ir.DataType.FLOAT16
    assert half.graph.inputs[0].dtype == half.graph.outputs[0].dtype == io_type
    assert half.graph.outputs[0].name == "y"
    feed = {"x": feeds[0]["x"] if keep else feeds[0]["x"].astype(np.float16)}
    assert relative_error(run(hybrid, feeds[0]), run(half, feed)) < TOLERANCE
    islands = {island.op_type for island in float32_islands(half)}
    assert islands == {"LayerNormalization", "Softmax", "ReduceMean"}
    # into and out of three islands, and the two ends
    assert casts(half) == 6 + 2 * keep
    assert ir.to_proto(hybrid).SerializeToString(deterministic=True) == before


def test_weights_are_half_and_islands_keep_theirs(hybrid):
    half = to_float16(hybrid)
    types = {name: v.dtype for name, v in half.graph.initializers.items()}
    assert types["ln.g"] == ir.DataType.FLOAT
    assert types["stem.w_float16"] == ir.DataType.FLOAT16
    assert "stem.w" not in types


def test_deterministic(hybrid):
    first, second = (
        ir.to_proto(to_float16(hybrid)).SerializeToString(deterministic=True) for _ in range(2)
    )
    assert first == second


def decomposed_layer_norm(node):
    return [
        node("Mul", ["x", "gain"], ["big"]),
        node("ReduceMean", ["big"], ["mean"], axes=[-1], keepdims=1),
        node("Sub", ["big", "mean"], ["centred"]),
        node("Pow", ["centred", "two"], ["square"]),
        node("ReduceMean", ["square"], ["variance"], axes=[-1], keepdims=1),
        node("Add", ["variance", "eps"], ["shifted"]),
        node("Sqrt", ["shifted"], ["deviation"]),
        node("Div", ["centred", "deviation"], ["normal"]),
        node("Mul", ["normal", "gamma"], ["scaled"]),
        node("Add", ["scaled", "beta"], ["y"]),
    ]


@pytest.fixture
def layer_norm(build, node):
    """LayerNorm as opset 13 exports write it, on activations around 1000."""
    rng = np.random.default_rng(0)
    constants = {
        "gain": np.float32(1000),
        "two": np.float32(2),
        "eps": np.float32(1e-6),
        "gamma": rng.standard_normal(32).astype(np.float32),
        "beta": rng.standard_normal(32).astype(np.float32),
    }
    return build(
        decomposed_layer_norm(node), {"x": [1, 7, 32]}, {"y": [1, 7, 32]}, constants, opset=13
    )


def test_layer_norm_of_large_activations_does_not_overflow(layer_norm):
    """NVIDIA/TensorRT issue 2564: x² of values around 10³ is infinite in float16."""
    x = np.random.default_rng(1).standard_normal((1, 7, 32)).astype(np.float32)
    half = to_float16(layer_norm)
    onnx.checker.check_model(ir.to_proto(half), full_check=True)
    assert relative_error(run(layer_norm, {"x": x}), run(half, {"x": x})) < TOLERANCE
    kept = {island.node for island in float32_islands(half)}
    told = float32_by_value(layer_norm, None)
    assert set(told) == kept, "what a builder with a flag for float16 has to leave in float32"
    inside = ("mean", "centred", "square", "variance", "shifted", "deviation", "normal")
    assert {f"node_{name}" for name in inside} <= kept
    assert casts(half) <= 4
    # the failure is real: the same graph with half squares gives NaN or zero
    with np.errstate(over="ignore"):
        squares = (x * 1000).astype(np.float16) ** 2
    assert np.isinf(squares).any()


@pytest.mark.parametrize("opset", [13, 14, 15, 16, 17, 18, 19, 20])
def test_every_opset(build, node, opset):
    weight = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)
    nodes = [
        node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        node("Resize", ["c", "", "scales"], ["r"], mode="nearest"),
        node("Relu", ["r"], ["a"]),
        node("Softmax", ["a"], ["y"], axis=1),
    ]
    model = build(
        nodes,
        {"x": [1, 3, 4, 4]},
        {"y": [1, 4, 8, 8]},
        {"w": weight, "scales": np.array([1, 1, 2, 2], np.float32)},
        opset=opset,
    )
    half = to_float16(model)
    onnx.checker.check_model(ir.to_proto(half), full_check=True)
    x = np.random.default_rng(1).standard_normal((1, 3, 4, 4)).astype(np.float32)
    assert relative_error(run(model, {"x": x}), run(half, {"x": x})) < TOLERANCE
    assert half.graph.initializers["scales"].dtype == ir.DataType.FLOAT


def test_data_movement_between_islands_needs_no_casts(build, node):
    model = build(
        [
            node("Softmax", ["x"], ["a"], axis=-1),
            node("Transpose", ["a"], ["b"], perm=[0, 2, 1]),
            node("Reshape", ["b", "shape"], ["c"]),
            node("Exp", ["c"], ["y"]),
        ],
        {"x": [1, 3, 4]},
        {"y": [12]},
        {"shape": np.array([12])},
    )
    half = to_float16(model)
    assert casts(half) == 0
    half = to_float16(model, keep_io_float32=False)
    assert casts(half) == 2


def test_ranges_from_calibration_keep_large_activations_in_float32(build, node):
    weight = np.full((1, 1, 1, 1), 3e4, np.float32)
    model = build(
        [
            node("Conv", ["x", "w"], ["big"]),
            node("Mul", ["big", "small"], ["y"]),
        ],
        {"x": [1, 1, 2, 2]},
        {"y": [1, 1, 2, 2]},
        {"w": weight, "small": np.float32(1e-3)},
    )
    feed = {"x": np.full((1, 1, 2, 2), 5, np.float32)}
    plain = to_float16(model)
    assert not np.isfinite(run(plain, feed)).all()  # 150 000 does not fit
    checked = to_float16(model, calibration=calibrate(model, [feed]))
    assert relative_error(run(model, feed), run(checked, feed)) < TOLERANCE
    assert {island.node for island in float32_islands(checked)} == {"node_big", "node_y"}
    assert "1.5e+05" in float32_islands(checked)[0].reason


@pytest.mark.parametrize(
    ("value", "word"), [(1e-12, "underflows"), (1e6, "exceeds"), (-3.4e38, "exceeds")]
)
def test_constants_beyond_half_precision(build, node, value, word):
    model = build(
        [node("Max", ["x", "c"], ["y"])],
        {"x": [1, 4]},
        {"y": [1, 4]},
        {"c": np.float32(value)},
    )
    (island,) = float32_islands(to_float16(model))
    assert word in island.reason


def test_infinite_masks_stay_half(build, node):
    mask = np.array([[0, -np.inf]], np.float32)
    model = build([node("Add", ["x", "mask"], ["y"])], {"x": [1, 2]}, {"y": [1, 2]}, {"mask": mask})
    half = to_float16(model)
    assert float32_islands(half) == []
    out = run(half, {"x": np.ones((1, 2), np.float32)})
    assert out.tolist() == [[1.0, -np.inf]]


def test_quantized_graph(build, node):
    weight = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)
    x = np.random.default_rng(1).standard_normal((1, 3, 6, 6)).astype(np.float32)
    for opset, islands in ((17, {"QuantizeLinear", "DequantizeLinear"}), (19, set())):
        model = build(
            [node("Conv", ["x", "w"], ["c"]), node("Relu", ["c"], ["y"])],
            {"x": [1, 3, 6, 6]},
            {"y": [1, 4, 4, 4]},
            {"w": weight},
            opset=opset,
        )
        quantized = quantize(model, calibrate(model, [{"x": x}]), TENSORRT)
        half = to_float16(quantized)
        onnx.checker.check_model(ir.to_proto(half), full_check=True)
        assert {island.op_type for island in float32_islands(half)} == islands
        assert half.graph.initializers["w_quantized"].dtype == ir.DataType.INT8
        # onnx's reference has no QuantizeLinear of opset 13
        session = ort.InferenceSession(ir.to_proto(half).SerializeToString(), emulation_options())
        assert relative_error(run(model, {"x": x}), session.run(None, {"x": x})[0]) < 0.02


def test_refusals(build, node):
    old = build([node("Relu", ["x"], ["y"])], {"x": [1, 2]}, {"y": [1, 2]}, {}, opset=12)
    with pytest.raises(UnsupportedError, match="EC362"):
        to_float16(old)
    branch = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["x"], ["r"])],
        "branch",
        [],
        [onnx.helper.make_tensor_value_info("r", 1, [1, 2])],
    )
    control = build(
        [node("If", ["flag"], ["y"], then_branch=branch, else_branch=branch)],
        {"x": [1, 2]},
        {"y": [1, 2]},
        {"flag": np.array(True)},
    )
    with pytest.raises(UnsupportedError, match="EC365"):
        to_float16(control)


def test_relative_error_of_overflow_is_infinite():
    assert relative_error(np.ones(2), np.array([1.0, np.nan])) == np.inf
    assert relative_error(np.array([3.0, 4.0]), np.array([3.0, 4.5])) == pytest.approx(0.1)
