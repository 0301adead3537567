"""The parts of the search against slow, clear references."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch.nn import functional as F

from edgec.export.quantize.bridges import find_bridges
from edgec.export.quantize.calibrate import calibrate
from edgec.export.quantize.graph import prepared_copy
from edgec.export.quantize.insert import quantize
from edgec.export.quantize.qhyvit.gradients import Gradients, divergence
from edgec.export.quantize.qhyvit.layers import Layer
from edgec.export.quantize.qhyvit.pointwise import Pointwise
from edgec.export.quantize.qhyvit.segment import rounded, segments
from edgec.export.quantize.qhyvit.verify import accepted
from edgec.export.quantize.replay.graph import Replay
from edgec.export.quantize.scheme import ORT_X86


def value_of(model: ir.Model, name: str) -> ir.Value:
    return next(v for n in model.graph for v in n.outputs if v.name == name)


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"pads": [1, 0, 2, 1], "strides": [2, 1]},
        {"group": 4, "pads": [1, 1, 1, 1]},
        {"group": 2, "dilations": [2, 2], "pads": [2, 2, 2, 2]},
    ],
)
def test_columns_give_the_convolution(build, node, attributes) -> None:
    rng = np.random.default_rng(0)
    depth = 4 // attributes.get("group", 1)
    constants = {
        "w": rng.standard_normal((8, depth, 3, 3)).astype(np.float32),
        "b": rng.standard_normal(8).astype(np.float32),
    }
    x = rng.standard_normal((2, 4, 9, 7)).astype(np.float32)
    conv = node("Conv", ["x", "w", "b"], ["y"], **attributes)
    shape = list(_output(conv, x, constants).shape)
    model = build([conv], {"x": [2, 4, 9, 7]}, {"y": shape}, constants)
    replay, nodes = Replay(model), list(model.graph)
    y = replay({"x": torch.tensor(x)})["y"]
    layer = Layer.of(nodes[0], 0, replay, nodes)
    assert layer is not None
    layer.sample(torch.tensor(x), {"y": y}, 10**6, torch.Generator().manual_seed(0))
    layer.freeze()
    # all positions were taken, and the "squared gradients" are the outputs themselves
    torch.testing.assert_close(layer.target[0], layer.importance[0], rtol=1e-4, atol=1e-5)
    assert layer.original(layer.rows()) == pytest.approx(constants["w"])
    assert float(layer.errors(layer.weight, layer.columns).sum()) == pytest.approx(0, abs=1e-6)


def _output(conv, x: np.ndarray, constants) -> torch.Tensor:
    given = {a.name: list(a.ints) or a.i for a in conv.attribute}
    pads = given.get("pads", [0, 0, 0, 0])
    padded = F.pad(torch.tensor(x), [pads[1], pads[3], pads[0], pads[2]])
    return F.conv2d(
        padded,
        torch.tensor(constants["w"]),
        stride=given.get("strides", 1),
        dilation=given.get("dilations", 1),
        groups=given.get("group", 1),
    )


def test_sampled_positions_stand_for_all(build, node) -> None:
    """The expected error of a sample is that of the whole output."""
    rng = np.random.default_rng(1)
    constants = {"w": rng.standard_normal((6, 5)).astype(np.float32)}
    nodes = [node("MatMul", ["x", "w"], ["m"]), node("Add", ["m", "b"], ["y"])]
    constants["b"] = rng.standard_normal(5).astype(np.float32)
    model = build(nodes, {"x": [1, 400, 6]}, {"y": [1, 400, 5]}, constants)
    replay, ordered = Replay(model), list(model.graph)
    x = torch.tensor(rng.standard_normal((1, 400, 6)), dtype=torch.float32)
    importance = torch.rand(1, 400, 5)
    coarse = rounded(torch.tensor(constants["w"].T), 0.5, -8, 7)[None]
    found = []
    for count in (400, 100):
        layer = Layer.of(ordered[0], 1, replay, ordered)
        assert layer is not None
        assert layer.after.start == "y"
        layer.sample(x, {"y": importance}, count, torch.Generator().manual_seed(0))
        layer.freeze()
        found.append(float(layer.errors(coarse, layer.columns).sum()))
    exact = ((x @ (coarse[0].T - torch.tensor(constants["w"]))).square() * importance).sum()
    assert found[0] == pytest.approx(float(exact), rel=1e-4)
    assert found[1] == pytest.approx(float(exact), rel=0.25)


def test_errors_are_measured_behind_the_nonlinearity(hybrid) -> None:
    model = prepared_copy(hybrid)
    replay = Replay(model)
    gate = Pointwise.of(replay, list(model.graph), value_of(model, "c1"))
    assert gate.exits == ("m1",)
    x = torch.linspace(-8, 8, 33)
    torch.testing.assert_close(gate(x)[0], F.silu(x))
    clip = Pointwise.of(replay, list(model.graph), value_of(model, "c0"))
    assert clip.exits == ("r0",)
    torch.testing.assert_close(clip(x)[0], x.clamp(0, 6))
    plain = Pointwise.of(replay, list(model.graph), value_of(model, "c2"))
    assert plain.exits == ("c2",)


def test_segment_is_the_network_from_one_layer_to_the_exits(hybrid, feeds) -> None:
    model = prepared_copy(hybrid)
    replay = Replay(model)
    bridges = find_bridges(model)
    assert [b.direction for b in bridges] == ["to_tokens"]
    (name,) = [layer for layer in bridges[0].layers if "Conv" in layer or layer == "node_c2"]
    segment = segments(replay, bridges, [name])[name]
    assert set(segment.exits) <= set(bridges[0].exits)
    given = {"x": torch.tensor(feeds[0]["x"])}
    watch = {*segment.needed, *segment.exits}
    values = replay(given, watch=sorted(watch))
    ones = {e: torch.ones_like(values[e]) for e in segment.exits}
    segment.keep(values, ones)
    assert segment.error({}, {}) == 0.0
    weight = torch.tensor(model.graph.initializers["pw.w"].const_value.numpy())
    coarse = rounded(weight.clone(), 0.1, -8, 7)
    changed = replay(given, watch=segment.exits, intercept={"pw.w": lambda w: coarse})
    wanted = sum(float((changed[e] - values[e]).square().sum()) for e in segment.exits)
    assert segment.error({"pw.w": coarse}, {}) == pytest.approx(wanted, rel=1e-4)


def test_divergence_and_its_gradient(build, node) -> None:
    """KL(p‖q) and, at the logits, (q − p)²."""
    p, q = torch.tensor([[1.0, 2.0, 0.5]]), torch.tensor([[0.5, 2.5, 0.0]])
    a, b = p.softmax(-1), q.softmax(-1)
    assert float(divergence(p, q)) == pytest.approx(float((a * (a / b).log()).sum()))
    rng = np.random.default_rng(2)
    constants = {"w": rng.standard_normal((6, 4)).astype(np.float32)}
    nodes = [node("Relu", ["x"], ["r"]), node("MatMul", ["r", "w"], ["y"])]
    model = prepared_copy(build(nodes, {"x": [1, 6]}, {"y": [1, 4]}, constants))
    feed = {"x": rng.standard_normal((1, 6)).astype(np.float32)}
    quantized = quantize(model, calibrate(model, [feed]), ORT_X86)
    gradients = Gradients(model, quantized, draws=0)
    outputs = gradients.values(feed, ())
    found = gradients.squares(feed, outputs, ["y", "r"])
    real = Replay(quantized)({"x": torch.tensor(feed["x"])})["y"]
    wanted = (real.softmax(-1) - outputs["y"].softmax(-1)).square()
    torch.testing.assert_close(found["y"], wanted, rtol=1e-3, atol=1e-10)
    assert found["r"].shape == (1, 6)


def test_drawn_gradients_are_the_fisher_information(build, node) -> None:
    """At the logits its diagonal is p (1 − p), however small the error is."""
    constants = {"w": np.eye(4, dtype=np.float32)}
    model = prepared_copy(
        build([node("MatMul", ["x", "w"], ["y"])], {"x": [1, 4]}, {"y": [1, 4]}, constants)
    )
    feed = {"x": np.array([[1.0, 0.0, -1.0, 2.0]], np.float32)}
    quantized = quantize(model, calibrate(model, [feed]), ORT_X86)
    gradients = Gradients(model, quantized, draws=2000)
    outputs = gradients.values(feed, ())
    p = outputs["y"].softmax(-1)
    found = gradients.squares(feed, outputs, ["y"])["y"]
    torch.testing.assert_close(found, p * (1 - p), rtol=0.1, atol=0.01)


def test_only_what_lowers_the_cost_beyond_chance_is_accepted() -> None:
    rng = np.random.default_rng(0)
    effects = {"good": -1.0, "bad": 1.0, "harmless": 0.0, "better": -2.0}
    noise = {name: rng.standard_normal(200) for name in effects}

    def cost(chosen) -> np.ndarray:
        base = np.full(200, 10.0)
        return base + sum(effects[c] + noise[c] for c in chosen)

    assert accepted(list(effects), cost, errors=2.0) == ["good", "better"]
