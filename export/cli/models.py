"""``edgec models``: what networks there are."""

from __future__ import annotations

from typing import Annotated

import typer

from edgec.export.cli.output import Json, print_json, print_table


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    group = typer.Typer(no_args_is_help=True, help="Networks of the zoo: list, show.")
    group.command("list", epilog="Example: edgec models list --json")(list_)
    group.command("show", epilog="Example: edgec models show emov2_5m")(show)
    app.add_typer(group, name="models")


def list_(json: Json = False) -> None:
    """List the zoo with parameters, MACs and published accuracy."""
    from edgec.models.registry import get_spec, list_models

    specs = [get_spec(name) for name in list_models()]
    if json:
        print_json("edgec.models/1", {"models": [spec.to_json() for spec in specs]})
        return
    print_table(
        ("name", "params", "MACs", "input", "top-1", "weights"),
        [
            (
                spec.name,
                f"{spec.params / 1e6:.2f} M",
                f"{spec.macs / 1e6:.0f} M",
                "x".join(map(str, spec.input_shape)),
                f"{spec.accuracy[0].value:.2f}" if spec.accuracy else "-",
                ", ".join(c.tag for c in spec.checkpoints) or "none published",
            )
            for spec in specs
        ],
    )


def show(
    name: Annotated[str, typer.Argument(help="Name of the network.")], json: Json = False
) -> None:
    """Tell everything that is known about one network, with sources."""
    from edgec.models.registry import get_spec

    spec = get_spec(name)
    if json:
        print_json("edgec.model/1", {"model": spec.to_json()})
        return
    print(f"{spec.name}: {spec.title}")
    rows = [
        ("paper", spec.paper),
        ("code", f"{spec.code} ({spec.code_licence})"),
        ("parameters", f"{spec.params:,}"),
        ("MACs", f"{spec.macs:,} at {'x'.join(map(str, spec.input_shape))}"),
        ("classes", str(spec.num_classes)),
        ("preprocessing", ", ".join(f"{k} {v}" for k, v in spec.preprocess.to_json().items())),
    ]
    rows += [
        (a.metric, f"{a.value} % at {a.input_size or spec.input_shape[-1]} px ({a.source})")
        for a in spec.accuracy
    ]
    rows.append(("weights", f"licence: {spec.weights_licence or 'unknown'}"))
    rows += [(f"  {c.tag}", c.url + (f" ({c.note})" if c.note else "")) for c in spec.checkpoints]
    if spec.notes:
        rows.append(("notes", spec.notes))
    for label, text in rows:
        print(f"  {label:<20} {text}")
