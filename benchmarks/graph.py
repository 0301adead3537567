"""edgec's rewritten graphs beside onnxsim, onnxslim, onnxscript's optimizer and ONNX Runtime.

    PYTHONPATH=.src python benchmarks/graph.py --networks all --no-timing
    PYTHONPATH=.src python benchmarks/graph.py --networks emov2_5m edgenext_xx_small

For every tool: nodes without Constant, Transpose, Reshape, Gather and Slice nodes, highest rank,
MACs, bytes, largest absolute difference from torch, and latency in ONNX Runtime relative to the raw
export, interleaved in one process (one thread, spinning off, median of per-round ratios; the clock
is the thread's CPU time, so that other work on the machine costs precision but no bias). Every
weight, bias and BatchNorm statistic is random: zero biases and unit scales let simplifiers remove
operators that trained weights need.

The whole rewrite stage, checks included, runs once more in a process of its own, for its CPU
seconds and peak memory.

Results are kept per network in the JSON file as soon as they are there, small networks first; a
later run adds networks, or timings to networks that have none yet. `--again` measures anew.
`--graphs` keeps the exported graphs between runs, because exporting takes most of the time.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import torch
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


PEERS: dict[str, Callable[[onnx.ModelProto], onnx.ModelProto]] = {
    "onnxsim": simplify_onnxsim,
    "onnxslim": simplify_onnxslim,
    "onnxscript": optimize_onnxscript,
    "ort-basic": optimize_ort_basic,
}


TOOLS = ("raw", *PEERS, "edgec", "edgec rank 4")
PORTABLE = ("raw", *PEERS, "edgec")
"""Tools whose files keep to the standard operators."""

TARGETS = {"nodes": 0.9, "slower": 1.02, "latency": 0.97}
"""Share of networks with the fewest nodes; ratio to the best peer no network may exceed; geometric
mean of these ratios."""


_TIMING_MS = 8000
"""Time to spend on the latencies of a network, while that is 1 to 10 times the rounds asked for."""


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
        for tool, function in PEERS.items():
            start = time.process_time()
            graphs[tool] = function(copy_of(self.raw)).SerializeToString()
            seconds[tool] = time.process_time() - start
        for tool, rank in (("edgec", 5), ("edgec rank 4", 4)):
            model = ir.from_proto(copy_of(self.captured))
            start = time.process_time()
            run_stages(model, target_opset=20, max_rank=rank, verify=False)
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
    run_stages(model, target_opset=20)
    seconds = time.process_time() - start
    return {"seconds_cpu": round(seconds, 2), "peak_gib": round(peak_bytes() / 2**30, 2)}


def peak_bytes() -> int:
    """Peak resident memory of this process, without that of the one that started it."""
    status = Path("/proc/self/status")
    if status.is_file():  # Linux keeps the starter's peak in ru_maxrss
        line = next(li for li in status.read_text().splitlines() if li.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def add_timings(
    records: list[dict[str, Any]], graphs: dict[str, bytes], x: np.ndarray[Any, Any], rounds: int
) -> None:
    """Latency columns, one thread; small networks take more than `rounds` for the same time."""
    probe = interleaved(graphs, {"input": x}, threads=1, rounds=3, clock=time.thread_time)
    each = sum(statistics.median(own) for own in probe.values())
    rounds = max(rounds, min(10 * rounds, int(_TIMING_MS / each)))
    samples = interleaved(graphs, {"input": x}, threads=1, rounds=rounds, clock=time.thread_time)
    for record in records:
        own = samples[record["tool"]]
        record["median_ms_1t"] = round(statistics.median(own), 3)
        record["ratio_1t"] = round(median_ratio(own, samples["raw"]), 4)
        record["rounds"] = rounds


def summary(records: list[dict[str, Any]]) -> list[str]:
    """How edgec's graphs stand against the figures it aims at."""
    rows = {(r["model"], r["tool"]): r for r in records}
    names = sorted({r["model"] for r in records})
    fewest = [
        n for n in names if rows[n, "edgec"]["nodes"] <= min(rows[n, t]["nodes"] for t in PORTABLE)
    ]
    lines = [
        f"fewest nodes among portable graphs: {len(fewest)} of {len(names)} networks "
        f"(aim: {TARGETS['nodes']:.0%})" + _others(names, fewest),
        _count(names, "no shape arithmetic", lambda n: rows[n, "edgec"]["shape_arithmetic"] == 0),
        _count(names, "rank 4 or less", lambda n: rows[n, "edgec rank 4"]["max_rank"] <= 4),
        "Transposes of all networks at rank 5 and 4: "
        + " and ".join(
            str(sum(rows[n, tool]["transposes"] for n in names))
            for tool in ("edgec", "edgec rank 4")
        ),
    ]
    timed = [n for n in names if "ratio_1t" in rows[n, "edgec"]]
    if timed:
        against = {
            n: rows[n, "edgec"]["ratio_1t"] / min(rows[n, t]["ratio_1t"] for t in PEERS)
            for n in timed
        }
        mean = statistics.geometric_mean(against.values())
        slow = [n for n in timed if against[n] > TARGETS["slower"]]
        lines += [
            f"latency over the best peer's, geometric mean of {len(timed)} networks: {mean:.3f} "
            f"(aim: {TARGETS['latency']})",
            f"slower than the best peer by more than 2 %: {len(slow)} of {len(timed)} networks"
            + "".join(f", {n} {against[n]:.3f}" for n in slow),
        ]
    return lines


def _count(names: list[str], what: str, holds: Callable[[str], bool]) -> str:
    good = [n for n in names if holds(n)]
    return f"{what}: {len(good)} of {len(names)} networks" + _others(names, good)


def _others(names: list[str], good: list[str]) -> str:
    rest = [n for n in names if n not in good]
    return f"; not {', '.join(rest)}" if rest else ""


def print_table(records: list[dict[str, Any]]) -> None:
    print(
        f"{'model':26}{'tool':13}{'nodes':>6}{'T':>5}{'R':>5}{'G':>4}{'S':>4}{'rank':>5}"
        f"{'shape':>6}{'M MACs':>9}{'MB':>8}{'max diff':>10}{'cpu s':>7}{'ratio':>8}"
    )
    for r in records:
        ratio = f"{r['ratio_1t']:>8.3f}" if "ratio_1t" in r else ""
        print(
            f"{r['model']:26}{r['tool']:13}{r['nodes']:>6}{r['transposes']:>5}{r['reshapes']:>5}"
            f"{r['gathers']:>4}{r['slices']:>4}{r['max_rank']:>5}{r['shape_arithmetic']:>6}"
            f"{r['macs'] / 1e6:>9.1f}{r['file_bytes'] / 1e6:>8.2f}{r['max_abs_diff']:>10.1e}"
            f"{r['seconds_cpu']:>7.1f}{ratio}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--networks", nargs="+", default=["emov2_5m", "edgenext_xx_small"], help="names, or: all"
    )
    parser.add_argument("--no-timing", action="store_true", help="exact columns only")
    parser.add_argument("--again", action="store_true", help="measure what is there already, too")
    parser.add_argument("--rounds", type=int, default=40)
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
        timed = arguments.no_timing or any("ratio_1t" in r for r in known)
        if {r["tool"] for r in known} == set(TOOLS) and timed:
            continue
        network = Network(name, arguments.graphs)
        graphs, seconds = network.graphs()
        records = network.exact(graphs, seconds)
        next(r for r in records if r["tool"] == "edgec")["stage"] = network.stage()
        if not arguments.no_timing:
            add_timings(records, graphs, network.input(), arguments.rounds)
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
    content = {"environment": environment, "notes": summary(records), "records": records}
    path.write_text(json.dumps(content, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
