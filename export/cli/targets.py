"""``edgec targets``: what devices there are."""

from __future__ import annotations

from typing import Annotated

import typer

from edgec.export.cli.output import Json, print_json, print_table


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    group = typer.Typer(no_args_is_help=True, help="Deployment targets: list, show, new.")
    group.command("list", epilog="Example: edgec targets list")(list_)
    group.command("show", epilog="Example: edgec targets show jetson")(show)
    group.command("new", epilog="Example: edgec targets new myboard --like stm32h743")(new)
    app.add_typer(group, name="targets")


def list_(json: Json = False) -> None:
    """List the targets with runtime, precisions and default formats."""
    from edgec.targets.registry import get_target, list_targets, list_user_targets, user_folder

    own = [name for name in list_user_targets() if name not in list_targets()]
    found = [get_target(name) for name in (*list_targets(), *own)]
    if json:
        print_json(
            "edgec.targets/1",
            {
                "targets": [target.to_json() for target in found],
                "own": own,
                "own_folder": str(user_folder()),
            },
        )
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
    print(f"of your own, in {user_folder()}: {', '.join(own) or 'none'} (edgec targets new NAME)")


def new(
    name: Annotated[str, typer.Argument(help="Name of the target, or path of the .toml file.")],
    like: Annotated[
        str | None,
        typer.Option(
            help="Copy a shipped target instead of the commented template.", show_default=False
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Write a commented target file to fill in."""
    from pathlib import Path

    from edgec.targets.registry import user_folder
    from edgec.targets.template import write_template

    path = write_template(Path(name), like=like)
    if json:
        print_json("edgec.target_file/1", {"path": str(path)})
        return
    print(f"wrote {path}; `edgec targets show {path}` reads it")
    print(f"in {user_folder()} it is found by its name, without a path")


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
