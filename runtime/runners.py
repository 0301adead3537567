"""Which program runs which artifact: one entry per format that can be executed here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from edgec.export.bundle import RUNNABLE, Artifact, Bundle
from edgec.runtime.feeds import Tensor
from edgec.runtime.host.runner import CArtifactRunner, compiler_installed
from edgec.runtime.onnx_runner import OnnxRunner, made_for_elsewhere
from edgec.runtime.tflite_artifact import TfliteArtifactRunner, litert_installed


class Runner(Protocol):
    """Inference with the interface of the ONNX master."""

    @property
    def inputs(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Static shape and numpy dtype name by input name."""

    @property
    def outputs(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Static shape and numpy dtype name by output name."""

    def run(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """One inference."""


def _onnx(path: Path, artifact: Artifact, threads: int, emulate: bool) -> Runner:
    foreign = emulate and made_for_elsewhere(artifact.scheme)
    return OnnxRunner(path, threads=threads, emulate=foreign)


def _tflite(path: Path, artifact: Artifact, threads: int, emulate: bool) -> Runner:
    return TfliteArtifactRunner(path, threads=threads)


def _c(path: Path, artifact: Artifact, threads: int, emulate: bool) -> Runner:
    return CArtifactRunner(path, artifact.checks)


RUNNERS: Mapping[str, Callable[[Path, Artifact, int, bool], Runner]] = {
    "onnx": _onnx,
    "tflite": _tflite,
    "c": _c,
}
"""Format → runner of (file, artifact, threads, emulate integers made for other hardware)."""

assert set(RUNNERS) == set(RUNNABLE)


def open_runner(
    bundle: Bundle, artifact: Artifact, *, threads: int = 1, emulate: bool = True
) -> Runner:
    """A runner for an artifact of `bundle`, whose hash is checked first.

    Args:
        threads: threads inside an operator.
        emulate: run int8 ONNX graphs made for other hardware in emulation; False to time them.

    Raises:
        InputError: the file is missing or was changed.
        MissingToolError: the program that runs the format is not installed.
        UnsupportedError: it cannot load the file.
    """
    return RUNNERS[artifact.format](bundle.file(artifact), artifact, threads, emulate)


def runnable_here(bundle: Bundle) -> list[Artifact]:
    """Artifacts that this machine can run: .tflite files only where LiteRT is installed, C only
    where a compiler is."""
    return [
        artifact
        for artifact in bundle.manifest.artifacts
        if artifact.status == "built"
        and artifact.format in RUNNERS
        and (artifact.format != "tflite" or litert_installed())
        and (artifact.format != "c" or compiler_installed())
    ]
