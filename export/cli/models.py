"""``edgec models``: what networks there are, and where they fit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from edgec.export.cli.output import Json, Quiet, print_json, print_table

if TYPE_CHECKING:
    from edgec.export.fit import Fit
    from edgec.models.published import Location
    from edgec.models.registry import Checkpoint, ModelSpec


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    group = typer.Typer(no_args_is_help=True, help="Networks of the zoo: list, show.")
    group.command("list", epilog="Example: edgec models list --json")(list_)
    group.command("show", epilog="Example: edgec models show emov2_5m --fit")(show)
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
    name: Annotated[str, typer.Argument(help="Name of the network.")],
    fit: Annotated[
        bool,
        typer.Option(
            "--fit", help="Capture it, and check operators and memory for every target (slow)."
        ),
    ] = False,
    target: Annotated[
        list[str] | None,
        typer.Option("--target", "-t", help="Only these targets (repeatable). [default: all]"),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Tell what is known about a network, with sources, and which targets it fits."""
    from edgec.export.fit import cached_fit, expected_fit, measured_fit
    from edgec.export.progress import Reporter
    from edgec.models.published import locate
    from edgec.models.registry import get_spec
    from edgec.targets.registry import get_target, list_targets

    spec = get_spec(name)
    targets = [get_target(t) for t in target or list_targets()]
    fits = cached_fit(spec, targets)
    if fits is None and fit:
        fits = measured_fit(spec, targets, Reporter(quiet=quiet or json))
    fits = fits or expected_fit(spec, targets)
    checkpoints = [(checkpoint, locate(checkpoint)) for checkpoint in spec.checkpoints]
    if json:
        model = spec.to_json()
        model["stages"] = [stage.to_json() for stage in spec.stages]
        model["checkpoints"] = [
            {**entry, "location": where.to_json()}
            for entry, (_, where) in zip(model["checkpoints"], checkpoints, strict=True)
        ]
        print_json("edgec.model/1", {"model": model, "fit": [f.to_json() for f in fits]})
        return
    _print_facts(spec, checkpoints)
    print()
    _print_fit(name, fits)


def _print_facts(spec: ModelSpec, checkpoints: list[tuple[Checkpoint, Location]]) -> None:
    print(f"{spec.name}: {spec.title}")
    rows = [
        ("family", f"{spec.family}, {len(spec.stages)} stages"),
        *((f"  {s.name}", f"stride {s.stride}, {s.channels} channels") for s in spec.stages),
        ("paper", spec.paper),
        ("code", f"{spec.code} ({spec.code_licence})"),
        ("parameters", f"{spec.params:,}"),
        ("MACs", f"{spec.macs:,} at {'x'.join(map(str, spec.input_shape))}"),
        ("input", "x".join(map(str, spec.input_shape))),
        ("classes", f"{spec.num_classes} ({spec.labels})"),
        ("preprocessing", ", ".join(f"{k} {v}" for k, v in spec.preprocess.to_json().items())),
    ]
    rows += [
        (a.metric, f"{a.value} % at {a.input_size or spec.input_shape[-1]} px ({a.source})")
        for a in spec.accuracy
    ]
    rows.append(("weights", f"licence: {spec.weights_licence or 'unknown'}"))
    for checkpoint, where in checkpoints:
        note = f" ({checkpoint.note})" if checkpoint.note else ""
        rows.append((f"  {checkpoint.tag}", checkpoint.url + note))
        rows.append(("", f"{where.status}, {_hash(checkpoint, where)}"))
        if checkpoint.accuracy is not None:
            accuracy = checkpoint.accuracy
            rows.append(("", f"{accuracy.metric} {accuracy.value} % ({accuracy.source})"))
    if not checkpoints:
        rows.append(("", "none published: give --weights PATH"))
    if spec.notes:
        rows.append(("notes", spec.notes))
    for label, text in rows:
        print(f"  {label:<20} {text}".rstrip())


def _hash(checkpoint: Checkpoint, where: Location) -> str:
    if checkpoint.sha256 is not None:
        return f"sha256 {checkpoint.sha256}"
    if checkpoint.git_blob is not None:
        seen = f", sha256 {where.sha256}" if where.sha256 else ""
        return f"git blob {checkpoint.git_blob}{seen}"
    if where.sha256 is not None:
        return f"sha256 {where.sha256} as downloaded; its publisher states none"
    return "its publisher states no hash"


HEADER = (
    *("target", "precision", "weights", "peak activations", "memory"),
    *("latency (predicted)", "operators"),
)


def _used(fit: Fit) -> Iterator[str]:
    """What it takes of each memory of known size."""
    from edgec.export.report import mib

    def share(part: int, whole: int) -> str:
        size = f"{whole / 2**30:g} GiB" if whole >= 2**30 else mib(whole)
        percent = 100 * part / whole
        return f"{percent:,.0f} % of {size}" if percent >= 100 else f"{percent:.3g} % of {size}"

    if fit.ram_bytes is not None and not fit.weights_apart:
        yield share(fit.needed_bytes, fit.ram_bytes)
    elif fit.ram_bytes is not None and fit.activation_bytes is not None:
        yield share(fit.activation_bytes, fit.ram_bytes) + " RAM"
    if fit.flash_bytes is not None:
        yield share(fit.weights_bytes, fit.flash_bytes) + " flash"


def _print_fit(name: str, fits: list[Fit]) -> None:
    from edgec.export.report import mib

    measured = all(fit.measured for fit in fits)
    rows = []
    for fit in fits:
        warnings = f", {fit.warnings} warnings" if fit.warnings else ""
        codes = f" ({', '.join(fit.codes)})" if fit.codes else ""
        rows.append(
            (
                fit.target,
                fit.precision,
                mib(fit.weights_bytes),
                "?" if fit.activation_bytes is None else mib(fit.activation_bytes),
                ", ".join((fit.memory, *_used(fit))),
                fit.latency or "?",
                fit.operators + codes + warnings,
            )
        )
    print_table(HEADER, rows)
    if not measured:
        print(
            "weights are estimated from the parameters; activations and operators are not checked: "
            f"run `edgec models show {name} --fit`"
        )
    else:
        print(
            "peak activations: live tensors in graph order, without the runtime's own buffers; the "
            "planned arena where the target gets C; memory: of a microcontroller's several RAMs or "
            "flashes the largest; "
            "operators: `edgec check` of the graph that an export builds; latency: 80 % interval, "
            f"one thread; edgec profile {name} -t TARGET tells its basis, or why it is refused"
        )
