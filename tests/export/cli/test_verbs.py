"""The verbs through the command line: output, JSON, exit codes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import edgec

VERBS = (
    "models",
    "targets",
    "check",
    "profile",
    "export",
    "run",
    "eval",
    "build",
    "bench",
    "diff",
    "report",
    "plan",
    "explain",
    "doctor",
    "cache",
)


@pytest.fixture
def bundle(int8_bundle: Path) -> Path:
    """An int8 bundle."""
    return int8_bundle


def test_every_verb_has_help_with_an_example(main) -> None:
    from edgec.export.cli.app import VERBS as MODULES

    assert len(MODULES) == len(VERBS)
    for verb in VERBS:
        code, out, _ = main(verb, "--help")
        assert code == 0
        assert "Usage" in out
    for verb in ("check", "export", "run", "eval", "build", "bench", "diff", "report", "explain"):
        assert "Example: edgec" in main(verb, "--help")[1]


def test_the_help_of_export_names_every_recipe(main) -> None:
    from edgec.export.quantize.recipes.recipe import builtin_recipes

    words = re.findall(r"[a-z][a-z-]*", main("export", "--help")[1])
    assert set(builtin_recipes()) | {"auto"} <= set(words)


def test_json_is_one_object_with_schema_and_version(main, bundle: Path, image_folder: Path) -> None:
    image = image_folder / "0" / "0.png"
    for arguments in (
        ("models", "list"),
        ("models", "show", "emov2_5m"),
        ("targets", "list"),
        ("targets", "show", "jetson"),
        ("explain",),
        ("explain", "EC201"),
        ("doctor",),
        ("cache", "info"),
        ("run", bundle, "--input", image),
        ("bench", bundle, "--runs", "50", "-q"),
        ("eval", bundle, "--data", image_folder, "-q"),
    ):
        code, out, _ = main(*arguments, "--json")
        assert code == 0, arguments
        data = json.loads(out)
        assert data["schema"].startswith("edgec."), arguments
        assert data["edgec_version"] == edgec.__version__


def test_text_outputs(main, bundle: Path, image_folder: Path) -> None:
    assert "emov2_5m" in main("models", "list")[1]
    assert "arXiv 2412.06674" in main("models", "show", "emov2_5m")[1]
    assert "alias 'jetson'" in main("targets", "show", "jetson")[1]
    assert "[runtime]" in main("targets", "show", "jetson", "--toml")[1]
    assert "onnxruntime" in main("doctor")[1]
    assert "fix" in main("explain", "EC214")[1]
    out = main("run", bundle, "--input", image_folder / "2", "--top", "2")[1]
    assert out.count("%") == 20
    out = main("eval", bundle, "--data", image_folder, "--limit", "8", "-q")[1]
    assert out.startswith("8 images")
    out = main("bench", bundle, "-q", "--artifact", "int8")[1]
    assert "onnx/model_int8.onnx" in out


def test_bench_keeps_every_sample_and_the_conditions(main, bundle: Path, tmp_path: Path) -> None:
    code, out, _ = main("bench", bundle, "--runs", "60", "--save", tmp_path / "r.json", "--json")
    assert code == 0
    record = json.loads(out)
    assert json.loads((tmp_path / "r.json").read_text())["results"] == record["results"]
    for result in record["results"]:
        latency = result["latency"]
        assert len(latency["samples_ms"]) == 60
        assert latency["min_ms"] <= latency["median_ms"] <= latency["p90_ms"]
        assert result["output_check"]["finite"]
    assert record["results"][0]["output_check"]["max_abs"] == 0
    assert record["environment_before"]["onnxruntime"]


def test_export_options_are_shown_with_their_origin(main, tiny_onnx: Path) -> None:
    Path("edgec.toml").write_text("[export]\nseed = 3\n")
    os.environ["EDGEC_CALIB_LIMIT"] = "9"
    try:
        code, out, _ = main(
            "export", "-m", tiny_onnx, "-t", "jetson", "--ram", "1M", "--show-config", "--json"
        )
    finally:
        del os.environ["EDGEC_CALIB_LIMIT"]
    assert code == 0
    options = json.loads(out)["options"]
    assert options["seed"] == {"value": 3, "origin": "edgec.toml"}
    assert options["calib_limit"]["origin"] == "environment EDGEC_CALIB_LIMIT"
    assert options["ram"] == {"value": 1048576, "origin": "command line"}


def test_dry_run_writes_nothing(main, tiny_onnx: Path) -> None:
    code, out, _ = main("export", "-m", tiny_onnx, "-t", "jetson", "--dry-run")
    assert code == 0
    assert "tensorrt/build_engine.py" in out
    assert not Path("build").exists()


def test_cache_can_be_cleared(main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEC_CACHE_DIR", str(tmp_path / "cache"))
    entry = tmp_path / "cache" / "stages" / "entry.json"
    entry.parent.mkdir(parents=True)
    entry.write_text("{}")
    code, out, _ = main("cache", "clear", "--json")
    assert code == 0
    parts = json.loads(out)["parts"]
    assert {name: part["files"] for name, part in parts.items()} == {"stages": 1, "weights": 0}
    assert not entry.exists()


# Exit codes through the console script, in a process of its own.


def test_exit_0_and_outputs_are_separate(cli, tiny_onnx: Path, tmp_path: Path) -> None:
    done = cli("export", "-m", tiny_onnx, "-t", "jetson", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    data = json.loads(done.stdout)
    assert Path(tmp_path, data["bundle"], "manifest.json").is_file()
    assert "[1/" in done.stderr


def test_exit_1_is_a_bug_with_what_reproduces_it(
    root: Path, tiny_onnx: Path, tmp_path: Path
) -> None:
    """A rewrite that changes the numbers is caught: here one pass doubles all parameters."""
    (tmp_path / "broken.py").write_text(
        "import onnx_ir as ir\n"
        "from edgec.export.cli import main\n"
        "from edgec.export.rewrite.clean.name_values import NameValues as Pass\n"
        "old = Pass.rewrite\n"
        "def broken(self, graph):\n"
        "    for value in graph.initializers.values():\n"
        "        if value.const_value.dtype == ir.DataType.FLOAT:\n"
        "            value.const_value = ir.tensor(value.const_value.numpy() * 2)\n"
        "    return old(self, graph) + 1\n"
        "Pass.rewrite = broken\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "broken.py", "export", "-m", str(tiny_onnx), "-t", "jetson"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(root / ".src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "name-values" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "build").exists() or not list((tmp_path / "build").iterdir())


def test_exit_2_usage(cli, tmp_path: Path) -> None:
    assert cli("export", "--model", "x", cwd=tmp_path).returncode == 2
    done = cli("export", "--model", "emov2_5", "--target", "jetson", cwd=tmp_path)
    assert done.returncode == 2
    assert "emov2_5m" in done.stderr
    assert done.stdout == ""


def test_exit_3_unsupported(cli, tiny_onnx: Path, tmp_path: Path) -> None:
    done = cli(
        "export",
        "-m",
        tiny_onnx,
        "-t",
        "jetson-nano",
        "--precision",
        "int8",
        "--calib",
        ".",
        cwd=tmp_path,
    )
    assert done.returncode == 3
    assert "EC382" in done.stderr


def test_exit_4_accuracy_gate(
    cli, tiny_onnx: Path, misleading_calibration: Path, preprocess_json: Path, tmp_path: Path
) -> None:
    done = cli(
        "export",
        "-m",
        tiny_onnx,
        "-t",
        "x86",
        "--precision",
        "int8",
        "--preprocess",
        preprocess_json,
        "--calib",
        misleading_calibration,
        "--max-drop",
        "0",
        cwd=tmp_path,
    )
    assert done.returncode == 4, done.stderr
    assert not (tmp_path / "build").exists() or not list((tmp_path / "build").iterdir())


def test_exit_5_budget(cli, tiny_onnx: Path, tmp_path: Path) -> None:
    done = cli("export", "-m", tiny_onnx, "-t", "x86", "--flash", "100", "--json", cwd=tmp_path)
    assert done.returncode == 5
    assert json.loads(done.stdout)["error"]["code"] == "EC580"


def test_exit_6_missing_server(cli, tmp_path: Path) -> None:
    done = cli(
        "export",
        "-m",
        "emov2_1m",
        "-t",
        "jetson",
        "--weights",
        "http://127.0.0.1:9/x.pth",
        cwd=tmp_path,
    )
    assert done.returncode == 6, done.stderr


def test_exit_7_bad_file(cli, tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("this is no network")
    done = cli("export", "-m", "text.onnx", "-t", "jetson", cwd=tmp_path)
    assert done.returncode == 7
    assert "text.onnx" in done.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_exit_130_interrupted_during_calibration(
    root: Path, tiny_onnx: Path, preprocess_json: Path, tmp_path: Path, number: int, code: int
) -> None:
    """The data set is large enough that calibration is still running when the signal comes."""
    import numpy as np

    if signal.getsignal(number) is signal.SIG_IGN:
        pytest.skip("the test run ignores the signal, and so do the programs it starts")
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "calib.npz", images=rng.integers(0, 256, (30000, 16, 16, 3), np.uint8))
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "edgec",
            "export",
            "-m",
            str(tiny_onnx),
            "-t",
            "x86",
            "--precision",
            "int8",
            "--calib",
            "calib.npz",
            "--calib-limit",
            "30000",
            "--preprocess",
            str(preprocess_json),
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(root / ".src")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "rewrite" in line:
            break
    time.sleep(1.0)
    assert process.poll() is None, "calibration ended before the signal"
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert "Traceback" not in err
    build = tmp_path / "build"
    assert not build.exists() or not list(build.iterdir())


def test_a_closed_pipe_is_no_error(root: Path) -> None:
    done = subprocess.run(
        f"{sys.executable} -m edgec explain | head -1",
        shell=True,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(root / ".src")},
    )
    assert done.stdout.startswith("code")
    assert "Traceback" not in done.stderr


def test_results_are_stored_listed_and_compared(main, bundle: Path, tmp_path: Path) -> None:
    store = str(tmp_path / "team.sqlite3")
    code, _, err = main("bench", "--list", "--store", store)
    assert code == 7
    assert "EC712" in err
    assert main("bench")[0] == 2
    for precision in ("fp32", "int8"):
        options = ("--artifact", precision, "--warmup", "0", "--store", store, "--quiet")
        assert main("bench", str(bundle), *options)[0] == 0
    entries = json.loads(main("bench", "--list", "--store", store, "--json")[1])["entries"]
    assert [e["id"] for e in entries] == [2, 1]
    assert "onnx/model_int8.onnx" in main("bench", "--list", "--store", store)[1]
    lines = main("bench", "--list", "--store", store, "--csv")[1].splitlines()
    assert lines[0] == "id,created,kind,model,target,device,artifact,figure,value"
    assert len({line.count(",") for line in lines}) == 1
    code, out, _ = main("diff", "1", "2", "--store", store, "--json")
    assert code == 0
    assert {f["name"] for f in json.loads(out)["figures"]} >= {"median_ms", "peak_rss_bytes"}
    assert main("diff", str(bundle), "1", "--store", store)[0] == 2
    assert "top1_percent" in main("diff", str(bundle), str(bundle))[1]


def test_a_report_is_one_file_and_never_replaces_one(main, bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    code, printed, _ = main("report", str(bundle), "--out", str(out))
    assert (code, printed.strip()) == (0, str(out))
    before = out.read_bytes()
    assert before.startswith(b"<!DOCTYPE html>")
    assert main("report", str(bundle), "--out", str(out))[0] == 2
    assert main("report", str(tmp_path / "nothing.json"), "--out", str(out), "--overwrite")[0] == 7
    assert out.read_bytes() == before
    page = json.loads(main("report", str(bundle), "--json")[1])
    assert page["schema"] == "edgec.page/1"
    assert page["results"][0]["title"] in before.decode()
