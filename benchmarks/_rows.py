"""What the benchmarks that measure network by network share: command line, file and table.

Rows have a ``model`` and a ``variant``. They are written as soon as a network is done, and a file
of results that is there keeps the rows of what is not measured again: a run may be stopped, or take
some of the networks.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from _ptq import machine, save

Row = dict[str, Any]


def command_line(doc: str, networks: Iterable[str]) -> argparse.ArgumentParser:
    """``--networks`` and ``--json``, described by the first line of a script's docstring."""
    parser = argparse.ArgumentParser(description=doc.split("\n")[0])
    parser.add_argument("--networks", default=",".join(networks), help="comma-separated")
    parser.add_argument("--json", type=Path)
    return parser


def measure(title: str, arguments: argparse.Namespace, rows_of: Callable[[str], list[Row]]) -> None:
    """Take the rows of every network of ``--networks``, keep them in ``--json``, print them."""
    rows: list[Row] = []
    for name in arguments.networks.split(","):
        rows += rows_of(name)
        if arguments.json is not None:
            save(title, merged(rows, arguments.json), machine(), arguments.json)
    table(rows)


def merged(rows: list[Row], path: Path) -> list[Row]:
    """New rows, and those of the file for what was not measured again, by network."""
    known = json.loads(path.read_text())["rows"] if path.exists() else []
    new = {(row["model"], row["variant"]) for row in rows}
    kept = [row for row in known if (row["model"], row["variant"]) not in new]
    return sorted([*kept, *rows], key=lambda row: str(row["model"]))


def table(rows: list[Row]) -> None:
    """Print rows as columns of equal width."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[str(row.get(column, "")) for column in columns] for row in rows]
    widths = [max(map(len, [c, *(r[i] for r in cells)])) for i, c in enumerate(columns)]
    for line in (columns, *cells):
        print("  ".join(text.ljust(w) for text, w in zip(line, widths, strict=True)).rstrip())
