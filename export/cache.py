"""Content-addressed cache of expensive stages (captured graphs, downloaded weights).

A key is the SHA-256 over the stage's name, edgec's own sources, the versions of what does the work
and everything the stage reads; so an entry never has to be invalidated, only dropped for space.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from functools import cache
from importlib import metadata, resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgec.export.files import atomic_write

if TYPE_CHECKING:
    import onnx_ir as ir


def cache_root() -> Path:
    """``EDGEC_CACHE_DIR``, or the operating system's cache folder for edgec."""
    import platformdirs

    return Path(os.environ.get("EDGEC_CACHE_DIR") or platformdirs.user_cache_dir("edgec"))


class StageCache:
    """Entries under ``ROOT/stages``; a broken or unreadable entry counts as absent."""

    def __init__(self, *, enabled: bool = True, root: Path | None = None) -> None:
        self.enabled = enabled
        self.root = (root or cache_root()) / "stages"

    @staticmethod
    def key(stage: str, **inputs: Any) -> str:
        """The key of a stage's result for JSON-ready `inputs`."""
        seed = {"stage": stage, "sources": _source_hash(), "tools": _tools(), "inputs": inputs}
        text = json.dumps(seed, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()

    def load_graph(self, key: str) -> ir.Model | None:
        """The stored graph, or None."""
        path = self.root / f"{key}.onnx"
        if not self.enabled or not path.is_file():
            return None
        import onnx
        import onnx_ir as ir

        try:
            data = path.read_bytes()
            digest, _, body = data.partition(b"\n")
            if hashlib.sha256(body).hexdigest().encode() != digest:
                return None
            return ir.from_proto(onnx.load_model_from_string(body))
        except OSError:
            return None

    def store_graph(self, key: str, graph: ir.Model) -> None:
        """Keep `graph`; graphs over protobuf's 2 GB are not kept."""
        if not self.enabled:
            return
        import onnx_ir as ir

        size = sum(v.const_value.nbytes for v in graph.graph.initializers.values() if v.const_value)
        if size > 1 << 30:
            return
        body = ir.to_proto(graph).SerializeToString(deterministic=True)
        digest = hashlib.sha256(body).hexdigest().encode()
        atomic_write(self.root / f"{key}.onnx", digest + b"\n" + body)

    def load_json(self, key: str) -> Any:
        """The stored JSON value, or None."""
        if not self.enabled:
            return None
        try:
            return json.loads((self.root / f"{key}.json").read_text("utf-8"))
        except (OSError, ValueError):
            return None

    def store_json(self, key: str, value: Any) -> None:
        """Keep a JSON-ready value."""
        if self.enabled:
            atomic_write(self.root / f"{key}.json", json.dumps(value).encode())


def info() -> dict[str, Any]:
    """Where the cache is, and how many files and bytes each part of it holds."""
    root = cache_root()
    parts = {}
    for part in ("stages", "weights"):
        files = [p for p in (root / part).rglob("*") if p.is_file()]
        parts[part] = {"files": len(files), "bytes": sum(p.stat().st_size for p in files)}
    return {"path": str(root), "parts": parts}


def clear(part: str | None = None) -> dict[str, Any]:
    """Delete the cache, or one part of it; returns what `info` said before."""
    before = info()
    for name in before["parts"]:
        if part in (None, name):
            shutil.rmtree(cache_root() / name, ignore_errors=True)
    return before


@cache
def _source_hash() -> str:
    digest = hashlib.sha256()
    for package in ("edgec.export", "edgec.models"):
        stack = [resources.files(package)]
        files = []
        while stack:
            for entry in stack.pop().iterdir():
                if entry.is_dir():
                    stack.append(entry)
                elif entry.name.endswith(".py"):
                    files.append(entry)
        for file in sorted(files, key=str):
            digest.update(file.read_bytes())
    return digest.hexdigest()


@cache
def _tools() -> dict[str, str]:
    return {name: metadata.version(name) for name in ("torch", "onnx", "onnxscript", "onnx-ir")}
