"""``edgec explain``: what an error code or a rule of the lint means and how to fix it."""

from __future__ import annotations

from typing import Annotated

import typer

from edgec.export.cli.output import Json, print_json, print_table


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    app.command("explain", epilog="Example: edgec explain EC220")(explain)


def explain(
    code: Annotated[
        str | None, typer.Argument(help="The code, e.g. EC220 or E101; all without it.")
    ] = None,
    json: Json = False,
) -> None:
    """Say what a code means, with cause, example and fix."""
    from edgec.export.explain import catalogue, rule_catalogue
    from edgec.export.explain import explain as look_up

    if code is None:
        entries = [*catalogue().values(), *rule_catalogue().values()]
        if json:
            print_json("edgec.codes/1", {"codes": [e.to_json() for e in entries]})
        else:
            print_table(("code", "title"), [(e.code, e.title) for e in entries])
        return
    entry = look_up(code)
    if json:
        print_json("edgec.code/1", entry.to_json())
        return
    print(f"{entry.code}: {entry.title}")
    for label, text in (("cause", entry.cause), ("example", entry.example), ("fix", entry.fix)):
        print(f"  {label:<8} {text}")
