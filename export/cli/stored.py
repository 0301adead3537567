"""The results store on the command line: where results go, and what is in it."""

from __future__ import annotations

import csv
import sys
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from edgec.export.cli.output import print_json, print_table

Store = Annotated[
    str | None,
    typer.Option(
        help="File that results are kept in, or none. [default: EDGEC_STORE, or the user's]"
    ),
]
SHOWN = {"bench": "median_ms", "count": "instructions", "export": "bytes"}
"""The figure that stands for a record in the list."""


def keep(store: str | None, record: Mapping[str, Any]) -> None:
    """Add a record; where that is impossible say so on stderr and go on."""
    from edgec.runtime.results.store import remember

    remember(store, record, lambda text: print(f"warning: {text}", file=sys.stderr))


def show_stored(store: str | None, *, as_json: bool, as_csv: bool) -> None:
    """Print what is stored, newest first.

    Raises:
        InputError: EC711, EC712, no results file there.
    """
    from edgec.runtime.results.store import Store as Results
    from edgec.runtime.results.store import stored_path

    path = stored_path(store)
    with Results.open(path, create=False) as results:
        entries = results.entries()
    if as_json:
        print_json(
            "edgec.results/1", {"store": str(path), "entries": [e.to_json() for e in entries]}
        )
    elif as_csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        head = ("id", "created", "kind", "model", "target", "device")
        writer.writerow((*head, "artifact", "figure", "value"))
        for e in entries:
            for (artifact, name), value in e.figures.items():
                writer.writerow((*(getattr(e, key) for key in head), artifact, name, value))
    else:
        print_table(
            ("id", "created (UTC)", "kind", "model", "where", "artifact", "figure", "value"),
            [row for e in entries for row in _rows(e)],
        )


def _rows(entry: Any) -> list[tuple[str, ...]]:
    where = entry.device or entry.target
    head = (str(entry.id), entry.created[:19].replace("T", " "), entry.kind, entry.model, where)
    wanted = SHOWN[entry.kind]
    found = [(a, n, v) for (a, n), v in entry.figures.items() if n == wanted]
    rows = [(a, n, f"{v:,.0f}" if v.is_integer() else f"{v:.4g}") for a, n, v in found]
    blank = ("",) * len(head)
    return [(*(head if i == 0 else blank), *row) for i, row in enumerate(rows)] or [
        (*head, "", "", "")
    ]
