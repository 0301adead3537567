"""`edgec build` and `edgec bench` over a real SSH server; TensorRT there is a stand-in."""

from __future__ import annotations

import json
import shutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgec
from edgec.export.bundle import Bundle
from edgec.export.cli.bench import how_astray, is_astray
from edgec.export.errors import EdgecError, InputError, MissingToolError, UsageError
from edgec.export.files import sha256_file
from edgec.runtime.bench_any import bench_any, chosen_artifacts
from edgec.runtime.results.figures import summarize
from edgec.runtime.tensorrt import measure
from edgec.runtime.tensorrt.build import build_engines
from edgec.runtime.tensorrt.recipe import read_recipe
from edgec.runtime.transports.machine import open_device

STANDIN = Path(__file__).parents[2] / "standin"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, tiny_onnx: Path) -> Path:
    out = tmp_path_factory.mktemp("exported") / "bundle"
    edgec.compile(str(tiny_onnx), target="jetson", out=str(out), precision="fp16")
    return out


@pytest.fixture
def bundle(exported: Path, tmp_path: Path) -> Bundle:
    return edgec.load(shutil.copytree(exported, tmp_path / "it's $(a) bundle"))


@pytest.fixture
def jetson(server: Any, cudart: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The SSH server with the stand-ins of TensorRT and CUDA."""
    monkeypatch.setattr(measure, "LOOP_SECONDS", 1)
    set_tensorrt(server, cudart)
    return server


def set_tensorrt(
    server: Any, cudart: Path, version: str = "10.3.0.30", fail: str = "", sysfs: str = "/nowhere"
) -> None:
    server.set_environment(
        PYTHONPATH=str(STANDIN),
        STANDIN_TRT_VERSION=version,
        STANDIN_TRT_FAIL=fail,
        EDGEC_CUDART=str(cudart),
        EDGEC_SYS=sysfs,
    )


def build(bundle: Bundle, server: Any, *names: str, **options: Any) -> Bundle:
    with open_device(server.uri, wait=0.05) as device:
        return build_engines(bundle, device, names or ("fp16",), **options)


def test_built_measured_and_brought_home(bundle: Bundle, jetson: Any) -> None:
    heard: list[str] = []
    built = build(bundle, jetson, on_text=heard.append)
    assert "building fp16 with TensorRT 10.3.0.30" in "".join(heard)
    again = edgec.load(bundle.path)
    assert again.manifest == built.manifest
    engine = next(a for a in again.manifest.artifacts if a.path == "tensorrt/model_fp16.engine")
    assert (engine.status, engine.precision) == ("built", "fp16")
    assert engine.checks["built"]["gpu_sm"] == 87
    assert again.file(engine).read_bytes().startswith(b"STAND-IN 10.3.0.30")
    assert (bundle.path / "tensorrt" / "timing.cache").is_file()
    assert not [p for p in bundle.path.parent.iterdir() if p.name.startswith(".edgec")]
    assert engine.checks["ran"]["ok"]
    profile = bundle.path / "tensorrt" / "model_fp16.engine.bench.json"
    assert again.manifest.files["tensorrt/model_fp16.engine.bench.json"] == sha256_file(profile)
    first = json.loads(profile.read_text())
    assert first["results"][0]["layers"], "the time of every layer"
    assert first["environment_before"]["gpu_sm"] == 87
    assert not {"energy", "no_energy"} & set(first["results"][0])

    chosen = chosen_artifacts(again, [])
    assert chosen == [engine], "engines are what this bundle is for"
    record = bench_any(again, chosen, jetson.uri, threads=1, runs=7, warmup=1)
    (result,) = record["results"]
    assert len(result["latency"]["samples_ms"]) == 7
    assert result["output_check"]["finite"]
    assert result["output_check"]["relative"] < 0.05, "fp16 against the fp32 golden outputs"
    assert record["environment_before"]["tensorrt"] == "10.3.0.30"
    assert result["layers"][0]["ms"] >= result["layers"][-1]["ms"]
    assert all(layer["kind"] for layer in result["layers"])
    assert 0 <= result["graph_check"]["relative"] < 0.05
    assert not is_astray(result)
    assert "no power meter" in result["no_energy"]


def test_outputs_that_rounding_does_not_explain(bundle: Bundle, jetson: Any) -> None:
    built = build(bundle, jetson)
    outputs = built.path / "golden" / "outputs_0.npz"
    arrays = dict(np.load(outputs))
    np.savez(outputs, **{name: array + np.ptp(array) for name, array in arrays.items()})
    files = {**built.manifest.files, "golden/outputs_0.npz": sha256_file(outputs)}
    other = Bundle(built.path, replace(built.manifest, files=files))
    (result,) = bench_any(
        other, chosen_artifacts(other, []), jetson.uri, threads=1, runs=2, warmup=0
    )["results"]
    assert not is_astray(result), "the graph is as far off: the golden data are wrong"
    off = {**result, "graph_check": {"relative": 0.001}}
    assert is_astray(off)
    assert "where the ONNX graph is 0.001 off" in how_astray(off)
    broken = {**result, "output_check": {"finite": False, "relative": 0.0}}
    assert is_astray(broken)
    assert how_astray(broken) == "outputs are not finite"


def test_energy_comes_home(bundle: Bundle, jetson: Any, cudart: Path, jetson_sysfs: Path) -> None:
    set_tensorrt(jetson, cudart, sysfs=str(jetson_sysfs))
    built = build(bundle, jetson)
    record = bench_any(built, chosen_artifacts(built, []), jetson.uri, threads=1, runs=3, warmup=0)
    (result,) = record["results"]
    assert result["energy"]["meter"] == "INA3221 VDD_IN"
    assert result["energy"]["watts"] == pytest.approx(5.0)
    assert "joules_per_inference" in {figure.name for figure in summarize(record).figures}


def test_an_engine_that_does_not_run_is_kept_and_told(
    bundle: Bundle, jetson: Any, cudart: Path
) -> None:
    set_tensorrt(jetson, cudart, fail="run")
    heard: list[str] = []
    built = build(bundle, jetson, on_text=heard.append)
    assert "was not run" in heard[-1]
    engine = next(a for a in built.manifest.artifacts if a.path.endswith(".engine"))
    assert engine.status == "built"
    assert engine.checks["ran"]["ok"] is False
    assert "could not execute" in engine.checks["ran"]["why"]
    assert edgec.load(bundle.path).manifest == built.manifest


def test_what_is_built_is_not_built_again(bundle: Bundle, jetson: Any, cudart: Path) -> None:
    built = build(bundle, jetson)
    shutil.rmtree(jetson.root)  # another device of the same kind, or a cleaned one
    heard: list[str] = []
    build(built, jetson, on_text=heard.append)
    assert "up to date" in "".join(heard)
    build(built, jetson, on_text=heard.append, rebuild=True)
    assert "building fp16" in "".join(heard)
    set_tensorrt(jetson, cudart, "10.3.0.26")
    heard.clear()
    after = build(built, jetson, on_text=heard.append)
    assert "was built by TensorRT 10.3.0.30" in "".join(heard)
    engine = next(a for a in after.manifest.artifacts if a.status == "built" and a.format != "onnx")
    assert engine.checks["built"]["tensorrt"] == "10.3.0.26"


def test_a_cut_link_does_not_stop_the_build(bundle: Bundle, jetson: Any, cudart: Path) -> None:
    set_tensorrt(jetson, cudart, fail="slow")
    heard: list[str] = []
    cuts: list[int] = []

    def listen(text: str) -> None:
        heard.append(text)
        if "tactic 5 of" in text:
            threading.Thread(target=lambda: cuts.append(jetson.cut())).start()

    built = build(bundle, jetson, on_text=listen)
    assert cuts, "the link was not cut"
    text = "".join(heard)
    assert [text.count(f"tactic {i} of 20") for i in range(20)] == [1] * 20
    assert any(a.path.endswith(".engine") for a in built.manifest.artifacts)


@pytest.mark.parametrize(
    ("version", "fail", "code", "words"),
    [
        ("8.5.2.2", "", "EC648", "8.5.2.2"),
        ("10.3.0.30", "parse", "EC389", "Frobnicate"),
        ("10.3.0.30", "build", "EC389", "could not build"),
        ("10.3.0.30", "killed", "EC649", "memory"),
    ],
)
def test_failures_on_the_device_are_told(
    bundle: Bundle, jetson: Any, cudart: Path, version: str, fail: str, code: str, words: str
) -> None:
    set_tensorrt(jetson, cudart, version, fail)
    before = (bundle.path / "manifest.json").read_bytes()
    with pytest.raises(EdgecError) as caught:
        build(bundle, jetson)
    assert caught.value.code == code
    assert words in str(caught.value)
    assert caught.value.fix
    assert (bundle.path / "manifest.json").read_bytes() == before
    assert not list(bundle.path.rglob("*.engine"))


def test_a_device_without_tensorrt(bundle: Bundle, server: Any) -> None:
    server.set_environment()
    with pytest.raises(MissingToolError, match="was not built") as caught:
        build(bundle, server)
    assert "python3-libnvinfer" in str(caught.value)


def test_wrong_bundles_and_names(bundle: Bundle, jetson: Any, tiny_onnx: Path) -> None:
    with pytest.raises(UsageError, match="no engine"):
        build(bundle, jetson, "int4")
    with pytest.raises(InputError, match="not built"):
        (bundle.path / "tensorrt" / "model_fp16.engine").write_bytes(b"")
        built = build(bundle, jetson)
        (built.path / "tensorrt" / "model_fp16.engine.json").unlink()
        bench_any(built, chosen_artifacts(built, []), jetson.uri, threads=1, runs=1, warmup=0)
    plain = edgec.compile(
        str(tiny_onnx), target="generic-x86-64", out=str(bundle.path.parent / "plain")
    )
    with pytest.raises(UsageError, match="no TensorRT recipe"):
        read_recipe(plain)
    (bundle.path / "tensorrt" / "build_engine.py").write_text("print('other')")
    with pytest.raises(InputError, match="changed after the export"):
        read_recipe(bundle)


def test_onnx_artifacts_are_measured_over_the_link(bundle: Bundle, server: Any) -> None:
    server.set_environment()
    chosen = chosen_artifacts(bundle, [])
    record = bench_any(bundle, chosen, server.uri, threads=1, runs=50, warmup=1)
    assert [r["artifact"] for r in record["results"]] == [a.path for a in chosen]
    assert all(len(r["latency"]["samples_ms"]) == 50 for r in record["results"])
    assert record["results"][0]["output_check"]["max_abs"] < 1e-5
    assert record["environment_before"]["onnxruntime"]
    golden = bundle.path / "golden" / "outputs_0.npz"
    wrong = {name: array + 1 for name, array in np.load(golden).items()}
    np.savez(golden, **wrong)
    other = bench_any(bundle, chosen[:1], server.uri, threads=1, runs=50, warmup=0)
    assert other["results"][0]["output_check"]["max_abs"] == pytest.approx(1, abs=0.01)
    assert json.dumps(record)


def test_a_device_without_onnxruntime(bundle: Bundle, server: Any, tmp_path: Path) -> None:
    (tmp_path / "onnxruntime.py").write_text("raise ImportError('no module named onnxruntime')")
    server.set_environment(PYTHONPATH=str(tmp_path))
    with pytest.raises(MissingToolError) as caught:
        bench_any(bundle, chosen_artifacts(bundle, []), server.uri, threads=1, runs=1, warmup=0)
    assert "pip install onnxruntime" in str(caught.value)


def test_engines_and_onnx_files_are_not_mixed(bundle: Bundle, jetson: Any) -> None:
    built = build(bundle, jetson)
    with pytest.raises(UsageError) as caught:
        chosen_artifacts(built, ["fp32", "tensorrt/model_fp16.engine"])
    assert caught.value.code == "EC229"


def test_the_commands_on_the_jetson_itself(
    bundle: Bundle, main: Any, cudart: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`edgec build` and `edgec bench` with --device local; TensorRT is the stand-in."""
    monkeypatch.setattr(measure, "LOOP_SECONDS", 1)
    for name, value in {
        "HOME": str(tmp_path / "home"),
        "PYTHONPATH": str(STANDIN),
        "STANDIN_TRT_VERSION": "10.3.0.30",
        "EDGEC_CUDART": str(cudart),
        "EDGEC_SYS": "/nowhere",
    }.items():
        monkeypatch.setenv(name, value)
    code, out, _ = main("build", bundle.path, "--device", "local")
    assert code == 0
    assert "first ms" in out
    assert "tensorrt/model_fp16.engine" in out
    code, out, _ = main("build", bundle.path, "--device", "local", "--json")
    (engine,) = json.loads(out)["engines"]
    assert (code, engine["tensorrt"], engine["ran"]["ok"]) == (0, "10.3.0.30", True)
    code, out, _ = main("bench", bundle.path, "--device", "local", "--runs", "3", "--store", "none")
    assert code == 0
    assert "TensorRT 10.3.0.30 on" in out
    assert "slowest of" in out
    assert "outputs are" not in out
    monkeypatch.setenv("STANDIN_TRT_FAIL", "run")
    code, out, _ = main("build", bundle.path, "--device", "local", "--rebuild", "--quiet")
    assert code == 0
    assert "was not run" in out
