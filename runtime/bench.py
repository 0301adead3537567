"""Measures artifacts on this machine: every sample kept, conditions recorded."""

from __future__ import annotations

import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from edgec.export.bundle import Artifact, Bundle
from edgec.export.errors import InputError
from edgec.runtime.energy import LOOP_SECONDS, SYSFS, energy_fields
from edgec.runtime.environment import environment
from edgec.runtime.host.runner import CArtifactRunner
from edgec.runtime.litert_profile import NotProfiled, time_operators
from edgec.runtime.modules import ModuleNames
from edgec.runtime.onnx_layers import time_layers
from edgec.runtime.onnx_runner import made_for_elsewhere
from edgec.runtime.runners import Runner, open_runner
from edgec.runtime.transports.device.meters import watch

SCHEMA = "edgec.bench/1"
MIN_RUNS = 50
STEP_RUNS = 20
Layer = dict[str, Any]
RUNTIMES = {"onnx": "onnxruntime", "tflite": "litert", "c": "C"}


@dataclass(frozen=True)
class Latency:
    """Milliseconds per inference: all samples in order, and what sums them up."""

    samples: tuple[float, ...]

    @property
    def min(self) -> float:
        """Fastest sample: the least disturbed one."""
        return min(self.samples)

    @property
    def median(self) -> float:
        """Half of the samples are faster."""
        return statistics.median(self.samples)

    @property
    def drift(self) -> float:
        """Median of the last fifth of the samples by that of the first: above 1 where the machine
        slowed down, by heat or by other work."""
        part = max(1, len(self.samples) // 5)
        first, last = self.samples[:part], self.samples[-part:]
        return statistics.median(last) / max(statistics.median(first), 1e-9)

    @property
    def p90(self) -> float:
        """Nine in ten samples are faster."""
        return float(np.percentile(self.samples, 90))

    def to_json(self) -> dict[str, Any]:
        """Milliseconds, rounded to 0.1 µs."""
        return {
            "min_ms": round(self.min, 4),
            "median_ms": round(self.median, 4),
            "p90_ms": round(self.p90, 4),
            "drift": round(self.drift, 3),
            "runs": len(self.samples),
            "samples_ms": [round(s, 4) for s in self.samples],
        }


def bench_local(
    bundle: Bundle,
    artifacts: list[Artifact],
    *,
    threads: int,
    runs: int,
    warmup: int,
    tick: Callable[[int, int | None], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Time artifacts in turn (A B C A B C …), so that drift of the machine hits all alike.

    Args:
        threads: threads inside an operator.
        runs: samples per artifact, at least `MIN_RUNS`.
        warmup: uncounted runs per artifact before.

    Returns:
        A JSON-ready record: environment before and after, and per artifact its latency, whether its
        outputs match the bundle's golden outputs, and, where a power meter is read, the energy of
        an inference (`edgec.runtime.energy`), measured apart.
    """
    runs = max(runs, MIN_RUNS)
    feeds, golden = read_golden(bundle)
    runners = [open_runner(bundle, a, threads=threads, emulate=False) for a in artifacts]
    before = environment()
    checks = [output_check(runner.run(feeds), golden) for runner in runners]
    for runner in runners:
        for _ in range(warmup):
            runner.run(feeds)
    samples: list[list[float]] = [[] for _ in runners]
    for index in range(runs):
        for slot, runner in zip(samples, runners, strict=True):
            start = time.perf_counter_ns()
            runner.run(feeds)
            slot.append((time.perf_counter_ns() - start) / 1e6)
        tick(index + 1, runs)
    # ru_maxrss is in KiB on Linux and in bytes on macOS
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "schema": SCHEMA,
        "device": "local",
        "runtime": ", ".join(sorted({RUNTIMES[a.format] for a in artifacts})),
        "model": bundle.manifest.model.get("name"),
        "threads": threads,
        "warmup": warmup,
        "environment_before": before,
        "environment_after": environment(),
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
        "results": [
            {
                "artifact": artifact.path,
                "sha256": artifact.sha256,
                "precision": artifact.precision,
                "bytes": artifact.bytes,
                "runtime": RUNTIMES[artifact.format],
                "made_for_elsewhere": artifact.format == "onnx"
                and made_for_elsewhere(artifact.scheme),
                "latency": Latency(tuple(slot)).to_json(),
                "output_check": check,
                **energy_fields(watch(partial(runner.run, feeds), LOOP_SECONDS, SYSFS)),
                **_layers(bundle, artifact, runner, feeds, threads),
            }
            for artifact, slot, check, runner in zip(
                artifacts, samples, checks, runners, strict=True
            )
        ],
    }


def _layers(
    bundle: Bundle, artifact: Artifact, runner: Runner, feeds: dict[str, Any], threads: int
) -> dict[str, Any]:
    """Nodes of an ONNX artifact, operators of a .tflite file or steps of a C artifact, the slowest
    first; ``no_layers`` tells why there are none.

    Measured apart, because looking costs time.
    """
    if artifact.format == "onnx":
        path = bundle.file(artifact)
        return {"layers": time_layers(path, feeds, runs=STEP_RUNS, threads=threads)}
    if artifact.format == "tflite":
        path, names = bundle.file(artifact), ModuleNames(bundle)
        try:
            return {"layers": time_operators(path, feeds, names, runs=STEP_RUNS, threads=threads)}
        except NotProfiled as reason:
            return {"no_layers": str(reason)}
    if not isinstance(runner, CArtifactRunner):
        return {}
    times = runner.step_ms(feeds, STEP_RUNS)
    return {"layers": step_table(bundle, artifact.checks["step_names"], times)}


def step_table(bundle: Bundle, names: Sequence[str], times: Sequence[float]) -> list[Layer]:
    """Rows of ``name``, ``module`` and ``ms`` for the steps of a C artifact, longest first."""
    modules = ModuleNames(bundle)
    rows: list[Layer] = [
        {"name": name, "module": modules.of_step(name), "ms": round(ms, 5)}
        for name, ms in zip(names, times, strict=True)
    ]
    return sorted(rows, key=lambda row: (-row["ms"], row["name"]))


def read_golden(bundle: Bundle) -> tuple[dict[str, Any], dict[str, Any]]:
    """The first golden inputs and outputs of a bundle.

    Raises:
        InputError: EC794, missing or damaged.
    """
    folder = bundle.path / "golden"
    try:
        feeds = dict(np.load(folder / "inputs_0.npz", allow_pickle=False))
        outputs = dict(np.load(folder / "outputs_0.npz", allow_pickle=False))
    except (OSError, ValueError) as error:
        raise InputError(
            "EC794",
            "the bundle's golden data cannot be read",
            where=str(folder),
            why=str(error),
            fix="export the bundle again",
        ) from error
    return feeds, outputs


def output_check(outputs: dict[str, Any], golden: dict[str, Any]) -> dict[str, Any]:
    """Largest difference to the fp32 golden outputs, absolute and relative to their range."""
    worst = scale = 0.0
    finite = True
    for name, expected in golden.items():
        actual = np.asarray(outputs[name], dtype=np.float64)
        finite &= bool(np.isfinite(actual).all())
        worst = max(worst, float(np.abs(actual - expected).max(initial=0.0)))
        scale = max(scale, float(np.abs(expected).max(initial=0.0)))
    return {
        "max_abs": float(f"{worst:.3g}"),
        "relative": float(f"{worst / scale:.3g}") if scale else None,
        "finite": finite,
    }
