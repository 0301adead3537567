"""`edgec bench`: which artifacts, and who measures them on which device."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from edgec.export.bundle import Artifact, Bundle
from edgec.export.errors import MissingToolError, UsageError
from edgec.runtime.adb.devices import open_android
from edgec.runtime.bench import bench_local
from edgec.runtime.bench_remote import bench_remote
from edgec.runtime.bench_tool import bench_tool, tool_named
from edgec.runtime.environment import throttled
from edgec.runtime.host.remote import bench_c
from edgec.runtime.qemu.artifact import c_artifact_of
from edgec.runtime.runners import runnable_here
from edgec.runtime.serial.measure import bench_serial
from edgec.runtime.tensorrt.measure import measure_engines
from edgec.runtime.transports.machine import open_device
from edgec.runtime.transports.shell import BOOTSTRAP, Shell, open_shell

MEASURED: Mapping[str, tuple[str, ...]] = {"ssh": ("c", "tflite", "onnx"), "adb": ("c", "tflite")}
"""Kind of a device → formats of artifacts that are measured there, in this order."""

LACKS = {"EC653", "EC678"}
"""No compiler, no ``benchmark_model``: no reason not to measure other formats."""


def chosen_artifacts(bundle: Bundle, names: list[str], device: str = "local") -> list[Artifact]:
    """What to measure: what was named, else built engines, else all others that the device's kind
    can run.

    Raises:
        UsageError: no such artifact, or ONNX files and engines in one measurement.
    """
    built = [a for a in bundle.manifest.artifacts if a.status == "built"]
    engines = [a for a in built if a.format == "tensorrt"]
    if not names:
        elsewhere = device.partition(":")[0] in MEASURED
        return engines or (built if elsewhere else runnable_here(bundle))
    paths = {a.path: a for a in engines}
    chosen = [paths.get(name) or bundle.artifact(name) for name in names]
    if len({a.format == "tensorrt" for a in chosen}) > 1:
        raise UsageError(
            "EC229",
            "TensorRT engines and other artifacts are not measured together",
            why="they run in different programs, so their samples cannot take turns",
            fix="run edgec bench once for each kind",
        )
    return chosen


def bench_any(
    bundle: Bundle,
    artifacts: list[Artifact],
    device: str,
    *,
    threads: int,
    runs: int,
    warmup: int,
    tool: Path | None = None,
    power: Path | None = None,
    tick: Callable[[int, int | None], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Measure `artifacts` on `device`; see `edgec.runtime.bench.bench_local` for the record.

    Args:
        tool: LiteRT's ``benchmark_model`` for the device; by default that of the environment
            (`edgec.runtime.bench_tool`).
        power: the file that a power meter's program writes to, for serial devices.

    Raises:
        UsageError: EC239, such a file for another device.

    What the device's kind, or the device itself, cannot run is listed as ``left_out``: path →
    reason. ``throttled`` tells whether the machine slowed down meanwhile.
    """
    counts: dict[str, Any] = {"runs": runs, "warmup": warmup, "tick": tick}
    record = _measure(bundle, artifacts, device, tool, power, threads=threads, **counts)
    return record | {"throttled": throttled(record)}


def _measure(
    bundle: Bundle,
    artifacts: list[Artifact],
    device: str,
    tool: Path | None,
    power: Path | None,
    *,
    threads: int,
    runs: int,
    warmup: int,
    tick: Callable[[int, int | None], None],
) -> dict[str, Any]:
    if power is not None and not device.startswith("serial:"):
        raise UsageError(
            "EC239",
            "a power trace is read for serial devices only",
            where=device,
            why="others are watched by the meters that they have",
            fix="leave --power-trace away",
        )
    engines = tuple(a.precision for a in artifacts if a.format == "tensorrt")
    if engines:
        with open_device(device) as machine:
            return measure_engines(bundle, machine, engines, runs=runs, warmup=warmup)
    if device.startswith("serial:"):
        artifact = c_artifact_of(bundle)
        return bench_serial(bundle, artifact, device, warmup=warmup, power=power, tick=tick)
    if device == "local" and tool is None:
        return bench_local(bundle, artifacts, threads=threads, runs=runs, warmup=warmup, tick=tick)
    if device == "local":
        files = _only_tflite(artifacts)
        shell = Shell("local", ["sh", "-c", BOOTSTRAP], None)
        return bench_tool(bundle, files, shell, tool, threads=threads, runs=runs, warmup=warmup)
    counts = {"threads": threads, "runs": runs, "warmup": warmup}
    return _elsewhere(bundle, artifacts, device, tool, **counts)


def _only_tflite(artifacts: Sequence[Artifact]) -> list[Artifact]:
    files = [a for a in artifacts if a.format == "tflite"]
    if not files:
        raise UsageError(
            "EC229", "benchmark_model runs .tflite files only", fix="leave --benchmark-model away"
        )
    return files


def _elsewhere(
    bundle: Bundle,
    artifacts: Sequence[Artifact],
    device: str,
    tool: Path | None,
    *,
    threads: int,
    runs: int,
    warmup: int,
) -> dict[str, Any]:
    """C with a shell and no more, .tflite by LiteRT's program, ONNX by the device's Python."""
    kind = device.partition(":")[0]
    formats = MEASURED.get(kind, MEASURED["ssh"])
    todo = {f: [a for a in artifacts if a.format == f] for f in formats}
    left = {
        a.path: f"not measured over {kind}, which takes {', '.join(formats)}"
        for a in artifacts
        if a.format not in formats
    }
    shell = open_android(device) if kind == "adb" else open_shell(device)
    tool = tool_named(tool)
    if not any(todo.values()):
        raise UsageError(
            "EC229",
            f"nothing of this bundle is measured over {kind}",
            why=", ".join(sorted({a.format for a in artifacts})) + " was chosen",
            fix=f"{kind} takes {', '.join(formats)} and engines of TensorRT over ssh",
        )
    records: list[dict[str, Any]] = []
    lacks: list[MissingToolError] = []

    def attempt(files: Sequence[Artifact], measure: Callable[[], dict[str, Any]]) -> None:
        try:
            records.append(measure())
        except MissingToolError as error:
            if error.code not in LACKS:
                raise
            lacks.append(error)
            left.update({a.path: f"{error.code} {error.what}" for a in files})

    for artifact in todo["c"]:
        attempt([artifact], partial(bench_c, bundle, artifact, shell, runs=runs, warmup=warmup))
    counts = {"threads": threads, "runs": runs, "warmup": warmup}
    if todo["tflite"]:
        attempt(todo["tflite"], partial(bench_tool, bundle, todo["tflite"], shell, tool, **counts))
    graphs = todo.get("onnx", [])
    if records and graphs and "onnxruntime yes" not in shell.ask("hello"):
        left |= {a.path: "the device has no Python with onnxruntime" for a in graphs}
    elif graphs:
        with open_device(device) as machine:
            record = bench_remote(
                bundle, graphs, machine, threads=threads, runs=runs, warmup=warmup
            )
        records.append(record)
    if not records:
        raise lacks[0]
    return _joined(records) | {"left_out": left}


def _joined(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One record of several programs that ran one after the other."""
    first, last = records[0], records[-1]
    return {
        **first,
        "runtime": ", ".join(dict.fromkeys(record["runtime"] for record in records)),
        "threads": last["threads"],
        "environment_before": last["environment_before"] | first["environment_before"],
        "environment_after": first["environment_after"] | last["environment_after"],
        "peak_rss_bytes": max((r["peak_rss_bytes"] or 0 for r in records), default=0) or None,
        "results": [result for record in records for result in record["results"]],
    }
