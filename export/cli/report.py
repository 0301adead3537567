"""``edgec report``: results as one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgec.export.cli.output import Json, Quiet, print_json
from edgec.export.errors import UsageError


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    app.command("report", epilog="Example: edgec report build/net bench.json --out net.html")(
        report
    )


def report(
    sources: Annotated[
        list[str],
        typer.Argument(
            help="Bundles, JSON records (edgec bench --save, edgec eval --explain --json), numbers "
            "of stored ones (edgec bench --list).",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write.")] = Path("report.html"),
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the file if it exists.")
    ] = False,
    store: Annotated[str | None, typer.Option(help="Results file. [default: the user's]")] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write one self-contained page: accuracy, latency, memory map, conditions, how to reproduce.

    It needs no network and runs no script. --json prints the content of the page instead.
    """
    from edgec.export.files import atomic_write
    from edgec.export.page.assemble import gather
    from edgec.export.page.describe import SCHEMA, page
    from edgec.export.page.render import render
    from edgec.export.progress import Reporter

    if not json and (out.is_dir() or (out.exists() and not overwrite)):
        raise UsageError(
            "EC204", f"{out} already exists", fix="choose another --out, or --overwrite"
        )
    with Reporter(1, quiet=quiet or json).stage("gather"):
        content = page(gather(sources, store))
    if json:
        print_json(SCHEMA, content)
        return
    atomic_write(out, render(content).encode())
    print(out)
