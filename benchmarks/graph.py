"""edgec's rewritten graphs beside onnxsim, onnxslim, onnxscript's optimizer and ONNX Runtime.

    PYTHONPATH=.src python benchmarks/graph.py --networks all --no-timing
    PYTHONPATH=.src python benchmarks/graph.py --networks emov2_5m edgenext_xx_small

For every tool: nodes without Constant, Transpose, Reshape, Gather and Slice nodes, highest rank,
MACs, bytes, largest absolute difference from torch, and latency in ONNX Runtime relative to the raw
export (one thread, spinning off; the clock is the thread's CPU time, so that other work on the
machine costs precision but no bias). Every weight, bias and BatchNorm statistic is random: zero
biases and unit scales let simplifiers remove operators that trained weights need.

Two sessions of the same graph differ by several percent, for as long as they live, by where their
weights and buffers came to lie. More rounds cannot average that out, so graphs are timed in many
sets of fresh sessions: in each set the median of per-round ratios, over the sets their geometric
mean, with its standard error. Sets are added until the error is small beside the distance from the
2 % that may not be exceeded, or the network's time is spent.

The whole rewrite stage, checks included, runs once more in a process of its own, for its CPU
seconds and peak memory.

Results are kept per network in the JSON file as soon as they are there, small networks first; a
later run adds networks, or timings to networks that have none yet. `--again` measures anew,
`--time-again` only the latencies (and the rest of a network where a tool's operators changed);
`--again --no-timing` leaves the latencies of a network whose graphs kept their operators.
`--graphs` keeps the exported graphs between runs, because exporting takes most of the time.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import torch
from _graph_summary import PEERS, TARGETS, TOOLS, print_table, summary, valid_tools
from _timing import interleaved, median_ratio
from torch import nn

from edgec import models
from edgec.export.capture import from_torch
from edgec.export.capture.torch_export import flatten_outputs
from edgec.export.rewrite import numerics
from edgec.export.rewrite.engine import run_stages
from edgec.export.rewrite.inference import infer_shapes
from edgec.export.rewrite.stats import graph_stats
from edgec.models.random_init import randomize
from edgec.models.registry import get_spec
from edgec.profiles.macs import count_graph_macs

RESULTS = Path(__file__).parent / "results" / "graph.json"


def raw_export(network: nn.Module, shape: tuple[int, ...]) -> onnx.ModelProto:
    """What torch.onnx.export gives by default at opset 20."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            network,
            (torch.zeros(1, *shape),),
            dynamo=True,
            opset_version=20,
            external_data=False,
            verbose=False,
        )
    assert program is not None
    return program.model_proto


def simplify_onnxsim(proto: onnx.ModelProto) -> onnx.ModelProto:
    import onnxsim

    result: onnx.ModelProto = onnxsim.simplify(proto)[0]
    return result


def simplify_onnxslim(proto: onnx.ModelProto) -> onnx.ModelProto:
    import onnxslim

    result: onnx.ModelProto = onnxslim.slim(proto)
    return result


def optimize_onnxscript(proto: onnx.ModelProto) -> onnx.ModelProto:
    import onnxscript.optimizer

    result: onnx.ModelProto = onnxscript.optimizer.optimize(proto)
    return result


def optimize_ort_basic(proto: onnx.ModelProto) -> onnx.ModelProto:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "basic.onnx"
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(path)
        ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return onnx.load(path)


SIMPLIFIERS: dict[str, Callable[[onnx.ModelProto], onnx.ModelProto]] = {
    "onnxsim": simplify_onnxsim,
    "onnxslim": simplify_onnxslim,
    "onnxscript": optimize_onnxscript,
    "ort-basic": optimize_ort_basic,
}


TIMINGS = ("median_ms_1t", "ratio_1t", "ratio_error", "sets", "rounds", "over_best_peer")
"""Columns of `add_timings`."""

_SETS = (3, 24)
"""Fewest and most sets of fresh sessions."""

_SET_MS = 1000
"""Time to spend in a set of sessions, while that is 2 to 30 rounds."""

_SMALL_ERROR = 0.25
"""Standard error at which to stop, as a share of the distance from `TARGETS["slower"]`."""


def copy_of(proto: onnx.ModelProto) -> onnx.ModelProto:
    duplicate = onnx.ModelProto()
    duplicate.CopyFrom(proto)
    return duplicate


class Network:
    """A zoo network with random parameters, and its two exports."""

    def __init__(self, name: str, folder: Path | None) -> None:
        self.name = name
        self.shape = tuple(get_spec(name).input_shape)
        self.module = models.create_model(name)
        randomize(self.module, seed=0)
        self.raw = self._kept(folder, "raw", lambda: raw_export(self.module, self.shape))
        self.captured = self._kept(
            folder,
            "cap",
            # compared with torch below, as every other graph is
            lambda: ir.to_proto(from_torch(self.module, self.shape, verify=False)),
        )

    def _kept(
        self, folder: Path | None, kind: str, export: Callable[[], onnx.ModelProto]
    ) -> onnx.ModelProto:
        path = None if folder is None else folder / f"{self.name}.{kind}.onnx"
        if path is not None and path.is_file():
            return onnx.load(path)
        proto = export()
        if path is not None:
            path.write_bytes(proto.SerializeToString())
        return proto

    def graphs(self) -> tuple[dict[str, bytes], dict[str, float]]:
        """Graph of each tool, and the CPU seconds it took."""
        graphs = {"raw": self.raw.SerializeToString()}
        seconds = {"raw": 0.0}
        for tool, function in SIMPLIFIERS.items():
            start = time.process_time()
            graphs[tool] = function(copy_of(self.raw)).SerializeToString()
            seconds[tool] = time.process_time() - start
        for tool, rank in (("edgec", 5), ("edgec rank 4", 4)):
            model = ir.from_proto(copy_of(self.captured))
            start = time.process_time()
            run_stages(model, target_opset=20, max_rank=rank, matrices=rank == 5, verify=False)
            seconds[tool] = time.process_time() - start
            graphs[tool] = numerics.serialize(model)
        return graphs, seconds

    def exact(self, graphs: dict[str, bytes], seconds: dict[str, float]) -> list[dict[str, Any]]:
        """One record per tool, without timings."""
        x = self.input()
        with torch.no_grad():
            want = [t.numpy() for t in flatten_outputs(self.module(torch.from_numpy(x)))]
        records = []
        for tool, data in graphs.items():
            model = ir.from_proto(onnx.load_from_string(data))
            infer_shapes(model)
            stats = graph_stats(model).to_json()
            operators = stats.pop("operators")
            runner = numerics.session(data, optimize=True)
            got = runner.run(None, {runner.get_inputs()[0].name: x})
            records.append(
                {
                    "model": self.name,
                    "tool": tool,
                    "seconds_cpu": round(seconds[tool], 2),
                    **stats,
                    "gathers": operators.get("Gather", 0),
                    "slices": operators.get("Slice", 0),
                    "macs": count_graph_macs(model).total,
                    "file_bytes": len(data),
                    "max_abs_diff": max(
                        float(np.abs(a - b).max()) for a, b in zip(want, got, strict=True)
                    ),
                    "operators": operators,
                }
            )
        return records

    def stage(self) -> dict[str, float]:
        """CPU seconds and peak memory of the rewrite stage with all its checks."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "captured.onnx"
            path.write_bytes(self.captured.SerializeToString())
            command = [sys.executable, __file__, "--stage", str(path)]
            answer = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
        result: dict[str, float] = json.loads(answer.splitlines()[-1])
        return result

    def input(self) -> np.ndarray[Any, Any]:
        rng = np.random.default_rng(1)
        return rng.standard_normal((1, *self.shape)).astype(np.float32)


def run_stage(path: Path) -> dict[str, float]:
    """What `Network.stage` runs in a process of its own."""
    model = ir.from_proto(onnx.load(path))
    start = time.process_time()
    run_stages(model, target_opset=20, matrices=True)
    seconds = time.process_time() - start
    return {"seconds_cpu": round(seconds, 2), "peak_gib": round(peak_bytes() / 2**30, 2)}


def operator_counts(data: bytes) -> dict[str, int]:
    """How often each operator occurs, without Constant."""
    counts: dict[str, int] = graph_stats(ir.from_proto(onnx.load_from_string(data))).operators
    return counts


def peak_bytes() -> int:
    """Peak resident memory of this process, without that of the one that started it."""
    status = Path("/proc/self/status")
    if status.is_file():  # Linux keeps the starter's peak in ru_maxrss
        line = next(li for li in status.read_text().splitlines() if li.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def add_timings(
    records: list[dict[str, Any]], graphs: dict[str, bytes], x: np.ndarray[Any, Any], seconds: float
) -> None:
    """Latency columns, one thread; `seconds` is the CPU time after which no set is added."""
    start = time.process_time()
    feeds = {"input": x}
    probe = interleaved(
        {"raw": graphs["raw"]}, feeds, threads=1, rounds=1, warmup=1, clock=time.thread_time
    )
    rounds = min(30, max(2, int(_SET_MS / (len(graphs) * probe["raw"][0]))))
    tools = list(graphs)
    peers = [t for t in valid_tools(records) if t in PEERS]
    latencies: dict[str, list[float]] = {tool: [] for tool in tools}
    logs: dict[str, list[float]] = {tool: [] for tool in tools}
    while len(logs["raw"]) < _SETS[1]:
        k = len(logs["raw"]) % len(tools)
        ordered = {tool: graphs[tool] for tool in tools[k:] + tools[:k]}
        samples = interleaved(
            ordered, feeds, threads=1, rounds=rounds, warmup=1, clock=time.thread_time
        )
        for tool in tools:
            latencies[tool] += samples[tool]
            logs[tool].append(math.log(median_ratio(samples[tool], samples["raw"])))
        if len(logs["raw"]) < _SETS[0]:
            continue
        best = min(peers, key=lambda tool: statistics.fmean(logs[tool]))
        distance, apart = _mean(a - b for a, b in zip(logs["edgec"], logs[best], strict=True))
        near = abs(distance - math.log(TARGETS["slower"]))
        if apart < _SMALL_ERROR * near or time.process_time() - start > seconds:
            break
    for record in records:
        mean, error = _mean(logs[record["tool"]])
        record["median_ms_1t"] = round(statistics.median(latencies[record["tool"]]), 3)
        record["ratio_1t"] = round(math.exp(mean), 4)
        record["ratio_error"] = round(error, 4)
        record["sets"] = len(logs["raw"])
        record["rounds"] = rounds
        if record["tool"] == "edgec":
            record["over_best_peer"] = {
                "peer": best,
                "ratio": round(math.exp(distance), 4),
                "error": round(apart, 4),
            }


def keep_timings(records: list[dict[str, Any]], known: list[dict[str, Any]]) -> None:
    """Take over the latencies of a network none of whose graphs changed its operators."""
    before = {record["tool"]: record for record in known}
    same = all(
        r["tool"] in before and before[r["tool"]]["operators"] == r["operators"] for r in records
    )
    for record in records if same else []:
        old = before[record["tool"]]
        record |= {key: old[key] for key in TIMINGS if key in old}


def _mean(values: Iterable[float]) -> tuple[float, float]:
    """Mean and its standard error."""
    own = list(values)
    return statistics.fmean(own), statistics.stdev(own) / math.sqrt(len(own))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--networks", nargs="+", default=["emov2_5m", "edgenext_xx_small"], help="names, or: all"
    )
    parser.add_argument("--no-timing", action="store_true", help="exact columns only")
    parser.add_argument("--again", action="store_true", help="measure what is there already, too")
    parser.add_argument("--time-again", action="store_true", help="measure latencies anew")
    parser.add_argument(
        "--seconds", type=float, default=30, help="CPU time for the latencies of a network"
    )
    parser.add_argument("--json", type=Path, default=RESULTS, help="file that results are added to")
    parser.add_argument("--graphs", type=Path, help="folder to keep exported graphs in")
    parser.add_argument("--stage", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.stage is not None:
        print(json.dumps(run_stage(arguments.stage)))
        return
    everything = models.list_models()
    names = everything if arguments.networks == ["all"] else arguments.networks
    names = sorted(names, key=lambda name: (get_spec(name).macs, name))
    done: dict[str, list[dict[str, Any]]] = {}
    if arguments.json.is_file():
        for record in json.loads(arguments.json.read_text("utf-8"))["records"]:
            done.setdefault(record["model"], []).append(record)
    for name in names:
        known = [] if arguments.again else done.get(name, [])
        complete = {r["tool"] for r in known} == set(TOOLS)
        timed = arguments.no_timing or any("sets" in r for r in known)
        if complete and timed and not arguments.time_again:
            continue
        network = Network(name, arguments.graphs)
        graphs, seconds = network.graphs()
        if complete and all(operator_counts(graphs[r["tool"]]) == r["operators"] for r in known):
            records = known
        else:
            records = network.exact(graphs, seconds)
            next(r for r in records if r["tool"] == "edgec")["stage"] = network.stage()
        if arguments.no_timing:
            keep_timings(records, done.get(name, []))
        else:
            add_timings(records, graphs, network.input(), arguments.seconds)
        print_table(records)
        done[name] = records
        write(arguments.json, [r for n in everything for r in done.get(n, [])])
    print("\n".join(summary([r for records in done.values() for r in records])))


def write(path: Path, records: list[dict[str, Any]]) -> None:
    environment = {
        "onnxruntime": ort.__version__,
        "torch": torch.__version__,
        "onnx": onnx.__version__,
        **{tool: metadata.version(tool) for tool in ("onnxsim", "onnxslim", "onnxscript")},
        "machine": platform.machine(),
    }
    if path.is_file():  # records that are kept were measured with what was there then
        before = json.loads(path.read_text("utf-8"))["environment"]
        for key, version in before.items():
            if environment.get(key) not in version.split(", "):
                environment[key] = f"{version}, {environment[key]}"
            else:
                environment[key] = version
    content = {"environment": environment, "notes": summary(records), "records": records}
    path.write_text(json.dumps(content, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
