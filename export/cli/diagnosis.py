"""The tables of ``edgec eval --explain``."""

from __future__ import annotations

from typing import Any

from edgec.export.cli.output import print_table

MOST_LINES = 12


def print_diagnosis(record: dict[str, Any]) -> None:
    """Print the record of `edgec.export.diagnose.diagnose.diagnose`."""
    print(f"{record['artifact']} on {record['count']} {record['noun']} of {record['source']}\n")
    print_table(
        ("step", "against", "max |Δ|", "top-1", "agreement", "SQNR dB", record["cost"]),
        [
            (
                step["step"],
                step["against"],
                _short(step.get("max_abs")),
                _number(step.get("top1")),
                _number(step.get("top1_agreement")),
                _number(step.get("sqnr_db")),
                _short(step.get("cost")),
            )
            for step in record["chain"]
        ],
    )
    shown = [row for row in record["blocks"] if row["alone"] is not None][:MOST_LINES]
    print("\nBlocks, worst first. Alone: nothing else is quantized.\n")
    print_table(
        ("block", "integer", "share", f"{record['cost']} alone", "agreement", "SQNR dB behind it"),
        [
            (
                row["block"],
                f"{row['integer_nodes']}/{row['nodes']}",
                f"{row['share']:.1%}",
                _short(row["alone"]["cost"]),
                _number(row["alone"]["top1_agreement"]),
                _number(row["sqnr_db"]),
            )
            for row in shown
        ],
    )
    rest = len(record["blocks"]) - len(shown)
    if rest:
        print(f"and {rest} more blocks (--json lists them)")
    fix = record["fix"]
    if fix is None:
        print("\nNo block stands out: leaving the worst ones in float does not help.")
        return
    print(
        f"\nWith {', '.join(fix['blocks'])} in float, {record['cost']} goes from "
        f"{_short(fix['before']['cost'])} to {_short(fix['cost'])}, agreement from "
        f"{_number(fix['before']['top1_agreement'])} to {_number(fix['top1_agreement'])}. "
        f"To export that:\n  {fix['command']}"
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.2g}"
