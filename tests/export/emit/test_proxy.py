"""TensorRT for RTX as a proxy: what is asked, what is read from its messages, what is said."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import onnx
import pytest

import edgec
from edgec.export.emit.tensorrt import proxy, proxy_worker
from edgec.export.emit.tensorrt.proxy import Plan, ask_proxy, compile_for, stand_in, statements
from edgec.targets import get_target

# SYNTHETIC: the form of the compiler's messages, shortened
MESSAGES = [
    "Total Activation Memory: 4096 bytes",
    "Total Weights Memory: 690438 bytes",
    "Max Scratch Memory: 512 bytes",
    "Layers:\n"
    "Name: stem.conv/Conv_myl0_1, LayerType: correlation, Inputs: [ { Name: a, Dimensions: [1,4], "
    "Datatype: Float }], Constants: [], Outputs: [ { Name: b, Dimensions: [1,4], Datatype: Int8, "
    "Format: (NHWC) Channel major format }], TacticName: t, Metadata: [ONNX Layer: x]\n"
    "Name: _gemm_mha_v2_myl0_2, LayerType: gemm, Inputs: [ { Name: b, Datatype: Half }], "
    "Outputs: [ { Name: c, Datatype: Half }, { Name: d, Datatype: Int8 }], TacticName: u",
    "something else",
]


def test_kernels_and_memory_are_read() -> None:
    found = proxy_worker.read_messages(MESSAGES)
    assert found["kernels"] == [
        {"name": "stem.conv/Conv_myl0_1", "kind": "correlation", "types": ["Int8"]},
        {"name": "_gemm_mha_v2_myl0_2", "kind": "gemm", "types": ["Half", "Int8"]},
    ]
    assert (found["activation_bytes"], found["weight_bytes"], found["scratch_bytes"]) == (
        4096,
        690438,
        512,
    )


@pytest.mark.parametrize(
    ("sm", "capability"),
    [(None, "SM86"), (53, "SM86"), (75, "SM75"), (87, "SM86"), (89, "SM89"), (101, "SM120")],
)
def test_what_stands_for_which_device(sm: int | None, capability: str) -> None:
    assert stand_in(sm)[0] == capability


def test_int8_that_breaks_fusions_is_told() -> None:
    half = Plan(True, (), 105, {"kgen": 52, "runtime_fusion": 34}, {}, attention=5)
    worse = Plan(True, (), 128, {"kgen": 72}, {}, attention=0)
    said = statements({"fp16": half, "int8": worse}, 5)
    assert "5 of 5 attentions fused" in said[0]
    assert "23 kernels more" in said[-1]
    assert "34 fusions are broken" in said[-1]
    assert "5 attentions fall apart" in said[-1]
    same = Plan(True, (), 100, {"kgen": 72}, {}, attention=5)
    assert "no more kernels" in statements({"fp16": half, "int8": same}, 5)[-1]
    assert statements({"fp16": Plan(False, ("Attention: no kernel",))}, 0) == [
        "fp16: refused: Attention: no kernel"
    ]


def test_a_python_without_it_and_one_that_hangs(
    tiny_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nfor name in ('tensorrt_rtx', 'tensorrt_rtx_bindings'):\n"
        "    sys.modules[name] = None\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    plan, version = compile_for(sys.executable, tiny_onnx, "SM86")
    assert version is None
    assert "not installed" in plan.errors[0]
    assert "No such file" in compile_for("/no/python", tiny_onnx, "SM86")[0].errors[0]
    hang = tmp_path / "hang"
    hang.write_text("#!/bin/sh\nexec sleep 30\n")
    hang.chmod(0o755)
    monkeypatch.setattr(proxy, "TIMEOUT_SECONDS", 0.2)
    assert "no answer" in compile_for(str(hang), tiny_onnx, "SM86")[0].errors[0]


def test_switched_off_or_somewhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(proxy.PYTHON_VARIABLE, "none")
    assert proxy.proxy_python() is None
    monkeypatch.setenv(proxy.PYTHON_VARIABLE, "/other/python")
    assert proxy.proxy_python() == "/other/python"


@pytest.fixture
def rtx() -> str:
    python = proxy.proxy_python()
    if python is None:
        pytest.skip("needs TensorRT for RTX: pip install 'edgec[trt-check]'")
    return python


@pytest.mark.needs_tool
def test_the_real_compiler(rtx: str, tiny_onnx: Path, tmp_path: Path) -> None:
    target = get_target("jetson")
    answer = ask_proxy(rtx, target, {"fp32": tiny_onnx}, 0)
    again = ask_proxy(rtx, target, {"fp32": tiny_onnx}, 0)
    assert answer == again, "equal graphs give equal engines"
    plan = answer["engines"]["fp32"]
    assert plan["built"]
    assert plan["kernels"] == sum(plan["kinds"].values()) > 0
    assert plan["weight_bytes"] > 0
    model = onnx.load(tiny_onnx)
    model.graph.node[0].op_type = "Frobnicate"
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(model.SerializeToString())
    plan, _ = compile_for(rtx, broken, "SM86")
    assert not plan.built
    assert any("Frobnicate" in error for error in plan.errors)


@pytest.mark.needs_tool
def test_an_export_keeps_what_it_said(rtx: str, tiny_onnx: Path, tmp_path: Path) -> None:
    bundle = edgec.compile(str(tiny_onnx), target="jetson", out=str(tmp_path / "b"))
    answer = json.loads((bundle.path / "tensorrt" / "proxy.json").read_text())
    assert answer["engines"]["fp16"]["built"]
    assert "proxy: TensorRT for RTX" in (bundle.path / "report.txt").read_text()
