"""A walk through a network: what layers read, each node run once, changes behind included."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from edgec.export.errors import InputError
from edgec.export.quantize import stepwise
from edgec.export.quantize.graph import prepared_copy
from edgec.export.quantize.stepwise import Stepwise
from edgec.export.quantize.stream import run_activations

Feeds = list[dict[str, np.ndarray]]


@pytest.fixture
def network(build: Any, node: Any) -> tuple[ir.Model, Feeds]:
    """A residual network of matrix products; the last product reads what the first one reads."""
    rng = np.random.default_rng(0)
    constants = {f"w{i}": rng.standard_normal((4, 4)).astype(np.float32) for i in range(4)}
    nodes = [
        node("MatMul", ["x", "w0"], ["a"]),
        node("Relu", ["a"], ["b"]),
        node("MatMul", ["b", "w1"], ["c"]),
        node("Add", ["b", "c"], ["d"]),
        node("MatMul", ["d", "w2"], ["e"]),
        node("MatMul", ["x", "w3"], ["f"]),
        node("Add", ["e", "f"], ["y"]),
    ]
    model = prepared_copy(build(nodes, {"x": [2, 4]}, {"y": [2, 4]}, constants))
    return model, [{"x": rng.standard_normal((2, 4)).astype(np.float32)} for _ in range(3)]


LAYERS = {"node_a": "x", "node_c": "b", "node_e": "d", "node_f": "x"}


@pytest.mark.parametrize("memory", [1 << 20, 0, 100])
def test_inputs_of_layers(network: tuple[ir.Model, Feeds], memory: int) -> None:
    model, feeds = network
    walk = Stepwise(model, feeds, memory=memory)
    for layer, tensor in LAYERS.items():
        wanted = [values[tensor] for _, values in run_activations(model, feeds, [tensor])]
        for got, want in zip(walk.input_of(layer), wanted, strict=True):
            np.testing.assert_array_equal(got, want)


def test_weights_may_change_behind_the_walk(network: tuple[ir.Model, Feeds]) -> None:
    model, feeds = network
    walk = Stepwise(model, feeds)
    for layer in ("node_a", "node_c"):
        list(walk.input_of(layer))
        name = next(n for n in model.graph if n.name == layer).inputs[1].name
        zeros = np.zeros((4, 4), np.float32)
        model.graph.initializers[name].const_value = ir.tensor(zeros, name=name)
        if layer == "node_a":
            assert not any(value.any() for value in walk.input_of("node_c"))


def test_every_node_runs_once(
    network: tuple[ir.Model, Feeds], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, feeds = network
    ran: list[str] = []

    def counting(part: ir.Model, *arguments: Any) -> Any:
        ran.extend(str(node.name) for node in part.graph)
        return run_activations(part, *arguments)

    monkeypatch.setattr(stepwise, "run_activations", counting)
    walk = Stepwise(model, feeds)
    for layer in LAYERS:
        list(walk.input_of(layer))
    assert len(ran) == len(set(ran))
    assert {"node_a", "node_c", "node_d"} <= set(ran)


def test_bad_samples(network: tuple[ir.Model, Feeds]) -> None:
    model, _ = network
    with pytest.raises(InputError) as none:
        Stepwise(model, [])
    assert none.value.code == "EC760"
    with pytest.raises(InputError) as wrong:
        Stepwise(model, [{"x": np.zeros((3, 4), np.float32)}])
    assert wrong.value.code == "EC761"
