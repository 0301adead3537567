"""`edgec build`: the engines of a bundle, made by the device's own TensorRT and brought home.

Only what the recipe names is sent, by hash; the device runs the bundle's own scripts
(``tensorrt/build_engine.py``), so that building by hand and building from here are the same.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgec.export.bundle import Artifact, Bundle
from edgec.export.errors import EdgecError, MissingToolError
from edgec.export.files import atomic_write, dump_json, sha256_file
from edgec.runtime.tensorrt.measure import measure_built
from edgec.runtime.tensorrt.recipe import FOLDER, job_of, read_recipe
from edgec.runtime.transports.failures import explain_failure
from edgec.runtime.transports.machine import Device

PROFILE_RUNS, PROFILE_WARMUP = 20, 5
"""Enough to see that an engine runs, what it computes and where its time goes; `edgec bench` is
for figures."""
SIDE_FILES = (".json", ".layers.json")
"""What stands beside an engine: what it is bound to, and the names of its fused kernels."""


def build_engines(
    bundle: Bundle,
    device: Device,
    names: tuple[str, ...],
    *,
    rebuild: bool = False,
    any_version: bool = False,
    on_text: Callable[[str], None] = lambda text: None,
    tick: Callable[[int, int], None] = lambda done, total: None,
) -> Bundle:
    """Build engines on `device` and put them, with their records, into the bundle.

    A link that breaks is opened again; the build goes on meanwhile. Each engine is run a few times
    there: ``ENGINE.bench.json`` beside it has the time of every layer, the conditions, and how far
    its outputs are from the golden ones; an engine that cannot be run is kept, and the artifact's
    check ``ran`` says why.

    Args:
        names: engines of the recipe.
        rebuild: even what the device says is up to date.
        any_version: try a TensorRT that the recipe was not made for.
        on_text: what the device prints.
        tick: bytes that the device has, of all it needs.

    Returns:
        The bundle with the engines as built artifacts.

    Raises:
        UnsupportedError: TensorRT cannot build the network.
        MissingToolError: no link, no TensorRT, another version, or no memory.
    """
    recipe = read_recipe(bundle)
    job = job_of(recipe)
    device.push(job, recipe.files, tick=tick)
    for name in names:
        engine = recipe.engine(name)
        _send_back(bundle, device, job, engine)
        argv = ["{python}", "-u", f"{FOLDER}/build_engine.py", "--engine", name]
        argv += ["--rebuild"] if rebuild else []
        argv += ["--any-version"] if any_version else []
        end = device.run(job, argv, on_text)
        if end.exit != 0:
            raise explain_failure(end, f"engine {name} was not built", device.name)
        bundle = _bring_home(bundle, device, job, engine)
        bundle = _with_profile(bundle, device, job, engine, on_text)
    return bundle


def _send_back(bundle: Bundle, device: Device, job: str, engine: dict[str, Any]) -> None:
    """An engine from an earlier build, so that the device can say that it is up to date."""
    files = [f"{FOLDER}/{engine['engine']}{end}" for end in ("", ".json")]
    if all((bundle.path / name).is_file() for name in files):
        device.push(job, {name: bundle.path / name for name in files})


def _bring_home(bundle: Bundle, device: Device, job: str, engine: dict[str, Any]) -> Bundle:
    name = engine["engine"]
    with tempfile.TemporaryDirectory(dir=bundle.path.parent, prefix=".edgec-") as temporary:
        folder = Path(temporary)
        for end in ("", *SIDE_FILES):
            device.fetch(job, f"{FOLDER}/{name}{end}", folder / f"{name}{end}")
        device.fetch(job, f"{FOLDER}/timing.cache", folder / "timing.cache")
        try:
            record = json.loads((folder / f"{name}.json").read_text("utf-8"))
            whole = record["engine_sha256"] == sha256_file(folder / name)
        except (OSError, ValueError, KeyError) as error:
            raise MissingToolError(
                "EC648", "the device built nothing that can be used", why=str(error)
            ) from error
        if not whole:
            raise MissingToolError(
                "EC648", "the engine differs from the record beside it", where=device.name
            )
        for file in sorted(folder.iterdir()):
            shutil.move(file, bundle.path / FOLDER / file.name)
    return _with_engine(bundle, engine, record)


def _with_profile(
    bundle: Bundle,
    device: Device,
    job: str,
    engine: dict[str, Any],
    on_text: Callable[[str], None],
) -> Bundle:
    """The bundle with a first record of the engine: that it runs, what it computes, its layers."""
    try:
        record = measure_built(
            bundle,
            device,
            job,
            [engine],
            runs=PROFILE_RUNS,
            warmup=PROFILE_WARMUP,
            energy=False,
            on_text=on_text,
        )
    except EdgecError as error:
        on_text(f"{engine['engine']} is built, and was not run: {error}\n")
        return _with_checks(bundle, engine, {"ran": {"ok": False, "why": str(error)}})
    path = bundle.path / FOLDER / f"{engine['engine']}.bench.json"
    atomic_write(path, dump_json(record).encode())
    (result,) = record["results"]
    ran = {
        "ok": result["output_check"]["finite"],
        "median_ms": result["latency"]["median_ms"],
        "output_check": result["output_check"],
        "graph_check": result["graph_check"],
    }
    return _with_checks(bundle, engine, {"ran": ran})


def _with_checks(bundle: Bundle, engine: dict[str, Any], checks: dict[str, Any]) -> Bundle:
    """The bundle with more checks of an engine's artifact."""
    path = f"{FOLDER}/{engine['engine']}"
    artifacts = tuple(
        replace(a, checks={**a.checks, **checks}) if a.path == path else a
        for a in bundle.manifest.artifacts
    )
    return _rewritten(bundle, artifacts)


def _with_engine(bundle: Bundle, engine: dict[str, Any], record: dict[str, Any]) -> Bundle:
    """The bundle, its manifest telling of the engine; the recipe stays for other devices."""
    path = f"{FOLDER}/{engine['engine']}"
    artifact = Artifact(
        path=path,
        format="tensorrt",
        precision=engine["name"],
        status="built",
        bytes=record["engine_bytes"],
        sha256=record["engine_sha256"],
        checks={
            "built": {
                key: record[key]
                for key in ("tensorrt", "device", "gpu_sm", "l4t", "power_mode", "build_seconds")
            }
        },
    )
    others = tuple(a for a in bundle.manifest.artifacts if a.path != path)
    return _rewritten(bundle, (*others, artifact))


def _rewritten(bundle: Bundle, artifacts: tuple[Artifact, ...]) -> Bundle:
    """The bundle with `artifacts`, and the hashes of what lies in its folder now."""
    files = dict(bundle.manifest.files)
    for file in sorted((bundle.path / FOLDER).iterdir()):
        if file.is_file():
            files[f"{FOLDER}/{file.name}"] = sha256_file(file)
    manifest = replace(bundle.manifest, artifacts=artifacts, files=files)
    atomic_write(bundle.path / "manifest.json", dump_json(manifest.to_json()).encode())
    return Bundle(bundle.path, manifest)
