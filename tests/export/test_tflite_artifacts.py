"""`edgec export --format tflite`: artifacts, checks, and the verbs that run them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import edgec
from edgec.export.errors import UnsupportedError, UsageError
from edgec.export.report import UNTIMED
from edgec.export.tflite import load

Main = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def bundle(compile_tiny: Callable[..., edgec.Bundle], tmp_path_factory: Any) -> Path:
    pytest.importorskip("ai_edge_litert")
    out: Path = tmp_path_factory.mktemp("out") / "bundle"
    compile_tiny(out, target="raspberry-pi-5", precision="int8")
    return out


def test_artifacts_and_their_checks(bundle: Path) -> None:
    manifest = edgec.load(bundle).manifest
    found = {a.precision: a for a in manifest.artifacts if a.format == "tflite"}
    assert list(found) == ["fp32", "fp16", "dyn8", "int8"]
    for precision, artifact in found.items():
        assert artifact.path == f"tflite/model_{precision}.tflite"
        assert (bundle / artifact.path).stat().st_size == artifact.bytes
        assert artifact.path in manifest.files
        assert artifact.checks["transposes"] == 0
        assert artifact.checks["partitions"] >= 1
        predicted = artifact.checks["delegates"]["xnnpack"]
        assert predicted["partitions"] == artifact.checks["partitions"]
        assert predicted["taken"] == predicted["operators"] == artifact.checks["operators"]
        assert artifact.checks["runtime"].startswith("ai-edge-litert")
    assert max(found["fp32"].checks["relative"].values()) < 1e-5
    assert found["int8"].checks["vs_qdq"]["xnnpack"]["max_steps"] <= 2
    assert found["int8"].scheme == "int8 (tflite)"
    assert found["int8"].checks["float_operators"] == {}
    entry = json.loads(load(bundle / "tflite/model_int8.tflite").metadata["edgec"])
    assert entry["preprocess"]["resize"] == "stretch"
    assert entry["producer"].startswith("edgec ")


def test_the_report_says_how_delegates_divide_the_files(bundle: Path) -> None:
    text = (bundle / "report.txt").read_text("utf-8")
    line = "XNNPACK: 1 partition, 100 % of operators"
    assert text.count(line) == 4
    assert text.count(UNTIMED) == 1  # of int8
    html = (bundle / "report.html").read_text("utf-8")
    assert html.count(line) == 4


def test_int16x8(compile_tiny: Callable[..., edgec.Bundle], tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert")
    bundle = compile_tiny(tmp_path / "bundle", target="raspberry-pi-5", precision="int16x8")
    found = {a.path: a for a in bundle.manifest.artifacts}
    assert "onnx/model_int8.onnx" not in found
    assert "tflite/model_int8.tflite" not in found
    artifact = found["tflite/model_int16x8.tflite"]
    assert artifact.scheme == "int16x8 (tflite-int16x8)"
    assert artifact.checks["vs_fp32"]["sqnr_db"] > 30
    assert artifact.checks["float_operators"] == {}
    content = load(bundle.path / artifact.path)
    types = {t.dtype for t in content.main.tensors}
    assert {"INT16", "INT8", "INT64"} <= types
    assert json.loads(content.metadata["edgec"])["precision"] == "int16x8"


def test_int16x8_is_a_precision_of_tflite_files(tiny_onnx: Path, image_folder: Path) -> None:
    with pytest.raises(UsageError, match="EC284"):
        edgec.compile(
            str(tiny_onnx),
            target="raspberry-pi-5",
            precision="int16x8",
            formats="onnx",
            calib=str(image_folder),
        )
    with pytest.raises(UsageError, match="EC214"):
        edgec.compile(str(tiny_onnx), target="raspberry-pi-5", precision="int16x8")


def test_what_stays_in_float_is_named(tmp_path: Path) -> None:
    bundle = edgec.compile(
        "edgenext_cifar10",
        target="raspberry-pi-5",
        precision="int8",
        calib="random",
        calib_limit=8,
        formats="tflite",
        out=str(tmp_path / "bundle"),
    )
    artifact = next(a for a in bundle.manifest.artifacts if a.path.endswith("model_int8.tflite"))
    floats = artifact.checks["float_operators"]
    assert floats["GELU"] == 9
    assert not {"CONV_2D", "FULLY_CONNECTED", "DEQUANTIZE"} & set(floats)
    assert "operators stay in float" in (bundle.path / "report.txt").read_text("utf-8")


def test_equal_exports_give_equal_files(
    bundle: Path, compile_tiny: Callable[..., edgec.Bundle], tmp_path: Path
) -> None:
    again = tmp_path / "again"
    compile_tiny(again, target="raspberry-pi-5", precision="int8")
    for file in sorted((bundle / "tflite").iterdir()):
        assert file.read_bytes() == (again / "tflite" / file.name).read_bytes()


@pytest.mark.parametrize("name", ["tflite/model_fp32.tflite", "model_int8.tflite", "dyn8"])
def test_run(bundle: Path, name: str) -> None:
    opened = edgec.load(bundle)
    image = np.random.default_rng(0).standard_normal((1, 3, 16, 16)).astype(np.float32)
    want = opened.run(image)[0].outputs["logits"]
    got = opened.run(image, artifact=name)[0].outputs["logits"]
    assert got.shape == want.shape
    scale = np.abs(want).max()
    limit = 1e-5 if "fp32" in name else 0.15
    assert np.abs(got - want).max() <= limit * scale


def test_eval_and_bench_take_them(bundle: Path, image_folder: Path, main: Main) -> None:
    code, out, _ = main("eval", bundle, "--data", image_folder, "--json")
    assert code == 0
    rows = {r["artifact"]: r for r in json.loads(out)["results"]}
    assert rows["tflite/model_fp32.tflite"]["agreement"] == 100.0
    code, out, _ = main("bench", bundle, "--artifact", "model_int8.tflite", "--json")
    assert code == 0
    result = json.loads(out)["results"][0]
    assert result["runtime"] == "litert"
    assert len(result["latency"]["samples_ms"]) >= 50


def test_without_litert_the_manifest_says_so(
    tiny_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgec.runtime.tflite_artifact.litert_installed", lambda: False)
    out = tmp_path / "bundle"
    edgec.compile(str(tiny_onnx), target="pixel-android", precision="fp32", out=str(out))
    manifest = edgec.load(out).manifest
    for artifact in manifest.artifacts:
        if artifact.format == "tflite":
            assert "ai-edge-litert is not installed" in artifact.checks["not_run"]
    assert "not installed" in (out / "report.txt").read_text()


def erf_network(path: Path) -> Path:
    graph = helper.make_graph(
        [helper.make_node("Erf", ["x"], ["y"], name="the_erf")],
        "erf",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 8])],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path
    )
    return path


def test_what_cannot_be_written_is_skipped_unless_asked_for(tmp_path: Path) -> None:
    model = str(erf_network(tmp_path / "erf.onnx"))
    out = tmp_path / "bundle"
    edgec.compile(model, target="raspberry-pi-5", out=str(out))
    skipped = [a for a in edgec.load(out).manifest.artifacts if a.format == "tflite"]
    assert [a.status for a in skipped] == ["skipped"]
    assert "Erf" in (skipped[0].why or "")
    with pytest.raises(UnsupportedError) as caught:
        edgec.compile(
            model, target="raspberry-pi-5", formats=("tflite",), out=str(tmp_path / "other")
        )
    assert caught.value.code == "EC390"
    assert not (tmp_path / "other").exists()


def test_tensorrt_targets_get_no_tflite(tiny_onnx: Path, main: Main) -> None:
    code, _, err = main("export", "-m", tiny_onnx, "-t", "jetson", "--format", "tflite")
    assert code == 3
    assert "EC393" in err


def test_microcontrollers_get_integer_ends(
    compile_tiny: Callable[..., edgec.Bundle], tmp_path: Path
) -> None:
    pytest.importorskip("ai_edge_litert")
    out = tmp_path / "bundle"
    compile_tiny(out, target="cortex-m-tflm", precision="int8")
    found = [a for a in edgec.load(out).manifest.artifacts if a.format == "tflite"]
    assert [a.precision for a in found] == ["fp32", "int8"]
    model = load(out / "tflite/model_int8.tflite")
    assert {t.dtype for t in model.main.tensors} == {"INT8", "INT32"}
    image = np.random.default_rng(0).standard_normal((1, 3, 16, 16)).astype(np.float32)
    opened = edgec.load(out)
    want = opened.run(image)[0].outputs["logits"]
    got = opened.run(image, artifact="model_int8.tflite")[0].outputs["logits"]
    assert got.dtype == np.float32
    assert np.abs(got - want).max() <= 0.15 * np.abs(want).max()
