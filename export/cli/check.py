"""``edgec check``: will the target's runtime take the graph?"""

from __future__ import annotations

from typing import Annotated

import typer

from edgec.export.cli.output import InputSize, Json, Quiet, Shapes, print_json

FORMATS = ("text", "json", "sarif")


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    app.command("check", epilog="Example: edgec check mynet.onnx --target jetson-nano")(check)


def check(
    model: Annotated[
        str,
        typer.Argument(
            help="An .onnx file (as it is), a bundle, or what --model of export takes.",
            show_default=False,
        ),
    ],
    target: Annotated[
        str,
        typer.Option(
            "--target", "-t", help="Target name, alias or .toml file.", show_default=False
        ),
    ],
    select: Annotated[
        str | None,
        typer.Option(help="Codes or their beginnings, comma-separated, e.g. E,W2. [default: all]"),
    ] = None,
    ignore: Annotated[
        str | None, typer.Option(help="Codes or their beginnings to leave out.")
    ] = None,
    input_size: InputSize = None,
    shape: Shapes = None,
    features: Annotated[
        str | None,
        typer.Option(help="Check the backbone: all, stages 2,3,4 or strides /8,/16,/32."),
    ] = None,
    format_: Annotated[str, typer.Option("--format", help="text, json or sarif.")] = "text",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Check a graph against what a target's runtime executes; exit 3 if it would be refused."""
    from edgec.export.check import check as check_graphs
    from edgec.export.errors import UsageError
    from edgec.export.lint import formats
    from edgec.export.progress import Reporter

    if format_ not in FORMATS or (json and format_ == "sarif"):
        raise UsageError(
            "EC206",
            f"bad value {format_!r} for format",
            where="command line",
            fix=f"one of {', '.join(FORMATS)}; --json is --format json",
        )
    reports = check_graphs(
        model,
        target,
        select=_codes(select),
        ignore=_codes(ignore),
        options={"input_size": input_size, "shapes": shape, "features": features},
        reporter=Reporter(quiet=quiet or json or format_ != "text"),
    )
    if json or format_ == "json":
        graphs = {name: report.to_json() for name, report in reports.items()}
        print_json("edgec.check/1", {"model": model, "target": target, "graphs": graphs})
    elif format_ == "sarif":
        from json import dumps

        print(dumps(formats.sarif(reports), indent=2, ensure_ascii=False))
    else:
        print(formats.text(reports), end="")
    if any(report.of("error") for report in reports.values()):
        # the findings are the message; the code tells scripts
        raise typer.Exit(3)


def _codes(text: str | None) -> tuple[str, ...]:
    return tuple(code.strip().upper() for code in (text or "").split(",") if code.strip())
