"""Fits latency constants to published rows and writes them into the package.

    EDGEC_BENCH_DATA=FOLDER python benchmarks/latency/fit.py            all sets
    EDGEC_BENCH_DATA=FOLDER python benchmarks/latency/fit.py --dry-run  prints, writes nothing
    EDGEC_BENCH_DATA=FOLDER python benchmarks/latency/fit.py --only hexagon-int8   the others stay

Only constants, their covariances, the hash of the data, counts and errors are written; the rows
stay where they are. Errors come from ``validate.py``, which this script runs first.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import hierarchy
import numpy as np
from boards import fit_mixture
from hierarchy import Array, Hierarchy
from rows import (
    HUB_RUNTIME,
    NEURAL_ART_RUNTIME,
    REFERENCE_MHZ,
    Board,
    Table,
    cortex_m_table,
    data_hash,
    hub_table,
    ncnn_table,
    neural_art_table,
    x86_table,
)

from edgec.profiles.latency.features import MOST_THREADS, matrix
from edgec.profiles.latency.similar import Similar

TARGET = Path(__file__).parents[2] / "profiles" / "latency" / "constants.json"
IO_IN_MEMORY = {"window_io": "memory", "pointwise_io": "memory", "depthwise_io": "memory"}


@dataclass(frozen=True)
class Task:
    """One set of constants to fit.

    Attributes:
        id, runtime, precision: as in the file.
        features, merge: work terms.
        shrink: weight of the prior covariance between boards, in boards.
        fewest: networks that a board must have run.
        processor: what executed, one of `hierarchy.PRIORS`: which costs are assumed.
        threads: ``"one"`` or ``"several"`` of the runtime, ``"any"`` where the table does not tell.
        device: the only one whose rows are taken; all where empty.
        ships: its constants are written; otherwise they are only scored.
    """

    id: str
    runtime: str
    precision: str
    features: tuple[str, ...]
    merge: dict[str, str]
    shrink: int = 10
    fewest: int = 14
    threads: str = "any"
    processor: str = "cpu"
    device: str = ""
    ships: bool = True

    def table(self) -> Table:
        """Its measurements, boards with too few networks left out, and those with more than
        `MOST_THREADS`: no target has as many, and their rows are mostly noise."""
        tables = {
            "ncnn": lambda: ncnn_table(self.precision),
            "X-CUBE-AI": cortex_m_table,
            "PyTorch (torch.compile)": x86_table,
            HUB_RUNTIME: lambda: hub_table(self.precision),
            NEURAL_ART_RUNTIME: neural_art_table,
        }
        table = tables[self.runtime]()
        keep = [
            i
            for i, row in enumerate(table.ms)
            if np.isfinite(row).sum() >= self.fewest
            and self.threads in ("any", "one" if table.boards[i].threads == 1 else "several")
            and table.boards[i].threads <= MOST_THREADS
            and self.device in ("", table.boards[i].device)
        ]
        return Table(
            [table.boards[i] for i in keep],
            table.networks,
            table.layers,
            table.ms[keep],
            table.family,
            table.alike,
        )

    def work(self, table: Table) -> Array:
        """Amounts of each network on each board, shape (B, M, K)."""
        counts = {board.threads for board in table.boards}
        amounts = {threads: self.amounts(table, threads) for threads in counts}
        return np.array([amounts[board.threads] for board in table.boards])

    def amounts(self, table: Table, threads: int) -> Array:
        """Amounts of each network with a number of threads, shape (M, K)."""
        layers = [table.layers[name] for name in table.networks]
        return np.array([matrix(n, self.features, self.merge, threads).sum(0) for n in layers])


CPU = (
    *("winograd", "conv", "stem", "unpacked", "pointwise", "depthwise", "linear", "weights"),
    *("pointwise_io", "memory", "kernels", "local_norm", "far"),
)
IN_CPU = {
    "window_io": "memory",
    "depthwise_io": "memory",
    "large_stem": "conv",
    "unpacked_winograd": "unpacked",
}
ATTENTION = ("transcendental", "normalization", "matmul")
"""Work that classic networks lack: their constants stay as uncertain as the prior has them."""

SHIPPED = (
    # many threads make kernels wait for each other: other constants, and more noise
    *(
        Task(
            f"ncnn-{precision}-{threads}",
            "ncnn",
            precision,
            # in 8 bits functions are tables
            (*CPU, *ATTENTION, *(("functions",) if precision == "fp32" else ())),
            IN_CPU,
            fewest=fewest,
            threads=threads,
        )
        for precision, fewest in (("fp32", 14), ("int8", 7))
        for threads in ("one", "several")
    ),
    Task(
        "cube-int8",
        "X-CUBE-AI",
        "int8",
        ("conv", "stem", "pointwise", "depthwise", "linear", "memory", *ATTENTION),
        {"winograd": "conv", "unpacked": "conv", "local_norm": "normalization", **IO_IN_MEMORY},
        shrink=3,
        fewest=2,
    ),
    Task(
        "torch-x86-fp32",
        "PyTorch (torch.compile)",
        "fp32",
        (
            *("conv", "pointwise", "depthwise", "linear", "weights", "memory", "kernels"),
            *ATTENTION,
            # a thousand networks tell these apart
            *("functions", "transposed", "window_io", "pointwise_io", "depthwise_io"),
            *("group_kernels", "large_depthwise"),
            *("gemm", "joined", "joins", "concatenated", "reductions"),
        ),
        {
            **dict.fromkeys(("winograd", "stem", "unpacked"), "conv"),
            "local_norm": "normalization",
        },
        fewest=100,
        device="Intel i9-10940X",
    ),
    *(
        Task(
            f"hexagon-{precision}",
            HUB_RUNTIME,
            precision,
            tuple(hierarchy.HEXAGON_PRIOR),
            {
                **dict.fromkeys(("winograd", "stem", "unpacked", "pointwise"), "conv"),
                "linear": "weights",
                "local_norm": "normalization",
                "transcendental": "normalization",
                **IO_IN_MEMORY,
            },
            fewest=9,
            processor="hexagon",
        )
        for precision in ("fp32", "int8")
    ),
    Task(
        "neural-art-int8",
        NEURAL_ART_RUNTIME,
        "int8",
        tuple(hierarchy.NEURAL_ART_PRIOR),
        {
            **dict.fromkeys(("winograd", "stem", "unpacked", "pointwise"), "conv"),
            "linear": "weights",
            "local_norm": "normalization",
            "transcendental": "normalization",
            "group_kernels": "",
            **IO_IN_MEMORY,
        },
        shrink=3,
        processor="neural-art",
    ),
)
SECOND_X86 = replace(
    next(task for task in SHIPPED if task.id == "torch-x86-fp32"),
    id="torch-x86-i7-fp32",
    device="Intel i7-12700H",
    ships=False,
)
"""A processor that nothing was chosen on: the same terms, fitted to its own rows."""
TASKS = (*SHIPPED, SECOND_X86)


def log_times(table: Table) -> Array:
    """Log milliseconds at the reference clock; as measured where the clock is not known."""
    clock = np.array([np.log((b.clock_mhz or REFERENCE_MHZ) / REFERENCE_MHZ) for b in table.boards])
    return np.asarray(np.log(table.ms) + clock[:, None])


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
    within = _within(found, table.boards)
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
            for core, threads, constants, boards in _classes(found, table.boards, within)
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


def _within(found: Hierarchy, boards: list[Board]) -> Array:
    """Covariance between boards of one class, pooled over the classes with several chips."""
    groups = _groups(boards)
    width = found.covariance.shape[0]
    total, free = np.zeros((width, width)), 0
    for members in groups.values():
        if len({boards[i].chip for i in members}) > 1:
            away = found.boards[members] - found.boards[members].mean(0)
            total += away.T @ away
            free += len(members) - 1
    weight = 5
    return np.asarray((total + weight * 0.3 * found.covariance) / (free + weight))


def _classes(
    found: Hierarchy, boards: list[Board], within: Array
) -> list[tuple[str, int, tuple[Array, Array], int]]:
    """Classes with their constants: the mean of their boards, drawn to that of all."""
    classes = []
    for (core, threads), members in sorted(_groups(boards).items()):
        chips = len({boards[i].chip for i in members})
        precision = np.linalg.inv(found.covariance)
        evidence = np.linalg.inv(within / chips)
        covariance = np.linalg.inv(precision + evidence)
        mean = found.mean + covariance @ evidence @ found.boards[members].mean(0)
        posterior = found.board_covariance[members].mean(0)
        classes.append((core, threads, (mean, covariance + within + posterior), chips))
    return classes


def _groups(boards: list[Board]) -> dict[tuple[str, int], list[int]]:
    groups: dict[tuple[str, int], list[int]] = {}
    for index, board in enumerate(boards):
        if board.core is not None and board.clock_mhz is not None:
            groups.setdefault((board.core, board.threads), []).append(index)
    return groups


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


def read_arguments(arguments: Sequence[str]) -> tuple[list[str], set[str]]:
    """Arguments without ``--only SET,SET``, and the sets that it names (none: all)."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--only", default="")
    known, rest = parser.parse_known_args(arguments)
    only = {name for name in known.only.split(",") if name}
    unknown = only - {task.id for task in TASKS}
    if unknown:
        sys.exit(f"no set {', '.join(sorted(unknown))}; there are {', '.join(t.id for t in TASKS)}")
    return rest, only


def main() -> None:
    """Validate and fit every set whose data is there, and write the file."""
    from validate import validate

    _, only = read_arguments(sys.argv[1:])
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
    if "--dry-run" not in sys.argv:
        TARGET.write_text(text + "\n", "utf-8")
        print(f"wrote {TARGET}, {len(text)} bytes", file=sys.stderr)


if __name__ == "__main__":
    main()
