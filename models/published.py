"""Where published weights lie on this machine; reads no weights and needs no torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from edgec.models.download import cached
from edgec.models.registry import Checkpoint

SHIPPED = "edgec:"
"""Scheme of the addresses of checkpoints that come with edgec (``models/checkpoints/``)."""


@dataclass(frozen=True)
class Location:
    """Whether a checkpoint is here.

    Attributes:
        status: ``"shipped"`` with edgec, ``"cached"`` after a download, or ``"not downloaded"``.
        path: of the file; None where it is not here.
        sha256: what its publisher states, else what a downloaded file had; None if neither.
    """

    status: Literal["shipped", "cached", "not downloaded"]
    path: str | None
    sha256: str | None

    def to_json(self) -> dict[str, Any]:
        """All fields, JSON-ready."""
        return asdict(self)


def locate(checkpoint: Checkpoint) -> Location:
    """Look for the file of a checkpoint; the network is not asked, and nothing is hashed."""
    if checkpoint.url.startswith(SHIPPED):
        path = shipped_checkpoint(checkpoint.url)
        return Location("shipped", str(path), checkpoint.sha256)
    found = cached(checkpoint.url)
    if found is None:
        return Location("not downloaded", None, checkpoint.sha256)
    return Location("cached", str(found.path), checkpoint.sha256 or found.sha256)


def shipped_checkpoint(url: str) -> Path:
    """Path of a checkpoint that is part of this package, from ``edgec:NAME.safetensors``."""
    folder = resources.files("edgec.models").joinpath("checkpoints")
    return Path(str(folder.joinpath(url.removeprefix(SHIPPED))))
