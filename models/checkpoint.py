"""Reads weight files without running code from them.

`read_state` takes PyTorch files (zip and legacy), safetensors and .npz, told apart by content,
and returns one flat state dict. Pickles are read by torch's restricted unpickler: a file that
asks for any global outside its allow-list is refused by the name of that global.
"""

from __future__ import annotations

import argparse
import pickle
import pickletools
import re
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from edgec.export.errors import InputError

# Where training scripts keep weights inside a checkpoint, when a family does not say it itself.
# Averaged weights come first: scripts that keep them report their accuracy.
USUAL_KEYS = (
    "model_ema",
    "state_dict_ema",
    "ema_state_dict",
    "net_E",
    "net",
    "model",
    "state_dict",
    "model_state_dict",
)
# What data parallelism and torch.compile put in front of every key.
WRAPPER_PREFIXES = ("module.", "_orig_mod.")

_numpy_scalar = np.float64(0).__reduce__()[0]
# Containers of plain values that real training checkpoints hold beside the weights (command line
# arguments, metrics); none of them can call anything.
_SAFE_GLOBALS: list[Any] = [
    argparse.Namespace,
    np.dtype,
    (_numpy_scalar, "numpy._core.multiarray.scalar"),
    (_numpy_scalar, "numpy.core.multiarray.scalar"),  # as numpy 1 wrote it
    np.dtypes.Float64DType,
    np.dtypes.Float32DType,
    np.dtypes.Int64DType,
]


@dataclass(frozen=True)
class State:
    """A flat state dict and how it was found.

    Attributes:
        tensors: key to tensor, on the CPU.
        notes: what had to be chosen or undone on the way, for the user to read.
    """

    tensors: dict[str, Tensor]
    notes: tuple[str, ...] = ()


def read_state(path: Path, weight_keys: Sequence[str] = ()) -> State:
    """Read the weights in a file.

    Args:
        path: a file written by ``torch.save``, safetensors or ``numpy.savez``.
        weight_keys: entries of a training checkpoint to prefer, best first.

    Raises:
        InputError: the file cannot be read (EC720), is damaged or of another kind (EC721),
            asks for anything but tensors and plain containers (EC722) or holds no weights (EC725).
    """
    kind = _kind(path)
    try:
        if kind == "safetensors":
            content: Any = load_file(path)
        elif kind == "npz":
            with np.load(path, allow_pickle=False) as arrays:
                content = {key: torch.from_numpy(arrays[key]) for key in arrays.files}
        else:
            content = _load_pickle(path)
    except InputError:
        raise
    except SafetensorError as error:
        raise _damaged(path, f"not a whole safetensors file: {error}") from error
    except Exception as error:  # a damaged file makes the parsers fail in any way
        raise _damaged(path, _reason(error)) from error
    tensors, notes = _unwrap(content, path, [*weight_keys, *USUAL_KEYS])
    return State(*_strip_prefixes(tensors, notes))


def _kind(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            head = stream.read(512)
    except OSError as error:
        raise InputError(
            "EC720",
            "cannot read the weights file",
            where=str(path),
            why=error.strerror,
            fix="give the path of an existing .pth, .pt, .safetensors or .npz file",
        ) from error
    if not head:
        raise _damaged(path, "the file is empty")
    if head.startswith(b"PK"):
        try:
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
        except Exception as error:  # damage makes zipfile fail in many ways
            raise _damaged(path, f"the archive is cut off or damaged ({error})") from error
        if any(name.endswith("/data.pkl") or name == "data.pkl" for name in names):
            return "torch"
        if names and all(name.endswith(".npy") for name in names):
            return "npz"
        raise _damaged(path, "a zip archive, but neither a PyTorch file nor an .npz")
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**32:
        return "safetensors"
    if head[:1] == b"\x80":
        return "torch"
    text = head.lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html")):
        raise _damaged(
            path,
            "it is a web page",
            fix="use the link to the file itself (on GitHub the one with /raw/ instead of /blob/)",
        )
    if text.startswith(b"version https://git-lfs"):
        raise _damaged(path, "it is a Git LFS pointer", fix="run `git lfs pull` in that repository")
    raise _damaged(path, "it is neither a PyTorch, a safetensors nor an .npz file")


def _load_pickle(path: Path) -> Any:
    try:
        with torch.serialization.safe_globals(_SAFE_GLOBALS), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TypedStorage deprecation of files from torch 1
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        match = re.search(r"GLOBAL ([\w.]+)", str(error))
        wanted = match[1] if match else _first_foreign_global(path)
        if wanted is None:
            raise
        raise InputError(
            "EC722",
            f"the weights file asks for {wanted!r} and was refused",
            where=str(path),
            why="pickles can run any program; edgec reads tensors and plain containers only",
            fix="if you trust the file, load it yourself and save model.state_dict() again, "
            "best as .safetensors",
        ) from error


def _first_foreign_global(path: Path) -> str | None:
    """The first name that a bare pickle imports from outside torch, numpy and collections.

    Only for files that torch's unpickler gives up on before it meets a name.
    """
    if zipfile.is_zipfile(path):
        return None
    strings: list[str] = []
    try:
        for opcode, argument, _ in pickletools.genops(path.read_bytes()):
            if isinstance(argument, str):
                strings.append(argument)
            name = None
            if opcode.name == "GLOBAL":
                name = str(argument).replace(" ", ".")
            elif opcode.name == "STACK_GLOBAL" and len(strings) >= 2:
                name = ".".join(strings[-2:])
            if name and name.split(".")[0] not in ("torch", "numpy", "collections"):
                return name
    except (ValueError, IndexError, UnicodeDecodeError):
        return None  # not a pickle to its end; the caller reports the first error
    return None


def _unwrap(
    content: Any, path: Path, keys: Sequence[str], depth: int = 3
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    if isinstance(content, Mapping):
        if content and all(isinstance(value, Tensor) for value in content.values()):
            return {str(key): _plain(value) for key, value in content.items()}, ()
        found = [key for key in dict.fromkeys(keys) if isinstance(content.get(key), Mapping)]
        if found and depth:
            tensors, notes = _unwrap(content[found[0]], path, keys, depth - 1)
            note = f"weights of the entry {found[0]!r}"
            if found[1:]:
                note += f"; the file also holds {', '.join(map(repr, found[1:]))}"
            return tensors, (note, *notes)
    if isinstance(content, Mapping):
        others = [repr(k) for k, v in content.items() if not isinstance(v, Tensor)]
        why = f"entries that are not tensors: {', '.join(others[:5])}" if others else "it is empty"
    else:
        why = f"it holds a {type(content).__name__}"
    raise InputError(
        "EC725",
        "no state dict in the weights file",
        where=str(path),
        why=why,
        fix="save model.state_dict(), alone or under one of: " + ", ".join(dict.fromkeys(keys)),
    )


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().to_dense() if tensor.layout != torch.strided else tensor.detach()


def _strip_prefixes(
    tensors: dict[str, Tensor], notes: tuple[str, ...]
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    for prefix in (*WRAPPER_PREFIXES, *WRAPPER_PREFIXES):
        if all(key.startswith(prefix) for key in tensors):
            tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
            notes = (*notes, f"prefix {prefix!r} removed")
    return tensors, notes


def _damaged(path: Path, why: str, fix: str | None = None) -> InputError:
    return InputError(
        "EC721",
        "the weights file is damaged or of an unknown kind",
        where=str(path),
        why=why,
        fix=fix or "get the file again, and compare its hash with the publisher's",
    )


def _reason(error: Exception) -> str:
    text = str(error)
    if isinstance(error, pickle.UnpicklingError):
        # torch's message goes on to recommend weights_only=False: not here
        detail = re.search(r"WeightsUnpickler error:\s*([^\n]*)", text)
        text = detail[1] if detail and detail[1] else "not a valid pickle"
    lines = text.strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
