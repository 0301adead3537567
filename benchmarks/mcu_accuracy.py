"""int8 accuracy of embedded C on CIFAR-10, and whether every byte is the integer reference's.

    EDGEC_BENCH_DATA=/data PYTHONPATH=.src python benchmarks/mcu_accuracy.py --json accuracy.json

Data: cifar10_dev.npz in EDGEC_BENCH_DATA. Each network is exported for stm32f746, its C compiled
for this machine and run on the 5,000 images that it was not trained on, beside the integer
reference in numpy, which takes minutes to an hour for each network. Rows of the file whose networks
are not run again stay as they are.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from _ptq_networks import CIFAR, CIFAR_ARCHIVE, MissingError, archive_of, cifar_images

import edgec
from edgec.export import c_artifacts
from edgec.export.emit.c.lower import Lowered
from edgec.export.emit.c.reference import reference
from edgec.export.tflite.model import Model
from edgec.export.tflite.names import input_names
from edgec.runtime.host.runner import CArtifactRunner
from edgec.runtime.runners import open_runner
from edgec.runtime.tflite_artifact import as_integers

TARGET = "stm32f746"


def export(name: str, archive: Path, out: Path) -> tuple[edgec.Bundle, Model]:
    """The bundle of a network, and the integer model that its C was made from."""
    made: list[Model] = []
    lower: Callable[..., Lowered] = c_artifacts.lower

    def kept(model: Model, **options: Any) -> Lowered:
        made.append(model)
        return lower(model, **options)

    c_artifacts.lower = kept  # type: ignore[assignment]
    try:
        bundle = edgec.compile(
            f"{name}_cifar10", target=TARGET, calib=str(archive), formats=("c",), out=str(out)
        )
    finally:
        c_artifacts.lower = lower
    return bundle, made[0]


def compare(name: str, archive: Path, folder: Path, limit: int) -> dict[str, Any]:
    """One network: accuracy of the C, and images for which the reference has other bytes."""
    bundle, model = export(name, archive, folder)
    artifact = next(a for a in bundle.manifest.artifacts if a.format == "c")
    runner = open_runner(bundle, artifact)
    assert isinstance(runner, CArtifactRunner)
    preprocess = bundle.manifest.preprocess
    assert preprocess is not None
    images, labels = cifar_images(train=False, limit=limit)
    (given,) = input_names(model)
    grid = model.main.tensors[model.main.inputs[0]]
    scale = artifact.checks["ports"]["outputs"][0]
    right = differ = 0
    start = time.monotonic()
    for image, label in zip(images, labels, strict=True):
        array = np.asarray(preprocess(image), np.float32)[None]
        (score,) = runner.run({given: array}).values()
        (wanted,) = reference(
            model, {given: as_integers(array.transpose(0, 2, 3, 1), grid)}
        ).values()
        integers = np.rint(score / np.float32(scale["scale"])) + scale["zero_point"]
        differ += not np.array_equal(integers.reshape(-1), wanted.reshape(-1))
        right += int(score.argmax()) == int(label)
    return {
        "network": f"{name}_cifar10",
        "images": len(images),
        "top1": round(100 * right / len(images), 2),
        "images_that_differ": differ,
        "arena": artifact.checks["arena_bytes"],
        "constants": artifact.checks["constant_bytes"],
        "macs": artifact.checks["macs"],
        "seconds": round(time.monotonic() - start),
    }


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--networks", default=",".join(CIFAR))
    parser.add_argument("--limit", type=int, default=5000)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    try:
        archive = archive_of(CIFAR_ARCHIVE)
    except MissingError as error:
        print(f"skipped: {error}", file=sys.stderr)
        return 0
    rows: dict[str, dict[str, Any]] = {}
    if arguments.json is not None and arguments.json.is_file():
        rows = {
            row["network"]: row for row in json.loads(arguments.json.read_text("utf-8"))["rows"]
        }
    for name in (network.removesuffix("_cifar10") for network in arguments.networks.split(",")):
        with tempfile.TemporaryDirectory() as temporary:
            row = compare(name, archive, Path(temporary) / "bundle", arguments.limit)
        rows[row["network"]] = row
        print(
            f"{row['network']:26} top-1 {row['top1']:5.2f} % of {row['images']} images, "
            f"{row['images_that_differ']} differ, arena {row['arena']:,}, "
            f"constants {row['constants']:,} bytes, {row['seconds']} s",
            flush=True,
        )
        if arguments.json is not None:
            facts = {"target": TARGET, "calibration": "recipe default, 96 images"}
            content = {
                "title": "Embedded C on CIFAR-10",
                "facts": facts,
                "rows": list(rows.values()),
            }
            arguments.json.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    return int(any(row["images_that_differ"] for row in rows.values()))


if __name__ == "__main__":
    raise SystemExit(main())
