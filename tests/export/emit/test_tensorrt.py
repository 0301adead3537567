"""The TensorRT build bundle: recipe, and the device script against a stand-in of each API."""

from __future__ import annotations

import ast
import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgec.export.bundle import Artifact, TensorInfo
from edgec.export.emit.tensorrt.proxy import proxy_python
from edgec.export.emit.tensorrt.recipe import (
    SCRIPTS,
    make_recipe,
    workspace_bytes,
    write_build_bundle,
)
from edgec.export.files import sha256_file
from edgec.export.golden import write_golden
from edgec.runtime.energy import energy_fields
from edgec.targets import get_target

STANDIN = Path(__file__).parents[2] / "standin"
INPUTS = (TensorInfo("image", (1, 3, 16, 16), "float32"),)
OUTPUTS = (TensorInfo("logits", (1, 10), "float32"),)


@pytest.fixture
def make_bundle(tmp_path: Path, tiny_onnx: Path) -> Callable[[str], Path]:
    """Writes a folder like a bundle for a target: onnx/, golden/, tensorrt/ with its scripts."""

    def make(target: str, pinned: bool = False) -> Path:
        (tmp_path / "onnx").mkdir()
        artifacts = []
        for precision in ("fp32", "fp16", "int8"):
            name = f"onnx/model_{precision}.onnx"
            model = onnx.load(tiny_onnx)
            model.doc_string = precision
            model.graph.node[0].name, model.graph.node[1].name = "first", "second"
            onnx.save(model, tmp_path / name)
            artifacts.append(
                Artifact(name, "onnx", precision, "built", sha256=sha256_file(tmp_path / name))
            )
        feed = {"image": np.random.default_rng(0).standard_normal((1, 3, 16, 16), np.float32)}
        write_golden(tmp_path / "golden", [feed], tiny_onnx.read_bytes())
        names = ["first", "second"] if pinned else []
        write_build_bundle(
            tmp_path / "tensorrt",
            get_target(target),
            artifacts,
            INPUTS,
            OUTPUTS,
            dict.fromkeys(("fp32", "fp16", "int8"), names),
        )
        return tmp_path

    return make


@pytest.fixture
def bundle(make_bundle: Callable[[str], Path]) -> Path:
    return make_bundle("jetson")


def script(
    bundle: Path,
    name: str,
    *arguments: str,
    version: str | None = "10.3.0.30",
    fail: str = "",
    path: str | None = None,
    cudart: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    if version is not None:
        env |= {
            "PYTHONPATH": str(STANDIN),
            "STANDIN_TRT_VERSION": version,
            "STANDIN_TRT_FAIL": fail,
        }
    if path is not None:
        env["PATH"] = path
    if cudart is not None:
        env["EDGEC_CUDART"] = str(cudart)
    return subprocess.run(
        [sys.executable, str(bundle / "tensorrt" / name), *arguments],
        capture_output=True,
        text=True,
        env=env,
        check=False,
        timeout=60,
    )


def build(bundle: Path, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return script(bundle, "build_engine.py", *arguments, **options)


def bench(bundle: Path, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    short = ("--runs", "5", "--warmup", "1", "--energy", "0")
    return script(bundle, "run_bench.py", *short, *arguments, **options)


def set_target_version(bundle: Path, version: str) -> None:
    file = bundle / "tensorrt" / "recipe.json"
    recipe = json.loads(file.read_text())
    recipe["target"]["tensorrt"] = version
    file.write_text(json.dumps(recipe))


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_scripts_keep_to_python_3_6(root: Path, name: str) -> None:
    package, file = SCRIPTS[name]
    folder = root.joinpath(*package.split(".")[1:], "device")
    source = (folder / file).read_text("utf-8")
    tree = ast.parse(source, feature_version=(3, 6))
    imported = {
        alias.name.partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    ours = {name.removesuffix(".py") for name in SCRIPTS}
    assert imported <= {*sys.stdlib_module_names, "tensorrt", *ours}
    # what the grammar check cannot see: names that came after 3.6
    assert "capture_output" not in source
    assert "removeprefix" not in source


def test_recipes_follow_the_version(bundle: Path) -> None:
    recipe = json.loads((bundle / "tensorrt" / "recipe.json").read_text())
    engines = {e["name"]: e for e in recipe["engines"]}
    assert next(iter(engines)) == "fp16", "the target's default is built first"
    assert engines["fp16"]["strongly_typed"] is True
    assert engines["fp16"]["flags"] == []
    assert engines["int8"]["strongly_typed"] is True, "its float parts are float16 in the graph"
    fp32 = Artifact("onnx/model.onnx", "onnx", "fp32", "built", sha256="0")
    fp16 = Artifact("onnx/model_fp16.onnx", "onnx", "fp16", "built", sha256="1")
    nano = make_recipe(get_target("jetson-nano"), [fp32, fp16], INPUTS, OUTPUTS)
    first = nano["engines"][0]
    assert (first["name"], first["onnx"], first["flags"]) == (
        "fp16",
        "../onnx/model.onnx",
        ["FP16"],
    )
    assert not first["strongly_typed"]
    # each major version is asked in its own words; 11 has none for float16 that the builder picks
    assert first["settings"] == {
        "8": {
            "network_flags": ["EXPLICIT_BATCH"],
            "builder_flags": ["FP16"],
            "trtexec": ["--fp16"],
        },
        "10": {"network_flags": [], "builder_flags": ["FP16"], "trtexec": ["--fp16"]},
        "11": None,
    }
    typed = engines["int8"]["settings"]
    assert typed["10"]["network_flags"] == ["STRONGLY_TYPED"]
    assert typed["10"]["trtexec"] == ["--stronglyTyped"]
    assert not any(typed["11"].values())
    assert recipe["timing_cache"] == "timing.cache"


def test_workspace_follows_the_memory_of_the_device() -> None:
    assert workspace_bytes(get_target("jetson-nano")) == 512 << 20
    assert workspace_bytes(get_target("jetson")) == 1 << 30
    assert workspace_bytes(get_target("generic-x86-64")) == 256 << 20


@pytest.mark.parametrize(
    ("version", "target", "engine", "flags", "precision"),
    [
        ("8.2.1.8", "jetson-nano", "fp16", 1, "FP16"),
        ("8.5.2.2", "jetson-xavier-nx", "fp16", 1, "FP16"),
        ("8.5.2.2", "jetson-xavier-nx", "int8", 1, "FP16+INT8"),
        ("10.3.0.30", "jetson", "fp16", 2, ""),
        ("10.3.0.30", "jetson", "int8", 2, ""),
        ("11.4.1.1", "jetson", "fp16", 0, ""),
        ("11.4.1.1", "jetson", "int8", 0, ""),
    ],
)
def test_builds_through_each_api(
    make_bundle: Callable[[str], Path],
    version: str,
    target: str,
    engine: str,
    flags: int,
    precision: str,
) -> None:
    bundle = make_bundle(target)
    set_target_version(bundle, ".".join(version.split(".")[:2]))
    done = build(bundle, "--engine", engine, version=version)
    assert done.returncode == 0, done.stderr
    made = (bundle / "tensorrt" / f"model_{engine}.engine").read_text()
    workspace = workspace_bytes(get_target(target))
    assert f"flags={flags} precision={precision} workspace={workspace}" in made
    record = json.loads((bundle / "tensorrt" / f"model_{engine}.engine.json").read_text())
    assert record["tensorrt"] == version
    source = "fp32" if (engine, flags) == ("fp16", 1) else engine
    assert record["onnx_sha256"] == sha256_file(bundle / "onnx" / f"model_{source}.onnx")
    assert record["engine_sha256"] == sha256_file(bundle / "tensorrt" / f"model_{engine}.engine")
    assert (bundle / "tensorrt" / "timing.cache").read_bytes() == b"+"


@pytest.mark.parametrize(
    ("version", "target"), [("8.2.1.8", "jetson-nano"), ("8.5.2.2", "jetson-xavier-nx")]
)
def test_layers_that_would_overflow_are_pinned_to_float32(
    make_bundle: Callable[..., Path], version: str, target: str
) -> None:
    """NVIDIA/TensorRT#2564: under the flag FP16, TensorRT chose it for the squares of a norm."""
    bundle = make_bundle(target, pinned=True)
    recipe_file = bundle / "tensorrt" / "recipe.json"
    recipe = json.loads(recipe_file.read_text())
    engines = {engine["name"]: engine for engine in recipe["engines"]}
    names = engines["fp16"]["float32_layers"]
    assert len(names) == 2
    assert engines["fp32"]["float32_layers"] == []
    done = build(bundle, "--engine", "fp16", version=version)
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stdout.splitlines() if line.startswith("[TRT] float32: ")]
    assert said == [f"[TRT] float32: {name}" for name in names]
    made = bundle / "tensorrt" / "model_fp16.engine"
    assert "precision=FP16+OBEY_PRECISION_CONSTRAINTS" in made.read_text()
    engines["fp16"]["float32_layers"].append("no such layer")
    recipe_file.write_text(json.dumps(recipe))
    other = build(bundle, "--engine", "fp16", version=version)
    assert "up to date" not in other.stderr
    assert "no layers of these names, so their precision is open: no such layer" in other.stderr


def test_trtexec_pins_layers_or_says_that_it_cannot(
    make_bundle: Callable[..., Path],
    trtexec: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    there: dict[str, Any] = {"version": None, "path": str(trtexec)}
    monkeypatch.setenv("STANDIN_TRTEXEC_NUMBER", "8502")
    bundle = make_bundle("jetson-xavier-nx", pinned=True)
    file = bundle / "tensorrt" / "recipe.json"
    recipe = json.loads(file.read_text())
    (engine,) = (engine for engine in recipe["engines"] if engine["name"] == "fp16")
    spec = ",".join(f"{name}:fp32" for name in engine["float32_layers"])
    assert build(bundle, "--engine", "fp16", **there).returncode == 0
    argv = json.loads((tmp_path / "argv.json").read_text())
    assert argv[-3:] == [
        "--precisionConstraints=obey",
        f"--layerPrecisions={spec}",
        f"--layerOutputTypes={spec}",
    ]
    engine["float32_layers"] = ["a,b"]  # trtexec splits there
    file.write_text(json.dumps(recipe))
    refused = build(bundle, "--engine", "fp16", **there)
    assert (refused.returncode, "cannot keep 1 layers" in refused.stderr) == (6, True)
    engine["float32_layers"] = ["a"]
    recipe["target"]["tensorrt"] = "8.2"
    file.write_text(json.dumps(recipe))
    monkeypatch.setenv("STANDIN_TRTEXEC_NUMBER", "8201")  # has no such options
    refused = build(bundle, "--engine", "fp16", **there)
    assert (refused.returncode, "build --engine fp32" in refused.stderr) == (6, True)
    assert build(bundle, "--engine", "fp32", **there).returncode == 0


def test_all_and_list(bundle: Path) -> None:
    listed = build(bundle, "--list")
    assert [line.split("\t")[0] for line in listed.stdout.splitlines()] == ["fp16", "fp32", "int8"]
    assert build(bundle, "--all").returncode == 0
    made = sorted(p.name for p in (bundle / "tensorrt").glob("*.engine"))
    assert made == ["model_fp16.engine", "model_fp32.engine", "model_int8.engine"]


def no_engine(bundle: Path) -> bool:
    return not [p for p in (bundle / "tensorrt").iterdir() if ".engine" in p.name]


def test_another_version_is_refused_unless_forced(bundle: Path) -> None:
    done = build(bundle, version="8.5.2.2")
    assert done.returncode == 6
    assert "8.5.2.2" in done.stderr
    assert "10.3" in done.stderr
    assert no_engine(bundle)
    assert build(bundle, "--any-version", version="10.7.0.1").returncode == 0


def test_flags_that_tensorrt_11_lost_are_no_reason_to_build_float32(
    make_bundle: Callable[[str], Path],
) -> None:
    bundle = make_bundle("jetson-nano")
    done = build(bundle, "--engine", "fp16", "--any-version", version="11.4.1.1")
    assert done.returncode == 6
    assert "asks for FP16 by flags" in done.stderr
    assert no_engine(bundle)
    assert build(bundle, "--engine", "fp32", "--any-version", version="11.4.1.1").returncode == 0


@pytest.mark.parametrize(("fail", "words"), [("parse", "Frobnicate"), ("build", "memory ran out")])
def test_failures_of_tensorrt_are_told(bundle: Path, fail: str, words: str) -> None:
    done = build(bundle, fail=fail)
    assert done.returncode == 3
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert no_engine(bundle)


def test_missing_changed_and_damaged_files_are_told(bundle: Path) -> None:
    assert build(bundle, "--engine", "int4").returncode == 2
    (bundle / "onnx" / "model_fp16.onnx").write_bytes(b"changed")
    assert "changed after the export" in build(bundle).stderr
    (bundle / "onnx" / "model_fp16.onnx").unlink()
    missing = build(bundle)
    assert missing.returncode == 7
    assert "is missing" in missing.stderr
    (bundle / "tensorrt" / "recipe.json").write_text("{")
    assert build(bundle).returncode == 7
    (bundle / "tensorrt" / "recipe.json").write_text('{"schema": "other"}')
    assert build(bundle).returncode == 7


def test_without_tensorrt_it_says_where_to_run(bundle: Path, tmp_path: Path) -> None:
    done = build(bundle, version=None, path=str(tmp_path))
    assert done.returncode == 6
    assert "run this on the Jetson" in done.stderr


@pytest.fixture
def trtexec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the stand-in for trtexec, and no Python module of TensorRT anywhere."""
    folder = tmp_path / "bin with space"
    folder.mkdir()
    program = folder / "trtexec"
    program.write_text(
        f"#!{sys.executable}\nimport runpy\nrunpy.run_path({str(STANDIN / 'trtexec.py')!r})\n"
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("STANDIN_TRTEXEC_LOG", str(tmp_path / "argv.json"))
    return folder


@pytest.mark.parametrize(
    ("number", "target"),
    [("8201", "jetson-nano"), ("8502", "jetson-xavier-nx"), ("100300", "jetson")],
)
def test_trtexec_is_the_fallback(
    make_bundle: Callable[[str], Path],
    trtexec: Path,
    tmp_path: Path,
    number: str,
    target: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bundle = make_bundle(target)
    monkeypatch.setenv("STANDIN_TRTEXEC_NUMBER", number)
    engine = "fp16" if target == "jetson-nano" else "int8"
    done = build(bundle, "--engine", engine, version=None, path=str(trtexec))
    assert done.returncode == 0, done.stderr
    argv = json.loads((tmp_path / "argv.json").read_text())
    if target == "jetson":
        assert "--stronglyTyped" in argv
        assert not {"--fp16", "--int8"} & set(argv)
    else:
        assert "--fp16" in argv
        assert ("--int8" in argv) == (engine == "int8")
    workspace = "--workspace=512" if target == "jetson-nano" else "--memPoolSize=workspace:1024"
    assert workspace in argv
    made = bundle / "tensorrt" / f"model_{engine}.engine"
    assert sha256_file(made) == json.loads(Path(f"{made}.json").read_text())["engine_sha256"]
    assert not list((bundle / "tensorrt").glob("*.part"))
    measured = bench(bundle, "--engine", engine, version=None, path=str(trtexec))
    assert measured.returncode == 0, measured.stderr
    record = json.loads(Path(f"{made}.bench.json").read_text())
    assert record["timer"] == "CUDA events by trtexec"
    assert record["samples_ms"] == [1.002, 1.003, 1.004, 1.005, 1.006], "the last five of seven"
    assert record["layers"] == [{"name": "a", "ms": 0.5}]
    assert record["output_check"]["max_abs"] < 1e-4, "six digits are printed"
    assert "trtexec" in record["no_energy"]
    assert not list((bundle / "tensorrt").glob(".trtexec-*"))


def test_trtexec_that_fails_is_told(
    bundle: Path, trtexec: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(how: str, number: str = "100300") -> None:
        monkeypatch.setenv("STANDIN_TRTEXEC_FAIL", how)
        monkeypatch.setenv("STANDIN_TRTEXEC_NUMBER", number)

    there: dict[str, Any] = {"version": None, "path": str(trtexec)}
    fails("killed")
    killed = build(bundle, **there)
    assert (killed.returncode, "killed for memory" in killed.stderr) == (3, True)
    assert no_engine(bundle)
    fails("", "what")
    assert "does not tell its version" in build(bundle, **there).stderr
    fails("")
    assert build(bundle, **there).returncode == 0
    fails("nan")
    assert bench(bundle, **there).returncode == 0
    record = json.loads((bundle / "tensorrt" / "model_fp16.engine.bench.json").read_text())
    assert record["output_check"]["finite"] is False
    fails("silent")
    silent = bench(bundle, **there)
    assert (silent.returncode, "exported no times" in silent.stderr) == (3, True)
    fails("", "101600")  # begins like 10.1, and is another version
    other = bench(bundle, **there)
    assert (other.returncode, "here is 10.16" in other.stderr) == (6, True)


# TensorRT for RTX under the name and version that the script looks for: a real parser and builder
AS_TENSORRT = """
try:
    import tensorrt_rtx as rtx
except ImportError:
    import tensorrt_rtx_bindings as rtx
globals().update({key: value for key, value in vars(rtx).items() if not key.startswith("_")})
__version__ = "11.0.0"
"""


@pytest.mark.needs_tool
@pytest.mark.skipif(
    proxy_python() is None, reason="needs TensorRT for RTX: pip install 'edgec[trt-check]'"
)
def test_a_real_builder_makes_the_engine(bundle: Path, tmp_path: Path) -> None:
    shim = tmp_path / "shim"
    shim.mkdir()
    (shim / "tensorrt.py").write_text(AS_TENSORRT)
    set_target_version(bundle, "11.0")
    command = [str(proxy_python()), str(bundle / "tensorrt" / "build_engine.py")]
    env = {**os.environ, "PYTHONPATH": str(shim)}
    first = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    assert first.returncode == 0, first.stderr
    engine = bundle / "tensorrt" / "model_fp16.engine"
    record = json.loads(engine.with_suffix(".engine.json").read_text())
    assert record["tensorrt"] == "11.0.0"
    assert record["engine_bytes"] == engine.stat().st_size > 10_000
    assert record["engine_sha256"] == sha256_file(engine)
    again = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    assert "up to date" in again.stderr
    broken = bundle / "onnx" / "model_fp16.onnx"
    model = onnx.load(broken)
    model.graph.node[0].op_type = "Frobnicate"
    onnx.save(model, broken)
    recipe = bundle / "tensorrt" / "recipe.json"
    content = json.loads(recipe.read_text())
    content["engines"][0]["onnx_sha256"] = sha256_file(broken)
    recipe.write_text(json.dumps(content))
    refused = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    assert refused.returncode == 3
    assert "Frobnicate" in refused.stderr


def test_a_bundle_in_a_folder_with_an_awkward_name(bundle: Path, tmp_path: Path) -> None:
    odd = tmp_path / "it's $(a) bundle; rm -rf"
    shutil.copytree(bundle, odd, ignore=lambda d, names: {n for n in names if n.startswith("it")})
    assert build(odd).returncode == 0


def test_an_engine_is_built_again_only_where_something_changed(bundle: Path) -> None:
    assert build(bundle).returncode == 0
    engine = bundle / "tensorrt" / "model_fp16.engine"
    first = engine.stat().st_mtime_ns
    again = build(bundle)
    assert "up to date" in again.stderr
    assert engine.stat().st_mtime_ns == first
    assert "up to date" not in build(bundle, "--rebuild").stderr
    other = build(bundle, version="10.3.0.31")
    assert "10.3.0.30" in other.stderr
    assert "10.3.0.31" in other.stderr
    assert b"10.3.0.31" in engine.read_bytes()
    recipe = bundle / "tensorrt" / "recipe.json"
    text = recipe.read_text()
    recipe.write_text(text.replace('"builder_flags": []', '"builder_flags": ["TF32"]'))
    assert "up to date" not in build(bundle, version="10.3.0.31").stderr, "other settings"
    recipe.write_text(text)
    build(bundle, version="10.3.0.31")
    engine.write_bytes(engine.read_bytes()[:-1])  # a copy that broke off
    assert "up to date" not in build(bundle, version="10.3.0.31").stderr


@pytest.mark.parametrize("version", ["8.2.1.8", "8.5.2.2", "10.3.0.30", "11.4.1.1"])
def test_measures_through_each_api(bundle: Path, version: str, cudart: Path) -> None:
    set_target_version(bundle, ".".join(version.split(".")[:2]))
    assert build(bundle, version=version, cudart=cudart).returncode == 0
    done = bench(bundle, version=version, cudart=cudart)
    assert done.returncode == 0, done.stderr
    assert "median" in done.stdout
    record = json.loads((bundle / "tensorrt" / "model_fp16.engine.bench.json").read_text())
    assert len(record["samples_ms"]) == 5
    assert all(sample > 0 for sample in record["samples_ms"])
    assert record["output_check"]["max_abs"] < 1e-5
    assert record["output_check"]["finite"]
    assert [layer["ms"] for layer in record["layers"]] == [
        0.25 * (i + 1) for i in range(len(record["layers"]))
    ]
    assert record["environment_before"]["gpu_sm"] == 87
    layers = json.loads((bundle / "tensorrt" / "model_fp16.engine.layers.json").read_text())
    assert ("I/O Tensors" in layers) == version.startswith("11")


def test_what_the_meters_of_a_jetson_show(
    bundle: Path, cudart: Path, jetson_sysfs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = jetson_sysfs / "class/devfreq/17000000.gpu"
    gpu.mkdir(parents=True)
    for name, hertz in {"cur": 612_000_000, "min": 306_000_000, "max": 1_020_000_000}.items():
        (gpu / f"{name}_freq").write_text(f"{hertz}\n")
    monkeypatch.setenv("EDGEC_SYS", str(jetson_sysfs))
    assert build(bundle).returncode == 0
    assert bench(bundle, "--energy", "1", cudart=cudart).returncode == 0
    record = json.loads((bundle / "tensorrt" / "model_fp16.engine.bench.json").read_text())
    energy = energy_fields(record["readings"])["energy"]
    assert energy["meter"] == "INA3221 VDD_IN"
    assert energy["watts"] == pytest.approx(5.0)
    assert energy["joules_per_inference"] * energy["inferences"] == pytest.approx(
        5.0 * energy["seconds"], rel=0.01
    )
    before = record["environment_before"]
    assert [before[f"gpu_{k}hz"] for k in ("", "min_", "max_")] == [
        612_000_000,
        306_000_000,
        1_020_000_000,
    ]
    assert bench(bundle, "--energy", "-1", cudart=cudart).returncode == 2
    assert bench(bundle, "--energy", "0", cudart=cudart).returncode == 0
    record = json.loads((bundle / "tensorrt" / "model_fp16.engine.bench.json").read_text())
    assert "readings" not in record


def test_wrong_outputs_show(bundle: Path, cudart: Path) -> None:
    assert build(bundle).returncode == 0
    outputs = dict(np.load(bundle / "golden" / "outputs_0.npz"))
    np.savez(bundle / "golden" / "outputs_0.npz", logits=outputs["logits"] + 1)
    assert bench(bundle, cudart=cudart).returncode == 0
    record = json.loads((bundle / "tensorrt" / "model_fp16.engine.bench.json").read_text())
    assert record["output_check"]["max_abs"] == pytest.approx(1, abs=1e-2)


def test_what_cannot_be_measured_is_told(bundle: Path, cudart: Path, tmp_path: Path) -> None:
    unbuilt = bench(bundle, cudart=cudart)
    assert (unbuilt.returncode, "not built" in unbuilt.stderr) == (7, True)
    assert build(bundle).returncode == 0
    other = bench(bundle, version="10.4.0.1", cudart=cudart)
    assert other.returncode == 6
    assert "10.3.0.30" in other.stderr
    assert "10.4.0.1" in other.stderr
    assert bench(bundle, "--engine", "int4", cudart=cudart).returncode == 2
    assert bench(bundle, "--runs", "0", cudart=cudart).returncode == 2
    assert bench(bundle, fail="load", cudart=cudart).returncode == 3
    assert "libcudart" in bench(bundle, cudart=tmp_path / "none.so").stderr
    np.savez(bundle / "golden" / "inputs_0.npz", other=np.zeros(3, np.float32))
    assert bench(bundle, cudart=cudart).returncode == 7
    (bundle / "golden" / "inputs_0.npz").write_bytes(b"PK broken")
    assert bench(bundle, cudart=cudart).returncode == 7
    (bundle / "tensorrt" / "model_fp16.engine").write_bytes(b"x")
    assert bench(bundle, cudart=cudart).returncode == 7
