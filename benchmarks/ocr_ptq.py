"""int8 of a trained conv + attention text recogniser, beside onnxruntime.quantization.

    pip install --no-deps rapidocr==3.10.0
    PYTHONPATH=.src python benchmarks/ocr_ptq.py --lines 1000 --json ocr_ptq.json

Network: PP-OCRv6_rec_small (Apache-2.0) from the wheel of rapidocr; its last Softmax is cut off for
every variant (the best class does not need it). Metric: share of rendered lines read without any
error. Calibration lines and test lines come from different seeds. All variants start from the
graph that edgec rewrote, are calibrated on the same lines and scored on the same lines; the
standard error counts the lines on which a variant differs from float.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
from _ptq import Row, Variant, edgec, onnxruntime_static, report, row, runner, serialize, timed
from _timing import interleaved, median_ratio
from numpy.typing import NDArray
from textlines import HEIGHT, WIDTH, Line, decode, find_fonts, render_lines

from edgec.export.capture import from_onnx
from edgec.export.quantize.calibrate import calibrate
from edgec.export.quantize.scheme import ORT_X86, ORT_X86_VNNI, TENSORRT
from edgec.export.rewrite.engine import run_stages

MODEL = "PP-OCRv6_rec_small.onnx"


def find_model(given: Path | None) -> Path | None:
    """The --model file, or the one inside the installed package rapidocr."""
    if given is not None:
        return given if given.exists() else None
    spec = importlib.util.find_spec("rapidocr")
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(spec.submodule_search_locations[0]) / "models" / MODEL
    return path if path.exists() else None


def load(path: Path) -> tuple[ir.Model, list[str]]:
    """The rewritten float graph without its last Softmax, and its characters."""
    model = from_onnx(path, shapes={"x": (1, 3, HEIGHT, WIDTH)})
    characters = [c for c in model.metadata_props["character"].split("\n") if c]
    run_stages(model, target_opset=20)
    output = model.graph.outputs[0]
    last = output.producer()
    if last is not None and last.op_type == "Softmax" and last.inputs[0] is not None:
        logits = last.inputs[0]
        model.graph.outputs[0] = logits
        model.graph.remove(last, safe=True)
    return model, characters


def variants(model: ir.Model) -> list[Variant]:
    """What is compared; `emulated` ones are for processors that this one may not be."""
    unsigned = replace(ORT_X86_VNNI, weight="uint8")
    return [
        edgec("edgec ort-x86, mse", model, ORT_X86, "mse"),
        edgec("edgec ort-x86, min-max", model, ORT_X86, "minmax"),
        edgec("edgec ort-x86, percentile 99.999", model, ORT_X86, "percentile", 99.999),
        edgec("edgec u8 weights, mse", model, unsigned, "mse"),
        edgec("edgec ort-x86-vnni, mse, emulated", model, ORT_X86_VNNI, "mse", emulated=True),
        edgec("edgec tensorrt, mse, emulated", model, TENSORRT, "mse", emulated=True),
        edgec("edgec ort-x86, mse, bias", model, ORT_X86, "mse", corrected=True),
        edgec("edgec u8 weights, mse, bias", model, unsigned, "mse", corrected=True),
        edgec(
            "edgec tensorrt, mse, bias, emulated",
            model,
            TENSORRT,
            "mse",
            emulated=True,
            corrected=True,
        ),
        edgec("edgec per-tensor weights, mse", model, replace(unsigned, per_channel=False), "mse"),
        onnxruntime_static("onnxruntime min-max", model, "minmax", reduce_range=False),
        onnxruntime_static("onnxruntime min-max, 7 bits", model, "minmax", reduce_range=True),
        onnxruntime_static(
            "onnxruntime percentile, 7 bits", model, "percentile", reduce_range=True
        ),
    ]


def score(
    data: bytes, lines: list[Line], characters: list[str], *, emulated: bool
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Per line: read without error; best class per time step."""
    session = runner(data, emulated=emulated)
    name = session.get_inputs()[0].name
    correct, best = [], []
    for line in lines:
        logits = session.run(None, {name: line.tensor})[0].reshape(-1, len(characters) + 2)
        correct.append(decode(logits, characters) == line.text)
        best.append(logits.argmax(axis=-1))
    return np.array(correct), np.array(best)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, help=f"path of {MODEL}")
    parser.add_argument("--lines", type=int, default=1000, help="test lines")
    parser.add_argument("--calibration-lines", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=30, help="latency rounds")
    parser.add_argument("--only", help="variants whose name contains this")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    path = find_model(arguments.model)
    fonts = find_fonts()
    if path is None or not fonts:
        missing = f"{MODEL} (pip install --no-deps rapidocr==3.10.0)" if path is None else "fonts"
        print(f"skipped: {missing} not found", file=sys.stderr)
        return 0
    model, characters = load(path)
    name = str(model.graph.inputs[0].name)
    feeds = [{name: line.tensor} for line in render_lines(arguments.calibration_lines, 2, fonts)]
    lines = render_lines(arguments.lines, 1, fonts)
    float_data = serialize(model)
    reference, float_best = score(float_data, lines, characters, emulated=False)
    rows: list[Row] = [row("float32", float_data, reference, reference, 1.0, 1.0, 0.0)]
    calibration, calibration_seconds = timed(lambda: calibrate(model, feeds))
    for variant in variants(model):
        if arguments.only and arguments.only not in variant.name:
            continue
        data, seconds = timed(lambda v=variant: v.make(calibration, feeds))  # type: ignore[misc]
        correct, best = score(data, lines, characters, emulated=variant.emulated)
        ratio = None
        if not variant.emulated:
            samples = interleaved(
                {"float": float_data, "int8": data}, feeds[0], threads=1, rounds=arguments.rounds
            )
            ratio = median_ratio(samples["int8"], samples["float"])
        agreement = float((best == float_best).mean())
        seconds += calibration_seconds if variant.calibrated else 0.0
        rows.append(row(variant.name, data, correct, reference, agreement, ratio, seconds))
        print(rows[-1], file=sys.stderr, flush=True)
    facts = {
        "lines": len(lines),
        "calibration lines": len(feeds),
        "fonts": len(fonts),
        "metric": "whole lines",
    }
    report(f"{MODEL}: W8A8", rows, facts, arguments.json)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
