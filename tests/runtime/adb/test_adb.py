"""Android devices. No phone is here: `fake_adb.py` and `fake_benchmark_model.py` stand in."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

import edgec
from edgec.export.bundle import Artifact
from edgec.export.errors import EdgecError, UsageError
from edgec.export.page.describe import page
from edgec.export.profile import measured_by_module
from edgec.runtime import bench_tool as tools
from edgec.runtime.adb import devices
from edgec.runtime.adb.devices import open_android
from edgec.runtime.bench_any import bench_any, chosen_artifacts
from edgec.runtime.bench_tool import bench_tool
from edgec.runtime.benchmark_model import parse_operators, parse_window
from edgec.runtime.results.figures import summarize

pytest.importorskip("ai_edge_litert")
HERE = Path(__file__).parent
TOOLS = "sh uname mkdir sed tr head grep cat find touch tar sha256sum mv rm sleep date od".split()
PHONE = {
    "ro.product.model": "Pixel 4",
    "ro.soc.model": "SM8150",
    "ro.build.version.release": "13",
}


def script(path: Path, source: Path) -> Path:
    """A program of this Python, found by its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'#!/bin/sh\nexec {sys.executable} {source} "$@"\n')
    path.chmod(0o755)
    return path


@pytest.fixture
def phone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands for the device's /data/local/tmp."""
    programs = tmp_path / "phone bin"
    programs.mkdir()
    for name in TOOLS:
        found = shutil.which(name)
        assert found is not None
        (programs / name).symlink_to(found)
    cases = "".join(f"{key}) echo {value!r} ;;\n" for key, value in PHONE.items())
    (programs / "getprop").write_text(f"#!/bin/sh\ncase $1 in\n{cases}esac\n")
    (programs / "getprop").chmod(0o755)
    script(tmp_path / "bin" / "adb", HERE / "fake_adb.py")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("FAKE_ADB_PATH", str(programs))
    monkeypatch.setenv("FAKE_ADB_LOG", str(tmp_path / "adb.log"))
    storage = tmp_path / "storage"
    storage.mkdir()
    monkeypatch.setattr(devices, "ROOT", str(storage / "edgec"))
    monkeypatch.setattr(tools, "ON_DEVICE", str(storage / "benchmark_model"))
    return storage


@pytest.fixture
def tool(phone: Path) -> Path:
    return script(phone / "benchmark_model", HERE / "fake_benchmark_model.py")


@pytest.fixture
def int8(small_bundle: edgec.Bundle) -> Artifact:
    return small_bundle.artifact("tflite/model_int8.tflite")


def test_tflite_is_measured_by_operator(
    small_bundle: edgec.Bundle, int8: Artifact, tool: Path, tmp_path: Path
) -> None:
    record = bench_any(small_bundle, [int8], "adb:", threads=4, runs=100, warmup=3)
    assert record["device"] == "adb:R5CT1"
    environment = record["environment_before"]
    assert {key: environment[key] for key in PHONE} == {**PHONE, "ro.build.version.release": 13}
    assert record["peak_rss_bytes"] == int(12.5 * (1 << 20))
    (result,) = record["results"]
    latency = result["latency"]
    assert (latency["min_ms"], latency["median_ms"], latency["p95_ms"]) == (4.0, 4.4, 5.0)
    assert latency["runs"] == 100
    assert latency["samples_ms"] is None
    assert latency["statistics"] == "benchmark_model, median of 5 medians"
    assert len(latency["windows"]) == 5
    assert result["init_ms"] == 16.772
    assert result["output_check"]["relative"] < 0.1, "it computed what the bundle expects"
    by_module = {row["module"]: row["ms"] for row in result["layers"]}
    assert by_module["stem.conv"] == 3.0
    assert by_module["block"] == 1.0
    assert by_module["head"] == 0.2
    path = tmp_path / "record.json"
    path.write_text(json.dumps(record))
    unit, sums = measured_by_module(path)
    assert unit == "ms"
    assert sums["stem.conv"] == 3.0
    assert "p95 5" in str(page([(record, None, {})]))
    figures = {figure.name: figure.value for figure in summarize(record).figures}
    assert figures["median_ms"] == 4.4
    assert "p90_ms" not in figures


def test_a_tool_that_is_given_is_sent_once(
    small_bundle: edgec.Bundle, int8: Artifact, phone: Path, tmp_path: Path, main
) -> None:
    given = script(tmp_path / "mine" / "tool", HERE / "fake_benchmark_model.py")
    argv = ["--benchmark-model", given, "--artifact", "tflite/model_int8.tflite", "--runs", "50"]
    for _ in range(2):
        record = bench_any(
            small_bundle, [int8], "adb:R5CT1", threads=1, runs=50, warmup=0, tool=given
        )
        assert record["results"][0]["latency"]["runs"] == 50
    assert len(list((phone / "edgec" / "files").iterdir())) == 2, "the tool, and the model"
    code, out, error = main("bench", small_bundle.path, "--device", "local", *argv)
    assert code == 0, error
    assert "4.400" in out
    assert "stem.conv" in out


def test_an_old_tool_tells_less(
    small_bundle: edgec.Bundle, int8: Artifact, tool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_TOOL_MODE", "old")
    record = bench_any(small_bundle, [int8], "adb:", threads=1, runs=50, warmup=0)
    (result,) = record["results"]
    assert result["latency"]["statistics"] == "benchmark_model, median of 5 means"
    assert result["latency"]["median_ms"] == 4.5005
    assert result["latency"]["p95_ms"] is None
    assert result["output_check"] is None
    assert "benchmark_model failed" in result["no_output_check"]
    monkeypatch.setenv("FAKE_TOOL_MODE", "no csv")
    (result,) = bench_any(small_bundle, [int8], "adb:", threads=1, runs=50, warmup=0)["results"]
    assert result["layers"] == []
    assert "no table" in result["no_layers"]
    monkeypatch.setenv("FAKE_TOOL_MODE", "no profiler")
    (result,) = bench_any(small_bundle, [int8], "adb:", threads=1, runs=50, warmup=0)["results"]
    assert "Unknown flag" in result["no_layers"]
    assert result["output_check"]["relative"] < 0.1


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_c_runs_as_a_static_program(small_bundle: edgec.Bundle, phone: Path) -> None:
    chosen = [a for a in chosen_artifacts(small_bundle, [], "adb:") if a.format == "c"]
    record = bench_any(small_bundle, chosen, "adb:", threads=1, runs=50, warmup=0)
    (result,) = record["results"]
    assert result["build"]["where"] == "here, static"
    assert record["environment_after"]["ro.product.model"] == "Pixel 4"


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_what_the_device_lacks_is_left_out(small_bundle: edgec.Bundle, phone: Path) -> None:
    chosen = chosen_artifacts(small_bundle, [], "adb:")
    record = bench_any(small_bundle, chosen, "adb:", threads=1, runs=50, warmup=0)
    assert [result["artifact"] for result in record["results"]] == ["c"]
    assert record["left_out"]["tflite/model_int8.tflite"].startswith("EC678")
    assert "over adb" in record["left_out"]["onnx/model.onnx"]


@pytest.mark.parametrize(
    ("mode", "uri", "code"),
    [
        ("none", "adb:", "EC672"),
        ("", "adb:OTHER", "EC672"),
        ("two", "adb:", "EC673"),
        ("unauthorized", "adb:", "EC674"),
        ("unauthorized", "adb:R5CT1", "EC674"),
        ("no permissions", "adb:", "EC674"),
        ("offline", "adb:", "EC675"),
        ("recovery", "adb:", "EC675"),
        ("hang", "adb:", "EC677"),
        ("garbage", "adb:", "EC671"),
        ("broken", "adb:", "EC671"),
        ("", "adb:-s x", "EC238"),
        ("", "adb:a b", "EC238"),
    ],
)
def test_devices_that_cannot_be_used(
    mode: str, uri: str, code: str, phone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_ADB_MODE", mode)
    with pytest.raises(EdgecError) as caught:
        open_android(uri, seconds=1.0)
    assert caught.value.code == code
    assert caught.value.fix


def test_one_of_several_can_be_named(phone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_ADB_MODE", "two")
    assert open_android("adb:emulator-5554").name == "adb:emulator-5554"
    assert "machine" in str(open_android("adb:emulator-5554").ask("hello"))


def test_without_adb(phone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(EdgecError, match="platform tools") as caught:
        open_android("adb:")
    assert caught.value.code == "EC671"


@pytest.mark.parametrize(
    ("mode", "code"), [("vanishes", "EC676"), ("revoked", "EC674"), ("silent", "EC677")]
)
def test_devices_that_go_away(
    mode: str,
    code: str,
    small_bundle: edgec.Bundle,
    int8: Artifact,
    tool: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FAKE_ADB_MODE", mode)
    shell = open_android("adb:", silence=1.0, wait=0.01)
    with pytest.raises(EdgecError) as caught:
        bench_tool(small_bundle, [int8], shell, None, threads=1, runs=50, warmup=0)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("mode", "code"), [("hang", "EC677"), ("fails", "EC389"), ("garbage", "EC679")]
)
def test_tools_that_misbehave(
    mode: str,
    code: str,
    small_bundle: edgec.Bundle,
    int8: Artifact,
    tool: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FAKE_TOOL_MODE", mode)
    monkeypatch.setattr(tools, "MOST_SECONDS", 1)
    shell = open_android("adb:", wait=0.01)
    if mode != "hang":
        monkeypatch.setattr(tools, "MOST_SECONDS", 60)
    with pytest.raises(EdgecError) as caught:
        bench_tool(small_bundle, [int8], shell, None, threads=1, runs=50, warmup=0)
    assert caught.value.code == code


def test_no_tool(small_bundle: edgec.Bundle, int8: Artifact, phone: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "benchmark_model"
    wrong.write_bytes(b"\x7fELF not for this core")
    for given in (None, tmp_path / "nowhere", wrong):
        with pytest.raises(EdgecError, match="adb push") as caught:
            bench_any(small_bundle, [int8], "adb:", threads=1, runs=50, warmup=0, tool=given)
        assert caught.value.code == "EC678"


def test_nothing_for_a_phone(small_bundle: edgec.Bundle, phone: Path) -> None:
    graph = small_bundle.artifact("onnx/model.onnx")
    with pytest.raises(UsageError, match="EC229"):
        bench_any(small_bundle, [graph], "adb:", threads=1, runs=50, warmup=0)


WARM = "INFO: count=67 first=8781 curr=7197 min=6335 max=9775 avg=7514.93 std=419\n"


@pytest.mark.parametrize(
    ("line", "mean", "median"),
    [
        ("INFO: count=2 first=6449 curr=6510 min=6449 max=6510 avg=6479.5 std=30", 6.4795, None),
        ("count=1 curr=7000", 7.0, None),
        ("count=9 curr=7000 (all same)", 7.0, None),
        ("count=50 first=1 curr=1 min=1 max=4 avg=2.5e3 std=1 p5=1 median=2400 p95=3", 2.5, 2.4),
    ],
)
def test_timings_in_all_their_forms(line: str, mean: float, median: float | None) -> None:
    window = parse_window(f"{WARM}{line}\n")
    assert (window.mean, window.median) == (mean, median)


@pytest.mark.parametrize("log", ["", WARM, WARM + "count=0", WARM + "count=3 avg=-5", "\0"])
def test_logs_without_timings(log: str) -> None:
    with pytest.raises(ValueError, match="timings"):
        parse_window(log)


def test_operators_of_an_older_tool() -> None:
    """A column for the start, no heading for the regular runs, LiteRT's own kernels."""
    rows = parse_operators(
        "============ Run Order ============\n"
        "node type, start, first, avg_ms, %, cdf%, mem KB, times called, name\n"
        "CONV_2D, 0.000, 4.269, 4.2, 10.7%, 10.7%, 0, 1, [a/Relu6\tb]:0\n"
        "SOFTMAX, 4.200, 0.1, 0.1, 0.2%, 100%, 0, 2, [out]:1\n\n"
        "============ Top by Computation Time ============\n"
    )
    assert rows == [
        {"name": "[a/Relu6,b]:0", "operator": "CONV_2D", "ms": 4.2},
        {"name": "[out]:1", "operator": "SOFTMAX", "ms": 0.1, "calls": 2},
    ]
    with pytest.raises(ValueError, match="no table"):
        parse_operators("node type, first\nCONV_2D, garbage\n")
