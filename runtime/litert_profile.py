"""Times of a .tflite file's operators while LiteRT runs it, in module names.

Measured by LiteRT's own profiler (`litert_profile_worker`), whose clock counts whole microseconds:
means of many runs tell more. XNNPACK's are rounded off, so that their sum is below the latency.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgec.export.tflite import Model, decode, load
from edgec.export.tflite.names import input_names
from edgec.runtime.feeds import Tensor
from edgec.runtime.litert_layers import file_operators, join_operators, operator_times
from edgec.runtime.litert_runner import Kernels
from edgec.runtime.modules import ModuleNames
from edgec.runtime.tflite_artifact import as_stored

WORKER = Path(__file__).with_name("litert_profile_worker.py")
SECONDS = 300


class NotProfiled(Exception):
    """Why this installation of LiteRT tells no times of operators."""


def time_operators(
    model: Path,
    feeds: Mapping[str, Tensor],
    modules: ModuleNames,
    *,
    runs: int,
    threads: int = 1,
    kernels: Kernels = "xnnpack",
) -> list[dict[str, Any]]:
    """Milliseconds of each operator, the mean of the middle half of the runs, longest first.

    Args:
        model: a .tflite artifact.
        feeds: arrays of the ONNX master by input name.
        modules: of the bundle that the artifact is of.
        runs: inferences, after one that is not counted.
        threads: inside an operator.
        kernels: whose are timed; XNNPACK's may stand for several operators of the file.

    Returns:
        Rows of ``name``, ``operator``, ``ms`` and ``module`` (`join_operators`).

    Raises:
        NotProfiled: LiteRT is absent or older than 2.1, or its interface is another one.
    """
    decoded = load(model)
    rows = _profiled(model, decoded, feeds, runs=runs, threads=threads, kernels=kernels)
    return join_operators(rows, file_operators(decoded, modules))


def milliseconds(
    content: bytes, feeds: Mapping[str, Tensor], *, runs: int, threads: int = 1
) -> list[float]:
    """Milliseconds of each operator of the main subgraph with XNNPACK, in the file's order.

    Args:
        content: of a .tflite file.
        feeds, runs, threads: as for `time_operators`.

    Raises:
        NotProfiled: as `time_operators`, or what was timed cannot be told apart.
    """
    decoded = decode(content)
    with tempfile.TemporaryDirectory(prefix="edgec-litert-") as folder:
        model = Path(folder) / "model.tflite"
        model.write_bytes(content)
        rows = _profiled(model, decoded, feeds, runs=runs, threads=threads, kernels="xnnpack")
    tensors = decoded.main.tensors
    outputs = [tensors[op.outputs[0]] for op in decoded.main.operators]
    operators = [
        (op.code, out.name, None) for op, out in zip(decoded.main.operators, outputs, strict=True)
    ]
    found = operator_times(rows, operators, [max(out.elements, 1) for out in outputs])
    if found is None:
        raise NotProfiled("what LiteRT's profiler told are not the operators of the file")
    return found


def _profiled(
    model: Path,
    decoded: Model,
    feeds: Mapping[str, Tensor],
    *,
    runs: int,
    threads: int,
    kernels: Kernels,
) -> list[dict[str, Any]]:
    """Rows as `join_operators` takes them."""
    package = importlib.util.find_spec("ai_edge_litert")
    folders = [] if package is None else list(package.submodule_search_locations or [])
    library = next((p for f in folders for p in Path(f).glob("libLiteRt.*")), None)
    if library is None:
        raise NotProfiled("this installation of LiteRT has no libLiteRt (2.1 and newer have)")
    main = decoded.main
    names = zip(input_names(decoded), main.inputs, strict=True)
    arrays = {
        str(number): as_stored(feeds[name], main.tensors[index])
        for number, (name, index) in enumerate(names)
    }
    with tempfile.TemporaryDirectory(prefix="edgec-litert-") as folder:
        inputs = Path(folder) / "inputs.npz"
        np.savez(inputs, allow_pickle=False, **arrays)
        argv = [sys.executable, str(WORKER), str(library), str(model), str(inputs)]
        argv += [str(value) for value in (len(main.outputs), runs, threads, kernels)]
        try:
            done = subprocess.run(argv, capture_output=True, timeout=SECONDS, check=False)
        except subprocess.TimeoutExpired as error:
            raise NotProfiled(f"LiteRT's profiler did not end within {SECONDS} s") from error
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        last = said[-1][:200] if said else ""
        raise NotProfiled(f"LiteRT's profiler ended with status {done.returncode}: {last}")
    return _means(json.loads(done.stdout))


def _means(runs: Sequence[Sequence[Sequence[Any]]]) -> list[dict[str, Any]]:
    """One row for each operator of the first run, all others being alike.

    Raises:
        NotProfiled: they are not.
    """
    first = runs[0]
    if not first or any(len(run) != len(first) for run in runs):
        raise NotProfiled("LiteRT's profiler told other operators in each run")
    times = np.sort(np.array([[event[2] for event in run] for run in runs], np.float64), axis=0)
    # a median would be whole microseconds, a mean would follow what else the machine does
    rest = len(runs) // 4
    times = times[rest : len(runs) - rest].mean(axis=0)
    own = 2  # an event of LiteRT's own kernels carries the operator's number in the file
    return [
        {
            "name": f"[{tag}]:{number}" if kind == own else tag,
            "operator": tag,
            "ms": round(float(time) / 1e3, 5),
        }
        for (tag, kind, _, number), time in zip(first, times, strict=True)
    ]
