"""Statistics matching: means and deviations come back, and what it leaves alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from edgec.export.quantize.bias_correction import correct_biases
from edgec.export.quantize.calibrate import calibrate
from edgec.export.quantize.insert import quantize
from edgec.export.quantize.matching import match_statistics
from edgec.export.quantize.recipes.apply import quantize_by
from edgec.export.quantize.recipes.recipe import Recipe, get_recipe
from edgec.export.quantize.scheme import ORT_X86_VNNI, TENSORRT
from edgec.export.quantize.sensitivity.measured import damage, run

FOUR = ORT_X86_VNNI.with_bits(4, 8)
Feeds = list[dict[str, np.ndarray]]


@pytest.fixture
def chain(build: Any, node: Any) -> tuple[ir.Model, Feeds]:
    """Six layers with biases, depthwise ones among them, and a classifier."""
    rng = np.random.default_rng(0)
    constants, nodes, last = {}, [], "x"
    for i in range(6):
        shape, group = ((12, 12, 1, 1), 1) if i % 2 else ((12, 1, 3, 3), 12)
        weight = rng.standard_t(4, shape) * np.sqrt(2 / np.prod(shape[1:]))
        constants |= {f"w{i}": weight.astype(np.float32)}
        constants |= {f"b{i}": (0.2 * rng.standard_normal(12)).astype(np.float32)}
        pads = {"pads": [1, 1, 1, 1]} if group > 1 else {}
        nodes.append(node("Conv", [last, f"w{i}", f"b{i}"], [f"c{i}"], group=group, **pads))
        nodes.append(node("Relu", [f"c{i}"], [f"r{i}"]))
        last = f"r{i}"
    constants |= {
        "wy": rng.standard_normal((12, 8)).astype(np.float32),
        "by": rng.standard_normal(8).astype(np.float32),
    }
    nodes += [
        node("GlobalAveragePool", [last], ["g"]),
        node("Flatten", ["g"], ["f"]),
        node("MatMul", ["f", "wy"], ["m"]),
        node("Add", ["m", "by"], ["y"]),
    ]
    model = build(nodes, {"x": [1, 12, 8, 8]}, {"y": [1, 8]}, constants, opset=20)
    feeds = [{"x": rng.standard_normal((1, 12, 8, 8)).astype(np.float32)} for _ in range(48)]
    return model, feeds


def deviations(model: ir.Model, feeds: Feeds, tensor: str) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation per channel."""
    copy = ir.from_proto(ir.to_proto(model))
    value = next(v for n in copy.graph for v in n.outputs if v.name == tensor)
    copy.graph.outputs[:] = [value]
    found = run(copy, feeds)[0]
    return found.mean((0, 2, 3)), found.std((0, 2, 3))


def test_channels_are_as_in_the_float_network(chain: tuple[ir.Model, Feeds]) -> None:
    model, feeds = chain
    matched, learned = match_statistics(model, feeds, FOUR)
    ranges = calibrate(model, feeds)
    closed = quantize(correct_biases(model, feeds, FOUR), ranges, FOUR)
    made = quantize(matched, ranges, FOUR, learned=learned)
    for tensor in ("c1", "c3", "c5"):
        wanted = deviations(model, feeds[:32], tensor)
        found = deviations(made, feeds[:32], tensor)
        before = deviations(closed, feeds[:32], tensor)
        for want, got, old in zip(wanted, found, before, strict=True):
            # what is left is the rounding of activations, which is not looked at
            assert np.abs(got - want).max() < 0.03 * wanted[1].max()
            assert np.abs(got - want).max() < 0.3 * np.abs(old - want).max()
    held = feeds[32:]
    reference = run(model, held)
    assert damage(reference, run(made, held)).sqnr > damage(reference, run(closed, held)).sqnr + 2


def test_integers_stay(chain: tuple[ir.Model, Feeds]) -> None:
    """Only scales and biases move."""
    model, feeds = chain
    ranges = calibrate(model, feeds)
    plain = quantize(model, ranges, FOUR)
    matched, learned = match_statistics(model, feeds, FOUR)
    made = quantize(matched, ranges, FOUR, learned=learned)

    def stored(graph: ir.Model) -> dict[str, np.ndarray]:
        values = graph.graph.initializers.items()
        return {n: v.const_value.numpy() for n, v in values if n.endswith("_quantized")}

    for name, integers in stored(plain).items():
        if "bias" not in name:
            np.testing.assert_array_equal(integers, stored(made)[name], err_msg=name)


def test_float_biases_shared_weights_and_silent_channels(build: Any, node: Any) -> None:
    rng = np.random.default_rng(1)
    weight = rng.standard_normal((4, 4)).astype(np.float32)
    weight[:, 2] = 0  # writes nothing but its bias
    constants = {"w": weight, "b": np.arange(4, dtype=np.float32), "z": np.ones(4, np.float32)}
    nodes = [
        node("Gemm", ["x", "w", "b"], ["h"]),
        node("Relu", ["h"], ["r"]),
        node("Gemm", ["r", "w", "z"], ["y"]),
    ]
    model = build(nodes, {"x": [8, 4]}, {"y": [8, 4]}, constants)
    feeds = [{"x": rng.standard_normal((8, 4)).astype(np.float32)} for _ in range(3)]
    for scheme in (FOUR, replace(TENSORRT, weight_bits=4)):
        matched, learned = match_statistics(model, feeds, scheme)
        made = quantize(matched, calibrate(model, feeds), scheme, learned=learned)
        assert np.isfinite(run(made, feeds)[0]).all()
        shared = matched.graph.initializers["w"].const_value.numpy()
        np.testing.assert_array_equal(shared, weight)
        biases = {n: v for n, v in matched.graph.initializers.items() if "bias" in n}
        assert len(biases) == 2
        # a bias alone has no error to correct
        first = biases["node_h_matched_bias"].const_value.numpy()
        assert first[2] == pytest.approx(2.0, abs=1e-5)


def test_the_recipe(chain: tuple[ir.Model, Feeds]) -> None:
    model, feeds = chain
    ranges, held = calibrate(model, feeds), feeds[32:]
    reference, found = run(model, held), {}
    for name in ("default", "few-bits"):
        made = quantize_by(get_recipe(name), model, ranges, lambda: feeds, FOUR)
        found[name] = damage(reference, run(made.graph, held)).sqnr
    assert [note["step"] for note in made.notes] == ["clip", "matching"]
    assert found["few-bits"] > found["default"] + 2
    with pytest.raises(ValueError, match="clip has no meaning beside"):
        Recipe.from_table("x", {"clip": True, "rounding": "flexround"})
