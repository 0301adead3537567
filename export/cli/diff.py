"""``edgec diff``: two bundles or two measurements side by side."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from edgec.export.cli.output import Json, print_json, print_table


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    app.command("diff", epilog="Example: edgec diff build/net-jetson-fp16 build/net-jetson-int8")(
        diff
    )


WHAT = "Bundle, JSON record, or number of a stored one (edgec bench --list)."


def diff(
    a: Annotated[str, typer.Argument(help=WHAT)],
    b: Annotated[str, typer.Argument(help=WHAT)],
    store: Annotated[str | None, typer.Option(help="Results file. [default: the user's]")] = None,
    json: Json = False,
) -> None:
    """Compare size, memory, latency, accuracy and operators of two results of one kind."""
    from edgec.runtime.results.compare import compare_records, find_record

    found = compare_records(find_record(a, store), find_record(b, store))
    if json:
        print_json("edgec.diff/1", found)
        return
    for name in ("a", "b"):
        head = found[name]
        places = [text for text in (head["target"], head["device"]) if text]
        print(f"{name}  {head['kind']} of {head['model']} {' on '.join(['', *places]).strip()}")
    print()
    print_table(
        ("artifact", "figure", "a", "b", "b / a"),
        [
            (
                row["artifact"] or "network",
                row["name"],
                _number(row["a"]),
                _number(row["b"]),
                "" if row["ratio"] is None else f"{row['ratio']:.3f}",
            )
            for row in found["figures"]
        ],
    )
    if found["operators"]:
        print()
        print_table(
            ("operator", "a", "b"),
            [(row["operator"], str(row["a"]), str(row["b"])) for row in found["operators"]],
        )


def _number(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:.4g}"
