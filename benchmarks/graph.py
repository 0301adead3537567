"""edgec's rewritten graphs beside onnxsim, onnxslim, onnxscript's optimizer and ONNX Runtime.

    PYTHONPATH=.src python benchmarks/graph.py --models emov2_5m edgenext_xx_small --json graph.json

For every tool: nodes without Constant, Transpose/Reshape/selection nodes, highest rank, bytes,
largest absolute difference from torch, and latency in ONNX Runtime relative to the raw export,
interleaved in one process (median of per-round ratios). Every weight, bias and BatchNorm statistic
is random: zero biases and unit scales let simplifiers remove operators that trained weights need.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import platform
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
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


def copy_of(proto: onnx.ModelProto) -> onnx.ModelProto:
    duplicate = onnx.ModelProto()
    duplicate.CopyFrom(proto)
    return duplicate


def measure(name: str, threads: list[int], rounds: int) -> list[dict[str, Any]]:
    """One record per tool for one network."""
    shape = tuple(get_spec(name).input_shape)
    network = models.create_model(name)
    randomize(network, seed=0)
    raw = raw_export(network, shape)
    graphs: dict[str, bytes] = {"raw": raw.SerializeToString()}
    seconds: dict[str, float] = {"raw": 0.0}
    for tool, function in PEERS.items():
        start = time.process_time()
        graphs[tool] = function(copy_of(raw)).SerializeToString()
        seconds[tool] = time.process_time() - start
    captured = from_torch(network, shape)
    start = time.process_time()
    run_stages(captured, target_opset=20)
    seconds["edgec"] = time.process_time() - start
    graphs["edgec"] = numerics.serialize(captured)

    x = np.random.default_rng(1).standard_normal((1, *shape)).astype(np.float32)
    with torch.no_grad():
        want = [t.numpy() for t in flatten_outputs(network(torch.from_numpy(x)))]
    samples = {n: interleaved(graphs, {"input": x}, threads=n, rounds=rounds) for n in threads}
    records = []
    for tool, data in graphs.items():
        model = ir.from_proto(onnx.load_from_string(data))
        infer_shapes(model)
        stats = graph_stats(model)
        runner = ort.InferenceSession(data, providers=["CPUExecutionProvider"])
        got = runner.run(None, {runner.get_inputs()[0].name: x})
        record: dict[str, Any] = {
            "model": name,
            "tool": tool,
            "seconds_cpu": round(seconds[tool], 2),
            **stats.to_json(),
            "file_bytes": len(data),
            "max_abs_diff": max(float(np.abs(a - b).max()) for a, b in zip(want, got, strict=True)),
        }
        for n in threads:
            record[f"median_ms_{n}t"] = round(statistics.median(samples[n][tool]), 3)
            record[f"ratio_{n}t"] = round(median_ratio(samples[n][tool], samples[n]["raw"]), 4)
        records.append(record)
    return records


def print_table(records: list[dict[str, Any]], threads: list[int]) -> None:
    columns = [f"ratio {n}t" for n in threads]
    print(
        f"{'model':26}{'tool':12}{'nodes':>6}{'T':>5}{'R':>5}{'sel':>5}{'rank':>5}{'shape':>6}"
        f"{'MB':>8}{'max diff':>10}{'cpu s':>7}" + "".join(f"{c:>10}" for c in columns)
    )
    for r in records:
        print(
            f"{r['model']:26}{r['tool']:12}{r['nodes']:>6}{r['transposes']:>5}{r['reshapes']:>5}"
            f"{r['selections']:>5}{r['max_rank']:>5}{r['shape_arithmetic']:>6}"
            f"{r['file_bytes'] / 1e6:>8.2f}{r['max_abs_diff']:>10.1e}{r['seconds_cpu']:>7.1f}"
            + "".join(f"{r[f'ratio_{n}t']:>10.3f}" for n in threads)
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--models", nargs="+", default=["emov2_5m", "edgenext_xx_small"], help="names, or: all"
    )
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--json", type=Path, help="write all records to this file")
    arguments = parser.parse_args()
    names = models.list_models() if arguments.models == ["all"] else arguments.models
    records: list[dict[str, Any]] = []
    for name in names:
        records += measure(name, arguments.threads, arguments.rounds)
    print_table(records, arguments.threads)
    if arguments.json:
        environment = {
            "onnxruntime": ort.__version__,
            "torch": torch.__version__,
            "onnx": onnx.__version__,
            "machine": platform.machine(),
            "rounds": arguments.rounds,
        }
        arguments.json.write_text(
            json.dumps({"environment": environment, "records": records}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
