"""Parity report: every registered network, exported for every Jetson generation.

    PYTHONPATH=.src python benchmarks/zoo.py --json benchmarks/results/zoo.json

One row per network and target: parameters, MACs, nodes before and after rewriting, largest absolute
difference between the PyTorch network and the captured graph in ONNX Runtime and between that and
the artifact (with the signal-to-noise ratio of the latter), CPU seconds and peak memory of `edgec
export`, which runs as a process of its own. The first target of a network starts from
nothing; the others find the captured graph in the cache, as they do for a user. Weights are random
where no checkpoint ships (zero biases and unit scales would hide errors). Rows already in the file
are kept, so that a run can be stopped and goes on (--again measures those of --models anew); small
networks come first.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import torch

from edgec.export.files import dump_json
from edgec.models.registry import get_spec, list_models
from edgec.targets import get_target

TARGETS = ("jetson-orin-nano-jp6.2", "jetson-xavier-nx-jp5.1", "jetson-nano-jp4.6")
MAX_SECONDS = 60.0
MAX_GIB = 6.0
COLUMNS = (
    "model", "opset", "params", "macs", "nodes_before", "nodes", "shape_arithmetic",
    "capture_diff", "rewrite_diff", "sqnr_db", "cpu_seconds", "peak_gib", "error",
)  # fmt: skip


def export_in_a_process(
    arguments: Sequence[str], cache: Path
) -> tuple[dict[str, Any], float, float]:
    """Run `edgec export`; returns (its JSON, CPU seconds, peak resident GiB)."""
    environment = {**os.environ, "EDGEC_CACHE_DIR": str(cache), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "edgec", "export", *arguments, "--json", "--quiet"],
        stdout=subprocess.PIPE,
        env=environment,
    )
    assert process.stdout is not None
    with process.stdout as stream:
        output = stream.read()
    _, status, used = os.wait4(process.pid, 0)  # the usage of this child alone
    if not output:
        raise RuntimeError(f"edgec export ended with {os.waitstatus_to_exitcode(status)}")
    return json.loads(output), used.ru_utime + used.ru_stime, _gib(used)


def _gib(used: resource.struct_rusage) -> float:
    unit = 1 if sys.platform == "darwin" else 1024
    return used.ru_maxrss * unit / 2**30


def measure(model: str, cache: Path) -> list[dict[str, Any]]:
    """One row per target."""
    spec = get_spec(model)
    weights = (
        [] if spec.checkpoints and spec.checkpoints[0].url.startswith("edgec:") else ["random"]
    )
    rows = []
    for index, target in enumerate(TARGETS):
        with tempfile.TemporaryDirectory() as folder:
            arguments = ["--model", model, "--target", target, "--precision", "fp32"]
            arguments += ["--out", str(Path(folder) / "bundle"), "--format", "onnx"]
            if weights:
                arguments += ["--weights", *weights]
            answer, seconds, gib = export_in_a_process(arguments, cache)
        row: dict[str, Any] = {
            "model": model,
            "target": target,
            "cached_capture": index > 0,
            "cpu_seconds": round(seconds, 1),
            "peak_gib": round(gib, 2),
        }
        row |= {"opset": get_target(target).runtime.opset, **facts_of(answer)}
        rows.append(row)
    return rows


def facts_of(answer: dict[str, Any]) -> dict[str, Any]:
    """What the report of an export says, or its error."""
    if "report" not in answer:
        return {"error": answer["error"]["code"]}
    report = answer["report"]
    graph, artifact = report["graph"], report["artifacts"][0]
    parity = artifact["checks"]["vs_source"]
    return {
        "params": report["model"]["params"],
        "macs": graph["macs"],
        "nodes_before": graph["nodes_before"],
        "nodes": graph["nodes"],
        "shape_arithmetic": graph["shape_arithmetic"],
        "capture_diff": graph["capture_max_abs"],
        "rewrite_diff": parity["max_abs"],
        "sqnr_db": parity["sqnr_db"],
        "error": None,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(description="Export every registered network.")
    parser.add_argument("--models", nargs="*", default=list_models())
    parser.add_argument("--json", type=Path, default=Path("zoo.json"))
    parser.add_argument("--again", action="store_true", help="measure those anew that the file has")
    options = parser.parse_args(argv)
    records: list[dict[str, Any]] = []
    if options.json.is_file():
        records = json.loads(options.json.read_text("utf-8"))["records"]
    if options.again:
        records = [record for record in records if record["model"] not in options.models]
    done = {record["model"] for record in records}
    environment = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "onnx": onnx.__version__,
        "onnxruntime": onnxruntime.__version__,
        "machine": platform.machine(),
    }
    print("\t".join(COLUMNS))
    with tempfile.TemporaryDirectory() as cache:
        for model in sorted(options.models, key=lambda name: (get_spec(name).macs, name)):
            if model not in done:
                records += measure(model, Path(cache))
                text = dump_json({"environment": environment, "records": records})
                options.json.write_text(text, "utf-8")
            for record in records:
                if record["model"] == model:
                    print("\t".join(str(record.get(column, "")) for column in COLUMNS), flush=True)
    failed = [r for r in records if r["error"]]
    slow = [r for r in records if r["cpu_seconds"] > MAX_SECONDS or r["peak_gib"] > MAX_GIB]
    print(f"{len(records)} exports, {len(failed)} failed, {len(slow)} beyond {MAX_SECONDS:g} s CPU "
          f"or {MAX_GIB:g} GiB")  # fmt: skip
    return 1 if failed or slow else 0


if __name__ == "__main__":
    raise SystemExit(main())
