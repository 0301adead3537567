"""`edgec bench`: which artifacts, and who measures them on which device."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from edgec.export.bundle import Artifact, Bundle
from edgec.export.errors import UsageError
from edgec.runtime.bench import bench_local
from edgec.runtime.bench_remote import bench_remote
from edgec.runtime.host.remote import bench_c
from edgec.runtime.qemu.artifact import c_artifact_of
from edgec.runtime.runners import runnable_here
from edgec.runtime.serial.measure import bench_serial
from edgec.runtime.tensorrt.measure import measure_engines
from edgec.runtime.transports.machine import open_device
from edgec.runtime.transports.shell import open_shell

MEASURED: Mapping[str, tuple[str, ...]] = {"ssh": ("c", "onnx")}
"""Kind of a device → formats of artifacts that are measured there, in this order."""


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
    tick: Callable[[int, int | None], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Measure `artifacts` on `device`; see `edgec.runtime.bench.bench_local` for the record.

    What the device's kind, or the device itself, cannot run is listed as ``left_out``: path →
    reason.
    """
    engines = tuple(a.precision for a in artifacts if a.format == "tensorrt")
    if engines:
        with open_device(device) as machine:
            return measure_engines(bundle, machine, engines, runs=runs, warmup=warmup)
    if device.startswith("serial:"):
        return bench_serial(bundle, c_artifact_of(bundle), device, warmup=warmup, tick=tick)
    if device == "local":
        return bench_local(bundle, artifacts, threads=threads, runs=runs, warmup=warmup, tick=tick)
    return _over_ssh(bundle, artifacts, device, threads=threads, runs=runs, warmup=warmup)


def _over_ssh(
    bundle: Bundle,
    artifacts: Sequence[Artifact],
    device: str,
    *,
    threads: int,
    runs: int,
    warmup: int,
) -> dict[str, Any]:
    """C with a shell and no more, ONNX with the device's Python."""
    programs = [a for a in artifacts if a.format == "c"]
    graphs = [a for a in artifacts if a.format == "onnx"]
    left = {a.path: "only ONNX and C are measured there" for a in artifacts}
    for artifact in (*programs, *graphs):
        del left[artifact.path]
    shell = open_shell(device)
    if not (programs or graphs):
        raise UsageError(
            "EC229",
            "only C, ONNX and TensorRT engines are measured over ssh",
            fix="run edgec bench there, or give LiteRT's benchmark_model to a phone (adb:)",
        )
    records = [bench_c(bundle, a, shell, runs=runs, warmup=warmup) for a in programs]
    if programs and graphs and "onnxruntime yes" not in shell.ask("hello"):
        left |= {a.path: "the device has no Python with onnxruntime" for a in graphs}
        graphs = []
    if graphs:
        with open_device(device) as machine:
            record = bench_remote(
                bundle, graphs, machine, threads=threads, runs=runs, warmup=warmup
            )
        records.append(record)
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
        "peak_rss_bytes": max(record["peak_rss_bytes"] for record in records),
        "results": [result for record in records for result in record["results"]],
    }
