"""Energy from power meters, on trees like /sys of machines that have them."""

from __future__ import annotations

import ast
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import edgec
from edgec.export.page.describe import page
from edgec.runtime import bench, bench_remote
from edgec.runtime.bench import bench_local
from edgec.runtime.energy import energy_fields
from edgec.runtime.results.figures import summarize
from edgec.runtime.transports.device.meters import find_meters, watch
from edgec.runtime.transports.machine import open_device


@pytest.fixture
def rapl_sysfs(tmp_path: Path) -> Path:
    """Two packages with a core each, and a platform counter."""
    for zone, name in {
        "intel-rapl:0": "package-0",
        "intel-rapl:0:0": "core",
        "intel-rapl:1": "package-1",
        "intel-rapl:2": "psys",
    }.items():
        folder = tmp_path / "sys/class/powercap" / zone
        folder.mkdir(parents=True)
        (folder / "name").write_text(f"{name}\n")
        (folder / "max_energy_range_uj").write_text("999\n")
        (folder / "energy_uj").write_text("0\n")
    return tmp_path / "sys"


@pytest.fixture
def old_jetson_sysfs(tmp_path: Path) -> Path:
    """JetPack 4: power itself, in milliwatts."""
    chip = tmp_path / "sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0"
    chip.mkdir(parents=True)
    for number, (name, milliwatts) in enumerate({"POM_5V_IN": 4000, "POM_5V_GPU": 800}.items()):
        (chip / f"rail_name_{number}").write_text(f"{name}\n")
        (chip / f"in_power{number}_input").write_text(f"{milliwatts}\n")
    return tmp_path / "sys"


@pytest.fixture
def thor_sysfs(tmp_path: Path) -> Path:
    """JetPack 7 on a Thor: the input of the module has a meter of its own, in microwatts."""
    chip = tmp_path / "sys/bus/i2c/drivers/ina238/2-0044/hwmon/hwmon4"
    chip.mkdir(parents=True)
    (chip / "power1_input").write_text("31000000\n")
    return tmp_path / "sys"


def test_the_input_of_a_thor_is_the_whole(jetson_sysfs: Path, thor_sysfs: Path) -> None:
    (jetson_sysfs / "bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3/in1_label").write_text("CPU\n")
    energy = energy_fields(watch(lambda: time.sleep(0.01), 0.3, str(thor_sysfs), idle=0.1))[
        "energy"
    ]
    assert energy["meter"] == "INA238 VIN"
    assert energy["watts"] == pytest.approx(31.0)
    assert [rail["name"] for rail in energy["rails"]] == [
        "INA3221 CPU",
        "INA3221 VDD_CPU",
        "INA238 VIN",
    ]


def test_meters_are_found(rapl_sysfs: Path, jetson_sysfs: Path, old_jetson_sysfs: Path) -> None:
    assert [meter["name"] for meter in find_meters(str(rapl_sysfs))] == [
        "RAPL package-0",
        "RAPL package-1",
        "RAPL psys",
        "INA3221 VDD_IN",
        "INA3221 VDD_CPU",
        "INA3221 POM_5V_IN",
        "INA3221 POM_5V_GPU",
    ]
    assert find_meters("/nowhere") == []


def test_a_counter_that_wraps() -> None:
    """2 W before, 10 W in the loop; the counter begins again at zero after 14,999,999."""
    meter = {"kind": "counter", "factor": 14_999_999, "name": "RAPL package-0"}
    spent = [0, 2e6, 4e6, 14e6, 24e6, 34e6, 36e6]
    trace = [[0, float(second), int(uj) % 15_000_000, 1] for second, uj in enumerate(spent)]
    readings = {"meters": [meter], "trace": trace, "idle": [0.0, 2.0], "loop": [2.0, 5.0, 60]}
    energy = energy_fields(readings)["energy"]
    assert energy["meter"] == "RAPL package-0"
    assert energy["joules_per_inference"] == pytest.approx(30 / 60)
    assert energy["watts"] == pytest.approx(10)
    assert energy["idle_watts"] == pytest.approx(2)
    assert (energy["inferences"], energy["seconds"]) == (60, 3.0)


def test_packages_are_summed_and_the_platform_is_told() -> None:
    names = ["RAPL package-0", "RAPL package-1", "RAPL psys"]
    meters = [{"kind": "counter", "factor": 10**12, "name": name} for name in names]
    trace = [[n, t, int(1e6 * t * (n + 1)), 1] for t in range(5) for n in range(3)]
    readings = {"meters": meters, "trace": trace, "idle": [0.0, 1.0], "loop": [1.0, 4.0, 3]}
    energy = energy_fields(readings)["energy"]
    assert energy["meter"] == "sum of RAPL package-0, RAPL package-1"
    assert energy["watts"] == pytest.approx(3)
    assert [rail["watts"] for rail in energy["rails"]] == pytest.approx([1, 2, 3])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"meters": []}, "no power meter"),
        ({"trace": [[0, float(t), None, 1] for t in range(5)]}, "root only"),
        ({"trace": [[0, 2.0, 5, 1]]}, "not readable"),
        ({"loop": [1.0, 9.0, 3]}, "not readable"),
    ],
)
def test_no_number_without_readings(change: dict[str, Any], reason: str) -> None:
    readings = {
        "meters": [{"kind": "power", "factor": 1, "name": "INA3221 VDD_IN"}],
        "trace": [[0, float(t), 1000, 5000] for t in range(5)],
        "idle": [0.0, 1.0],
        "loop": [1.0, 4.0, 3],
    }
    assert energy_fields(readings)["energy"]["watts"] == pytest.approx(5)
    found = energy_fields(readings | change)
    assert "energy" not in found
    assert reason in found["no_energy"]


@pytest.fixture
def counting(rapl_sysfs: Path) -> Iterator[None]:
    """Something counts the microjoules of package-0: 7 W."""
    files = rapl_sysfs / "class/powercap/intel-rapl:0"
    (files / "max_energy_range_uj").write_text("1000000000000\n")
    ended = threading.Event()
    start = time.monotonic()

    def count() -> None:
        while not ended.wait(0.005):
            shown = files / "shown"
            shown.write_text(f"{int(7e6 * (time.monotonic() - start))}\n")
            shown.replace(files / "energy_uj")

    thread = threading.Thread(target=count)
    thread.start()
    yield
    ended.set()
    thread.join()


def test_a_loop_is_watched(rapl_sysfs: Path, counting: None) -> None:
    calls: list[float] = []
    found = energy_fields(
        watch(lambda: calls.append(time.sleep(0.01) or 0), 0.6, str(rapl_sysfs), idle=0.3)
    )
    energy = found["energy"]
    (package,) = (rail for rail in energy["rails"] if rail["name"] == "RAPL package-0")
    assert package["watts"] == pytest.approx(7, rel=0.15)
    assert package["idle_watts"] == pytest.approx(7, rel=0.15)
    assert energy["inferences"] == len(calls) > 5


def test_here_and_by_python_on_a_device(
    old_jetson_sysfs: Path,
    small_bundle: edgec.Bundle,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for module in (bench, bench_remote):
        monkeypatch.setattr(module, "SYSFS", str(old_jetson_sysfs))
        monkeypatch.setattr(module, "LOOP_SECONDS", 1)
    artifact = small_bundle.artifact("onnx/model.onnx")
    near = bench_local(small_bundle, [artifact], threads=1, runs=50, warmup=0)
    with open_device("local") as device:
        far = bench_remote.bench_remote(
            small_bundle, [artifact], device, threads=1, runs=50, warmup=0
        )
    for record in (near, far):
        energy = record["results"][0]["energy"]
        assert energy["meter"] == "INA3221 POM_5V_IN"
        assert energy["watts"] == pytest.approx(4.0)
        assert energy["joules_per_inference"] == pytest.approx(
            energy["watts"] * energy["seconds"] / energy["inferences"], rel=0.01
        )
        assert "joules_per_inference" in {figure.name for figure in summarize(record).figures}
        assert "INA3221 POM_5V_IN" in str(page([(record, None, {})]))


def test_without_meters_the_record_says_so(
    small_bundle: edgec.Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(bench, "SYSFS", str(tmp_path))
    artifact = small_bundle.artifact("onnx/model.onnx")
    record = bench_local(small_bundle, [artifact], threads=1, runs=50, warmup=0)
    assert "energy" not in record["results"][0]
    assert record["results"][0]["no_energy"].startswith("no power meter")


@pytest.mark.parametrize("name", ["meters.py", "bench_onnx.py"])
def test_what_runs_on_devices_keeps_to_python_3_6(name: str, root: Path) -> None:
    source = (root / "runtime/transports/device" / name).read_text("utf-8")
    tree = ast.parse(source, feature_version=(3, 6))
    imported = {
        alias.name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    assert imported <= {*sys.stdlib_module_names, "meters", "numpy", "onnxruntime"}
