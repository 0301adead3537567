"""TFLite files read: how exactly do the integer reference and the graph repeat LiteRT?

    EDGEC_BENCH_DATA=/data PYTHONPATH=.src python benchmarks/tflite_reader.py --json reader.json

For each int8 file of EDGEC_BENCH_DATA/mlperf_tiny: the share of integers that differ from LiteRT's
reference kernels, over all tensors and at the outputs, for the integer reference
(edgec.export.tflite.reference) and for other kernels of LiteRT itself; and for the Q/DQ graph in
ONNX Runtime the largest difference of one operator on LiteRT's own inputs, in steps of its output.
Then what removing dead and constant channels saves, and whether outputs of the graph change.
EDGEC_TFLITE_RUNTIME_PYTHON adds tflite-runtime 2.14.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from _ptq import data_folder, machine, save, serialize
from numpy.typing import NDArray

from edgec.export.capture import from_tflite
from edgec.export.rewrite.channels.remove_channels import RemoveChannels
from edgec.export.tflite import ABSENT, Model, Operator, Subgraph, decode, encode
from edgec.export.tflite.names import input_names, output_names
from edgec.export.tflite.reference.executor import run_all
from edgec.profiles.macs import count_graph_macs
from edgec.runtime.litert_runner import Kernels, LiteRTRunner
from edgec.runtime.onnx_runner import OnnxRunner
from edgec.runtime.tflite_runtime_runner import VARIABLE, TFLiteRuntimeRunner

Array = NDArray[Any]
Feeds = dict[str, Array]
COLUMNS = (
    ("file", 22),
    ("operators", 9),
    ("read_ms", 7),
    ("graph_s", 7),
    ("transposes", 10),
    ("reference_differing", 19),
    ("compared", 9),
    ("graph_operator_steps", 20),
    ("macs_saved", 10),
    ("removal_differing", 17),
)


def feeds_of(model: Model, count: int) -> list[Feeds]:
    """Random integers of random mean and spread, from nearly constant to saturated images."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(count):
        feeds = {}
        for name, index in zip(input_names(model), model.main.inputs, strict=True):
            tensor = model.main.tensors[index]
            values = rng.normal(rng.uniform(-60, 60), rng.uniform(1, 80), tensor.shape)
            feeds[name] = np.clip(values, -128, 127).astype(tensor.numpy_dtype)
        found.append(feeds)
    return found


def differing(a: Array, b: Array) -> int:
    return int((a != b).sum())


def against_reference(model: Model, feeds: list[Feeds]) -> dict[str, Any]:
    """The integer reference, tensor by tensor; floats, which have no exact order, apart."""
    theirs = LiteRTRunner(model, kernels="reference", keep=True)
    total = bad = floats = 0
    for feed in feeds:
        theirs.run(feed)
        ours = run_all(model, feed)
        for operator in model.main.operators:
            for index in operator.outputs:
                differ = differing(ours[index], theirs.value(index))
                if ours[index].dtype.kind == "f":
                    floats += differ
                else:
                    bad += differ
                    total += ours[index].size
    found = {"reference_differing": bad, "compared": total}
    return found | ({"floats_differing": floats} if floats else {})


def other_kernels(model: Model, feeds: list[Feeds]) -> dict[str, Any]:
    """Largest difference of an output to the reference kernels, in steps, of other runtimes."""
    plain = LiteRTRunner(model, kernels="reference")
    want = [plain.run(feed) for feed in feeds]
    kernels: tuple[Kernels, ...] = ("builtin", "xnnpack")
    found: dict[str, Any] = {}
    for kind in kernels:
        runner = LiteRTRunner(model, kernels=kind)
        found[f"{kind}_steps"] = _steps(want, [runner.run(feed) for feed in feeds])
    if os.environ.get(VARIABLE):
        with TFLiteRuntimeRunner(model) as old:
            found["tflite_runtime_steps"] = _steps(want, [old.run(feed) for feed in feeds])
    graph = serialize(from_tflite(model, integers=True, channels_first=False))
    runner_of_graph = OnnxRunner(graph, emulate=True)
    found["graph_steps"] = _steps(want, [runner_of_graph.run(feed) for feed in feeds])
    return found


def _steps(want: list[Feeds], got: list[Feeds]) -> int:
    return max(
        int(np.abs(w[name].astype(int) - g[name].astype(int)).max())
        for w, g in zip(want, got, strict=True)
        for name in w
    )


def graph_operators(model: Model, feeds: list[Feeds]) -> dict[str, Any]:
    """Each operator's part of the graph in ONNX Runtime, on what LiteRT computes before it."""
    theirs = LiteRTRunner(model, kernels="reference", keep=True)
    parts = []
    for position in range(len(model.main.operators)):
        alone = single(model, position)
        graph = from_tflite(alone, integers=True, channels_first=False)
        parts.append((alone, OnnxRunner(serialize(graph), emulate=True)))
    worst: dict[str, float] = {}
    bad = total = 0
    for feed in feeds:
        theirs.run(feed)
        for operator, (alone, runner) in zip(model.main.operators, parts, strict=True):
            computed = [
                i
                for i in dict.fromkeys(operator.inputs)
                if i >= 0 and model.main.tensors[i].data is None
            ]
            inputs = dict(zip(input_names(alone), map(theirs.value, computed), strict=True))
            outputs = runner.run(inputs)
            for name, index in zip(output_names(alone), operator.outputs, strict=True):
                want, got = theirs.value(index), outputs[name]
                if want.dtype.kind == "f":
                    continue
                steps = np.abs(want.astype(int) - got.astype(int))
                worst[operator.code] = max(worst.get(operator.code, 0), int(steps.max()))
                bad += int((steps > 0).sum())
                total += steps.size
    return {
        "graph_operator_steps": max(worst.values()),
        "graph_operator_differing": bad / total,
        "graph_operators": dict(sorted(worst.items())),
    }


def single(model: Model, position: int) -> Model:
    """A model of one operator; what others compute becomes its inputs."""
    operator = model.main.operators[position]
    indices = dict.fromkeys((*operator.inputs, *operator.outputs))
    places = {index: number for number, index in enumerate(i for i in indices if i != ABSENT)}
    places[ABSENT] = ABSENT
    tensors = [model.main.tensors[i] for i in places if i != ABSENT]
    inputs, outputs = (
        [places[i] for i in indices] for indices in (operator.inputs, operator.outputs)
    )
    alone = Operator(operator.code, inputs, outputs, operator.options, operator.version)
    given = [i for i in dict.fromkeys(inputs) if i != ABSENT and tensors[i].data is None]
    return Model([Subgraph(tensors, given, outputs, [alone], "main")])


def removal(model: Model, feeds: list[Feeds]) -> dict[str, Any]:
    """MACs with and without the channels that carry nothing."""
    graph = from_tflite(model, integers=True, channels_first=False)
    before, macs = serialize(graph), count_graph_macs(graph).total
    RemoveChannels()(graph)
    left = count_graph_macs(graph).total
    runners = [OnnxRunner(data, emulate=True) for data in (before, serialize(graph))]
    bad = 0
    for feed in feeds:
        one, two = (runner.run(feed) for runner in runners)
        bad += sum(differing(one[name], two[name]) for name in one)
    return {"macs": macs, "macs_left": left, "macs_saved": macs / left, "removal_differing": bad}


def examine(path: Path, count: int) -> dict[str, Any]:
    data = path.read_bytes()
    start = time.process_time()
    model = decode(data, path.name)
    read = time.process_time() - start
    start = time.process_time()
    graph = from_tflite(model)
    translated = time.process_time() - start
    written = encode(model)
    feeds = feeds_of(model, count)
    return {
        "file": path.stem,
        "bytes": len(data),
        "operators": len(model.main.operators),
        "read_ms": read * 1e3,
        "graph_s": translated,
        "nodes": len(graph.graph),
        "transposes": sum(node.op_type == "Transpose" for node in graph.graph),
        "round_trip_same": encode(decode(written)) == written,
        **against_reference(model, feeds),
        **other_kernels(model, feeds),
        **graph_operators(model, feeds[:4]),
        **removal(model, feeds),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=32, help="random inputs of each file")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    folder = data_folder()
    files = sorted((folder / "mlperf_tiny").glob("*.tflite")) if folder is not None else []
    if not files:
        print("skipped: EDGEC_BENCH_DATA with mlperf_tiny is not there", file=sys.stderr)
        return 0
    print(" ".join(f"{name:>{width}}" for name, width in COLUMNS))
    records = []
    for path in files:
        record = examine(path, arguments.images)
        records.append(record)
        cells = [
            f"{value:.2f}" if isinstance(value := record[name], float) else str(value)
            for name, _ in COLUMNS
        ]
        widths = (width for _, width in COLUMNS)
        print(" ".join(f"{c:>{w}}" for c, w in zip(cells, widths, strict=True)), flush=True)
    facts = {"images": arguments.images, **machine()}
    save("TFLite files read", records, facts, arguments.json)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
