"""`edgec build`: the engines of a bundle, made by the device's own TensorRT and brought home.

Only what the recipe names is sent, by hash; the device runs the bundle's own scripts
(``tensorrt/build_engine.py``), so that building by hand and building from here are the same.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgec.export.bundle import Artifact, Bundle
from edgec.export.emit.tensorrt.recipe import SCRIPTS
from edgec.export.errors import InputError, MissingToolError, UsageError
from edgec.export.files import atomic_write, dump_json, sha256_file
from edgec.runtime.transports.failures import explain_failure
from edgec.runtime.transports.machine import Device, job_name

FOLDER = "tensorrt"
SIDE_FILES = (".json", ".layers.json")
"""What stands beside an engine: what it is bound to, and the names of its fused kernels."""


@dataclass(frozen=True)
class Recipe:
    """``tensorrt/recipe.json`` of a bundle.

    Attributes:
        data: its content.
        files: what the device needs of the bundle, by path in it.
    """

    data: dict[str, Any]
    files: dict[str, Path]

    @property
    def names(self) -> tuple[str, ...]:
        """Engines that can be built, the target's default first."""
        return tuple(engine["name"] for engine in self.data["engines"])

    def engine(self, name: str) -> dict[str, Any]:
        """The settings of one engine.

        Raises:
            UsageError: the recipe has no such engine.
        """
        for engine in self.data["engines"]:
            if engine["name"] == name:
                found: dict[str, Any] = engine
                return found
        raise UsageError(
            "EC218",
            f"the bundle's recipe has no engine {name!r}",
            fix="one of: " + ", ".join(self.names),
        )


def read_recipe(bundle: Bundle) -> Recipe:
    """The recipe of a bundle and the files that carrying it out needs, their hashes checked.

    Raises:
        UsageError: the bundle was not exported for TensorRT.
        InputError: files are missing or changed.
    """
    # what earlier builds left there is not part of the recipe
    inputs = (f"{FOLDER}/recipe.json", *(f"{FOLDER}/{name}" for name in SCRIPTS))
    names = [name for name in inputs if name in bundle.manifest.files]
    if f"{FOLDER}/recipe.json" not in names:
        raise UsageError(
            "EC219",
            "the bundle holds no TensorRT recipe",
            where=str(bundle.path),
            fix="export it for a Jetson or GPU target (edgec targets list)",
        )
    names += [n for n in bundle.manifest.files if n.startswith("golden/") and n.endswith("_0.npz")]
    names += [a.path for a in bundle.manifest.artifacts if a.format == "onnx"]
    files = {}
    for name in names:
        path = bundle.path / name
        if not path.is_file() or sha256_file(path) != bundle.manifest.files[name]:
            raise InputError(
                "EC785",
                "a file of the bundle is missing or was changed after the export",
                where=str(path),
                fix="export the bundle again, or copy it anew",
            )
        files[name] = path
    data = json.loads(files[f"{FOLDER}/recipe.json"].read_text("utf-8"))
    return Recipe(data, files)


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

    A link that breaks is opened again; the build goes on meanwhile.

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
    return bundle


def job_of(recipe: Recipe) -> str:
    """Name of the job on the device: the same recipe is the same job."""
    return job_name("tensorrt", dump_json(recipe.data))


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
    files = dict(bundle.manifest.files)
    for file in sorted((bundle.path / FOLDER).iterdir()):
        if file.is_file():
            files[f"{FOLDER}/{file.name}"] = sha256_file(file)
    manifest = replace(bundle.manifest, artifacts=(*others, artifact), files=files)
    atomic_write(bundle.path / "manifest.json", dump_json(manifest.to_json()).encode())
    return Bundle(bundle.path, manifest)
