"""``edgec eval``: accuracy of every artifact."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgec.export.cli.diagnosis import print_diagnosis
from edgec.export.cli.output import Json, Quiet, print_json, print_table


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    app.command("eval", epilog="Example: edgec eval build/mynet --data val/")(evaluate)


def evaluate(
    bundle: Annotated[Path, typer.Argument(help="Folder that edgec export wrote.")],
    data: Annotated[
        str,
        typer.Option(
            "--data",
            "-d",
            help="Folder or .zip with one folder per class, or .npz (images, or arrays by input); "
            "unlabelled data also works.",
        ),
    ],
    limit: Annotated[int | None, typer.Option(min=1, help="Use at most this many samples.")] = None,
    explain: Annotated[
        bool,
        typer.Option(
            "--explain", help="Find the blocks that int8 loses accuracy in, and what helps."
        ),
    ] = False,
    threads: Annotated[int, typer.Option(min=1, help="Threads of the runtime.")] = 1,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure top-1, top-5 and agreement with fp32, per output, of each artifact."""
    import edgec
    from edgec.export.progress import Reporter
    from edgec.runtime.evaluate import evaluate_bundle

    if explain:
        _explain(bundle, data, limit, threads, json=json, quiet=quiet)
        return
    reporter = Reporter(1, quiet=quiet)
    with reporter.stage("evaluate") as tick:
        record = evaluate_bundle(edgec.load(bundle), data, limit=limit, threads=threads, tick=tick)
    if json:
        print_json("edgec.eval/1", record)
        return
    print(
        f"{record['count']} {record['noun']} of {record['source']}"
        f"{'' if record['labelled'] else ' (no labels: agreement only)'}"
    )

    def number(value: float | None, digits: int = 2) -> str:
        return "-" if value is None else f"{value:.{digits}f}"

    print_table(
        ("artifact", "top-1", "top-5", "agreement", "SQNR dB"),
        [
            (
                r["artifact"],
                number(r["top1"]),
                number(r["top5"]),
                number(r["agreement"]),
                number(r["sqnr_db"]),
            )
            for r in record["results"]
        ],
    )
    rows = [
        (
            r["artifact"],
            name,
            number(found["sqnr_db"]),
            number(found["cosine"], 6),
            number(found["equal"]),
        )
        for r in record["results"][1:]
        for name, found in r["outputs"].items()
    ]
    if any(len(r["outputs"]) > 1 for r in record["results"]):
        print()
        print_table(("artifact", "output", "SQNR dB", "cosine", "equal %"), rows)


def _explain(
    bundle: Path, data: str, limit: int | None, threads: int, *, json: bool, quiet: bool
) -> None:
    import edgec
    from edgec.export.diagnose.diagnose import diagnose
    from edgec.export.progress import Reporter

    reporter = Reporter(1, quiet=quiet)
    with reporter.stage("explain") as tick:
        record = diagnose(edgec.load(bundle), data, limit=limit, threads=threads, tick=tick)
    if json:
        print_json("edgec.explain/1", record)
    else:
        print_diagnosis(record)
