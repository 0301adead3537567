"""Measures the C artifact of a bundle on a board that runs its MLPerf Tiny firmware."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edgec.export.bundle import Artifact, Bundle
from edgec.export.errors import UnsupportedError
from edgec.runtime.bench import SCHEMA, Latency, output_check, read_golden
from edgec.runtime.energy_trace import Loop, energy_of_trace, read_trace
from edgec.runtime.feeds import Tensor
from edgec.runtime.serial.tiny import Identity, TinyDevice, open_port, parse_device

ENERGY_SECONDS = 10.0
IDLE_SECONDS = 1.0
"""The rules of the benchmark want ten seconds of inferences under the meter."""
WINDOWS = 5
WINDOW_SECONDS = 2.0
"""The rules of the benchmark want the median of five windows of ten seconds; two are enough to keep
the error of a microsecond timer below one in a million."""
MOST_SECONDS = 120.0
"""A single inference that takes longer has hung."""


def bench_serial(
    bundle: Bundle,
    artifact: Artifact,
    device: str,
    *,
    warmup: int,
    power: Path | None = None,
    tick: Callable[[int, int | None], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Like `edgec.runtime.bench.bench_local`, on the board behind `device`.

    Each sample is the mean of a window of inferences, as the protocol has timestamps before the
    first and after the last one only.

    Args:
        power: the file that a power meter's program writes to (`edgec.runtime.energy_trace`);
            inferences then run for another `ENERGY_SECONDS`, after a second of silence.

    Raises:
        InputError: EC779, the power trace is none.
        UsageError: EC237, `device` names no port.
        UnsupportedError: EC333, a network with several inputs or outputs.
        MissingToolError: EC660 to EC663, no port, no answer, nonsense.
    """
    path, baud = parse_device(device)
    ports = artifact.checks["ports"]
    if len(ports["inputs"]) != 1 or len(ports["outputs"]) != 1:
        raise UnsupportedError(
            "EC333",
            "the serial protocol has one input and one output",
            where=artifact.path,
            why=f"the network has {len(ports['inputs'])} and {len(ports['outputs'])}",
            fix="measure it with a firmware of your own",
        )
    (given,), (told,) = ports["inputs"], ports["outputs"]
    feeds, golden = read_golden(bundle)
    if power is not None:
        read_trace(power)  # before minutes are spent
    loop = None
    with open_port(path, baud) as board:
        identity = board.identity()
        board.load(stored(feeds[given["name"]], given).tobytes())
        first = board.infer(1, 0, seconds=MOST_SECONDS)
        each = max(first.microseconds, 1) / 1e6
        count = max(1, math.ceil(WINDOW_SECONDS / each))
        wait = 10.0 + 2 * (count + warmup) * each
        samples, run = [], first
        for window in range(WINDOWS):
            run = board.infer(count, warmup if window == 0 else 0, seconds=wait)
            samples.append(run.microseconds / count / 1e3)
            tick(window + 1, WINDOWS)
        if power is not None:
            loop = _run_under_meter(board, each)
        after = board.identity()
    found = np.asarray(run.results, np.float32)
    return {
        "schema": SCHEMA,
        "device": device,
        "runtime": "edgec-c",
        "model": bundle.manifest.model.get("name"),
        "threads": 1,
        "warmup": warmup,
        "environment_before": _conditions(identity, baud),
        "environment_after": _conditions(after, baud),
        "peak_rss_bytes": None,
        "results": [
            {
                "artifact": artifact.path,
                "sha256": artifact.sha256,
                "precision": artifact.precision,
                "bytes": artifact.bytes,
                "made_for_elsewhere": False,
                "inferences_per_sample": count,
                "latency": Latency(tuple(samples)).to_json(),
                "timer": "the device's"
                if run.by_device
                else "this computer's: the firmware is built for energy mode and tells no times",
                "output_check": output_check(_named(found, told, golden), golden),
                **({} if power is None or loop is None else energy_of_trace(power, loop)),
            }
        ],
    }


def _run_under_meter(board: TinyDevice, each: float) -> Loop:
    """Silence, then inferences for as long as the rules want, `each` of so many seconds."""
    count = max(1, math.ceil(ENERGY_SECONDS / each))
    asleep = time.time()
    time.sleep(IDLE_SECONDS)
    awake = time.time()
    run = board.infer(count, 0, seconds=10.0 + 2 * count * each)
    return Loop(asleep, awake, run.start, run.end, count)


def _conditions(identity: Identity, baud: int) -> dict[str, Any]:
    """All that the protocol tells about a board."""
    told = {"device": identity.name, "profile": identity.profile, "model": identity.model}
    return told | {"baud": baud}


def stored(array: Tensor, port: dict[str, Any]) -> Tensor:
    """An input of the ONNX master as the bytes of a port hold it: channels last, on its grid."""
    last = array.transpose(0, 2, 3, 1) if array.ndim == 4 else array
    if port.get("scale") is None:
        return np.ascontiguousarray(last, np.float32)
    integers = np.rint(last / np.float32(port["scale"])) + port["zero_point"]
    limits = np.iinfo(port["dtype"])
    return np.ascontiguousarray(np.clip(integers, limits.min, limits.max).astype(limits.dtype))


def _named(values: Tensor, port: dict[str, Any], golden: dict[str, Any]) -> dict[str, Tensor]:
    """Results in the shape of the golden output."""
    name = port["name"]
    if values.size != golden[name].size:
        raise UnsupportedError(
            "EC333",
            f"the device returned {values.size} results, the network has {golden[name].size}",
            where=name,
            why="another network runs there",
            fix="flash the firmware of this very bundle (c/mlperf_tiny)",
        )
    shape = port["shape"]
    if len(shape) == 4:
        return {name: values.reshape(shape).transpose(0, 3, 1, 2)}
    return {name: values.reshape(golden[name].shape)}
