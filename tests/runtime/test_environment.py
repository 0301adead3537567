"""Conditions of a measurement, and whether the machine slowed down."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import edgec
from edgec.runtime.bench_any import bench_any
from edgec.runtime.bench_remote import bench_remote
from edgec.runtime.environment import environment, throttled
from edgec.runtime.host.remote import shell_environment
from edgec.runtime.transports.machine import open_device
from edgec.runtime.transports.shell import BOOTSTRAP, Shell


@pytest.mark.parametrize(
    ("before", "after", "drift", "found"),
    [
        (None, None, 1.1, False),
        (None, None, 1.2, True),
        ("0", "0", 1.0, False),
        ("0x50000", "0x50000", 1.0, False),  # only before the measurement
        ("0", "50005", 1.0, True),
        ("0", "40000", 1.0, True),  # meanwhile, and over again
        ("4", "4", 1.0, True),
        ("what", "", 1.0, False),
    ],
)
def test_slow_samples_and_what_the_firmware_tells(
    before: str | None, after: str | None, drift: float, found: bool
) -> None:
    results: list[dict[str, Any]] = [{"latency": {"drift": drift}}, {"latency": {}}]
    record = {
        "environment_before": {"throttled": before},
        "environment_after": {"throttled": after},
        "results": results,
    }
    assert throttled(record) is found


def test_a_record_says_whether_the_machine_slowed_down(small_bundle: edgec.Bundle) -> None:
    artifact = small_bundle.artifact("onnx/model.onnx")
    record = bench_any(small_bundle, [artifact], "local", threads=1, runs=50, warmup=1)
    assert record["throttled"] is throttled(record)
    assert record["environment_before"]["edgec"] == edgec.__version__


def test_the_power_mode_of_a_jetson_is_told_everywhere(
    small_bundle: edgec.Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake = tmp_path / "nvpmodel"
    fake.write_text("#!/bin/sh\necho 'NV Fan Mode:quiet'\necho 'NV Power Mode: 25W'\necho 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert environment()["power_mode"] == "25W"
    shell = Shell("here", ["sh", "-c", BOOTSTRAP], str(tmp_path / "far"))
    assert shell_environment(shell.ask("environment"))["power_mode"] == "25W"
    artifact = small_bundle.artifact("onnx/model.onnx")
    with open_device("local") as device:
        record = bench_remote(small_bundle, [artifact], device, threads=1, runs=50, warmup=0)
    assert record["environment_after"]["power_mode"] == "25W"


def test_there_is_no_power_mode_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert environment()["power_mode"] is None
