"""int8 of the networks trained on CIFAR-10 that come with edgec, beside its peers.

    EDGEC_BENCH_DATA=/data PYTHONPATH=.src python benchmarks/cifar_ptq.py --json cifar.json
    python -m venv nncf && nncf/bin/pip install nncf==3.4.0 onnx onnxruntime
    ... benchmarks/cifar_ptq.py --nncf nncf/bin/python

Data: cifar10_dev.npz in EDGEC_BENCH_DATA: `jpeg`, `offsets`, `labels`, `is_train`. Networks are
calibrated on images that they were trained on and scored on the 5,000 that they were not.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx_ir as ir
from _ptq import (
    Feed,
    Variant,
    by_recipe,
    data_folder,
    machine,
    nncf_quantize,
    onnxruntime_static,
    row,
    runner,
    save,
    serialize,
    table,
    timed,
)
from _timing import interleaved, median_ratio
from numpy.typing import NDArray
from PIL import Image

from edgec.export.options import ExportOptions
from edgec.export.progress import Reporter
from edgec.export.quantize.calibrate import calibrate
from edgec.export.quantize.recipes.recipe import builtin_recipes
from edgec.export.quantize.scheme import ORT_X86, TENSORRT
from edgec.export.rewrite.engine import run_stages
from edgec.export.source import capture
from edgec.models.preprocess import Preprocess

ARCHIVE = "cifar10_dev.npz"
RECIPES = ("plain", "default", "smooth")
NETWORKS = ("emov2", "edgenext", "mobilevit", "efficientformerv2", "mcuformer")


def load(name: str) -> tuple[ir.Model, Preprocess]:
    """The rewritten float graph of a trained network, and its preprocessing."""
    captured = capture(name, ExportOptions(), needs_accuracy=True, reporter=Reporter(quiet=True))
    assert captured.preprocess is not None
    model = ir.from_proto(ir.to_proto(captured.graph))
    run_stages(model, target_opset=20)
    return model, captured.preprocess


def pixels(
    archive: Path, *, train: bool, limit: int
) -> tuple[list[Image.Image], NDArray[np.int64]]:
    """Images and labels of one part; drawn evenly if there are more than `limit`."""
    with np.load(archive) as data:
        offsets, jpeg, labels = data["offsets"], data["jpeg"], data["labels"]
        chosen = np.flatnonzero(data["is_train"] == train)
    if len(chosen) > limit:
        chosen = np.sort(np.random.default_rng(0).choice(chosen, limit, replace=False))
    images = [
        Image.open(io.BytesIO(jpeg[offsets[i] : offsets[i + 1]].tobytes())).convert("RGB")
        for i in chosen
    ]
    return images, labels[chosen].astype(np.int64)


def variants(model: ir.Model, names: Sequence[str], nncf: str | None) -> list[Variant]:
    """What is compared."""
    recipes = builtin_recipes()
    found = [
        by_recipe(
            f"edgec {scheme.name}, {name}",
            model,
            recipes[name],
            scheme,
            emulated=scheme is TENSORRT,
        )
        for scheme in (ORT_X86, TENSORRT)
        for name in names
    ]
    found += [
        onnxruntime_static("onnxruntime min-max, 7 bits", model, "minmax", reduce_range=True),
        onnxruntime_static(
            "onnxruntime percentile, 7 bits", model, "percentile", reduce_range=True
        ),
        onnxruntime_static("onnxruntime entropy, 7 bits", model, "entropy", reduce_range=True),
    ]
    if nncf is not None:
        found += [
            nncf_quantize("nncf default", model, nncf, transformer=False),
            nncf_quantize("nncf transformer, mixed", model, nncf, transformer=True),
        ]
    return found


def logits(data: bytes, feeds: list[Feed], *, emulated: bool = False) -> NDArray[np.float32]:
    """Outputs (n, classes)."""
    session = runner(data, emulated=emulated)
    return np.concatenate([session.run(None, dict(feed))[0] for feed in feeds])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--limit", type=int, default=5000, help="images to score on")
    parser.add_argument("--calibration-images", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=60, help="latency rounds")
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--recipes", default=",".join(RECIPES), help="of edgec")
    parser.add_argument("--only", default="", help="variants whose name contains this")
    parser.add_argument("--nncf", help="Python interpreter that has nncf")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    folder = data_folder()
    if folder is None or not (folder / ARCHIVE).exists():
        print(f"skipped: EDGEC_BENCH_DATA with {ARCHIVE} is not there", file=sys.stderr)
        return 0
    scored, labels = pixels(folder / ARCHIVE, train=False, limit=arguments.limit)
    seen, _ = pixels(folder / ARCHIVE, train=True, limit=arguments.calibration_images)
    records: list[dict[str, object]] = []
    failed: list[dict[str, str]] = []
    facts: dict[str, object] = {
        "images": len(scored),
        "calibration images": len(seen),
        "metric": "top-1",
        "did not run": failed,
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
        rows = [row("float32", float_data, reference, reference, 1.0, 1.0, 0.0)]
        calibration, calibration_seconds = timed(lambda: calibrate(model, known))  # noqa: B023
        for variant in variants(model, arguments.recipes.split(","), arguments.nncf):
            if arguments.only not in variant.name:
                continue
            try:
                data, seconds = timed(lambda: variant.make(calibration, known))  # noqa: B023
                best = logits(data, feeds, emulated=variant.emulated).argmax(axis=1)
            except Exception as error:
                if variant.name.startswith("edgec"):
                    raise
                reason = str(error).strip().splitlines()[0][:100]
                failed.append({"model": f"{name}_cifar10", "name": variant.name, "why": reason})
                print(f"{variant.name}: does not run: {reason}")
                continue
            ratio = None
            if not variant.emulated:
                samples = interleaved(
                    {"float": float_data, "int8": data},
                    feeds[0],
                    threads=1,
                    rounds=arguments.rounds,
                )
                ratio = median_ratio(samples["int8"], samples["float"])
            seconds += calibration_seconds if variant.calibrated else 0.0
            agreement = float((best == float_best).mean())
            rows.append(
                row(variant.name, data, best == labels, reference, agreement, ratio, seconds)
            )
        table(f"{name}_cifar10", rows)
        records += [{"model": f"{name}_cifar10", **asdict(r)} for r in rows]
        save("Static int8 of small networks on CIFAR-10", records, facts, arguments.json)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
