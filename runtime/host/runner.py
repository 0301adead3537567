"""Compiles the C artifact of a bundle for this machine and runs it in this process.

It takes and gives what the ONNX master does: NCHW, float32. Integers and NHWC stay inside.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from edgec.export.errors import MissingToolError, UnsupportedError
from edgec.runtime.feeds import Tensor, ready

COMPILER = "cc"
FLAGS = ("-std=c99", "-O2", "-shared", "-fPIC", "-DEDGEC_PROFILE")


def compiler_installed() -> bool:
    """Whether C artifacts can be run here."""
    return shutil.which(COMPILER) is not None


class CArtifactRunner:
    """The network of a ``c/`` folder in an arena of its own.

    Args:
        folder: the artifact.
        facts: its checks in the manifest: prefix, arena_bytes, steps, ports.

    Raises:
        MissingToolError: EC652, no C compiler.
        UnsupportedError: EC331, the sources do not compile.
    """

    def __init__(self, folder: Path, facts: Mapping[str, Any]) -> None:
        self._library = _compiled(folder)
        prefix = facts["prefix"]
        self._run = self._library[f"{prefix}_run"]
        self._run.argtypes, self._run.restype = [ctypes.c_void_p], None
        self._arenas = _Arenas(facts)
        self._steps = np.zeros(facts["steps"], np.int64)
        self._in = {p["name"]: self._port(prefix, "input", p) for p in facts["ports"]["inputs"]}
        self._out = {p["name"]: self._port(prefix, "output", p) for p in facts["ports"]["outputs"]}

    @property
    def inputs(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Static shape and numpy dtype name by input name, as of the ONNX master."""
        return {name: (_master(port.shape), "float32") for name, port in self._in.items()}

    @property
    def outputs(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Static shape and numpy dtype name by output name, as of the ONNX master."""
        return {name: (_master(port.shape), "float32") for name, port in self._out.items()}

    def run(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """One inference on arrays of the ONNX master's shapes.

        Raises:
            InputError: names, shapes or kinds of number do not match the inputs.
        """
        for name, array in ready(feeds, self.inputs).items():
            self._in[name].write(array.transpose(0, 2, 3, 1) if array.ndim == 4 else array)
        self._run(self._arenas.handle)
        found = {name: port.read() for name, port in self._out.items()}
        return {n: a.transpose(0, 3, 1, 2) if a.ndim == 4 else a for n, a in found.items()}

    def step_ms(self, feeds: Mapping[str, Tensor], runs: int) -> list[float]:
        """Mean milliseconds of each step over `runs` inferences."""
        times = ctypes.c_void_p.in_dll(self._library, "edgec_step_times")
        self._steps[:] = 0
        times.value = self._steps.ctypes.data
        try:
            for _ in range(runs):
                self.run(feeds)
        finally:
            times.value = None
        return [float(ns) / runs / 1e6 for ns in self._steps]

    def _port(self, prefix: str, side: str, port: Mapping[str, Any]) -> _Port:
        accessor = self._library[f"{prefix}_{side}_{port['identifier']}"]
        accessor.argtypes, accessor.restype = [ctypes.c_void_p], ctypes.c_void_p
        size = int(np.prod(port["shape"])) * np.dtype(port["dtype"]).itemsize
        elements = self._arenas.at(accessor(self._arenas.handle), size).view(port["dtype"])
        return _Port(elements, tuple(port["shape"]), port.get("scale"), port.get("zero_point", 0))


class _Arenas:
    """Working memory: one arena, or one for each memory of the device.

    Attributes:
        handle: what the network's functions take: the arena, or the pointers to all of them.
    """

    def __init__(self, facts: Mapping[str, Any]) -> None:
        several = facts.get("arenas")
        sizes = [arena["bytes"] for arena in several] if several else [facts["arena_bytes"]]
        self._memories = [np.zeros(size // 8 + 1, np.int64) for size in sizes]
        addresses = [memory.ctypes.data for memory in self._memories]
        self._pointers = (ctypes.c_void_p * len(addresses))(*addresses)
        self.handle = ctypes.addressof(self._pointers) if several else addresses[0]

    def at(self, address: int, size: int) -> Tensor:
        """The bytes at an address."""
        for memory in self._memories:
            offset = address - memory.ctypes.data
            if 0 <= offset < memory.nbytes:
                return memory.view(np.uint8)[offset : offset + size]
        raise ValueError(f"{address:#x} is in no arena")


class _Port:
    """Elements of an input or output in the arena; `scale` is None for floats."""

    def __init__(
        self, elements: Tensor, shape: tuple[int, ...], scale: float | None, zero: int
    ) -> None:
        self.elements, self.shape, self.scale, self.zero = elements, shape, scale, zero

    def write(self, array: Tensor) -> None:
        if self.scale is not None:
            limits = np.iinfo(self.elements.dtype)
            steps = np.rint(array / np.float32(self.scale)) + self.zero
            array = np.clip(steps, limits.min, limits.max)
        self.elements[:] = array.reshape(-1)

    def read(self) -> Tensor:
        values = self.elements.astype(np.float32).reshape(self.shape)
        if self.scale is None:
            return values
        real: Tensor = (values - np.float32(self.zero)) * np.float32(self.scale)
        return real


def _master(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (shape[0], shape[3], shape[1], shape[2]) if len(shape) == 4 else shape


def _compiled(folder: Path) -> ctypes.CDLL:
    if not compiler_installed():
        raise MissingToolError(
            "EC652",
            "no C compiler is installed",
            why=f"C artifacts are compiled with {COMPILER} before they run here",
            fix="apt-get install gcc libc6-dev, or measure another artifact",
        )
    hook = resources.files("edgec.runtime.host").joinpath("profile.c")
    with tempfile.TemporaryDirectory(prefix="edgec-host-") as temporary:
        library = Path(temporary) / "network.so"
        sources = [p for p in sorted(folder.glob("*.c")) if p.name != "main.c"]
        sources += sorted(folder.glob("kernels/*.c"))
        with resources.as_file(hook) as profile:
            argv = [COMPILER, *FLAGS, f"-I{folder}", str(profile), *map(str, sources)]
            built = subprocess.run(
                [*argv, "-lm", "-o", str(library)], capture_output=True, text=True, check=False
            )
        if built.returncode:
            last = [line for line in built.stderr.splitlines() if "error" in line]
            raise UnsupportedError(
                "EC331",
                "the C sources do not compile for this machine",
                why=(last or [built.stderr[-300:]])[0],
            )
        # once it is loaded, the file is not needed any more
        return ctypes.CDLL(str(library))
