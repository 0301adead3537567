"""Boards behind a serial port, on pseudo terminals: our firmware, and devices that misbehave."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import threading
import time
import tty
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import edgec
from edgec.export.errors import MissingToolError, UnsupportedError, UsageError
from edgec.runtime.bench_any import bench_any
from edgec.runtime.serial import measure
from edgec.runtime.serial.measure import bench_serial
from edgec.runtime.serial.tiny import TinyDevice, open_port, parse_device

pytestmark = [
    pytest.mark.needs_tool,
    pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler"),
]


@pytest.fixture(scope="module")
def bundle(tiny_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> edgec.Bundle:
    out = tmp_path_factory.mktemp("serial") / "bundle"
    return edgec.compile(
        str(tiny_onnx), target="generic-c99", calib="random", formats="c", out=str(out)
    )


@pytest.fixture(scope="module")
def firmware(bundle: edgec.Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle's firmware for this machine, with every warning an error."""
    folder = tmp_path_factory.mktemp("firmware") / "c"
    shutil.copytree(bundle.path / "c", folder)
    flags = "CFLAGS=-O2 -Wall -Wextra -Wconversion -Werror -fsanitize=address,undefined"
    subprocess.run(["make", "-s", "mlperf", flags], cwd=folder, check=True)
    (built,) = folder.glob("*_mlperf")
    return built


@contextlib.contextmanager
def terminal() -> Iterator[tuple[int, str]]:
    """The device's end of a pseudo terminal, and the path of the computer's end."""
    ours, theirs = os.openpty()
    tty.setraw(ours)
    path = os.ttyname(theirs)
    try:
        yield ours, path
    finally:
        os.close(theirs)
        with contextlib.suppress(OSError):
            os.close(ours)


@pytest.fixture
def board(firmware: Path) -> Iterator[str]:
    """The path of a port behind which the firmware runs."""
    with terminal() as (end, path):
        process = subprocess.Popen([firmware], stdin=end, stdout=end)
        yield path
        process.kill()
        process.wait()


def device(answer: Callable[[bytes], bytes | None]) -> contextlib.AbstractContextManager[str]:
    """A device that answers each command by a function; None hangs up."""

    @contextlib.contextmanager
    def run() -> Iterator[str]:
        with terminal() as (end, path):
            # a number of its own: that of a closed end may be another test's by now
            mine = os.dup(end)

            def serve() -> None:
                with contextlib.suppress(OSError):
                    answer_all()
                with contextlib.suppress(OSError):
                    os.close(mine)

            def answer_all() -> None:
                text = b""
                while True:
                    text += os.read(mine, 4096)
                    while b"%" in text:
                        command, _, text = text.partition(b"%")
                        reply = answer(command)
                        if reply is None:
                            os.close(end)
                            return
                        os.write(mine, reply)

            thread = threading.Thread(target=serve, daemon=True)
            thread.start()
            yield path

    return run()


def test_our_firmware_is_measured(board: str, bundle: edgec.Bundle, monkeypatch) -> None:
    monkeypatch.setattr(measure, "WINDOW_SECONDS", 0.05)
    artifact = next(a for a in bundle.manifest.artifacts if a.format == "c")
    record = bench_serial(bundle, artifact, f"serial://{board}", warmup=2)
    (result,) = record["results"]
    assert record["environment_before"]["device"] == "edgec"
    assert record["environment_before"]["model"] == artifact.checks["prefix"]
    assert result["latency"]["runs"] == measure.WINDOWS
    assert 0 < result["latency"]["min_ms"] < 1000
    # int8 against the float golden output: what quantization costs, as the local runner sees it
    from edgec.runtime.host.runner import CArtifactRunner

    feeds = dict(np.load(bundle.path / "golden" / "inputs_0.npz"))
    golden = dict(np.load(bundle.path / "golden" / "outputs_0.npz"))
    here = CArtifactRunner(bundle.path / artifact.path, artifact.checks).run(feeds)
    worst = max(float(np.abs(here[n] - golden[n]).max()) for n in golden)
    assert result["output_check"]["max_abs"] == pytest.approx(worst, abs=1e-3)


class MeterStandIn(threading.Thread):
    """Stands in for a power meter's program: appends 50 mW, twenty times a second."""

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        self.path, self.ended = path, threading.Event()
        self.path.write_text("time,watts\n")

    def run(self) -> None:
        while not self.ended.wait(0.05):
            with self.path.open("a") as file:
                file.write(f"{time.time():.4f},0.05\n")


@pytest.fixture
def power(tmp_path: Path) -> Iterator[Path]:
    meter = MeterStandIn(tmp_path / "power.csv")
    meter.start()
    yield meter.path
    meter.ended.set()
    meter.join()


def test_energy_by_the_trace_of_a_meter(
    board: str, bundle: edgec.Bundle, power: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "WINDOW_SECONDS", 0.05)
    monkeypatch.setattr(measure, "ENERGY_SECONDS", 0.6)
    monkeypatch.setattr(measure, "IDLE_SECONDS", 0.3)
    (artifact,) = [a for a in bundle.manifest.artifacts if a.format == "c"]
    device = f"serial://{board}"
    record = bench_any(bundle, [artifact], device, threads=1, runs=1, warmup=0, power=power)
    (result,) = record["results"]
    assert result["timer"] == "the device's"
    assert result["energy"]["meter"] == "power.csv"
    assert result["energy"]["watts"] == pytest.approx(0.05)
    assert result["energy"]["idle_watts"] == pytest.approx(0.05)
    assert result["energy"]["joules_per_inference"] == pytest.approx(
        0.05 * result["energy"]["seconds"] / result["energy"]["inferences"], rel=0.01
    )
    with pytest.raises(UsageError, match="EC239"):
        bench_any(bundle, [artifact], "local", threads=1, runs=1, warmup=0, power=power)


def test_the_firmware_of_the_energy_mode(
    bundle: edgec.Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Falling edges on a pin in place of numbers, as mlcommons/tiny's own firmware has them."""
    folder = tmp_path / "c"
    shutil.copytree(bundle.path / "c", folder)
    flags = "CFLAGS=-O2 -Wall -Wextra -Wconversion -Werror -DEDGEC_MLPERF_ENERGY"
    subprocess.run(["make", "-s", "mlperf", flags], cwd=folder, check=True)
    (built,) = folder.glob("*_mlperf")
    monkeypatch.setattr(measure, "WINDOW_SECONDS", 0.05)
    artifact = next(a for a in bundle.manifest.artifacts if a.format == "c")
    with terminal() as (end, path), (tmp_path / "pin").open("wb") as pin:
        process = subprocess.Popen([built], stdin=end, stdout=end, stderr=pin)
        try:
            with open_port(path, 9600) as port:
                port.wake()
                assert port.command("timestamp") == []
                run = port.infer(3, 1, seconds=10)
            assert not run.by_device
            assert run.microseconds == round(1e6 * (run.end - run.start)) >= 0
            record = bench_serial(bundle, artifact, f"serial://{path}?baud=9600", warmup=0)
        finally:
            process.kill()
            process.wait()
    assert "energy mode" in record["results"][0]["timer"]
    assert record["results"][0]["output_check"]["finite"]
    edges = (tmp_path / "pin").read_text().count("edge")
    # one at the start, one for the command, two around each of the inferences
    assert edges == 2 + 2 * (1 + 1 + measure.WINDOWS)


def test_the_protocol_as_the_official_runner_uses_it(board: str) -> None:
    with open_port(board, 115_200) as port:
        assert port.identity().profile == "ULPMark for tinyML Firmware V0.0.1"
        assert port.command("timestamp")[0].startswith("m-lap-us-")
        assert port.command("db load 3") == ["m-[Expecting 3 bytes]"]
        assert port.command("db 0aFF") == []
        assert port.command("db 10") == ["m-load-done"]
        assert port.command("db print") == ["m-buffer-0a-ff-10"]
        assert [line.split("-")[1] for line in port.command("infer 2 0")] == [
            "warmup", "warmup", "infer", "lap", "lap", "infer", "results",
        ]  # fmt: skip
        assert port.command("results")[0].startswith("m-results-[")


@pytest.mark.parametrize(
    "command",
    ["infer 0", "db", "db load", "db load 0", "db load 4000000000", "db 1", "db 1z", "x" * 500],
)
def test_the_firmware_refuses_and_goes_on(board: str, command: str) -> None:
    with open_port(board, 115_200) as port:
        port.wake()
        with pytest.raises(MissingToolError, match="EC663"):
            port.command(command)
        assert port.identity().name == "edgec"


def test_a_device_that_hangs_is_given_up() -> None:
    with device(lambda command: b"") as path, open_port(path, 9600) as port:
        start = time.monotonic()
        with pytest.raises(MissingToolError, match="EC661"):
            port.command("name", seconds=0.3)
        assert time.monotonic() - start < 3


def test_a_device_that_talks_without_end_is_given_up() -> None:
    with device(lambda command: b"\xff\x00" * 4096) as path, open_port(path, 9600) as port:
        with pytest.raises(MissingToolError, match="EC661"):
            port.command("name", seconds=0.3)


def test_a_device_that_disappears_is_an_error() -> None:
    with device(lambda command: None) as path, open_port(path, 9600) as port:
        with pytest.raises(MissingToolError, match=r"EC66[12]"):
            port.command("name", seconds=1)


@pytest.mark.parametrize(
    ("answer", "call"),
    [
        (b"garbage\r\n\xfe\xff\r\nm-ready\r\n", TinyDevice.identity),
        (b"m-ready\r\n", lambda port: port.load(b"123")),
        (b"m-lap-us-1\r\nm-ready\r\n", lambda port: port.infer(1, 0, seconds=1)),
        (
            b"m-lap-us-1\r\nm-lap-us-2\r\nm-results-[one]\r\nm-ready\r\n",
            lambda port: port.infer(1, 0, seconds=1),
        ),
        (b"e-[no]\r\nm-ready\r\n", lambda port: port.command("name")),
    ],
)
def test_nonsense_is_an_error(answer: bytes, call: Callable[[TinyDevice], object]) -> None:
    with device(lambda command: answer) as path, open_port(path, 9600) as port:
        with pytest.raises(MissingToolError, match="EC663"):
            call(port)


def test_another_network_is_noticed(bundle: edgec.Bundle) -> None:
    answer = (
        b"m-name-dut-[x]\r\nm-profile-[p]\r\nm-model-[m]\r\nm-load-done\r\nm-lap-us-4294967290\r\n"
        b"m-lap-us-2000000\r\nm-results-[0.5]\r\nm-ready\r\n"
    )
    artifact = next(a for a in bundle.manifest.artifacts if a.format == "c")
    with device(lambda command: answer) as path, pytest.raises(UnsupportedError, match="EC333"):
        bench_serial(bundle, artifact, f"serial://{path}?baud=9600", warmup=0)


def test_timers_may_wrap() -> None:
    answer = b"m-lap-us-4294967290\r\nm-lap-us-4\r\nm-results-[1,2]\r\nm-ready\r\n"
    with device(lambda command: answer) as path, open_port(path, 9600) as port:
        assert port.infer(1, 0, seconds=1).microseconds == 10


@pytest.mark.parametrize("text", ["serial:", "serial://ttyACM0", "serial:///dev/x?baud=fast"])
def test_urls_that_name_no_port(text: str) -> None:
    with pytest.raises(UsageError, match="EC237"):
        parse_device(text)


def test_ports_that_cannot_be_opened(tmp_path: Path) -> None:
    assert parse_device("serial:///dev/ttyACM0?baud=9600") == ("/dev/ttyACM0", 9600)
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "none", tmp_path / "file"):
        with pytest.raises(MissingToolError, match="EC660"), open_port(str(path), 9600):
            pass
