"""The C form of the search: compiled on first use with the system's compiler, kept in the cache.

The library's file name is a hash of source, compiler and flags; it is written to a temporary file
and renamed, so that two processes may do it at once. Without a compiler, or with
``EDGEC_NO_COMPILER=1``, there is no core and `search.py` does the work.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from array import array
from functools import cache
from importlib import resources
from pathlib import Path

from edgec.export.cache import cache_root
from edgec.profiles.memory.allocate.orders import Strategy
from edgec.profiles.memory.allocate.outcome import Outcome
from edgec.profiles.memory.problem import Problem

FLAGS = ("-O3", "-std=c11", "-shared", "-fPIC")
COMPILERS = ("cc", "gcc", "clang")
_INFEASIBLE, _FOUND = 0, 1


class StopFlag:
    """A number that a running search looks at; setting it ends the search soon."""

    def __init__(self) -> None:
        self.value = ctypes.c_int32(0)

    def set(self) -> None:
        self.value.value = 1

    def is_set(self) -> bool:
        return bool(self.value.value)


def available() -> bool:
    """Whether the C core can be used here."""
    return _library() is not None


def search(
    problem: Problem,
    capacity: int,
    strategies: list[Strategy],
    *,
    seconds: float,
    stop: StopFlag | None = None,
) -> Outcome:
    """What `edgec.profiles.memory.allocate.search.search` does, in C; the GIL is released.

    Raises:
        RuntimeError: there is no core; ask `available` first.
        MemoryError: the search ran out of memory.
    """
    library = _library()
    if library is None:
        raise RuntimeError("the C core is not available")
    count = len(problem.items)
    spans = problem.sections.spans
    pairs = [v for p in problem.pairs for v in (p.first, p.second, p.over, p.under)]
    shares = [v for h in problem.shares for v in (h.section, h.below, h.above, h.shared, h.cap)]
    offsets = array("q", bytes(8 * count))
    nodes = ctypes.c_int64()
    status = library.edgec_memory_search(
        ctypes.c_int32(count),
        ctypes.c_int32(problem.sections.count),
        ctypes.c_int64(capacity),
        _pointer(array("i", [s[0] for s in spans])),
        _pointer(array("i", [s[1] for s in spans])),
        _pointer(array("q", [i.size for i in problem.items])),
        _pointer(array("q", [i.alignment for i in problem.items])),
        ctypes.c_int64(len(problem.pairs)),
        _pointer(array("q", pairs)),
        ctypes.c_int64(len(problem.shares)),
        _pointer(array("q", shares)),
        ctypes.c_int32(len(strategies)),
        _pointer(array("i", [i for s in strategies for i in s.order])),
        _pointer(array("B", [s.by_crowd for s in strategies])),
        _pointer(array("q", [s.limit for s in strategies])),
        ctypes.c_double(seconds),
        ctypes.byref(stop.value) if stop else None,
        _pointer(offsets),
        ctypes.byref(nodes),
    )
    if status == _FOUND:
        return Outcome("found", list(offsets), nodes.value)
    if status == _INFEASIBLE:
        return Outcome("infeasible", None, nodes.value)
    if status == 2:
        return Outcome("limit", None, nodes.value)
    raise MemoryError("the search for offsets ran out of memory")


def _pointer(values: array[int]) -> ctypes.Array[ctypes.c_char]:
    # an empty array has no address to take
    buffer = values if len(values) else array(values.typecode, [0])
    return (ctypes.c_char * (len(buffer) * buffer.itemsize)).from_buffer(buffer)


@cache
def _library() -> ctypes.CDLL | None:
    if os.environ.get("EDGEC_NO_COMPILER"):
        return None
    compiler = _compiler()
    if compiler is None:
        return None
    source = resources.files(__package__).joinpath("core.c").read_bytes()
    seed = "\0".join((compiler, *FLAGS, platform.machine(), platform.system())).encode()
    name = hashlib.sha256(seed + b"\0" + source).hexdigest()[:32]
    folder = cache_root() / "native"
    path = folder / f"memory-{name}.so"
    try:
        if not path.is_file():
            _compile(compiler, source, path)
        return ctypes.CDLL(str(path))
    except (OSError, subprocess.SubprocessError):
        # no place to write, a broken compiler: the Python search gives the same answers
        return None


def _compiler() -> str | None:
    named = os.environ.get("CC", "")
    for name in (named, *COMPILERS):
        found = shutil.which(name) if name else None
        if found:
            return found
    return None


def _compile(compiler: str, source: bytes, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        code, library = Path(folder, "core.c"), Path(folder, "core.so")
        code.write_bytes(source)
        subprocess.run(
            [compiler, *FLAGS, "-o", str(library), str(code)],
            check=True,
            capture_output=True,
            timeout=120,
        )
        library.replace(path)
