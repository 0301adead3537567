"""What benchmarks/graph.py says of its records: the table, and how edgec stands."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

PEERS = ("onnxsim", "onnxslim", "onnxscript", "ort-basic")
TOOLS = ("raw", *PEERS, "edgec", "edgec rank 4")
PORTABLE = ("raw", *PEERS, "edgec")
"""Tools whose files keep to the standard operators."""

TARGETS = {"nodes": 0.9, "slower": 1.02, "latency": 0.97}
"""Share of networks with the fewest nodes; ratio to the best peer no network may exceed; geometric
mean of these ratios."""

_VALID = 10.0
"""A graph whose difference from torch is so many times that of the raw export is no peer."""


def valid_tools(records: list[dict[str, Any]]) -> list[str]:
    """Tools whose graphs of one network compute what the raw export computes."""
    raw = next(r["max_abs_diff"] for r in records if r["tool"] == "raw")
    return [r["tool"] for r in records if r["max_abs_diff"] <= _VALID * raw]


def summary(records: list[dict[str, Any]]) -> list[str]:
    """How edgec's graphs stand against the figures it aims at."""
    rows = {(r["model"], r["tool"]): r for r in records}
    names = sorted({r["model"] for r in records})
    valid = {n: valid_tools([rows[n, t] for t in TOOLS]) for n in names}
    fewest = [
        n
        for n in names
        if rows[n, "edgec"]["nodes"]
        <= min(rows[n, t]["nodes"] for t in PORTABLE if t in valid[n] or t == "edgec")
    ]
    wrong = [f"{n} {t}" for n in names for t in TOOLS if t not in valid[n]]
    lines = [
        f"fewest nodes among portable graphs: {len(fewest)} of {len(names)} networks "
        f"(aim: {TARGETS['nodes']:.0%})" + _others(names, fewest),
        f"graphs that differ from torch by more than {_VALID:.0f} times the raw export, left out: "
        + (", ".join(wrong) or "none"),
        _count(names, "no shape arithmetic", lambda n: rows[n, "edgec"]["shape_arithmetic"] == 0),
        _count(names, "rank 4 or less", lambda n: rows[n, "edgec rank 4"]["max_rank"] <= 4),
        "Transposes of all networks at rank 5 and 4: "
        + " and ".join(
            str(sum(rows[n, tool]["transposes"] for n in names))
            for tool in ("edgec", "edgec rank 4")
        ),
    ]
    timed = [n for n in names if "over_best_peer" in rows[n, "edgec"]]
    if timed:
        against = {n: rows[n, "edgec"]["over_best_peer"] for n in timed}
        mean = statistics.geometric_mean(a["ratio"] for a in against.values())
        slow = [n for n in timed if against[n]["ratio"] > TARGETS["slower"]]
        errors = [a["error"] for a in against.values()]
        lines += [
            f"latency over the best peer's, geometric mean of {len(timed)} networks: {mean:.3f} "
            f"(aim: {TARGETS['latency']})",
            f"slower than the best peer by more than 2 %: {len(slow)} of {len(timed)} networks"
            + "".join(f", {n} {against[n]['ratio']:.3f} ± {against[n]['error']:.3f}" for n in slow),
            f"standard error of these ratios: median {statistics.median(errors):.4f}, "
            f"largest {max(errors):.4f}",
        ]
    return lines


def _count(names: list[str], what: str, holds: Callable[[str], bool]) -> str:
    good = [n for n in names if holds(n)]
    return f"{what}: {len(good)} of {len(names)} networks" + _others(names, good)


def _others(names: list[str], good: list[str]) -> str:
    rest = [n for n in names if n not in good]
    return f"; not {', '.join(rest)}" if rest else ""


def print_table(records: list[dict[str, Any]]) -> None:
    print(
        f"{'model':26}{'tool':13}{'nodes':>6}{'T':>5}{'R':>5}{'G':>4}{'S':>4}{'rank':>5}"
        f"{'shape':>6}{'M MACs':>9}{'MB':>8}{'max diff':>10}{'cpu s':>7}{'ratio':>8}"
    )
    for r in records:
        ratio = f"{r['ratio_1t']:>8.3f}" if "ratio_1t" in r else ""
        print(
            f"{r['model']:26}{r['tool']:13}{r['nodes']:>6}{r['transposes']:>5}{r['reshapes']:>5}"
            f"{r['gathers']:>4}{r['slices']:>4}{r['max_rank']:>5}{r['shape_arithmetic']:>6}"
            f"{r['macs'] / 1e6:>9.1f}{r['file_bytes'] / 1e6:>8.2f}{r['max_abs_diff']:>10.1e}"
            f"{r['seconds_cpu']:>7.1f}{ratio}"
        )
