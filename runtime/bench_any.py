"""`edgec bench`: which artifacts, and who measures them on which device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edgec.export.bundle import Artifact, Bundle
from edgec.export.errors import UsageError
from edgec.runtime.bench import bench_local
from edgec.runtime.bench_remote import bench_remote
from edgec.runtime.qemu.artifact import c_artifact_of
from edgec.runtime.runners import runnable_here
from edgec.runtime.serial.measure import bench_serial
from edgec.runtime.tensorrt.measure import measure_engines
from edgec.runtime.transports.machine import open_device


def chosen_artifacts(bundle: Bundle, names: list[str]) -> list[Artifact]:
    """What to measure: what was named, else built engines, else all others that this machine
    can run.

    Raises:
        UsageError: no such artifact, or ONNX files and engines in one measurement.
    """
    built = [a for a in bundle.manifest.artifacts if a.status == "built"]
    engines = [a for a in built if a.format == "tensorrt"]
    if not names:
        return engines or runnable_here(bundle)
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
    """Measure `artifacts` on `device`; see `edgec.runtime.bench.bench_local` for the record."""
    engines = tuple(a.precision for a in artifacts if a.format == "tensorrt")
    if engines:
        with open_device(device) as machine:
            return measure_engines(bundle, machine, engines, runs=runs, warmup=warmup)
    if device.startswith("serial:"):
        return bench_serial(bundle, c_artifact_of(bundle), device, warmup=warmup, tick=tick)
    if device == "local":
        return bench_local(bundle, artifacts, threads=threads, runs=runs, warmup=warmup, tick=tick)
    elsewhere = [a for a in artifacts if a.format == "onnx"]
    if not elsewhere:
        raise UsageError(
            "EC229",
            "only ONNX artifacts and TensorRT engines are measured on other devices",
            fix="run edgec bench there, or LiteRT's benchmark_model",
        )
    with open_device(device) as machine:
        record = bench_remote(bundle, elsewhere, machine, threads=threads, runs=runs, warmup=warmup)
    return record | {"left_out": [a.path for a in artifacts if a not in elsewhere]}
