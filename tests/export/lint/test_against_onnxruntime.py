"""The lint beside the runtime: ONNX's backend node tests, flagged or not, loaded or refused."""

from __future__ import annotations

import tomllib
from collections import Counter
from typing import Any

import onnx_ir as ir
import onnxruntime
import pytest

from edgec.export.lint.engine import run_rules
from edgec.targets.operators.make_onnxruntime import table_text
from edgec.targets.operators.table import parse_table
from edgec.targets.registry import get_target

MAX_MISSES = 0.02
"""Share of models refused for what no operator table tells: an attribute, a second input's type."""


@pytest.mark.slow
def test_the_lint_agrees_with_the_installed_onnxruntime(backend_cases: list[Any]) -> None:
    table, target = parse_table(tomllib.loads(table_text("9.9"))), get_target("x86")
    models = [case.model for case in backend_cases if case.model is not None]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    outcomes: Counter[tuple[bool, bool]] = Counter()
    for model in models:
        opsets = {o.domain: o.version for o in model.opset_import}
        if set(opsets) != {""} or not table.oldest_opset <= opsets[""] <= min(table.opset, 23):
            continue
        model.ir_version = 10
        found = run_rules(ir.from_proto(model), target, table, select=("E",))
        try:
            onnxruntime.InferenceSession(model.SerializeToString(), options)
        except Exception:
            outcomes[bool(found), False] += 1
        else:
            assert not found, f"{model.graph.name} loads, but: {found}"
            outcomes[bool(found), True] += 1
    assert outcomes.total() > 1000
    assert outcomes[True, False] > 10
    assert outcomes[False, False] <= MAX_MISSES * outcomes.total(), outcomes
