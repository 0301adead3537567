"""Fewer than eight bits: rounding to nearest against learned rounding (emulated).

    EDGEC_BENCH_DATA=/data PYTHONPATH=.src python benchmarks/low_bits.py --json low_bits.json
    ... benchmarks/low_bits.py --networks mobilevit --bits W4A8 --methods flexround

Networks and data as in cifar_ptq.py: rounding is learned on images of the training part, without
their labels, and scored on the 5,000 others. No kernel computes with these widths; the graphs are
run as written, so there is no latency. Weights of all layers have the same width, first and last
ones included.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import onnx_ir as ir
import torch
from _ptq import Feed, Row, Variant, data_folder, machine, row, save, serialize, table, timed
from cifar_ptq import ARCHIVE, NETWORKS, load, logits, pixels

from edgec.export.quantize.calibrate import Calibration, calibrate
from edgec.export.quantize.insert import quantize
from edgec.export.quantize.rounding.adaround import AdaRound
from edgec.export.quantize.rounding.flexround import FlexRound
from edgec.export.quantize.rounding.reconstruct import Reconstruction, learn_rounding
from edgec.export.quantize.scheme import ORT_X86_VNNI, QuantScheme

METHODS = {"nearest": None, "adaround": AdaRound(), "flexround": FlexRound()}


def variant(model: ir.Model, scheme: QuantScheme, method: str, options: Reconstruction) -> Variant:
    """A scheme with one way of rounding."""

    def make(calibration: Calibration, feeds: Sequence[Feed]) -> bytes:
        chosen = METHODS[method]
        learned = None
        if chosen is not None:
            result = learn_rounding(
                model, calibration, scheme, feeds, method=chosen, options=options
            )
            learned = result.learned
        return serialize(quantize(model, calibration, scheme, learned=learned))

    return Variant(f"{scheme.name}, {method}", make, emulated=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--limit", type=int, default=5000, help="images to score on")
    parser.add_argument("--calibration-images", type=int, default=256)
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--bits", default="W8A8,W6A6,W4A8")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--iterations", type=int, default=100, help="per block")
    parser.add_argument("--window", type=int, default=1, help="blocks trained together")
    parser.add_argument("--drop", type=float, default=0.0, help="activations left unrounded")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    folder = data_folder()
    if folder is None or not (folder / ARCHIVE).exists():
        print(f"skipped: EDGEC_BENCH_DATA with {ARCHIVE} is not there", file=sys.stderr)
        return 0
    torch.set_num_threads(1)
    options = Reconstruction(
        iterations=arguments.iterations, window=arguments.window, drop=arguments.drop
    )
    scored, labels = pixels(folder / ARCHIVE, train=False, limit=arguments.limit)
    seen, _ = pixels(folder / ARCHIVE, train=True, limit=arguments.calibration_images)
    records: list[dict[str, object]] = []
    facts = {
        "images": len(scored),
        "calibration images": len(seen),
        "metric": "top-1",
        "iterations per block": options.iterations,
        "window": options.window,
        "drop": options.drop,
        **machine(),
    }
    for name in arguments.networks.split(","):
        model, preprocess = load(f"{name}_cifar10")
        key = str(model.graph.inputs[0].name)
        known: list[Feed] = [{key: preprocess(image)[None]} for image in seen]
        feeds: list[Feed] = [{key: preprocess(image)[None]} for image in scored]
        float_data = serialize(model)
        float_best = logits(float_data, feeds).argmax(axis=1)
        reference = float_best == labels
        rows: list[Row] = [row("float32", float_data, reference, reference, 1.0, None, 0.0)]
        calibration, spent = timed(lambda: calibrate(model, known, method="mse"))  # noqa: B023
        for bits in arguments.bits.split(","):
            weights, _, activations = bits.removeprefix("W").partition("A")
            scheme = ORT_X86_VNNI.with_bits(int(weights), int(activations))
            for method in arguments.methods.split(","):
                made = variant(model, scheme, method, options)
                data, seconds = timed(lambda: made.make(calibration, known))  # noqa: B023
                best = logits(data, feeds, emulated=True).argmax(axis=1)
                agreement = float((best == float_best).mean())
                rows.append(
                    row(
                        made.name, data, best == labels, reference, agreement, None, spent + seconds
                    )
                )
                table(f"{name}_cifar10", rows[-1:])
        records += [{"model": f"{name}_cifar10", **asdict(r)} for r in rows]
        save("Few bits, emulated, on CIFAR-10", records, facts, arguments.json)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
