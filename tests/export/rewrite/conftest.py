"""Helpers of the rewrite tests: small graphs from ONNX text, one pass at a time, same numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest
from onnx_ir.passes import common

from edgec.export.rewrite import numerics
from edgec.export.rewrite.base import Options, RewritePass
from edgec.export.rewrite.inference import infer_shapes


@dataclass
class Outcome:
    """A graph before and after some passes."""

    model: ir.Model
    matches: int
    before: Counter[str]
    after: Counter[str] = field(default_factory=Counter)
    refusals: list[str] = field(default_factory=list)


def _ops(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.all_nodes())


def _build(
    text: str, weights: Mapping[str, np.ndarray[Any, Any]] | None = None, opset: int = 20
) -> ir.Model:
    """Model from the body of an ONNX text graph; `weights` become initializers."""
    header = f'<ir_version: 9, opset_import: ["" : {opset}]>\n'
    model = ir.from_proto(onnx.parser.parse_model(header + text))
    known = {v.name: v for v in model.graph.inputs}
    for name, array in (weights or {}).items():
        if name in known:
            value = known[name]
            model.graph.inputs.remove(value)
        else:
            raise KeyError(f"declare {name} as graph input, it becomes an initializer")
        value.const_value = ir.tensor(array, name=name)
        value.shape = ir.Shape(array.shape)
        value.dtype = value.const_value.dtype
        model.graph.register_initializer(value)
    infer_shapes(model)
    return model


def _run_passes(
    model: ir.Model,
    passes: Sequence[type[RewritePass]],
    target_opset: int = 20,
    max_rank: int = 5,
    lacking: Sequence[str] = (),
    matrices: bool = False,
) -> Outcome:
    """Apply `passes` in order; fail if the numbers or the interface change."""
    feeds = [numerics.seeded_inputs(model, seed) for seed in (1, 2)]
    interface = [(v.name, v.shape, v.dtype) for v in (*model.graph.inputs, *model.graph.outputs)]
    want = numerics.run(numerics.serialize(model), feeds)
    outcome = Outcome(model, 0, _ops(model))
    for pass_class in passes:
        instance = pass_class()
        instance.configure(Options(target_opset, max_rank, frozenset(lacking), matrices))
        instance(model)
        outcome.matches += instance.matches
        outcome.refusals += [reason for _, reason in instance.refusals]
        common.NameFixPass()(model)
    common.RemoveUnusedNodesPass()(model)
    infer_shapes(model)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    got = numerics.run(numerics.serialize(model), feeds)
    names = [v.name or "" for v in model.graph.outputs] * len(feeds)
    assert numerics.compare(names, want, got) is None
    after = [(v.name, v.shape, v.dtype) for v in (*model.graph.inputs, *model.graph.outputs)]
    assert after == interface
    outcome.after = _ops(model)
    return outcome


@pytest.fixture(scope="session")
def build() -> Callable[..., ir.Model]:
    return _build


@pytest.fixture(scope="session")
def run_passes() -> Callable[..., Outcome]:
    return _run_passes


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)
