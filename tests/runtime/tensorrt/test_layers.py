"""Names of fused kernels back to modules; both dialects of the inspector."""

from __future__ import annotations

import json

import pytest

from edgec.runtime.tensorrt.layers import by_module, join_layers

MODULES = {
    "stem.conv/Conv": "stem.conv",
    "stem.act/Relu": "stem.act",
    "stages.0.blocks.1.attn/MatMul": "stages.0.blocks.1.attn",
    "stages.0.blocks.1.attn/MatMul_1": "stages.0.blocks.1.attn",
    "stages.0.blocks.1.norm/LayerNormalization": "stages.0.blocks.1.norm",
    "head/Gemm": "head",
}


@pytest.mark.parametrize(
    ("name", "nodes", "module"),
    [
        ("stem.conv/Conv + stem.act/Relu", ["stem.conv/Conv", "stem.act/Relu"], "stem"),
        ("PWN(stem.act/Relu)", ["stem.act/Relu"], "stem.act"),
        (
            "{ForeignNode[stages.0.blocks.1.norm/LayerNormalization..."
            "stages.0.blocks.1.attn/MatMul_1]}",
            ["stages.0.blocks.1.norm/LayerNormalization", "stages.0.blocks.1.attn/MatMul_1"],
            "stages.0.blocks.1",
        ),
        ("stages.0.blocks.1.attn/MatMul", ["stages.0.blocks.1.attn/MatMul"], None),
        ("Reformatting CopyNode for Input Tensor 0 to head/Gemm", ["head/Gemm"], "head"),
        ("Reformatting CopyNode for Network Output logits", [], None),
        ("stem.conv/Conv + head/Gemm", ["stem.conv/Conv", "head/Gemm"], None),
    ],
)
def test_names_of_kernels_are_read(name: str, nodes: list[str], module: str | None) -> None:
    (row,) = join_layers([{"name": name, "ms": 1.0}], None, MODULES)
    assert row["nodes"] == nodes
    assert row["module"] == (module or (MODULES[nodes[0]] if len(nodes) == 1 else None))


@pytest.mark.parametrize("tensors", ["Bindings", "I/O Tensors"])
def test_kinds_come_from_either_dialect(tensors: str) -> None:
    inspector = {"Layers": [{"Name": "head/Gemm", "LayerType": "gemm"}], tensors: ["logits"]}
    times = [{"name": "stem.conv/Conv", "ms": 1.0}, {"name": "head/Gemm", "ms": 2.0}]
    rows = join_layers(times, json.dumps(inspector), MODULES)
    assert [(row["name"], row["kind"]) for row in rows] == [
        ("head/Gemm", "gemm"),
        ("stem.conv/Conv", None),
    ]


@pytest.mark.parametrize("between", ["\x1f", "\x1e", ""])
def test_generated_kernels_are_known_by_their_metadata(between: str) -> None:
    """Names like these and both separators are in published layer information of TensorRT 8.6+."""
    told = between.join(
        f"[ONNX Layer: {node}]"
        for node in (
            "stages.0.blocks.1.attn/MatMul",
            "ONNXTRT_cast",
            "stages.0.blocks.1.attn/MatMul",
        )
    )
    layers = [
        {"Name": "_gemm_mha_v2_myl0_7", "LayerType": "kgen", "Metadata": told},
        {"Name": "__myl_Cast_myl0_1", "LayerType": "kgen", "Metadata": ""},
        {"Name": "head/Gemm", "LayerType": "gemm", "Metadata": "[ONNX Layer: not ours]"},
    ]
    times = [{"name": layer["Name"], "ms": float(3 - i)} for i, layer in enumerate(layers)]
    rows = join_layers(times, json.dumps({"Layers": layers, "Bindings": []}), MODULES)
    assert [(row["nodes"], row["module"], row["kind"]) for row in rows] == [
        (["stages.0.blocks.1.attn/MatMul"], "stages.0.blocks.1.attn", "kgen"),
        ([], None, "kgen"),
        (["head/Gemm"], "head", "gemm"),
    ]


@pytest.mark.parametrize("inspector", ['{"Layers": ["head/Gemm"]}', "{", "[]", '{"Layers": 3}'])
def test_an_inspector_without_details_or_broken_costs_only_the_kinds(inspector: str) -> None:
    rows = join_layers([{"name": "head/Gemm", "ms": 2.0}], inspector, MODULES)
    assert rows[0]["kind"] is None
    assert rows[0]["module"] == "head"


def test_times_by_module() -> None:
    times = [{"name": name, "ms": 1.0} for name in MODULES] + [{"name": "copy", "ms": 0.5}]
    assert by_module(join_layers(times, None, MODULES), 1) == [
        ("stages", 3.0),
        ("stem", 2.0),
        ("head", 1.0),
        ("(between modules)", 0.5),
    ]
