"""`edgec bench --device ssh://…` of TensorRT engines: run on the device, joined to module names."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from edgec.export.bundle import Bundle
from edgec.export.errors import EdgecError, InputError
from edgec.runtime.bench import SCHEMA, Latency, output_check, read_golden
from edgec.runtime.energy import LOOP_SECONDS, energy_fields
from edgec.runtime.runners import open_runner
from edgec.runtime.tensorrt.layers import join_layers, module_of_nodes
from edgec.runtime.tensorrt.recipe import FOLDER, job_of, read_recipe
from edgec.runtime.transports.failures import explain_failure
from edgec.runtime.transports.machine import Device

HOST_TIMER = "host clock around execution and wait"


def measure_engines(
    bundle: Bundle,
    device: Device,
    names: tuple[str, ...],
    *,
    runs: int,
    warmup: int,
    on_text: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Measure built engines on `device`.

    Args:
        names: engines of the recipe, each built already.
        runs, warmup: samples that count, and runs before them.

    Returns:
        A bench record like that of `edgec.runtime.bench.bench_local`, with a table per layer.

    Raises:
        InputError: an engine is not built.
        MissingToolError: no link, no TensorRT, or another version than the engine's.
    """
    recipe = read_recipe(bundle)
    job = job_of(recipe)
    files = dict(recipe.files)
    engines = [recipe.engine(name) for name in names]
    for engine in engines:
        for end in ("", ".json"):
            path = f"{FOLDER}/{engine['engine']}{end}"
            if not (bundle.path / path).is_file():
                raise InputError(
                    "EC780",
                    f"the engine {engine['name']} is not built",
                    where=str(bundle.path / path),
                    fix=f"edgec build {bundle.path} --device {device.name}",
                )
            files[path] = bundle.path / path
    device.push(job, files)
    return measure_built(bundle, device, job, engines, runs=runs, warmup=warmup, on_text=on_text)


def measure_built(
    bundle: Bundle,
    device: Device,
    job: str,
    engines: Sequence[dict[str, Any]],
    *,
    runs: int,
    warmup: int,
    energy: bool = True,
    on_text: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Like `measure_engines`, of engines (as in the recipe) that lie in the job's folder already.

    Args:
        energy: also watch the device's power meters for some seconds.
    """
    results = []
    for engine in engines:
        argv = ["{python}", "-u", f"{FOLDER}/run_bench.py", "--engine", engine["name"]]
        argv += ["--runs", str(runs), "--warmup", str(warmup)]
        if f"{FOLDER}/edgec_meters.py" in bundle.manifest.files:  # bundles of before have none
            argv += ["--energy", str(LOOP_SECONDS if energy else 0)]
        end_of_job = device.run(job, argv, on_text)
        if end_of_job.exit != 0:
            what = f"engine {engine['name']} was not measured"
            raise explain_failure(end_of_job, what, device.name)
        results.append(_result(bundle, device, job, engine))
    first = results[0]
    return {
        "schema": SCHEMA,
        "device": device.name,
        "runtime": "tensorrt",
        "model": bundle.manifest.model.get("name"),
        "threads": None,
        "warmup": warmup,
        "environment_before": first.pop("environment_before"),
        "environment_after": results[-1].pop("environment_after"),
        "results": results,
    }


def _result(bundle: Bundle, device: Device, job: str, engine: dict[str, Any]) -> dict[str, Any]:
    name = engine["engine"]
    with tempfile.TemporaryDirectory(prefix="edgec-bench-") as folder:
        home = Path(folder) / "record.json"
        device.fetch(job, f"{FOLDER}/{name}.bench.json", home)
        record = json.loads(home.read_text("utf-8"))
    inspector = bundle.path / FOLDER / f"{name}.layers.json"
    known = module_of_nodes(bundle.path / FOLDER / engine["onnx"])
    layers = join_layers(
        record["layers"], inspector.read_text("utf-8") if inspector.is_file() else None, known
    )
    return {
        "artifact": f"{FOLDER}/{name}",
        "sha256": record["engine_sha256"],
        "precision": record["precision"],
        "bytes": (bundle.path / FOLDER / name).stat().st_size,
        "made_for_elsewhere": False,
        "latency": Latency(tuple(record["samples_ms"])).to_json(),
        "timer": record.get("timer", HOST_TIMER),
        "output_check": record["output_check"],
        "graph_check": _graph_check(bundle, record["precision"]),
        **_energy(record),
        "layers": layers,
        "environment_before": record["environment_before"],
        "environment_after": record["environment_after"],
    }


def _energy(record: dict[str, Any]) -> dict[str, Any]:
    """What the device's record says of energy; nothing where it was not asked for."""
    if "no_energy" in record:
        return {"no_energy": record["no_energy"]}
    return energy_fields(record["readings"]) if "readings" in record else {}


def _graph_check(bundle: Bundle, precision: str) -> dict[str, Any] | None:
    """How far the engine's own ONNX graph is from the golden outputs when ONNX Runtime runs it:
    what rounding alone would do, to hold the engine's distance against.

    Builders that choose float16 by a flag start from the float32 graph; the bundle's float16 graph
    stands for what they make of it. None where ONNX Runtime cannot run it here.
    """
    feeds, golden = read_golden(bundle)
    try:
        runner = open_runner(bundle, bundle.artifact(precision))
    except EdgecError:
        return None
    return output_check(runner.run(feeds), golden)
