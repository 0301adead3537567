"""Rank 4 for runtimes that need it: on every zoo network, with the numbers checked pass by pass."""

from __future__ import annotations

from collections.abc import Callable

import onnx
import onnx_ir as ir
import pytest

from edgec import models
from edgec.export.rewrite import numerics
from edgec.export.rewrite.engine import run_stages
from edgec.export.rewrite.legalise.flatten_tokens import wants_matrices
from edgec.export.rewrite.stats import GraphStats, graph_stats
from edgec.models.registry import get_spec
from edgec.targets.operators.table import view_rank
from edgec.targets.registry import get_target

SMALL = [name for name in models.list_models() if name.endswith("_cifar10")]
FAMILIES = (
    "edgenext_xx_small",
    "efficientformer_l1",
    "efficientformerv2_s0",
    "emo_1m",
    "emov2_1m",
    "emov2repo_emo1_1m",
    "mcuformer_t_e",
    "mobile_former_26m",
    "mobilevit_xxs",
    "mobilevitv2_050",
)


def rewritten(data: bytes, target: str) -> GraphStats:
    """Statistics of the graph for a target; its pass-by-pass check must have run."""
    runtime = get_target(target).runtime
    model = ir.from_proto(onnx.load_from_string(data))
    report = run_stages(
        model,
        target_opset=runtime.opset,
        max_rank=view_rank(runtime.name, runtime.version),
        matrices=wants_matrices(runtime),
    )
    assert report.verified
    return graph_stats(model)


def check(captured: ir.Model) -> None:
    data = numerics.serialize(captured)
    low, high = rewritten(data, "tflm"), rewritten(data, "x86")
    assert low.max_rank <= 4
    assert low.shape_arithmetic == 0
    # what rank 5 says in one Transpose may take two
    assert low.transposes <= 1.2 * high.transposes + 1
    assert low.nodes <= 1.1 * high.nodes


@pytest.mark.parametrize("name", SMALL)
def test_small_networks(name: str, captured: Callable[[str], ir.Model]) -> None:
    check(captured(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_one_network_of_each_family(name: str, captured: Callable[[str], ir.Model]) -> None:
    check(captured(name))


def test_families_are_all_covered() -> None:
    families = {get_spec(name).family for name in models.list_models()}
    assert {get_spec(name).family for name in FAMILIES} == families
