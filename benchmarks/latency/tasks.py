"""The sets of constants that are fitted: their rows, their work terms, and the choice of sets."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, replace

import hierarchy
import numpy as np
from hierarchy import Array
from rows import (
    HUB_RUNTIME,
    NEURAL_ART_RUNTIME,
    REFERENCE_MHZ,
    Table,
    cortex_m_table,
    hub_table,
    ncnn_table,
    neural_art_table,
    x86_table,
)

from edgec.profiles.latency.features import MOST_THREADS, matrix

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


def command_line(doc: str) -> argparse.ArgumentParser:
    """``--only``, described by the first line of a script's docstring; `named` reads it."""
    parser = argparse.ArgumentParser(description=doc.split("\n")[0])
    parser.add_argument("--only", default="", metavar="SET,SET", help="sets; by default all")
    return parser


def named(text: str) -> set[str]:
    """Sets that ``--only`` names; none for all.

    Raises:
        SystemExit: there is no such set.
    """
    only = {name for name in text.split(",") if name}
    unknown = only - {task.id for task in TASKS}
    if unknown:
        sys.exit(f"no set {', '.join(sorted(unknown))}; there are {', '.join(t.id for t in TASKS)}")
    return only
