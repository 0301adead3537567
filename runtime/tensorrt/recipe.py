"""``tensorrt/recipe.json`` of a bundle, and what the device needs to carry it out."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgec.export.bundle import Bundle
from edgec.export.emit.tensorrt.recipe import SCRIPTS
from edgec.export.errors import InputError, UsageError
from edgec.export.files import dump_json, sha256_file
from edgec.runtime.transports.machine import job_name

FOLDER = "tensorrt"


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


def job_of(recipe: Recipe) -> str:
    """Name of the job on the device: the same recipe is the same job."""
    return job_name("tensorrt", dump_json(recipe.data))
