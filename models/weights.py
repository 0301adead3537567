"""`--weights`: from what the user names to a network with these weights."""

from __future__ import annotations

import hashlib
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from torch import nn

from edgec.export.errors import InputError
from edgec.models.checkpoint import read_state
from edgec.models.download import Progress, download, forget
from edgec.models.matching import load_strict
from edgec.models.published import SHIPPED, shipped_checkpoint
from edgec.models.random_init import randomize
from edgec.models.registry import ModelSpec


@dataclass(frozen=True)
class WeightsInfo:
    """Where the weights of a network come from.

    Attributes:
        source: path, URL or ``"random"``; for published weights their URL.
        kind: ``"file"``, ``"url"``, ``"pretrained"`` or ``"random"``.
        sha256: hash of the file; None for random weights.
        tag: which of the published weights; None otherwise.
        verified: whether the file was compared with a hash that its publisher states.
        note: what was chosen or converted while reading.
    """

    source: str
    kind: Literal["file", "url", "pretrained", "random"]
    sha256: str | None = None
    tag: str | None = None
    verified: bool = False
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """All fields, JSON-ready."""
        return asdict(self)


def load_weights(
    network: nn.Module,
    spec: ModelSpec,
    source: str,
    *,
    seed: int = 0,
    cache_dir: Path | None = None,
    progress: Progress | None = None,
) -> WeightsInfo:
    """Fill a zoo network with weights, in place and strictly.

    Args:
        network: as `edgec.models.create_model` built it for `spec`.
        spec: its registry entry.
        source: path of a .pth, .pt, .safetensors or .npz file; http(s) URL of one;
            ``"pretrained"`` or ``"pretrained:TAG"`` for published weights; ``"random"`` for
            untrained parameters, see `edgec.models.random_init`.
        seed: of random weights.
        cache_dir: see `edgec.models.download.cache_folder`.
        progress: called during a download, see `edgec.models.download.Progress`.

    Raises:
        UsageError: unknown tag, no published weights, address that is neither http nor https.
        MissingToolError: the download fails.
        InputError: the file cannot be read, is damaged, hostile, not finite or does not fit.
    """
    if source == "random":
        return _random(network, seed)
    tag, verified = None, False
    kind: Literal["file", "url", "pretrained"] = "file"
    path = Path(source)
    if source == "pretrained" or source.startswith("pretrained:"):
        kind = "pretrained"
        checkpoint = spec.checkpoint(source.partition(":")[2] or None)
        source, tag = checkpoint.url, checkpoint.tag
        if source.startswith(SHIPPED):
            path, verified = shipped_checkpoint(source), True
        else:
            fetched = download(
                source,
                cache_dir=cache_dir,
                sha256=checkpoint.sha256,
                git_blob=checkpoint.git_blob,
                progress=progress,
            )
            path, verified = fetched.path, fetched.verified
    elif re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", source):
        kind = "url"
        path = download(source, cache_dir=cache_dir, progress=progress).path
    try:
        state = read_state(path, spec.weight_keys)
    except InputError:
        if kind != "file" and not verified:
            forget(path)  # perhaps cut off by a server that states no length: do not keep it
        raise
    notes = load_strict(network, spec, state.tensors, where=source)
    with path.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    return WeightsInfo(source, kind, sha256, tag, verified, "; ".join((*state.notes, *notes)))


def _random(network: nn.Module, seed: int) -> WeightsInfo:
    randomize(network, seed)
    return WeightsInfo("random", "random", note=f"untrained: scaled normal draws, seed {seed}")
