"""One-sided activations centred: exactness, the range won, and every refusal."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from edgec.export.quantize.calibrate import calibrate
from edgec.export.quantize.equivalent.shift import shift
from edgec.export.quantize.equivalent.statistics import channel_statistics
from edgec.export.quantize.insert import quantize
from edgec.export.quantize.kernels import emulation_options
from edgec.export.quantize.plan import plan_quantization
from edgec.export.quantize.recipes.apply import quantize_by, transform
from edgec.export.quantize.recipes.recipe import get_recipe
from edgec.export.quantize.scheme import ORT_ARM, TENSORRT

Feeds = list[dict[str, np.ndarray]]


def run(model: ir.Model, feeds: Feeds) -> np.ndarray:
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), emulation_options())
    return np.concatenate([session.run(None, feed)[0] for feed in feeds])


@pytest.fixture
def chain(build, node):
    """make(operator, tail): conv, bias, `operator`, then what `tail` says; and samples."""

    def make(op_type: str, tail=None, **constants: np.ndarray) -> tuple[ir.Model, Feeds]:
        rng = np.random.default_rng(0)
        numbers = {
            "w": rng.standard_normal((6, 3, 3, 3)).astype(np.float32),
            "b": rng.standard_normal(6).astype(np.float32),
            "v": rng.standard_normal((4, 6, 1, 1)).astype(np.float32),
            "o": rng.standard_normal(4).astype(np.float32),
            **constants,
        }
        nodes = [
            node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1]),
            node(op_type, ["c"], ["a"]),
            *(tail or [node("Conv", ["a", "v", "o"], ["y"])]),
        ]
        used = {name for n in nodes for name in n.input}
        kept = {k: v for k, v in numbers.items() if k in used}
        model = build(nodes, {"x": [1, 3, 8, 8]}, {"y": [1, 4, 8, 8]}, kept, opset=20)
        feeds = [{"x": rng.standard_normal((1, 3, 8, 8)).astype(np.float32)} for _ in range(4)]
        return model, feeds

    return make


@pytest.mark.parametrize("op_type", ["Relu", "Gelu", "HardSwish", "Sigmoid"])
@pytest.mark.parametrize("bias", [True, False])
def test_behind_activations(chain, node, op_type: str, bias: bool) -> None:
    tail = None if bias else [node("Conv", ["a", "v"], ["y"])]
    model, feeds = chain(op_type, tail)
    result = shift(model, lambda: feeds, TENSORRT)
    wanted = run(model, feeds)
    np.testing.assert_allclose(run(result.model, feeds), wanted, atol=2e-5 * np.abs(wanted).max())
    (changed,) = result.changes
    assert changed.producer == "node_a"
    assert changed.consumers == ("node_y",)
    seen = channel_statistics(result.model, feeds, {"a": 1, "a_centred": 1})
    assert seen["a_centred"].peak.max() < 0.8 * seen["a"].peak.max()
    # what is read, and what is quantized, is the centred tensor; the kernels stay integer
    plan = plan_quantization(result.model, TENSORRT)
    assert [q.tensor for q in plan.quantizers] == ["x", "a_centred"]
    assert plan.integer_nodes == plan_quantization(model, TENSORRT).integer_nodes


def test_it_wins_what_the_range_wins(chain) -> None:
    """Half the step, a quarter of the squared error of the activation's grid."""
    model, feeds = chain("Relu")
    shifted = shift(model, lambda: feeds, TENSORRT).model
    errors = []
    for graph in (model, shifted):
        # six bits of activations beside eight of weights: the error seen is the activation's
        six = replace(TENSORRT, activation_bits=6)
        made = quantize(graph, calibrate(graph, feeds), six, exclude=("node_c",))
        errors.append(float(((run(made, feeds) - run(model, feeds)) ** 2).mean()))
    assert 0.15 * errors[0] < errors[1] < 0.4 * errors[0]


def test_a_norm_centres_every_channel_for_nothing(build, node) -> None:
    rng = np.random.default_rng(5)
    constants = {
        "g": np.ones(8, np.float32),
        "o": np.linspace(-9, 9, 8).astype(np.float32),
        "w": rng.standard_normal((8, 6)).astype(np.float32),
        "b": rng.standard_normal(6).astype(np.float32),
    }
    nodes = [
        node("LayerNormalization", ["x", "g", "o"], ["n"], axis=-1),
        node("MatMul", ["n", "w"], ["m"]),
        node("Add", ["b", "m"], ["y"]),
    ]
    model = build(nodes, {"x": [1, 64, 8]}, {"y": [1, 64, 6]}, constants)
    feeds = [{"x": rng.standard_normal((1, 64, 8)).astype(np.float32)} for _ in range(3)]
    result = shift(model, lambda: feeds, TENSORRT)
    assert [n.op_type for n in result.model.graph] == [n.op_type for n in model.graph]
    wanted = run(model, feeds)
    np.testing.assert_allclose(run(result.model, feeds), wanted, atol=2e-5 * np.abs(wanted).max())
    seen = channel_statistics(result.model, feeds, {"n": 2})["n"]
    np.testing.assert_allclose(seen.high, -seen.low, rtol=1e-3)
    assert seen.peak.max() < 5
    assert "channels centred" in result.changes[0].note


def test_refusals_say_why(chain, build, node) -> None:
    weight = np.ones((4, 6, 3, 3), np.float32)
    padded = [node("Conv", ["a", "k"], ["y"], pads=[1, 1, 1, 1])]
    model, feeds = chain("Relu", padded, k=weight)
    result = shift(model, lambda: feeds, TENSORRT)
    assert not result.changes
    assert any("node_y pads with zeros" in r.reason for r in result.refused)
    square = np.ones((6, 6, 1, 1), np.float32)
    residual = [
        node("Conv", ["a", "s"], ["d"]),
        node("Add", ["a", "d"], ["e"]),
        node("Conv", ["e", "v"], ["y"]),
    ]
    model, feeds = chain("Relu", residual, s=square)
    result = shift(model, lambda: feeds, TENSORRT)
    reasons = {r.producer: r.reason for r in result.refused}
    assert "Add node_e cannot give a constant back" in reasons["a"]
    nodes = [node("Sigmoid", ["x"], ["s"]), node("MatMul", ["s", "w"], ["y"])]
    model = build(nodes, {"x": [2, 4]}, {"y": [2, 3]}, {"w": np.ones((4, 3), np.float32)})
    feeds = [{"x": np.ones((2, 4), np.float32)}]
    result = shift(model, lambda: feeds, TENSORRT)
    assert [r.reason for r in result.refused] == ["node_y has no bias"]


def test_two_sided_tensors_and_grids_with_zero_points_stay(chain) -> None:
    model, feeds = chain("Tanh")
    assert shift(model, lambda: feeds, TENSORRT).changes == ()
    model, feeds = chain("Relu")
    result = shift(model, lambda: feeds, ORT_ARM)
    assert (result.changes, result.refused) == ((), ())
    assert [n.op_type for n in result.model.graph] == [n.op_type for n in model.graph]


def test_readers_that_stay_float_get_no_addition(chain, node) -> None:
    two = [
        node("Conv", ["a", "v", "o"], ["d"]),
        node("Conv", ["a", "k", "o"], ["e"]),
        node("Sub", ["d", "e"], ["y"]),
    ]
    model, feeds = chain("Relu", two, k=np.ones((4, 6, 1, 1), np.float32))
    whole = shift(model, lambda: feeds, TENSORRT)
    assert whole.changes[0].consumers == ("node_d", "node_e")
    one = shift(model, lambda: feeds, TENSORRT, exclude=("node_e",))
    assert one.changes[0].consumers == ("node_d",)
    recipe = replace(get_recipe("centred"), keep_float=("node_d", "node_e"))
    graph, notes = transform(model, recipe, lambda: feeds, TENSORRT)
    assert notes[0]["changed"] == 0
    assert [n.op_type for n in graph.graph] == [n.op_type for n in model.graph]
    made = quantize_by(recipe, graph, calibrate(graph, feeds), lambda: feeds, TENSORRT).graph
    assert "Add" not in {n.op_type for n in made.graph}
