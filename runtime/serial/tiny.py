"""The serial protocol of MLPerf Tiny, from the side of the computer.

Commands end with ``%``, answers are lines, the last one ``m-ready``; errors are ``e-[…]``
(mlcommons/tiny, benchmark/api and benchmark/runner). So any firmware of that benchmark can be
measured, not only edgec's own.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from edgec.export.errors import MissingToolError, UsageError

if TYPE_CHECKING:
    import serial

BAUD = 115_200
CHUNK = 31
"""Bytes that one ``db`` command carries: the line of a firmware holds 80 characters."""
ANSWER_SECONDS = 5.0
MOST_LINE = 1 << 20
"""Characters of a line after which a device that never ends it is given up."""
_WRAP = 1 << 32


@dataclass(frozen=True)
class Identity:
    """What a device says about itself: vendor, firmware profile, model."""

    name: str
    profile: str
    model: str


@dataclass(frozen=True)
class Run:
    """One ``infer``: its inferences, the time between its two timestamps, and the results.

    Attributes:
        microseconds: by the device's clock; by this computer's where the firmware is built for
            energy mode, which marks the timestamps on a pin and prints none.
        by_device: whose clock it was.
        start, end: Unix seconds when the timestamps, or the lines around the inferences, came in.
    """

    count: int
    microseconds: int
    results: tuple[float, ...]
    by_device: bool
    start: float
    end: float


def parse_device(device: str) -> tuple[str, int]:
    """``serial:///dev/ttyACM0?baud=9600`` → (path, baud rate).

    Raises:
        UsageError: EC237, no path, or a baud rate that is none.
    """
    parts = urlsplit(device)
    rate = parse_qs(parts.query).get("baud", [str(BAUD)])[-1]
    if parts.scheme != "serial" or parts.netloc or not parts.path or not rate.isdecimal():
        raise UsageError(
            "EC237",
            f"{device!r} names no serial port",
            fix="write serial:///dev/ttyACM0, with ?baud=9600 behind it if it is not 115200",
        )
    return parts.path, int(rate)


@contextlib.contextmanager
def open_port(path: str, baud: int) -> Iterator[TinyDevice]:
    """A device behind a serial port.

    Raises:
        MissingToolError: EC660, pyserial is not installed, or the port cannot be opened.
    """
    try:
        import serial
    except ImportError as error:
        raise MissingToolError(
            "EC660",
            "serial ports need pyserial",
            fix="pip install 'edgec[serial]'",
        ) from error
    try:
        port = serial.Serial(path, baud, timeout=0.1, write_timeout=ANSWER_SECONDS)
    except (OSError, ValueError) as error:
        raise MissingToolError(
            "EC660",
            "the serial port cannot be opened",
            where=path,
            why=str(error),
            fix="check the cable and the name (ls /dev/tty*), and that you may use it (group "
            "dialout)",
        ) from error
    try:
        yield TinyDevice(port, path)
    finally:
        port.close()


class TinyDevice:
    """A firmware that speaks the protocol.

    Every method raises:
        MissingToolError: EC661, no answer in time; EC662, the port went away; EC663, an answer
            that is none, or an error that the device reports.
    """

    def __init__(self, port: serial.Serial, path: str) -> None:
        self._port, self.path = port, path
        self._rest = b""
        self._heard: list[tuple[float, str]] = []

    def identity(self) -> Identity:
        """Name, profile and model."""
        self.wake()
        named = "\n".join(self.command("name"))
        told = "\n".join(self.command("profile"))
        return Identity(
            self._field(r"m-name-\w+-\[([^\]]*)\]", named),
            self._field(r"m-profile-\[([^\]]*)\]", told),
            self._field(r"m-model-\[([^\]]*)\]", told),
        )

    def wake(self) -> None:
        """End whatever half a command the device holds, and drop what it says until it is quiet.

        A board that has just been reset greets with lines that end like an answer.
        """
        with contextlib.suppress(MissingToolError):  # the rest of a command may make no sense
            self.command("")
        deadline = time.monotonic() + ANSWER_SECONDS
        with self._link():
            while time.monotonic() < deadline and self._port.read(4096):
                pass
        self._rest = b""

    def load(self, data: bytes) -> None:
        """Fill the input buffer."""
        self.command(f"db load {len(data)}")
        lines: list[str] = []
        for start in range(0, len(data), CHUNK):
            lines = self.command(f"db {data[start : start + CHUNK].hex()}")
        if "m-load-done" not in lines:
            raise self._nonsense("no m-load-done after the last byte", lines)

    def infer(self, count: int, warmup: int, *, seconds: float) -> Run:
        """Run `count` inferences after `warmup` ones; `seconds` is how long to wait."""
        lines = self.command(f"infer {count} {warmup}", seconds=seconds)
        laps = [int(found) for found in re.findall(r"^m-lap-us-(\d+)$", "\n".join(lines), re.M)]
        around = ("m-lap-us-", "m-lap-us-") if laps else ("m-infer-start", "m-infer-done")
        start = [at for at, line in self._heard if line.startswith(around[0])][:1]
        end = [at for at, line in self._heard if line.startswith(around[1])][-1:]
        if len(laps) not in (0, 2) or not start or not end:
            raise self._nonsense("not two timestamps", lines)
        text = self._field(r"m-results-\[([^\]]*)\]", "\n".join(lines))
        try:
            results = tuple(float(number) for number in text.split(","))
        except ValueError as error:
            raise self._nonsense("results that are no numbers", lines) from error
        took = (laps[1] - laps[0]) % _WRAP if laps else round(1e6 * (end[0] - start[0]))
        return Run(count, took, results, bool(laps), start[0], end[0])

    def command(self, text: str, *, seconds: float = ANSWER_SECONDS) -> list[str]:
        """Send a command; the lines of the answer without ``m-ready``."""
        deadline = time.monotonic() + seconds
        lines: list[str] = []
        self._heard = []
        with self._link():
            self._port.write(f"{text}%".encode())
            for line in self._lines(deadline, text):
                self._heard.append((time.time(), line))
                if line == "m-ready":
                    break
                if line:
                    lines.append(line)
        failed = [line for line in lines if line.startswith("e-[")]
        if failed:
            raise MissingToolError(
                "EC663",
                f"the device refused {text.split(' ')[0]!r}",
                where=self.path,
                why="; ".join(failed),
                fix="flash the firmware of this very bundle (c/mlperf_tiny)",
            )
        return lines

    def _lines(self, deadline: float, text: str) -> Iterator[str]:
        while True:
            while b"\n" in self._rest:
                line, _, self._rest = self._rest.partition(b"\n")
                yield line.strip(b"\r\0").decode("ascii", "replace")
            if time.monotonic() > deadline or len(self._rest) > MOST_LINE:
                raise MissingToolError(
                    "EC661",
                    f"the device gave no answer to {text.split(' ')[0]!r}",
                    where=self.path,
                    why=f"last heard: {self._rest[-80:]!r}" if self._rest else "it said nothing",
                    fix="check the baud rate (?baud=), that the firmware of c/mlperf_tiny runs, "
                    "and reset the board",
                )
            self._rest += self._port.read(max(1, self._port.in_waiting))

    @contextlib.contextmanager
    def _link(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:  # SerialException is one
            raise MissingToolError(
                "EC662",
                "the serial port went away",
                where=self.path,
                why=str(error),
                fix="check the cable and the power of the board, then measure again",
            ) from error

    def _field(self, pattern: str, text: str) -> str:
        found = re.search(pattern, text)
        if found is None:
            raise self._nonsense(f"nothing like {pattern}", text.splitlines())
        return found[1]

    def _nonsense(self, why: str, lines: Sequence[str]) -> MissingToolError:
        return MissingToolError(
            "EC663",
            "the device's answer makes no sense",
            where=self.path,
            why=f"{why} in {' | '.join(lines)[:200]!r}",
            fix="check the baud rate and that the firmware speaks the protocol of MLPerf Tiny",
        )
