"""Error compensation: closer to the float network than correction alone, on every layout."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from edgec.export.errors import InputError
from edgec.export.quantize.bias_correction import correct_biases
from edgec.export.quantize.calibrate import calibrate
from edgec.export.quantize.compensate import compensate
from edgec.export.quantize.insert import quantize
from edgec.export.quantize.recipes.apply import quantize_by
from edgec.export.quantize.recipes.recipe import Recipe, get_recipe
from edgec.export.quantize.scheme import ORT_X86, ORT_X86_VNNI, TENSORRT
from edgec.export.quantize.sensitivity.measured import damage, run
from edgec.export.quantize.weights import is_pair_safe, per_channel

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
    # like images: neighbours and channels go along
    mixing = rng.standard_normal((12, 12))
    coarse = (rng.standard_normal((1, 12, 4, 4)) for _ in range(80))
    mixed = (np.einsum("dc,nchw->ndhw", mixing, x).repeat(2, 2).repeat(2, 3) for x in coarse)
    feeds = [{"x": x.astype(np.float32)} for x in mixed]
    return model, feeds


def sqnr(model: ir.Model, made: ir.Model, feeds: Feeds) -> float:
    return damage(run(model, feeds), run(made, feeds)).sqnr


@pytest.mark.parametrize(("bits", "gain"), [((4, 8), 3.0), ((6, 8), 1.0), ((6, 6), 1.0)])
def test_unseen_samples_come_closer(
    chain: tuple[ir.Model, Feeds], bits: tuple[int, int], gain: float
) -> None:
    model, feeds = chain
    scheme = ORT_X86_VNNI.with_bits(*bits)
    ranges, held = calibrate(model, feeds[:64]), feeds[64:]
    corrected = quantize(correct_biases(model, feeds[:64], scheme), ranges, scheme)
    graph, learned = compensate(model, calibrate(model, feeds[:64]), feeds[:64], scheme)
    made = quantize(graph, ranges, scheme, learned=learned)
    assert sqnr(model, made, held) > sqnr(model, corrected, held) + gain


def test_weights_lie_on_their_grids(chain: tuple[ir.Model, Feeds]) -> None:
    """What `quantize` rounds is rounded already: the error it makes is the one that was spread."""
    model, feeds = chain
    graph, learned = compensate(model, calibrate(model, feeds[:8]), feeds[:8], FOUR)
    assert {tensor for tensor, _ in learned} == {*(f"w{i}" for i in range(6)), "wy"}
    for (tensor, axis), weight in learned.items():
        number = graph.graph.initializers[tensor].const_value.numpy()
        shape = [-1 if i == axis else 1 for i in range(number.ndim)]
        steps = number / weight.scales.reshape(shape)
        np.testing.assert_allclose(steps, np.rint(steps), atol=1e-4)
        assert np.abs(steps).max() <= 7 + 1e-4


def test_means_are_as_in_the_float_network(chain: tuple[ir.Model, Feeds]) -> None:
    model, feeds = chain
    graph, _ = compensate(model, calibrate(model, feeds[:8]), feeds[:8], FOUR)
    for tensor in ("c0", "c3", "y"):
        wanted, found = (exposed(m, tensor, feeds[:8]) for m in (model, graph))
        axes = (0, 2, 3) if wanted.ndim == 4 else 0
        np.testing.assert_allclose(found.mean(axes), wanted.mean(axes), atol=1e-4)


def exposed(model: ir.Model, tensor: str, feeds: Feeds) -> np.ndarray:
    copy = ir.from_proto(ir.to_proto(model))
    value = next(v for n in copy.graph for v in n.outputs if v.name == tensor)
    copy.graph.outputs[:] = [value]
    return run(copy, feeds)[0]


def test_equal_runs_give_equal_bytes(chain: tuple[ir.Model, Feeds]) -> None:
    model, feeds = chain
    first, second = (
        compensate(model, calibrate(model, feeds[:4]), feeds[:4], FOUR) for _ in range(2)
    )
    assert ir.to_proto(first[0]).SerializeToString() == ir.to_proto(second[0]).SerializeToString()
    for key, weight in first[1].items():
        np.testing.assert_array_equal(weight.scales, second[1][key].scales)


def test_pairs_stay_safe(chain: tuple[ir.Model, Feeds]) -> None:
    model, feeds = chain
    graph, learned = compensate(model, calibrate(model, feeds[:8]), feeds[:8], ORT_X86)
    made = quantize(graph, calibrate(model, feeds[:8]), ORT_X86, learned=learned)
    for tensor, axis in learned:
        integers = made.graph.initializers[f"{tensor}_quantized"].const_value.numpy()
        depthwise = integers.ndim == 4 and integers.shape[1] == 1
        assert depthwise or is_pair_safe(per_channel(integers, axis))


@pytest.mark.parametrize("per_channel_scales", [True, False])
def test_float_biases_shared_weights_and_silent_channels(
    build: Any, node: Any, per_channel_scales: bool
) -> None:
    rng = np.random.default_rng(1)
    weight = rng.standard_normal((4, 4)).astype(np.float32)
    own = weight.copy()
    own[:, 2] = 0  # writes nothing but its bias
    constants = {"w": weight, "v": own, "b": np.arange(4, dtype=np.float32)}
    nodes = [
        node("Gemm", ["x", "v", "b"], ["h"]),
        node("Relu", ["h"], ["r"]),
        node("MatMul", ["r", "w"], ["s"]),
        node("MatMul", ["s", "w"], ["y"]),
    ]
    model = build(nodes, {"x": [8, 4]}, {"y": [8, 4]}, constants)
    feeds = [{"x": rng.standard_normal((8, 4)).astype(np.float32)} for _ in range(3)]
    feeds[0]["x"][:, 1] = 0
    for scheme in (FOUR, replace(TENSORRT, weight_bits=4)):
        scheme = replace(scheme, per_channel=per_channel_scales)
        graph, learned = compensate(model, calibrate(model, feeds), feeds, scheme)
        made = quantize(graph, calibrate(model, feeds), scheme, learned=learned)
        assert np.isfinite(run(made, feeds)[0]).all()
        assert [tensor for tensor, _ in learned] == ["v"]  # two nodes read the other
        np.testing.assert_array_equal(graph.graph.initializers["w"].const_value.numpy(), weight)
        bias = graph.graph.initializers["node_h_compensated_bias"].const_value.numpy()
        assert bias[2] == pytest.approx(2.0, abs=1e-5)  # no error to make up for


def test_inputs_of_zeros(build: Any, node: Any) -> None:
    weight = np.random.default_rng(0).standard_normal((4, 4)).astype(np.float32)
    model = build([node("MatMul", ["x", "w"], ["y"])], {"x": [2, 4]}, {"y": [2, 4]}, {"w": weight})
    feeds = [{"x": np.zeros((2, 4), np.float32)}]
    graph, learned = compensate(model, calibrate(model, feeds), feeds, FOUR)
    number = graph.graph.initializers["w"].const_value.numpy()
    assert np.abs(number - weight).max() <= 0.51 * learned["w", 1].scales.max()


def test_what_stays_float_is_not_touched(chain: tuple[ir.Model, Feeds]) -> None:
    model, feeds = chain
    graph, learned = compensate(
        model, calibrate(model, feeds[:4]), feeds[:4], FOUR, exclude=("node_c2",)
    )
    assert ("w2", 0) not in learned
    before, after = (m.graph.initializers["w2"].const_value.numpy() for m in (model, graph))
    np.testing.assert_array_equal(before, after)


def test_bad_samples(chain: tuple[ir.Model, Feeds]) -> None:
    model, known = chain
    ranges = calibrate(model, known[:1])
    for feeds, code in (([], "EC760"), ([{"x": np.zeros((1, 2), np.float32)}], "EC761")):
        with pytest.raises(InputError) as caught:
            compensate(model, ranges, feeds, FOUR)
        assert caught.value.code == code


def test_the_recipe(chain: tuple[ir.Model, Feeds]) -> None:
    model, feeds = chain
    ranges, held = calibrate(model, feeds), feeds[64:]
    found, seen = {}, []
    for name in ("default", "compensated"):
        made = quantize_by(
            get_recipe(name), model, ranges, lambda: feeds, FOUR,
            on_progress=lambda done, total: seen.append((done, total)),
        )  # fmt: skip
        found[name] = sqnr(model, made.graph, held)
    assert made.notes == [{"step": "compensation", "weights": 7}]
    assert seen[-1] == (7, 7)
    assert found["compensated"] > found["default"] + 4
    with pytest.raises(ValueError, match="exclude each other"):
        Recipe.from_table("x", {"compensation": True, "rounding": "flexround"})
