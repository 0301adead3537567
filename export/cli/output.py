"""What all verbs share: JSON on stdout, tables, common options."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

import edgec

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print no progress.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Print details of each stage.")]
InputSize = Annotated[
    str | None, typer.Option(help="Input as SIZE or HEIGHTxWIDTH, to capture the network.")
]
Shapes = Annotated[
    list[str] | None,
    typer.Option(
        "--shape", help="Static shape NAME=1,3,224,224, to capture the network (repeatable)."
    ),
]


def print_json(schema: str, data: dict[str, Any]) -> None:
    """Print `data` as one JSON object with its schema and edgec's version."""
    document = {"schema": schema, "edgec_version": edgec.__version__, **data}
    json.dump(document, sys.stdout, indent=2, ensure_ascii=False, default=_plain)
    sys.stdout.write("\n")


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print left-aligned columns; plain text, so that it can be cut and grepped."""
    table = [tuple(header), *[tuple(row) for row in rows]]
    widths = [max(len(row[i]) for row in table) for i in range(len(header))]
    for row in table:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        print("  ".join(cells).rstrip())


def version_callback(value: bool) -> None:
    """Print the version and stop (``--version``)."""
    if value:
        print(edgec.__version__)
        raise typer.Exit


def _plain(value: Any) -> Any:
    """JSON for what the standard encoder does not know: tuples of dataclasses, numpy scalars."""
    if hasattr(value, "item"):
        return value.item()
    if hasattr(value, "to_json"):
        return value.to_json()
    return str(value)
