"""Broken .tflite files: does the reader ever crash, hang, or take memory out of proportion?

    EDGEC_BENCH_DATA=/data PYTHONPATH=.src python benchmarks/tflite_fuzz.py --json fuzz.json

Takes the files of EDGEC_BENCH_DATA/mlperf_tiny and a few small ones made here, and changes each
thousands of times: single bits and bytes, whole words (offsets, lengths, indices) set to extreme
values or to other places in the file, pieces cut off, repeated or moved. Two thirds of the changes
go where the reader looked for structure in the intact file, the others anywhere. Every changed
file is decoded; what still decodes is translated into a graph, always for the small files and every
few for the others, which take a second each. A process of limited memory works through the cases;
one that dies or stops is started again behind the case, which counts as crash or hang.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import os
import random
import resource
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from _ptq import data_folder, machine, save

from edgec.export.errors import EdgecError
from edgec.export.tflite import (
    Model,
    Operator,
    Quantization,
    Signature,
    Subgraph,
    Tensor,
    decode,
    encode,
)
from edgec.export.tflite.reader import Reader
from edgec.export.tflite.schema import TABLES

LIMIT_GIB = 6
"""Address space of the working process; the libraries behind the graph alone map 2 GiB."""

GROWTH_MIB = 512
"""Resident memory that one case may add before it counts as out of proportion."""

SECONDS = 20
EXTREMES = (0, 1, 2, 4, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def synthetic() -> dict[str, bytes]:
    """Small files with most parts of the schema: strings, scales, signatures, packed integers."""
    rng = np.random.default_rng(0)
    scale = Quantization.per_tensor(0.02, 3)
    steps = Quantization(rng.uniform(0.01, 0.02, 4).astype(np.float32), np.zeros(4, np.int64), 0)
    weight = rng.integers(-127, 128, (4, 3, 3, 3)).astype(np.int8)
    unit = {"padding": "SAME", "stride_w": 1, "stride_h": 1, "fused_activation_function": "RELU6"}
    image, rows = (1, 8, 8, 3), (1, 256)
    convolution = Model(
        [
            Subgraph(
                [
                    Tensor("image", image, "INT8", None, scale, (-1, 8, 8, 3)),
                    Tensor("weight", weight.shape, "INT8", weight, steps),
                    Tensor("bias", (4,), "INT32", np.arange(4, dtype=np.int32)),
                    Tensor("conv", (1, 8, 8, 4), "INT8", None, scale),
                    Tensor("shape", (2,), "INT32", np.array([1, -1], np.int32)),
                    Tensor("flat", rows, "INT8", None, scale),
                    Tensor("head", (5, 256), "INT4", np.zeros((5, 256), np.int8), scale),
                ],
                [0],
                [5],
                [
                    Operator("CONV_2D", [0, 1, 2], [3], unit, 3),
                    Operator("RESHAPE", [3, 4], [5], {"new_shape": [1, 256]}),
                ],
                "main",
            )
        ],
        "a convolution",
        {"labels": b"cat\ndog"},
        [Signature("serving_default", {"image": 0}, {"flat": 5})],
    )
    tensors = [Tensor(f"t{i}", (1, 6, 6, 4), "FLOAT32") for i in range(12)]
    axes = Tensor("axes", (2,), "INT32", np.array([1, 2], np.int32))
    pads = Tensor("pads", (4, 2), "INT32", np.array([[0, 0], [1, 1], [2, 0], [0, 0]], np.int32))
    pool = {"padding": "SAME", "stride_w": 1, "stride_h": 1, "filter_width": 3, "filter_height": 3}
    tensors += [
        axes,
        pads,
        Tensor("padded", (1, 8, 8, 4), "FLOAT32"),
        Tensor("mean", (1, 4), "FLOAT32"),
    ]
    elementwise = Model(
        [
            Subgraph(
                tensors,
                [0, 1],
                [15, 10],
                [
                    Operator("ADD", [0, 1], [2], {"fused_activation_function": "RELU"}),
                    Operator("MAX_POOL_2D", [2], [3], pool),
                    Operator("LOGISTIC", [3], [4]),
                    Operator("MUL", [3, 4], [5]),
                    Operator("SOFTMAX", [5], [6], {"beta": 1.0}),
                    Operator("GELU", [6], [10], {"approximate": True}),
                    Operator("PAD", [10, 13], [14]),
                    Operator("MEAN", [14, 12], [15], {"keep_dims": False}),
                ],
                "main",
            )
        ]
    )
    return {
        "synthetic convolution": encode(convolution),
        "synthetic element-wise": encode(elementwise),
    }


class Watched(Reader):
    """A reader that remembers where it looked for structure."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data, None)
        self.places: set[int] = set()

    def _number(self, position: int, kind: str) -> Any:
        self.places.add(position)
        return super()._number(position, kind)


def structure(data: bytes) -> list[int]:
    """Positions that hold offsets, lengths, indices and options."""
    reader = Watched(data)
    reader.root(TABLES["Model"])
    return sorted(reader.places)


def mutated(data: bytes, places: list[int], rng: random.Random) -> bytes:
    """The file with one to four changes."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        if len(changed) < 16:
            break
        place = rng.choice(places) if rng.random() < 2 / 3 else rng.randrange(len(changed))
        place = min(place, len(changed) - 4)
        kind = rng.randrange(8)
        if kind == 0:
            changed[place] ^= 1 << rng.randrange(8)
        elif kind == 1:
            changed[place] = rng.randrange(256)
        elif kind == 2:
            width, code = rng.choice(((2, "<H"), (4, "<I")))
            extreme = rng.choice(EXTREMES) & ((1 << 8 * width) - 1)
            changed[place : place + width] = struct.pack(code, extreme)
        elif kind == 3:  # another offset of the file: shared and cyclic references
            other = min(rng.choice(places), len(data) - 4)
            changed[place : place + 4] = data[other : other + 4]
        elif kind == 4:  # an offset to another table or vector
            changed[place : place + 4] = struct.pack("<i", rng.choice(places) - place)
        elif kind == 5:
            value = struct.unpack_from("<i", changed, place)[0] + rng.choice((-4, -1, 1, 4))
            changed[place : place + 4] = struct.pack("<I", value & 0xFFFFFFFF)
        elif kind == 6:
            size = rng.randrange(1, 65)
            source = rng.randrange(max(1, len(changed) - size))
            changed[place : place + size] = changed[source : source + size]
        elif rng.random() < 0.5:
            del changed[rng.randrange(len(changed)) :]
        else:
            size = rng.randrange(1, 65)
            changed[place:place] = rng.randbytes(size)
    return bytes(changed)


def sources() -> dict[str, bytes]:
    found = synthetic()
    folder = data_folder()
    if folder is not None:
        for path in sorted((folder / "mlperf_tiny").glob("*.tflite")):
            found[path.name] = path.read_bytes()
    return found


@contextlib.contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """Raise TimeoutError in Python code; native code that hangs is ended from outside."""

    def late(number: int, frame: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


def resident() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


def attempt(data: bytes, *, graph: bool) -> str:
    """What became of one file."""
    from edgec.export.capture import from_tflite

    before = resident()
    try:
        with at_most(SECONDS):
            model = decode(data)
            outcome = "decoded"
            if graph:
                from_tflite(model)
                outcome = "translated"
    except EdgecError as error:
        outcome = error.code
    except TimeoutError:
        outcome = "hang"
    except BaseException as error:  # exactly what must not happen is counted
        outcome = f"crash: {type(error).__name__}: {str(error)[:80]}"
    if resident() - before > GROWTH_MIB:
        outcome = f"memory: {resident() - before} MiB"
    return outcome


def work(name: str, start: int, stop: int, every: int, seed: int) -> None:
    """Print a line of JSON for every case."""
    resource.setrlimit(resource.RLIMIT_AS, (LIMIT_GIB << 30, LIMIT_GIB << 30))
    data = sources()[name]
    places = structure(data)
    attempt(data, graph=True)  # loads the libraries, whose memory is not the cases'
    for case in range(start, stop):
        print(json.dumps({"start": case}), flush=True)
        rng = random.Random(f"{seed} {name} {case}")
        began = time.monotonic()
        outcome = attempt(mutated(data, places, rng), graph=case % every == 0)
        seconds = round(time.monotonic() - began, 3)
        print(json.dumps({"case": case, "outcome": outcome, "seconds": seconds}), flush=True)
    print(json.dumps({"peak_mib": resident()}), flush=True)


def supervise(name: str, cases: int, every: int, seed: int) -> dict[str, Any]:
    """All cases of one file, in as many processes as it takes."""
    outcomes: collections.Counter[str] = collections.Counter()
    slowest, peak, at = 0.0, 0, 0
    worst: list[dict[str, Any]] = []
    while at < cases:
        command = [
            sys.executable,
            __file__,
            "--work",
            name,
            str(at),
            str(cases),
            str(every),
            str(seed),
        ]
        with tempfile.TemporaryFile("w+") as log:
            with subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=log, text=True
            ) as process:
                assert process.stdout is not None
                watchdog = None
                for line in process.stdout:
                    record = json.loads(line)
                    if "start" in record:
                        at = record["start"]
                        watchdog = _watch(process, watchdog)
                        continue
                    if "peak_mib" in record:
                        peak = max(peak, record["peak_mib"])
                        continue
                    at = record["case"] + 1
                    slowest = max(slowest, record["seconds"])
                    outcomes[record["outcome"].split(":")[0]] += 1
                    if record["outcome"].startswith(("crash", "hang", "memory")):
                        worst.append(record)
                if watchdog is not None:
                    watchdog.cancel()
                status = process.wait()
            if status != 0:
                log.seek(0)
                outcomes["crash"] += 1
                worst.append({"case": at, "status": status, "log": log.read()[-300:]})
                at += 1
    return {
        "file": name,
        "cases": cases,
        "outcomes": dict(sorted(outcomes.items())),
        "crashes": outcomes["crash"],
        "hangs": outcomes["hang"],
        "memory": outcomes["memory"],
        "slowest_seconds": slowest,
        "peak_mib": peak,
        "worst": worst[:20],
    }


def _watch(process: subprocess.Popen[str], before: Any) -> Any:
    import threading

    if before is not None:
        before.cancel()
    watchdog = threading.Timer(3 * SECONDS, process.kill)
    watchdog.daemon = True
    watchdog.start()
    return watchdog


def main() -> int:
    if sys.argv[1:2] == ["--work"]:
        name, *numbers = sys.argv[2:]
        work(name, *map(int, numbers))
        return 0
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cases", type=int, default=3000, help="changes of each file")
    parser.add_argument(
        "--every", type=int, default=100, help="of large files, one in so many is translated"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    records = []
    print(
        f"{'file':28} {'cases':>6} {'refused':>8} {'decoded':>8} {'translated':>10} "
        "crash hang memory"
    )
    for name in sources():
        every = 1 if name.startswith("synthetic") else arguments.every
        record = supervise(name, arguments.cases, every, arguments.seed)
        records.append(record)
        outcomes = record["outcomes"]
        refused = sum(n for key, n in outcomes.items() if key.startswith("EC"))
        print(
            f"{name:28} {record['cases']:6} {refused:8} {outcomes.get('decoded', 0):8} "
            f"{outcomes.get('translated', 0):10} {record['crashes']:5} {record['hangs']:4} "
            f"{record['memory']:6}",
            flush=True,
        )
        for case in record["worst"]:
            print("   ", json.dumps(case), file=sys.stderr)
    total = sum(r["cases"] for r in records)
    bad = sum(r["crashes"] + r["hangs"] + r["memory"] for r in records)
    print(f"{total} changed files: {bad} crashes, hangs or excesses")
    facts = {"seed": arguments.seed, "limit_gib": LIMIT_GIB, **machine()}
    save("Changed .tflite files", records, facts, arguments.json)
    return 1 if bad else 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    raise SystemExit(main())
