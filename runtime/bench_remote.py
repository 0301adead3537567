"""Measures ONNX artifacts on another machine that has Python, numpy and onnxruntime."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

from edgec.export.bundle import Artifact, Bundle
from edgec.export.files import dump_json
from edgec.runtime.bench import MIN_RUNS, SCHEMA, Latency
from edgec.runtime.energy import LOOP_SECONDS, SYSFS, energy_fields
from edgec.runtime.transports.failures import explain_failure
from edgec.runtime.transports.machine import Device, job_name

SCRIPT = "bench_onnx.py"
METERS = "meters.py"


def bench_remote(
    bundle: Bundle,
    artifacts: list[Artifact],
    device: Device,
    *,
    threads: int,
    runs: int,
    warmup: int,
    on_text: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Like `edgec.runtime.bench.bench_local`, on `device`.

    Raises:
        MissingToolError: no link, or the device lacks onnxruntime or numpy.
        UnsupportedError: its onnxruntime cannot load an artifact.
    """
    runs = max(runs, MIN_RUNS)
    golden = {"inputs": "golden/inputs_0.npz", "outputs": "golden/outputs_0.npz"}
    task = {
        "models": [artifact.path for artifact in artifacts],
        **golden,
        "threads": threads,
        "runs": runs,
        "warmup": warmup,
        "meter_seconds": LOOP_SECONDS,
        "sysfs": SYSFS,
    }
    scripts = resources.files("edgec.runtime.transports").joinpath("device")
    # a measurement is a new one each time: it must not be taken for one that ran before
    with tempfile.TemporaryDirectory(prefix="edgec-bench-") as folder:
        home = Path(folder)
        (home / "job.json").write_text(dump_json(task), "utf-8")
        for name in (SCRIPT, METERS):
            (home / name).write_bytes(scripts.joinpath(name).read_bytes())
        files = {a.path: bundle.file(a) for a in artifacts}
        files |= {name: bundle.path / name for name in golden.values()}
        files |= {name: home / name for name in ("job.json", SCRIPT, METERS)}
        job = job_name("bench", dump_json(task), *(a.sha256 or "" for a in artifacts))
        device.push(job, files)
        end = device.run(job, ["{python}", "-u", SCRIPT, "job.json", "record.json"], on_text)
        if end.exit != 0:
            raise explain_failure(end, "the artifacts were not measured", device.name)
        device.fetch(job, "record.json", home / "record.json")
        record = json.loads((home / "record.json").read_text("utf-8"))
        device.remove(job)
    return {
        "schema": SCHEMA,
        "device": device.name,
        "runtime": "onnxruntime",
        "model": bundle.manifest.model.get("name"),
        "threads": threads,
        "warmup": warmup,
        "environment_before": record["environment_before"],
        "environment_after": record["environment_after"],
        "peak_rss_bytes": record["peak_rss_bytes"],
        "results": [
            {
                "artifact": artifact.path,
                "sha256": artifact.sha256,
                "precision": artifact.precision,
                "bytes": artifact.bytes,
                "made_for_elsewhere": False,
                "latency": Latency(tuple(result["samples_ms"])).to_json(),
                "output_check": result["output_check"],
                **energy_fields(result["readings"]),
            }
            for artifact, result in zip(artifacts, record["results"], strict=True)
        ],
    }
