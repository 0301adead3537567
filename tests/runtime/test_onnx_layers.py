"""Times of ONNX Runtime's nodes in module names."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest

import edgec
from edgec.runtime.onnx_layers import time_layers, trace


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> edgec.Bundle:
    out = tmp_path_factory.mktemp("layers") / "bundle"
    return edgec.compile(
        "edgenext_cifar10", target="x86", precision="int8", calib="random", formats="onnx",
        calib_limit=8, out=str(out),
    )  # fmt: skip


@pytest.mark.parametrize("name", ["model.onnx", "model_int8.onnx"])
def test_nearly_all_time_has_a_module(bundle: edgec.Bundle, name: str) -> None:
    path = bundle.path / "onnx" / name
    feeds = dict(np.load(bundle.path / "golden" / "inputs_0.npz"))
    rows = time_layers(path, feeds, runs=3)
    assert [r["ms"] for r in rows] == sorted((r["ms"] for r in rows), reverse=True)
    total = sum(r["ms"] for r in rows)
    assert total > 0
    assert sum(r["ms"] for r in rows if r["module"]) > 0.95 * total
    ours = {p.value for n in onnx.load(path).graph.node for p in n.metadata_props}
    assert {r["module"] for r in rows if r["module"]} <= ours


def graph(text: str, modules: dict[str, str]) -> onnx.GraphProto:
    found = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]>{text}').graph
    for node in found.node:
        node.name = node.output[0] + "_node"
        if node.name in modules:
            node.metadata_props.add(key="edgec.module", value=modules[node.name])
    return found


def test_fused_and_added_nodes_are_traced() -> None:
    original = graph(
        "g (float[1,4] x) => (float[1,4] y) { a = Relu(x)  b = Tanh(a)  y = Neg(b) }",
        {"a_node": "stem", "b_node": "body", "y_node": "head"},
    )
    # a was fused away, b got another name, y kept its output, p was put in before b
    optimized = graph(
        "g (float[1,4] x) => (float[1,4] y) { p = Abs(x)  q = Tanh(p)  y = Neg(q) }", {}
    )
    optimized.node[1].name = "b_node_fused"
    optimized.node[2].name = "made_up"
    assert trace(original, optimized) == {
        "p_node": "body", "b_node_fused": "body", "made_up": "head",
    }  # fmt: skip
