"""Embedded C of the MLPerf Tiny networks and two more: RAM, flash, exact instruction counts.

    EDGEC_BENCH_DATA=/data PYTHONPATH=.src python benchmarks/mcu.py --json mcu.json

Data: mlperf_tiny/*.tflite in EDGEC_BENCH_DATA (the four reference files of mlcommons/tiny, and a
MobileNetV2-0.35 and a small ReLU ViT of 96x96 inputs with random weights). Each file is compiled to
C, run on simulated boards by its self-test (three random inputs, outputs of the integer reference,
which equals LiteRT's plain kernels but for the softmax, which is an integer one here), and counted.
RAM is the arena, inputs and outputs included; flash is the image without golden data. Peers, built
with the same compiler and counted the same way, once: TensorFlow Lite Micro of 2026-08-20 with
CMSIS-NN (arena of its interpreter, C library in its flash).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from edgec.export.emit.c.lower import lower
from edgec.export.emit.c.reference import reference
from edgec.export.emit.c.source import write_sources
from edgec.export.files import write_texts
from edgec.export.tflite import load
from edgec.export.tflite.names import input_names
from edgec.profiles.memory.plan import plan
from edgec.runtime.qemu.boards import get_board
from edgec.runtime.qemu.run import count_instructions

NETWORKS = {
    "vww_96_int8": "MLPerf VWW, MobileNetV1-0.25",
    "pretrainedResnet_quant": "MLPerf IC, ResNet-8",
    "kws_ref_model": "MLPerf KWS, DS-CNN",
    "ad01_int8": "MLPerf AD, autoencoder",
    "mbv2_035_96": "MobileNetV2-0.35, 96x96",
    "vit_d96_p16_relu": "ViT, 4 blocks of 96, ReLU",
}
# arena, flash, instructions on Cortex-M7 and Cortex-M55
TFLM = {
    "vww_96_int8": (100_708, 428_424, 24.48e6, 6.43e6),
    "pretrainedResnet_quant": (54_996, 187_248, 29.94e6, 4.81e6),
    "kws_ref_model": (22_820, 146_736, 7.76e6, 1.79e6),
    "ad01_int8": (2_580, 314_232, 0.583e6, 0.285e6),
    "mbv2_035_96": (204_756, 741_384, 46.8e6, 13.4e6),
    "vit_d96_p16_relu": (90_164, 563_296, 59.1e6, 29.9e6),
}
BOARDS = {"M7": "mps2-an500", "M55": "mps3-an547"}
SAMPLES = 3


def measure(path: Path, folder: Path) -> dict[str, Any]:
    """One network: written, planned, run on both boards."""
    model = load(path)
    lowered = lower(model, name=path.stem)
    start = time.monotonic()
    planned = plan(lowered.program, time_limit=20)
    golden = []
    for seed in range(SAMPLES):
        rng = np.random.default_rng(seed)
        tensors = [model.main.tensors[i] for i in model.main.inputs]
        feeds = {
            name: rng.integers(-128, 128, tensor.shape, dtype=np.int8)
            for name, tensor in zip(input_names(model), tensors, strict=True)
        }
        golden.append((feeds, reference(model, feeds)))
    sources = write_sources(model, lowered, planned, prefix=path.stem, golden=golden)
    write_texts(folder, sources.files)
    data = sum(a.size for pair in golden for arrays in pair for a in arrays.values())
    counts = {
        core: count_instructions(
            folder, get_board(board), steps=len(sources.steps), samples=SAMPLES
        )
        for core, board in BOARDS.items()
    }
    return {
        "network": path.stem,
        "title": NETWORKS[path.stem],
        "macs": sources.macs,
        "arena": planned.peak,
        "lower_bound": planned.lower_bound,
        "proved": planned.proved,
        "plan_seconds": round(time.monotonic() - start, 2),
        "flash": {core: count.flash_bytes - data for core, count in counts.items()},
        "stack": {core: count.stack_bytes for core, count in counts.items()},
        "instructions": {core: count.instructions for core, count in counts.items()},
        "agreed": all(count.agreed for count in counts.values()),
        "compiler": counts["M7"].compiler,
        "flags": {core: " ".join(count.flags) for core, count in counts.items()},
        "tflm": dict(zip(("arena", "flash", "M7", "M55"), TFLM[path.stem], strict=True)),
    }


def table(records: list[dict[str, Any]]) -> None:
    """Print one line per network."""
    print(
        f"{'network':30} {'arena':>8} {'TFLM':>8} {'flash':>8} {'TFLM':>8} {'M7':>7} {'TFLM':>6} "
        f"{'M55':>7} {'TFLM':>6}  bytes agree"
    )
    for r in records:
        m7, m55 = (r["instructions"][core] / 1e6 for core in BOARDS)
        peer = r["tflm"]
        print(
            f"{r['title']:30} {r['arena']:8} {peer['arena']:8} {r['flash']['M7']:8} "
            f"{peer['flash']:8} {m7:7.2f} {peer['M7'] / 1e6:6.2f} {m55:7.2f} "
            f"{peer['M55'] / 1e6:6.2f}  {'yes' if r['agreed'] else 'NO'}"
            f"{'' if r['proved'] else ', arena not proved optimal'}"
        )
    print("instructions in millions for one inference; counts are exact, they are no latency")


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    root = os.environ.get("EDGEC_BENCH_DATA")
    folder = Path(root or ".") / "mlperf_tiny"
    if root is None or not folder.is_dir():
        print("skipped: EDGEC_BENCH_DATA with mlperf_tiny is not there", file=sys.stderr)
        return 0
    records = []
    for name in arguments.networks.split(","):
        with tempfile.TemporaryDirectory() as temporary:
            records.append(measure(folder / f"{name}.tflite", Path(temporary)))
    table(records)
    if arguments.json is not None:
        facts = {"compiler": records[0]["compiler"], "flags": records[0]["flags"]}
        content = {"title": "Embedded C", "facts": facts, "rows": records}
        arguments.json.write_text(json.dumps(content, indent=1) + "\n")
    return 0 if all(r["agreed"] for r in records) else 1


if __name__ == "__main__":
    raise SystemExit(main())
