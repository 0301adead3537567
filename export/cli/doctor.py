"""``edgec doctor``: what is installed, and how to get what is missing."""

from __future__ import annotations

from typing import Annotated

import typer

from edgec.export.cli.output import Json, print_json, print_table


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    app.command("doctor", epilog="Example: edgec doctor --json")(doctor)


def doctor(
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit 6 when something required is missing.")
    ] = False,
    json: Json = False,
) -> None:
    """Check packages, programs and folders that edgec uses."""
    from edgec.export.doctor import examine
    from edgec.export.errors import MissingToolError

    findings = examine()
    if json:
        print_json("edgec.doctor/1", {"findings": [vars(f) for f in findings]})
    else:
        print_table(
            ("what", "for", "found", "tested", "status", "hint"),
            [
                (
                    f.what,
                    f.purpose,
                    f.found or "-",
                    f.tested,
                    f.status,
                    "" if f.status == "ok" else f.hint,
                )
                for f in findings
            ],
        )
    bad = [f.what for f in findings if f.status != "ok" and f.required]
    if strict and bad:
        raise MissingToolError(
            "EC682", f"not ready: {', '.join(bad)}", fix="see the hints of `edgec doctor`"
        )
