"""The replay computes what ONNX defines, and its gradients are those of the network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from edgec import models
from edgec.export.errors import UnsupportedError
from edgec.export.quantize.replay.graph import Replay
from edgec.export.quantize.replay.integers import round_through
from edgec.export.quantize.replay.table import OPERATORS, operator
from edgec.export.rewrite import numerics
from edgec.export.rewrite.engine import run_stages
from edgec.models.random_init import randomize
from edgec.models.registry import get_spec

SKIP = {"Dropout", "Cast", "CastLike", "QuantizeLinear", "DequantizeLinear"}
"""The suite's cases draw random numbers, or are about types that numpy has not, or that the replay
holds as float; for the last see test_segments.py."""


def replayable(cases: list[Any]) -> list[Any]:
    """The cases of one operator that the replay knows."""
    chosen = []
    for case in cases:
        nodes = case.model.graph.node
        if (
            len(nodes) == 1
            and nodes[0].domain == ""
            and nodes[0].op_type in OPERATORS.keys() - SKIP
        ):
            chosen.append(case)
    return chosen


def outcome(case: Any) -> str:
    """ "equal", "not replayed: …" or what is wrong."""
    inputs, outputs = case.data_sets[0]
    arrays = [np.asarray(array) if np.isscalar(array) else array for array in inputs]
    if not all(isinstance(a, np.ndarray) for a in [*arrays, *outputs]):
        return "not replayed: no array of a numpy type"
    try:
        feeds = {
            v.name: torch.tensor(a) for v, a in zip(case.model.graph.input, arrays, strict=True)
        }
    except TypeError:
        return "not replayed: types"
    try:
        replay = Replay(ir.from_proto(case.model))
        got = list(replay(feeds).values())
    except UnsupportedError as error:
        return f"not replayed: {error.why}"
    for want, have in zip(outputs, got, strict=True):
        if tuple(have.shape) != np.shape(want):
            return f"shape {tuple(have.shape)}, not {np.shape(want)}"
        if not np.allclose(
            have.double().numpy(),
            np.asarray(want, np.float64),
            rtol=max(case.rtol, 1e-3),
            atol=max(case.atol, 1e-5),
            equal_nan=True,
        ):
            return "other values"
    return "equal"


def test_the_operators_compute_what_onnx_defines(backend_cases: list[Any]) -> None:
    cases = replayable(backend_cases)
    results = {case.name: outcome(case) for case in cases}
    accepted = ("equal", "not replayed")
    assert not {name: r for name, r in results.items() if not r.startswith(accepted)}
    equal = [case for case in cases if results[case.name] == "equal"]
    assert len(equal) > 600
    assert OPERATORS.keys() - SKIP == {case.model.graph.node[0].op_type for case in equal}


def test_casts() -> None:
    text = """<ir_version: 9, opset_import: ["" : 20]>
    net (float[4] x) => (y, z) { y = Cast<to=7>(x) n = Cast<to=1>(y) z = CastLike(x, y) }"""
    x = torch.tensor([1.7, -1.7, 3.0, 0.2])
    result = Replay(ir.from_proto(onnx.parser.parse_model(text)))({"x": x})
    assert result["y"].tolist() == result["z"].tolist() == [1, -1, 3, 0]
    assert result["y"].dtype == torch.int64


@pytest.mark.parametrize(
    "name", ["emov2_cifar10", "edgenext_cifar10", "efficientformerv2_cifar10", "mcuformer_cifar10"]
)
def test_outputs_and_gradients_are_those_of_the_network(
    name: str, captured: Callable[[str], ir.Model]
) -> None:
    network = models.create_model(name).eval()
    randomize(network, seed=0)
    model = captured(name)
    run_stages(model, target_opset=20)
    replay = Replay(model)
    image = torch.randn(1, *get_spec(name).input_shape, generator=torch.Generator().manual_seed(0))
    direction = torch.randn(10, generator=torch.Generator().manual_seed(1))
    gradients = []
    for function in (network, lambda x: replay({"input": x})["output"]):
        x = image.clone().requires_grad_()
        logits = function(x)
        (logits * direction).sum().backward()
        gradients.append((logits.detach(), x.grad))
    for want, got in zip(*gradients, strict=True):
        assert want is not None
        assert got is not None
        # both sum in float32, in another order
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-4 * float(want.abs().max()))


def test_values_can_be_watched_and_replaced(tiny_graph: ir.Model) -> None:
    replay = Replay(tiny_graph)
    feeds = {n: torch.tensor(a) for n, a in numerics.seeded_inputs(tiny_graph, 1).items()}
    middle = next(n.outputs[0].name or "" for n in tiny_graph.graph if n.op_type == "Relu")
    plain = replay(feeds, watch=[middle])
    assert plain[middle].min() >= 0
    doubled = replay(feeds, watch=[middle], intercept={middle: lambda t: 2 * t})
    torch.testing.assert_close(doubled[middle], 2 * plain[middle])
    assert not torch.allclose(doubled["y"], plain["y"])
    with pytest.raises(KeyError, match="nowhere"):
        replay(feeds, watch=["nowhere"])


def test_weights_get_gradients_when_asked(tiny_graph: ir.Model) -> None:
    replay = Replay(tiny_graph)
    feeds = {n: torch.tensor(a) for n, a in numerics.seeded_inputs(tiny_graph, 1).items()}
    weight = replay.weights["w"]
    weight.requires_grad_()
    replay(feeds)["y"].sum().backward()
    assert weight.grad is not None
    assert weight.grad.abs().max() > 0
    step = 1e-3
    with torch.no_grad():
        base = replay(feeds)["y"].double().sum()
        weight[0, 0, 0, 0] += step
        moved = replay(feeds)["y"].double().sum()
    assert float(moved - base) / step == pytest.approx(float(weight.grad[0, 0, 0, 0]), rel=2e-2)


def test_rounding_passes_gradients_inside_the_range_only() -> None:
    text = """<ir_version: 9, opset_import: ["" : 20]>
    net (float[1, 4] x) => (y)
    <float s = {0.1}, int8 z = {3}> { q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }"""
    model = ir.from_proto(onnx.parser.parse_model(text))
    x = torch.tensor([[0.26, -0.04, 50.0, -50.0]], requires_grad=True)
    y = Replay(model)({"x": x})["y"]
    torch.testing.assert_close(y, torch.tensor([[0.3, 0.0, 12.4, -13.1]]))
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [[1.0, 1.0, 0.0, 0.0]]


def test_what_has_no_replay_is_named() -> None:
    text = """<ir_version: 9, opset_import: ["" : 20]>
    net (float[1, 4] x) => (y) { y = Det(x) }"""
    model = ir.from_proto(onnx.parser.parse_model(text))
    with pytest.raises(UnsupportedError, match="EC366"):
        Replay(model)


@pytest.fixture
def tiny_graph() -> ir.Model:
    rng = np.random.default_rng(0)
    text = """<ir_version: 9, opset_import: ["" : 20]>
    net (float[1, 2, 5, 5] x, float[3, 2, 3, 3] w) => (y)
    { c = Conv<pads=[1, 1, 1, 1]>(x, w) r = Relu(c) g = GlobalAveragePool(r) y = Flatten(g) }"""
    model = ir.from_proto(onnx.parser.parse_model(text))
    value = next(v for v in model.graph.inputs if v.name == "w")
    model.graph.inputs.remove(value)
    value.const_value = ir.tensor(rng.standard_normal((3, 2, 3, 3)).astype(np.float32), name="w")
    model.graph.register_initializer(value)
    return model


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_rounding_is_that_of_torch(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    scales = 10.0 ** torch.arange(-6, 5, dtype=torch.float64)
    x = (torch.randn(1000, 1, generator=generator, dtype=torch.float64) * scales).to(dtype)
    halves = torch.arange(-9, 10, dtype=dtype) / 2
    limits = torch.tensor([torch.finfo(dtype).max, torch.inf, -torch.inf, torch.nan], dtype=dtype)
    for values in (x, halves, limits):
        assert torch.equal(
            round_through(values).nan_to_num(nan=-1.0), torch.round(values).nan_to_num(nan=-1.0)
        )


def test_an_operator_has_one_implementation() -> None:
    """Or the order of imports would say which one is used."""
    with pytest.raises(AssertionError, match="Relu has two implementations"):
        operator("Relu")(lambda a, x: x)


def test_rounding_works_under_vmap_and_keeps_its_gradient() -> None:
    x = torch.tensor([[0.5, 1.5], [-0.4, 2.6]], requires_grad=True)
    y = torch.func.vmap(lambda row: round_through(row) * 3)(x)
    assert y.tolist() == [[0.0, 6.0], [0.0, 9.0]]
    y.sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert x.grad.tolist() == [[3.0, 3.0], [3.0, 3.0]]
