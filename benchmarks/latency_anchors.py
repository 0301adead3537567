"""Networks on this machine, each predicted from five others that were measured here.

    PYTHONPATH=benchmarks:.src python benchmarks/latency_anchors.py --json \
        benchmarks/results/latency_anchors.json

What a user of ``edgec profile --anchors`` gets where no constants are of the processor: ONNX
Runtime runs the float graphs of zoo and timm networks in turns, the fastest run counts. Every
network is predicted ten times, from five others drawn by chance, with the constants of ncnn that
the product calibrates and with those of torch.compile.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime

from edgec.export.check import float_graph
from edgec.export.progress import Reporter
from edgec.profiles.from_graph import graph_layers
from edgec.profiles.latency.features import matrix
from edgec.profiles.latency.predict import Anchor
from edgec.profiles.latency.target import Anchors, fit_for, predict_for
from edgec.profiles.layers import Layer
from edgec.targets import get_target

NETWORKS = (
    *("emov2_1m", "emov2_2m", "edgenext_xx_small", "edgenext_x_small", "mobilevit_xxs"),
    *("mobilevit_xs", "mobilevitv2_050", "efficientformerv2_s0", "timm:mobilenetv2_100"),
    *("timm:mobilenetv3_small_100", "timm:resnet18", "timm:efficientnet_lite0"),
    *("timm:regnetx_004", "timm:mnasnet_100", "timm:resnet26"),
)
RUNTIMES = ("onnxruntime", "PyTorch")
"""As whose anchors they are given: it decides the constants that are calibrated."""
ANCHORS, DRAWS, ROUNDS = 5, 10, 40


def measure(graphs: Mapping[str, ir.Model], threads: int) -> dict[str, float]:
    """Milliseconds of each network, the fastest of `ROUNDS` in turns."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    sessions, feeds = {}, {}
    for name, graph in graphs.items():
        content = ir.to_proto(graph).SerializeToString()
        session = onnxruntime.InferenceSession(content, options)
        (port,) = session.get_inputs()
        image = np.random.default_rng(0).normal(size=port.shape).astype(np.float32)
        sessions[name], feeds[name] = session, {port.name: image}
    best = dict.fromkeys(graphs, np.inf)
    for _ in range(ROUNDS):
        for name, session in sessions.items():
            start = time.perf_counter()
            session.run(None, feeds[name])
            best[name] = min(best[name], 1e3 * (time.perf_counter() - start))
    return best


def score(
    layers: Mapping[str, Sequence[Layer]], measured: Mapping[str, float], threads: int, as_of: str
) -> dict[str, Any]:
    """One row of the table."""
    target = get_target("generic-x86-64")
    fit = fit_for(target, "fp32", threads, as_of)
    assert fit is not None
    work = {n: matrix(found, fit.features, fit.merge, threads) for n, found in layers.items()}
    errors, inside, refused = [], [], 0
    rng = np.random.default_rng(0)
    for name in layers:
        for _ in range(DRAWS):
            others = rng.permutation([n for n in layers if n != name])[:ANCHORS]
            anchors = tuple(Anchor(str(n), work[n], measured[n]) for n in others)
            board = Anchors(fit, "this machine", as_of, threads, anchors)
            found = predict_for(layers[name], "fp32", target, anchors=board)
            if found.latency_ms is None or found.low_ms is None or found.high_ms is None:
                refused += 1
                continue
            errors.append(abs(found.latency_ms / measured[name] - 1))
            inside.append(found.low_ms <= measured[name] <= found.high_ms)
    error = np.array(errors)
    return {
        "constants": fit.id,
        "threads": threads,
        "networks": len(layers),
        "predictions": len(error),
        "refused": refused,
        "within_10": round(100 * float((error <= 0.1).mean()), 1),
        "within_20": round(100 * float((error <= 0.2).mean()), 1),
        "median_error": round(100 * float(np.median(error)), 1),
        "inside_interval": round(100 * float(np.mean(inside)), 1),
    }


def main() -> None:
    """Capture, measure, predict, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--threads", type=int, nargs="*", default=[1])
    arguments = parser.parse_args()
    target, reporter = get_target("generic-x86-64"), Reporter(quiet=True)
    graphs = {name: float_graph(name, target, {}, reporter)[1] for name in NETWORKS}
    layers = {name: graph_layers(graph) for name, graph in graphs.items()}
    rows = []
    for threads in arguments.threads:
        measured = measure(graphs, threads)
        print({name: round(ms, 2) for name, ms in measured.items()})
        rows += [score(layers, measured, threads, as_of) for as_of in RUNTIMES]
    for row in rows:
        print(row)
    if arguments.json:
        record = {
            "schema": "edgec.latency_anchors/1",
            "facts": {
                "machine": platform.machine(),
                "onnxruntime": onnxruntime.__version__,
                "rounds": ROUNDS,
                "anchors": ANCHORS,
            },
            "rows": rows,
        }
        arguments.json.write_text(json.dumps(record, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
