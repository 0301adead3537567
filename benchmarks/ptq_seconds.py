"""How long quantization takes: CPU time of a recipe's steps on a network of 5 M parameters.

    PYTHONPATH=.src python benchmarks/ptq_seconds.py --json ptq_seconds.json
    ... --networks emov2_5m --recipes default,qhyvit --samples 32

The parameters are random and the samples noise: how long it takes depends on the graph and on how
many samples there are, not on what they show. Capture and rewriting are not counted. Seconds are
CPU time, with one thread in torch, so that other work on the machine hardly matters. With --json,
rows of this run replace those of the same network, recipe and scheme.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from _ptq import Feed, machine, save, timed

from edgec.export.options import ExportOptions
from edgec.export.progress import Reporter
from edgec.export.quantize.calibrate import calibrate
from edgec.export.quantize.recipes.apply import quantize_by, transform
from edgec.export.quantize.recipes.recipe import Recipe, get_recipe
from edgec.export.quantize.scheme import QuantScheme, get_scheme
from edgec.export.rewrite.engine import run_stages
from edgec.export.source import capture


def network(name: str) -> ir.Model:
    """The rewritten float graph, random parameters."""
    options = ExportOptions(weights="random")
    captured = capture(name, options, needs_accuracy=False, reporter=Reporter(quiet=True))
    model = ir.from_proto(ir.to_proto(captured.graph))
    run_stages(model, target_opset=20)
    return model


def noise(model: ir.Model, count: int) -> list[Feed]:
    """Samples for every input."""
    rng = np.random.default_rng(0)
    shapes = {str(v.name): tuple(int(d) for d in v.shape or ()) for v in model.graph.inputs}
    return [
        {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
        for _ in range(count)
    ]


def seconds(
    model: ir.Model, recipe: Recipe, scheme: QuantScheme, feeds: list[Feed]
) -> dict[str, float]:
    """CPU seconds of each step, and of all."""
    (graph, _), moved = timed(lambda: transform(model, recipe, lambda: feeds, scheme))
    ranges, seen = timed(lambda: calibrate(graph, feeds, method=recipe.calib_method))
    _, made = timed(lambda: quantize_by(recipe, graph, ranges, lambda: feeds, scheme))
    parts = {"transforms": moved, "calibration": seen, "search_and_rest": made}
    return {**parts, "seconds": sum(parts.values())}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--networks", default="emov2_5m")
    parser.add_argument("--recipes", default="default,qhyvit")
    parser.add_argument("--scheme", default="ort-x86")
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    scheme = get_scheme(arguments.scheme)
    path = arguments.json
    old = json.loads(path.read_text("utf-8")) if path is not None and path.exists() else {}
    records = {(r["model"], r["recipe"], r["scheme"]): r for r in old.get("rows", [])}
    for name in arguments.networks.split(","):
        model = network(name)
        feeds = noise(model, arguments.samples)
        weights = [v.shape.numpy() for v in model.graph.initializers.values() if v.shape]
        parameters = sum(int(np.prod(shape)) for shape in weights) / 1e6
        for title in arguments.recipes.split(","):
            found = seconds(model, get_recipe(title), scheme, feeds)
            head = {"model": name, "recipe": Path(title).stem, "scheme": scheme.name}
            size = {"parameters_m": parameters, "samples": arguments.samples}
            records[tuple(head.values())] = {**head, **size, **found}
            print({**head, **{k: round(v, 1) for k, v in {**size, **found}.items()}}, flush=True)
            save("Time to quantize", list(records.values()), machine(), path)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
