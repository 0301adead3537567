"""Fits latency constants to published rows and writes them into the package.

    EDGEC_BENCH_DATA=FOLDER python benchmarks/latency/fit.py            all sets
    EDGEC_BENCH_DATA=FOLDER python benchmarks/latency/fit.py --dry-run  prints, writes nothing
    EDGEC_BENCH_DATA=FOLDER python benchmarks/latency/fit.py --only hexagon-int8   the others stay

Only constants, their covariances, the hash of the data, counts and errors are written; the rows
stay where they are. Errors come from ``validate.py``, which this script runs first.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import hierarchy
import numpy as np
from boards import fit_mixture
from classes import core_classes
from hierarchy import Array, Hierarchy
from rows import REFERENCE_MHZ, Table, data_hash
from tasks import TASKS, Task, command_line, log_times, named
from validate import validate

from edgec.profiles.latency.features import MOST_THREADS
from edgec.profiles.latency.similar import Similar

TARGET = Path(__file__).parents[2] / "profiles" / "latency" / "constants.json"


def fit_task(
    task: Task, table: Table, errors: dict[str, Any], scale: tuple[float, float, float]
) -> dict[str, Any]:
    """One entry of the file."""
    work = task.work(table)
    found = hierarchy.fit(
        work, log_times(table), task.features, shrink=task.shrink, processor=task.processor
    )
    times = work * np.exp(found.mean)
    share = (times / times.sum(2, keepdims=True)).max((0, 1))
    size = np.log(times.sum(2))
    named = len(table.networks) < 100
    return {
        "id": task.id,
        "runtime": task.runtime,
        "precision": task.precision,
        "threads": task.threads,
        "features": list(task.features),
        "merge": task.merge,
        "tau": _round(found.tau),
        "sigma": _round(found.sigma),
        "scale": _round(scale[0]),
        "calibrated_scale": _round(scale[1]),
        "hull": {
            "share": {n: _round(s) for n, s in zip(task.features, share, strict=True) if s > 1e-4},
            "work": [_round(size.min()), _round(size.max())],
        },
        "population": _class(
            "", 0, REFERENCE_MHZ, found.mean, found.covariance, len({b.chip for b in table.boards})
        ),
        "classes": [
            _class(core, threads, REFERENCE_MHZ, *constants, boards)
            for core, threads, constants, boards in core_classes(found, table.boards)
        ],
        "residuals": {
            n: _round(u) for n, u in zip(table.networks, found.residual, strict=True) if named
        },
        "networks": _networks(task, table) if named else {},
        "mixture": _mixture(table, scale[2]) if len(table.boards) > 20 else None,
        "similar": None if named else _similar(work[0], found),
        "provenance": {
            "data_sha256": data_hash(),
            "rows": int(np.isfinite(table.ms).sum()),
            "networks": len(table.networks),
            "boards": len({b.chip for b in table.boards}),
            "configurations": len(table.boards),
            "cross_validation": errors,
        },
    }


def _networks(task: Task, table: Table) -> dict[int, dict[str, list[float]]]:
    """Amounts of the networks by number of threads, boards of any number included."""
    several = range(2, MOST_THREADS + 1) if task.threads == "several" else (1,)
    return {
        threads: {
            name: [_round(v) for v in amounts]
            for name, amounts in zip(table.networks, task.amounts(table, threads), strict=True)
        }
        for threads in several
    }


def _mixture(table: Table, scale: float) -> dict[str, Any]:
    found = fit_mixture(table.networks, log_times(table))
    lower = np.tril_indices(len(found.networks))
    return {
        "networks": list(found.networks),
        "scale": _round(scale),
        "weights": [_round(w) for w in found.weights],
        "means": [[_round(v) for v in mean] for mean in found.means],
        "covariances": [[_round(v) for v in c[lower]] for c in found.covariances],
    }


def _similar(work: Array, fitted: Hierarchy) -> dict[str, Any]:
    found = Similar.fit(work, fitted.residual, np.exp(fitted.mean))
    return {
        "costs": [_round(v) for v in found.costs],
        "centre": [_round(v) for v in found.centre],
        "spread": [_round(v) for v in found.spread],
        "points": [[round(float(v), 2) for v in point] for point in found.points],
        "weights": [_round(v) for v in found.weights],
    }


def _class(
    core: str,
    threads: int,
    clock: float,
    mean: Array,
    covariance: Array,
    boards: int,
) -> dict[str, Any]:
    lower = covariance[np.tril_indices(len(mean))]
    return {
        "core": core,
        "threads": threads,
        "clock_mhz": clock,
        "boards": boards,
        "mean": [_round(v) for v in mean],
        "covariance": [_round(v) for v in lower],
    }


def _round(value: float) -> float:
    return float(f"{value:.4g}")


def main() -> None:
    """Validate and fit every set whose data is there, and write the file."""
    parser = command_line(__doc__ or "")
    parser.add_argument("--dry-run", action="store_true", help="print, write nothing")
    arguments = parser.parse_args()
    only = named(arguments.only)
    fits = []
    shipped = {entry["id"]: entry for entry in json.loads(TARGET.read_text("utf-8"))["fits"]}
    for task in TASKS:
        table = None if only and task.id not in only else task.table()
        if table is not None and not len(table.boards):
            print(f"{task.id}: no rows, its constants stay", file=sys.stderr)
            table = None
        if table is None:
            fits += [shipped[task.id]] if task.id in shipped else []
            continue
        if not task.ships:
            continue
        errors, scale = validate(task, table)
        fits.append(fit_task(task, table, errors, scale))
    text = json.dumps({"schema": "edgec.latency_constants/1", "fits": fits}, indent=None)
    text = text.replace('{"id"', '\n{"id"').replace('{"core"', '\n  {"core"')
    if arguments.dry_run:
        print(text)
    else:
        TARGET.write_text(text + "\n", "utf-8")
        print(f"wrote {TARGET}, {len(text)} bytes", file=sys.stderr)


if __name__ == "__main__":
    main()
