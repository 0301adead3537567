"""How many calibration images are enough: accuracy of int8 over their number.

    EDGEC_BENCH_DATA=/data PYTHONPATH=.src python benchmarks/calibration_size.py --json size.json

Networks and data as in ptq.py. Each number is calibrated with several draws of training
images; the spread between draws says as much as the mean. `peak MiB` is what calibration itself
allocates beyond the loaded network (tracemalloc), which must not grow with the images.
"""

from __future__ import annotations

import argparse
import sys
import tracemalloc
from pathlib import Path

import numpy as np
from _ptq import Feed, machine, runner, save, serialize
from _ptq_networks import CIFAR, MissingError, cifar_graph, cifar_images
from numpy.typing import NDArray

from edgec.export.quantize.calibrate import calibrate
from edgec.export.quantize.recipes.apply import quantize_by
from edgec.export.quantize.recipes.recipe import get_recipe
from edgec.export.quantize.scheme import ORT_X86

SIZES = (4, 8, 16, 32, 64, 128, 256)


def classes(data: bytes, feeds: list[Feed]) -> NDArray[np.int64]:
    """Best class of every sample."""
    session = runner(data)
    return np.array([session.run(None, dict(feed))[0].argmax() for feed in feeds])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--networks", default=",".join(CIFAR))
    parser.add_argument("--limit", type=int, default=2000, help="images to score on")
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--recipe", default="default")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    recipe = get_recipe(arguments.recipe)
    try:
        scored, labels = cifar_images(train=False, limit=arguments.limit)
        seen, _ = cifar_images(train=True, limit=max(SIZES) * arguments.draws)
    except MissingError as error:
        print(f"skipped: {error}", file=sys.stderr)
        return 0
    records: list[dict[str, object]] = []
    facts = {"images": len(scored), "draws": arguments.draws, "recipe": recipe.name, **machine()}
    print(f"{'model':24} {'images':>6} {'top-1 drop':>16} {'agreement %':>18} {'peak MiB':>9}")
    for network in arguments.networks.split(","):
        name = f"{network}_cifar10"
        model, preprocess = cifar_graph(name)
        key = str(model.graph.inputs[0].name)
        known: list[Feed] = [{key: preprocess(image)[None]} for image in seen]
        feeds: list[Feed] = [{key: preprocess(image)[None]} for image in scored]
        best = classes(serialize(model), feeds)
        for size in SIZES:
            drops, agreements, peaks = [], [], []
            for draw in range(arguments.draws):
                chosen = known[draw :: arguments.draws][:size]
                tracemalloc.start()
                ranges = calibrate(model, chosen, method=recipe.calib_method)
                peaks.append(tracemalloc.get_traced_memory()[1] / 2**20)
                tracemalloc.stop()
                graph = quantize_by(recipe, model, ranges, lambda: chosen, ORT_X86).graph  # noqa: B023
                found = classes(serialize(graph), feeds)
                drops.append(100 * float((best == labels).mean() - (found == labels).mean()))
                agreements.append(100 * float((found == best).mean()))
            records.append(
                {
                    "model": name,
                    "calibration_images": size,
                    "drop": float(np.mean(drops)),
                    "drop_spread": float(np.ptp(drops)),
                    "agreement": float(np.mean(agreements)),
                    "agreement_spread": float(np.ptp(agreements)),
                    "peak_mib": max(peaks),
                }
            )
            print(
                f"{name:24} {size:6d} {np.mean(drops):+8.2f} ± {np.ptp(drops) / 2:4.2f} "
                f"{np.mean(agreements):10.2f} ± {np.ptp(agreements) / 2:4.2f} {max(peaks):9.2f}",
                flush=True,
            )
            save("Calibration images", records, facts, arguments.json)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
