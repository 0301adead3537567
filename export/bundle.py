"""A bundle: the folder that `edgec export` writes, described by its ``manifest.json``.

The manifest names every artifact with its SHA-256, the inputs it was made from, tool versions,
options with their origin, and what was measured. Everything in a bundle except ``log.txt`` is a
function of inputs, options and versions: the same ones give the same bytes.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

from edgec.export.errors import InputError, UsageError
from edgec.export.files import sha256_file
from edgec.models.preprocess import Preprocess

if TYPE_CHECKING:
    from edgec.runtime.inference import Result

SCHEMA = "edgec.bundle/1"
RUNNABLE = ("onnx", "tflite", "c")
"""Formats of artifacts that can be run on this machine (`edgec.runtime.runners`)."""

Status = Literal["built", "bundle", "skipped"]


@dataclass(frozen=True)
class TensorInfo:
    """A network input or output.

    Attributes:
        name: of the graph's value.
        shape: static.
        dtype: numpy's name.
        stride, channels: of a backbone's stage output (``--features``); None for other tensors.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    stride: int | None = None
    channels: int | None = None

    def to_json(self) -> dict[str, Any]:
        """JSON-ready dict; stride and channels only where there are some."""
        return {key: value for key, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Artifact:
    """One deliverable.

    Attributes:
        path: file or folder inside the bundle, with forward slashes.
        format: ``"onnx"``, ``"tensorrt"``, ``"tflite"`` or ``"c"``.
        precision: ``"fp32"``, ``"fp16"``, ``"int8"`` (``scheme`` says exactly which), or
            ``"dyn8"``: int8 weights, float activations.
        status: ``"built"`` (a finished file), ``"bundle"`` (to be finished on the device) or
            ``"skipped"``, with `why`.
        bytes: size on disk.
        sha256: hash of the file; None for folders and skipped artifacts.
        checks: what was measured on it, e.g. agreement with fp32.
    """

    path: str
    format: str
    precision: str
    status: Status
    scheme: str | None = None
    why: str | None = None
    bytes: int | None = None
    sha256: str | None = None
    checks: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Manifest:
    """Contents of ``manifest.json``; see the attributes of `Artifact` and `TensorInfo`."""

    edgec_version: str
    headline: str
    model: dict[str, Any]
    target: dict[str, Any]
    weights: dict[str, Any]
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    artifacts: tuple[Artifact, ...]
    preprocess: Preprocess | None
    labels: tuple[str, ...] | None
    calibration: dict[str, Any] | None
    options: dict[str, dict[str, Any]]
    tools: dict[str, str]
    files: dict[str, str]
    schema: str = SCHEMA

    def to_json(self) -> dict[str, Any]:
        """JSON-ready dict; `from_json` reads it back."""
        data = asdict(self)
        data["preprocess"] = self.preprocess.to_json() if self.preprocess else None
        data["inputs"] = [tensor.to_json() for tensor in self.inputs]
        data["outputs"] = [tensor.to_json() for tensor in self.outputs]
        return data

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Manifest:
        """Inverse of `to_json`.

        Raises:
            KeyError, TypeError, ValueError: not a manifest of this schema.
        """
        data = dict(data)
        if data.get("schema") != SCHEMA:
            raise ValueError(f"schema is {data.get('schema')!r}, this edgec reads {SCHEMA!r}")
        for key in ("inputs", "outputs"):
            data[key] = tuple(TensorInfo(**{**t, "shape": tuple(t["shape"])}) for t in data[key])
        data["artifacts"] = tuple(Artifact(**a) for a in data["artifacts"])
        if data["preprocess"] is not None:
            data["preprocess"] = Preprocess.from_json(data["preprocess"])
        if data["labels"] is not None:
            data["labels"] = tuple(data["labels"])
        return cls(**data)


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk."""

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: Path) -> Bundle:
        """Read and check the manifest of the bundle at `path`.

        Raises:
            InputError: no bundle there, or a manifest that cannot be used.
        """
        file = path / "manifest.json"
        if not file.is_file():
            raise InputError(
                "EC782",
                "this is not an edgec bundle",
                where=str(path),
                why="it holds no manifest.json",
                fix="give the folder that `edgec export` wrote",
            )
        try:
            manifest = Manifest.from_json(json.loads(file.read_text("utf-8")))
            for name in [a.path for a in manifest.artifacts] + list(manifest.files):
                pure = PurePosixPath(name)
                if pure.is_absolute() or ".." in pure.parts:
                    raise ValueError(f"{name!r} points outside the bundle")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                "EC783",
                "the bundle's manifest cannot be used",
                where=str(file),
                why=f"{type(error).__name__}: {error}",
                fix="export the bundle again with this version of edgec",
            ) from error
        return cls(path, manifest)

    def artifact(self, name: str | None = None) -> Artifact:
        """An artifact that can be run here.

        Args:
            name: its path, file name or precision (``"int8"``, of several formats the ONNX one);
                by default the master: fp32, or int8 of a network that came quantized.

        Raises:
            UsageError: there is no such artifact.
        """
        runnable = [  # the master is the first
            a for a in self.manifest.artifacts if a.format in RUNNABLE and a.status == "built"
        ]
        for artifact in runnable:
            stem = PurePosixPath(artifact.path).name
            if name in (None, artifact.path, stem, artifact.precision):
                return artifact
        raise UsageError(
            "EC205",
            f"the bundle has no artifact {name!r} that can be run",
            where=str(self.path),
            fix="one of: " + ", ".join(a.path for a in runnable),
        )

    def file(self, artifact: Artifact) -> Path:
        """Path of an artifact, after its hash was compared with the manifest's.

        The C artifact is a folder, whose files are compared.

        Raises:
            InputError: missing, or changed since it was written.
        """
        path = self.path / artifact.path
        if artifact.format == "c":
            for name, sha256 in self.manifest.files.items():
                if name.startswith(f"{artifact.path}/"):
                    self.file(replace(artifact, path=name, format="file", sha256=sha256))
            return path
        if not path.is_file():
            raise InputError(
                "EC784",
                "an artifact of the bundle is missing",
                where=str(path),
                fix="export the bundle again",
            )
        if artifact.sha256 is not None and sha256_file(path) != artifact.sha256:
            raise InputError(
                "EC785",
                "an artifact was changed after it was exported",
                where=str(path),
                why="its SHA-256 differs from the manifest's",
                fix="export the bundle again, or copy it anew",
            )
        return path

    def run(self, data: Any, *, artifact: str | None = None, top: int = 5) -> list[Result]:
        """Run `data` through an artifact: ONNX Runtime, or LiteRT for .tflite.

        Args:
            data: an image path, a folder of images, a .npy/.npz path, an array of the input's
                shape, or a dict of arrays by input name.
            artifact: which one (see `artifact`); by default the fp32 master.
            top: how many classes to name per image, where the network is a classifier.

        Returns:
            One `edgec.runtime.inference.Result` per input item.
        """
        from edgec.runtime.inference import run_bundle

        return run_bundle(self, data, artifact=artifact, top=top)
