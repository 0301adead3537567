"""``edgec cache``: the content-addressed cache of stages and downloads."""

from __future__ import annotations

from typing import Annotated

import typer

from edgec.export.cli.output import Json, print_json
from edgec.export.errors import UsageError


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    group = typer.Typer(no_args_is_help=True, help="Cache of stages and weights: info, clear.")
    group.command("info", epilog="Example: edgec cache info")(info)
    group.command("clear", epilog="Example: edgec cache clear --part stages")(clear)
    app.add_typer(group, name="cache")


def info(json: Json = False) -> None:
    """Tell where the cache is and how large."""
    from edgec.export import cache

    _print(cache.info(), json=json, verb="holds")


def clear(
    part: Annotated[str | None, typer.Option(help="Only this part: stages or weights.")] = None,
    json: Json = False,
) -> None:
    """Delete cached files; they come back when they are needed."""
    from edgec.export import cache

    if part not in (None, "stages", "weights"):
        raise UsageError("EC212", f"no cache part {part!r}", fix="stages or weights")
    _print(cache.clear(part), json=json, verb="held")


def _print(data: dict, *, json: bool, verb: str) -> None:  # type: ignore[type-arg]
    from edgec.export.report import mib

    if json:
        print_json("edgec.cache/1", data)
        return
    print(data["path"])
    for name, size in data["parts"].items():
        print(f"  {name:<8} {verb} {size['files']} files, {mib(size['bytes'])}")
