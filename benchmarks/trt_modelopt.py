"""Where edgec puts Q/DQ for TensorRT beside where NVIDIA ModelOpt puts them, on the same networks.

    EDGEC_TENSORRT_RTX=/path/to/python-with-tensorrt-rtx EDGEC_BENCH_DATA=/data PYTHONPATH=.src \
        python benchmarks/trt_modelopt.py --modelopt /path/to/python-with-modelopt \
        --json benchmarks/results/trt_modelopt.json

Both tools start from the float32 graph that edgec rewrote, take the largest magnitude as the range
of a tensor (``max``, ``minmax``) over the same images and round to nearest, so that what differs is
which tensors are quantized. What they leave in float is then written in float16 by one pass, and
the graph compiled by TensorRT for RTX for SM86, a proxy for the device's own TensorRT. The columns:
kernels, those that carry other operators with them, fused attention; products on integers and
their share of the multiplications; residual additions with both and with one arm quantized; signal
to noise of the outputs against float32; top-1 on images that the networks were not trained on.

`only_edgec` and `only_modelopt` name products that one of the two computes on integers and the
other does not. nvidia-modelopt[onnx]==0.47.0 runs by an interpreter of its own.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from _ptq import by_recipe, serialize
from _ptq_networks import CIFAR, Network, load
from _ptq_peers import elsewhere
from _ptq_score import outputs

from edgec.export.emit.tensorrt.placement import Candidate, best
from edgec.export.emit.tensorrt.proxy import compile_for, proxy_python
from edgec.export.files import dump_json
from edgec.export.lint.base import DEQUANTIZE, WEIGHTED, is_standard
from edgec.export.quantize.calibrate import calibrate
from edgec.export.quantize.float16 import to_float16
from edgec.export.quantize.placement import DEFAULT, PLACEMENTS, placed
from edgec.export.quantize.recipes.recipe import builtin_recipes
from edgec.export.quantize.scheme import TENSORRT
from edgec.profiles.macs import node_macs
from edgec.runtime.agreement import compare
from edgec.runtime.onnx_runner import OnnxRunner

CAPABILITY = "SM86"
IMAGES = 1000
CALIBRATION = 128
COLUMNS = (
    "kernels", "fused", "attention", "products", "integer_macs", "both_arms", "one_arm", "sqnr_db",
    "top1",
)  # fmt: skip


def integer_nodes(model: ir.Model) -> tuple[list[str], list[str], list[str]]:
    """Names of products with both operands behind DequantizeLinear, then of additions of two
    computed tensors with both, and with one, behind it."""
    products, both, one = [], [], []
    for node in model.graph:
        arms = [v for v in node.inputs[:2] if v is not None]
        read = sum(is_standard(v.producer(), DEQUANTIZE) for v in arms)
        if is_standard(node, *WEIGHTED) and read == 2:
            products.append(str(node.name))
        elif is_standard(node, "Add") and all(v.const_value is None for v in arms):
            (both if read == 2 else one if read == 1 else []).append(str(node.name))
    return products, both, one


def rows_of(network: Network, python: str, modelopt: str) -> list[dict[str, Any]]:
    """Without Q/DQ, edgec's default placement, the one that edgec keeps, and ModelOpt."""
    (fold,) = network.folds
    model = network.model
    ranges = calibrate(model, fold.calibration)
    total = sum(node_macs(node) for node in model.graph)
    reference = OnnxRunner(serialize(model))
    held_out = [(dict(network.samples[n]), None) for n in range(32)]

    def row(tool: str, data: bytes) -> dict[str, Any]:
        graph = ir.from_proto(onnx.load_from_string(data))
        products, both, one = integer_nodes(graph)
        found = set(products)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            path.write_bytes(serialize(to_float16(graph, calibration=ranges)))
            plan, version = compile_for(python, path, CAPABILITY)
        if not plan.built:
            raise SystemExit(f"{network.name}, {tool}: {'; '.join(plan.errors)}")
        right, _ = outputs(network, data, np.arange(len(network.samples)), emulated=True)
        runner = OnnxRunner(data, emulate=True)
        return {
            "model": network.name,
            "tool": tool,
            "compiler": version,
            "kernels": plan.kernels,
            "fused": plan.kinds.get("runtime_fusion", 0),
            "attention": plan.attention,
            "products": len(products),
            "integer_macs": sum(node_macs(n) for n in model.graph if n.name in found) / total,
            "both_arms": len(both),
            "one_arm": len(one),
            "sqnr_db": compare(reference.run, runner.run, held_out).sqnr_db,
            "top1": 100.0 * float(np.mean(right)),
            "nodes": products,
        }

    plain = builtin_recipes()["plain"]
    tried = {}
    for name in PLACEMENTS:
        made = by_recipe(name, model, plain, placed(TENSORRT, name), emulated=True)
        tried[name] = row(f"edgec {name}", made.make(fold.calibration))
    keep = best(
        [
            Candidate(name, True, *(r[k] for k in ("kernels", "fused", "attention")),
                      r["integer_macs"], r["sqnr_db"])
            for name, r in tried.items()
        ]
    ).name  # fmt: skip
    # the outputs of the first row are the float32 reference itself
    found = [row("float", serialize(model)) | {"sqnr_db": None}, tried[DEFAULT]]
    if keep != DEFAULT:
        found.append(tried[keep])
    found[-1]["chosen"] = True
    peer = elsewhere("modelopt", model, modelopt, "modelopt", "max", emulated=True)
    found.append(row("modelopt", peer.make(fold.calibration)))
    ours, theirs = (set(r["nodes"]) for r in (tried[DEFAULT], found[-1]))
    order = [str(node.name) for node in model.graph]
    found[-1]["only_edgec"] = [name for name in order if name in ours - theirs]
    found[-1]["only_modelopt"] = [name for name in order if name in theirs - ours]
    for each in found:
        del each["nodes"]
    return found


def version_of(python: str) -> str:
    """The version of ModelOpt that an interpreter has."""
    code = "import importlib.metadata as m; print(m.version('nvidia-modelopt'))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def line(row: dict[str, Any]) -> str:
    """A row in one line."""
    cells = [f"{row['model']:<26}{row['tool']:<22}"]
    for column in COLUMNS:
        value = row[column]
        text = "-" if value is None else f"{value:.3g}" if isinstance(value, float) else value
        cells.append(f"{text:>13}")
    return "".join(cells) + (" chosen" if row.get("chosen") else "")


def main(argv: Sequence[str] | None = None) -> int:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(description="Placement of Q/DQ beside NVIDIA ModelOpt's.")
    parser.add_argument("--modelopt", required=True, help="Python that has nvidia-modelopt")
    parser.add_argument("--models", nargs="*", default=[f"{name}_cifar10" for name in CIFAR])
    parser.add_argument("--json", type=Path, default=Path("trt_modelopt.json"))
    options = parser.parse_args(argv)
    python = proxy_python()
    if python is None:
        print("needs TensorRT for RTX: pip install 'edgec[trt-check]'", file=sys.stderr)
        return 6
    print(f"{'network':<26}{'tool':<22}" + "".join(f"{column:>13}" for column in COLUMNS))
    rows: list[dict[str, Any]] = []
    for name in options.models:
        network = load(name, limit=IMAGES, calibration=CALIBRATION)
        for row in rows_of(network, python, options.modelopt):
            rows.append(row)
            print(line(row), flush=True)
        facts = {
            "compiler": f"TensorRT for RTX {rows[-1]['compiler']}",
            "capability": CAPABILITY,
            "modelopt": version_of(options.modelopt),
            "images": IMAGES,
            "calibration": CALIBRATION,
        }
        options.json.write_text(dump_json({"facts": facts, "rows": rows}), "utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
