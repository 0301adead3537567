"""``edgec targets``: what devices there are."""

from __future__ import annotations

from typing import Annotated

import typer

from edgec.export.cli.output import Json, print_json, print_table


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    group = typer.Typer(no_args_is_help=True, help="Deployment targets: list, show.")
    group.command("list", epilog="Example: edgec targets list")(list_)
    group.command("show", epilog="Example: edgec targets show jetson")(show)
    app.add_typer(group, name="targets")


def list_(json: Json = False) -> None:
    """List the targets with runtime, precisions and default formats."""
    from edgec.targets.registry import get_target, list_targets

    found = [get_target(name) for name in list_targets()]
    if json:
        print_json("edgec.targets/1", {"targets": [target.to_json() for target in found]})
        return
    print_table(
        ("name", "aliases", "runtime", "opset", "precisions (default first)", "formats"),
        [
            (
                t.name,
                ", ".join(t.aliases),
                f"{t.runtime.name} {t.runtime.version}",
                str(t.runtime.opset),
                ", ".join(dict.fromkeys((t.default_precision, *t.precisions))),
                ", ".join(t.formats),
            )
            for t in found
        ],
    )


def show(
    name: Annotated[str, typer.Argument(help="Name, alias, or path of a .toml file.")],
    json: Json = False,
    toml: Annotated[
        bool, typer.Option("--toml", help="Print the target file: a template for your own.")
    ] = False,
) -> None:
    """Tell everything that is known about one target, with the source of each number."""
    from edgec.targets.registry import get_target, target_toml

    if toml:
        print(target_toml(name), end="")
        return
    target = get_target(name)
    if json:
        print_json("edgec.target/1", {"target": target.to_json()})
        return
    alias = f" (you asked for its alias {name!r})" if name in target.aliases else ""
    print(f"{target.name}{alias}: {target.title}")
    runtime = target.runtime
    print(
        f"  {'runtime':<20} {runtime.name} {runtime.version}, opset {runtime.opset}"
        f"  [{runtime.source}]"
    )
    print(
        f"  {'precisions':<20} {', '.join(target.precisions)}; default {target.default_precision}"
    )
    print(f"  {'formats':<20} {', '.join(target.formats)}")
    for key, fact in target.facts.items():
        print(f"  {key:<20} {fact.value}  [{fact.source}]")
    for m in target.memory:
        base = "" if m.base is None else f" at 0x{m.base:08x}"
        print(f"  {m.kind + ' ' + m.name:<20} {m.bytes:,} bytes{base}  [{m.source}]")
    for note in target.notes:
        print(f"  note: {note}")
