"""The other end of litert_profile: LiteRT's C interface with its profiler, in a process of its own.

The Python package has no profiler, but its library (``libLiteRt.so``) exports the C interface that
has one (litert/c/litert_profiler.h of google-ai-edge/LiteRT). Declarations are those of 2.1 to 2.3.
Where another version has others, this process ends, and not the one that asked.

Arguments: library, model, inputs (.npz: ``0``, ``1``, … as the file holds them), number of outputs,
runs, threads, kernels. Prints JSON: for each run a list of [tag, type, microseconds, number].
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from typing import Any

import numpy as np

Handle = ctypes.c_void_p
CPU = 1
WRITE = 1
OPERATORS = {2, 4, 8}
"""Kinds of events that are operators: LiteRT's own, and two of delegates."""
KERNELS = {"xnnpack": 0, "builtin": 2, "reference": 1}
MOST_EVENTS = 10_000_000


class Event(ctypes.Structure):
    """``ProfiledEventData``; the memory fields are three counters before and three after."""

    _fields_ = (
        ("tag", ctypes.c_char_p),
        ("type", ctypes.c_int),
        ("start", ctypes.c_uint64),
        ("microseconds", ctypes.c_uint64),
        ("memory", ctypes.c_int64 * 6),
        ("number", ctypes.c_uint64),
        ("other", ctypes.c_uint64),
        ("source", ctypes.c_int),
    )


class Library:
    """Calls that raise where LiteRT returns an error."""

    def __init__(self, path: str) -> None:
        self._library = ctypes.CDLL(path)

    def call(self, name: str, *arguments: Any) -> None:
        function = self._library[f"LiteRt{name}"]
        function.restype = ctypes.c_int
        status = function(*arguments)
        if status:
            raise RuntimeError(f"LiteRt{name} returned {status}")

    def make(self, name: str, *arguments: Any) -> Handle:
        """The handle that a call writes to its last argument."""
        handle = Handle()
        self.call(name, *arguments, ctypes.byref(handle))
        return handle


def main() -> None:
    """Profile, and print."""
    path, model, inputs, outputs, runs, threads, kernels = sys.argv[1:]
    # what the library prints must not be taken for the answer
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    library = Library(path)
    environment = library.make("CreateEnvironment", 0, None)
    loaded = library.make("CreateModelFromFile", environment, os.fsencode(model))
    options = library.make("CreateOptions")
    library.call("SetOptionsHardwareAccelerators", options, CPU)
    cpu = f"num_threads = {int(threads)}\nkernel_mode = {KERNELS[kernels]}\n"
    for name, text in {
        "runtime_options_string": "enable_profiling = true\n",
        "xnnpack": cpu,
    }.items():
        add_options(library, options, name, text)
    compiled = library.make("CreateCompiledModel", environment, loaded, options)
    profiler = library.make("CompiledModelGetProfiler", compiled)
    if not profiler:
        raise RuntimeError("this version of LiteRT profiles nothing")
    signature = library.make("GetModelSignature", loaded, ctypes.c_size_t(0))
    given = dict(np.load(inputs))
    arrays = [given[str(n)] for n in range(len(given))]

    def buffers(kind: str, count: int) -> Any:
        found = (Handle * count)()
        for n in range(count):
            tensor = library.make(f"GetSignature{kind}TensorByIndex", signature, ctypes.c_size_t(n))
            ranked = (ctypes.c_char * 256)()
            library.call("GetRankedTensorType", tensor, ranked)
            needs = library.make(
                f"GetCompiledModel{kind}BufferRequirements",
                compiled,
                ctypes.c_size_t(0),
                ctypes.c_size_t(n),
            )
            made = "CreateManagedTensorBufferFromRequirements"
            found[n] = library.make(made, environment, ranked, needs).value
        return found

    sources = buffers("Input", len(arrays))
    for n, array in enumerate(arrays):
        place = Handle()
        library.call("LockTensorBuffer", Handle(sources[n]), ctypes.byref(place), WRITE)
        ctypes.memmove(place, array.tobytes(), array.nbytes)
        library.call("UnlockTensorBuffer", Handle(sources[n]))
    sinks = buffers("Output", int(outputs))
    found = []
    for _ in range(int(runs) + 1):
        library.call("ResetProfiler", profiler)
        library.call("StartProfiler", profiler)
        library.call(
            "RunCompiledModel",
            compiled,
            ctypes.c_size_t(0),
            ctypes.c_size_t(len(arrays)),
            sources,
            ctypes.c_size_t(int(outputs)),
            sinks,
        )
        library.call("StopProfiler", profiler)
        found.append(events(library, profiler))
    json.dump(found[1:], answers)  # the first run prepares
    answers.flush()
    os._exit(0)  # the order in which the library's objects are destroyed is not ours to know


def add_options(library: Library, options: Handle, name: str, text: str) -> None:
    """Options that LiteRT reads as TOML under a name."""
    libc = ctypes.CDLL(None)
    libc.strdup.restype = Handle
    free = ctypes.cast(libc.free, Handle)
    opaque = library.make(
        "CreateOpaqueOptions", name.encode(), Handle(libc.strdup(text.encode())), free
    )
    library.call("AddOpaqueOptions", options, opaque)


def events(library: Library, profiler: Handle) -> list[tuple[str, int, int, int]]:
    """Operators of one run, in order.

    Raises:
        RuntimeError: what the library wrote has another form.
    """
    count = ctypes.c_int()
    library.call("GetNumProfilerEvents", profiler, ctypes.byref(count))
    if not 0 < count.value < MOST_EVENTS:
        raise RuntimeError(f"{count.value} events")
    rows = (Event * (2 * count.value))()  # room, should an event be longer than declared
    library.call("GetProfilerEvents", profiler, count, rows)
    told = list(rows[: count.value])
    if any(row.source not in (0, 1, 2) or row.type.bit_count() != 1 for row in told):
        raise RuntimeError("events of another form than those of LiteRT 2.1 to 2.3")
    return [
        (row.tag.decode("utf-8", "replace"), row.type, row.microseconds, row.number)
        for row in told
        if row.type in OPERATORS
    ]


if __name__ == "__main__":
    main()
