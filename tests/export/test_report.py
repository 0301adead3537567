"""Recognised patterns in the facts and in the text of a report."""

from __future__ import annotations

from typing import Any

import onnx.parser
import onnx_ir as ir

from edgec.export.pipeline import graph_facts
from edgec.export.report import text_report
from edgec.export.rewrite.engine import run_stages
from edgec.export.rewrite.inference import infer_shapes
from edgec.export.rewrite.recognise.marks import KINDS
from edgec.export.rewrite.stats import graph_stats


def facts_of(body: str) -> dict[str, Any]:
    text = '<ir_version: 9, opset_import: ["" : 20]> net (float[1, 8] x) => (float[1, 8] y) '
    model = ir.from_proto(onnx.parser.parse_model(text + body))
    infer_shapes(model)
    before = graph_stats(model)
    return graph_facts(before, model, run_stages(model, target_opset=20))


def text_of(graph: dict[str, Any]) -> list[str]:
    report = {
        "headline": "net",
        "target": {"title": "t", "name": "t", "notes": []},
        "inputs": [],
        "outputs": [],
        "graph": graph,
        "latency": {"basis": ""},
        "calibration": None,
        "artifacts": [
            {
                "path": "onnx/model.onnx", "precision": "fp32", "scheme": None, "bytes": 1,
                "status": "built", "why": None, "checks": {},
            }
        ],
        "warnings": [],
    }  # fmt: skip
    return text_report(report).splitlines()


def test_patterns_are_facts_and_a_line() -> None:
    graph = facts_of("{ s = Sigmoid(x) a = Mul(x, s) g = Gelu(a) t = Sigmoid(g) y = Mul(t, g) }")
    assert graph["patterns"] == [
        {"kind": "gelu", "title": "GELU", "count": 1},
        {"kind": "silu", "title": "SiLU", "count": 2},
    ]
    assert "patterns  1 x GELU, 2 x SiLU" in text_of(graph)


def test_a_network_without_patterns_has_no_such_line() -> None:
    graph = facts_of("{ y = Relu(x) }")
    assert graph["patterns"] == []
    assert not [line for line in text_of(graph) if line.startswith("patterns")]


def test_many_patterns_take_several_lines() -> None:
    graph = facts_of("{ y = Relu(x) }")
    graph["patterns"] = [{"kind": k, "title": title, "count": 12} for k, title in KINDS.items()]
    lines = text_of(graph)
    first = next(i for i, line in enumerate(lines) if line.startswith("patterns  12 x attention"))
    count = (
        next(i for i, line in enumerate(lines[first + 1 :]) if not line.startswith(" " * 10)) + 1
    )
    block = lines[first : first + count]
    assert count > 1
    assert all(len(line) <= 100 for line in block)
    words = " ".join(block).split()
    assert words == ["patterns", *", ".join(f"12 x {t}" for t in KINDS.values()).split()]


def test_reports_of_older_bundles_are_still_printed() -> None:
    graph = facts_of("{ y = Gelu(x) }")
    del graph["patterns"]
    assert not [line for line in text_of(graph) if line.startswith("patterns")]
