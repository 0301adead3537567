"""Memory planning on published and own instances, beside tflite-micro's greedy planner.

    PYTHONPATH=.src EDGEC_BENCH_DATA=... python benchmarks/memory.py
    PYTHONPATH=.src python benchmarks/memory.py --orders zoo timm:nasnetalarge@331

EDGEC_BENCH_DATA/memory holds tables in MiniMalloc's format; a number in a file's name is the
capacity that has to be met, otherwise the lower bound is. Guillotine instances are made here as
well: a rectangle cut into buffers, whose optimum is known and has no slack. Seconds are wall clock
on the machine of the run, with two search threads; CPU seconds sum over the threads.

--orders captures networks and searches for an order of their steps: live bytes of int8 tensors,
without overlap, so that the figures compare with other schedulers, as far as these fuse the same.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import re
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from edgec.export.progress import Reporter
from edgec.profiles.memory.allocate import core, cpsat
from edgec.profiles.memory.allocate.bound import lower_bound
from edgec.profiles.memory.allocate.greedy import tflm
from edgec.profiles.memory.allocate.solve import allocate
from edgec.profiles.memory.minimalloc_csv import read_csv
from edgec.profiles.memory.problem import Item, Problem
from edgec.profiles.memory.verify import Block, violations

RESULTS = Path(__file__).parent / "results" / "memory.json"
ZOO = (
    "edgenext_xx_small",
    "mobilevit_xxs",
    "emov2_1m",
    "efficientformerv2_s0",
    "mobile_former_26m",
    "mcuformer_t_e",
)
HEIGHT = 1024
ORDERS = (
    "orders: normalisations and activations are in the step before them, pads in the convolution "
    "or maximum after them, other steps (pads before averages, activations read twice) have a "
    "tensor of their own; other schedulers' figures for the same networks count other fusions"
)


def guillotine(count: int, seed: int) -> Problem:
    """A rectangle of HEIGHT cut at random into `count` buffers; the larger half is cut first."""
    draw = random.Random(seed)
    blocks = [(0, 3 * count, 0, HEIGHT)]
    while len(blocks) < count:
        blocks.sort(key=lambda b: (b[0] - b[1]) * (b[3] - b[2]))
        a, b, c, d = blocks.pop(draw.randrange(max(1, len(blocks) // 2)))
        if draw.random() < 0.5 and b - a > 1:
            cut = draw.randrange(a + 1, b)
            blocks += [(a, cut, c, d), (cut, b, c, d)]
        elif d - c > 1:
            cut = draw.randrange(c + 1, d)
            blocks += [(a, b, c, cut), (a, b, cut, d)]
        else:
            blocks.append((a, b, c, d))
    draw.shuffle(blocks)
    return Problem(tuple(Item(str(n), a, b, d - c) for n, (a, b, c, d) in enumerate(blocks)))


def measure(name: str, problem: Problem, capacity: int | None, time_limit: float) -> dict[str, Any]:
    """Solve one instance and check the plan."""
    cpu = time.process_time()
    found = allocate(problem, time_limit=time_limit, enough=capacity)
    cpu = time.process_time() - cpu
    blocks = [
        Block(i.id, i.lower, i.upper, i.size, o)
        for i, o in zip(problem.items, found.offsets, strict=True)
    ]
    wrong = violations(blocks)
    if wrong:
        raise SystemExit(f"{name}: {wrong[0]}")
    live = lower_bound(problem)
    return {
        "instance": name,
        "buffers": len(problem.items),
        "live_bytes": live,
        "capacity": capacity,
        "tflm": problem.peak(tflm(problem)),
        "peak": found.peak,
        "lower_bound": found.lower_bound,
        "gap": round(found.gap, 5),
        "proved": found.proved,
        "solved": found.peak <= (capacity or found.lower_bound),
        "solver": found.solver,
        "seconds": round(found.seconds, 2),
        "seconds_cpu": round(cpu, 2),
    }


def orders(name: str, time_limit: float) -> dict[str, Any]:
    """Search for an order of a network, given as NAME or NAME@SIZE."""
    from edgec.profiles.memory.from_onnx import from_onnx
    from edgec.profiles.memory.order.best import best_order
    from edgec.profiles.memory.order.graph import order_graph
    from edgec.profiles.memory.source import graph_of
    from edgec.targets import get_target

    model, _, size = name.partition("@")
    options = {"input_size": size or None, "shapes": None}
    graph = graph_of(model, get_target("generic-x86-64"), options, Reporter(quiet=True))
    program = from_onnx(graph)
    start = time.monotonic()
    found = best_order(order_graph(program, overlaps=False), time_limit=time_limit)
    return {
        "network": name,
        "steps": len(program.body),
        "given_peak": found.given_peak,
        "peak": found.peak,
        "lower_bound": found.lower_bound,
        "proved": found.proved,
        "seconds": round(time.monotonic() - start, 2),
    }


def main() -> None:
    """Measure, print a table, keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--time-limit", type=float, default=60.0)
    parser.add_argument("--orders", nargs="*", help="networks, or `zoo`; no instances are solved")
    parser.add_argument("--only", default="", help="instances whose name contains this")
    arguments = parser.parse_args()
    data = json.loads(RESULTS.read_text("utf-8")) if RESULTS.is_file() else {}
    environment = {
        "machine": platform.machine(),
        "threads": os.cpu_count(),
        "time_limit": arguments.time_limit,
        "c_core": core.available(),
        "cp_sat": cpsat.available(),
    }
    if arguments.orders is not None:
        data.setdefault("environment", environment)  # of the instances
        names = [n for a in arguments.orders for n in (ZOO if a == "zoo" else (a,))]
        _keep(data, "orders", "network", (orders(n, arguments.time_limit) for n in names))
        return
    data["environment"] = environment
    tasks: list[tuple[str, Problem, int | None]] = []
    folder = os.environ.get("EDGEC_BENCH_DATA")
    if folder is None:
        print("EDGEC_BENCH_DATA is not set: own instances only", file=sys.stderr)
    else:
        for path in sorted(Path(folder, "memory").glob("*.csv")):
            number = re.search(r"\.(\d+)\.csv$", path.name)
            tasks.append((path.stem, read_csv(path)[0], int(number[1]) if number else None))
    tasks += [
        (f"cut_{count}_{seed}", guillotine(count, seed), None)
        for count in (60, 120, 240)
        for seed in range(3)
    ]
    rows = (
        measure(name, problem, capacity, arguments.time_limit)
        for name, problem, capacity in tasks
        if arguments.only in name
    )
    _keep(data, "records", "instance", rows)


def notes(rows: Iterable[dict[str, Any]]) -> list[str]:
    """The orders in words."""
    return [ORDERS] + [
        f"order of {r['network']}, live bytes: {r['given_peak']:,} given, {r['peak']:,} found, "
        + ("proved" if r["proved"] else f"at least {r['lower_bound']:,}")
        + f", {r['seconds']} s"
        for r in rows
    ]


def _keep(data: dict[str, Any], section: str, key: str, rows: Any) -> None:
    """Print each row and write it to the file, in place of an older one."""
    for row in rows:
        print("  ".join(f"{k}={v}" for k, v in row.items()), flush=True)
        kept = {r[key]: r for r in data.get(section, ())} | {row[key]: row}
        data[section] = [kept[name] for name in sorted(kept)]
        data["notes"] = notes(data.get("orders", ()))
        RESULTS.write_text(json.dumps(data, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
