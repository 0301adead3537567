"""litert-torch beside edgec, where EDGEC_LITERT_TORCH names a Python that has it: see tflite.py."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from _installed import installed
from numpy.typing import NDArray

from edgec.export.tflite.decode import decode
from edgec.runtime.litert_runner import LiteRTRunner, dequantized
from edgec.runtime.tflite_artifact import as_integers

PEER = "litert-torch"
PEER_VARIABLE = "EDGEC_LITERT_TORCH"
PEER_VARIANTS = ("fp32", "fp16", "dyn8", "int8")
Feed = dict[str, NDArray[np.float32]]


class PeerRunner:
    """A file of another tool, whose inputs and outputs have the network's own layout."""

    def __init__(self, content: bytes, *, threads: int = 1, kernels: Any = "xnnpack") -> None:
        self.runner = LiteRTRunner(content, threads=threads, kernels=kernels)

    @property
    def partitions(self) -> int:
        """Parts of the graph that the delegate took over."""
        return len(self.runner.partitions())

    def run(self, feeds: Feed) -> dict[str, NDArray[Any]]:
        """One inference; inputs and outputs by position, floats."""
        main = self.runner.model.main
        grids = [main.tensors[index] for index in main.inputs]
        arrays = [as_integers(v, g) for v, g in zip(feeds.values(), grids, strict=True)]
        found = self.runner.run(dict(zip(self.runner.inputs, arrays, strict=True)))
        ends = [main.tensors[index] for index in main.outputs]
        return {n: dequantized(v, t) for (n, v), t in zip(found.items(), ends, strict=True)}


def peer_rows(name: str, samples: Sequence[Feed]) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
    """What litert-torch makes of a network of the zoo: rows, and files by variant.

    Args:
        samples: to calibrate int8 on.
    """
    python = os.environ.get(PEER_VARIABLE)
    if not python:
        return [], {}
    rows: list[dict[str, Any]] = []
    contents: dict[str, bytes] = {}
    script = str(Path(__file__).with_name("_peer_litert_torch.py"))
    with tempfile.TemporaryDirectory() as folder:
        feeds, target = Path(folder) / "feeds.npz", Path(folder) / "out.tflite"
        np.savez(feeds, x=np.stack([next(iter(feed.values()))[0] for feed in samples]))
        for precision in PEER_VARIANTS:
            variant = f"{precision} {PEER}"
            found = answer([python, script, name, precision, str(target), str(feeds)])
            if "error" not in found:
                contents[variant] = target.read_bytes()
                codes = Counter(op.code for op in decode(contents[variant]).main.operators)
                found |= counts(codes)
            rows.append({"model": name, "variant": variant, **found})
    return rows, contents


def answer(command: list[str]) -> dict[str, Any]:
    """The JSON of the last line that a command prints, or its last words."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"error": done.stderr.strip().splitlines()[-1]}
    return dict(json.loads(done.stdout.splitlines()[-1]))


def counts(codes: Mapping[str, int]) -> dict[str, int]:
    return {
        "operators": sum(codes.values()),
        "transposes": codes.get("TRANSPOSE", 0),
        "reshapes": codes.get("RESHAPE", 0),
        "conversions": codes.get("QUANTIZE", 0) + codes.get("DEQUANTIZE", 0),
    }


def installed_mb() -> dict[str, int]:
    """MB of what edgec with its extra `tflite` needs beyond torch, and of litert-torch."""
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())
    project = project["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["tflite"]]
    found = {"edgec[tflite]": installed(w for w in wanted if not w.startswith("torch>")) // 10**6}
    if python := os.environ.get(PEER_VARIABLE):
        command = [python, str(Path(__file__).with_name("_installed.py")), PEER]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found[PEER] = int(done.stdout) // 10**6
    return found


def known_mb(path: Path) -> dict[str, int]:
    """What a file of results says of the other tool, where that is not installed now."""
    if os.environ.get(PEER_VARIABLE) or not path.exists():
        return {}
    known = json.loads(path.read_text())["facts"].get("installed MB beyond torch", {})
    return {PEER: known[PEER]} if PEER in known else {}
