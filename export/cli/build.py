"""``edgec build``: TensorRT engines, built by the device that will run them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from edgec.export.cli.bench import how_astray, is_astray
from edgec.export.cli.output import Json, Quiet, print_json, print_table


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    app.command(
        "build", epilog="Example: edgec build build/mynet --device ssh://nvidia@192.168.1.7"
    )(build)


def build(
    bundle: Annotated[Path, typer.Argument(help="Folder that edgec export wrote for TensorRT.")],
    device: Annotated[
        str, typer.Option("--device", help="local, or ssh://USER@HOST:PORT (folder optional).")
    ] = "local",
    engine: Annotated[
        list[str] | None,
        typer.Option(help="Precision to build (repeatable). [default: the target's]"),
    ] = None,
    all_engines: Annotated[bool, typer.Option("--all", help="Every engine of the recipe.")] = False,
    rebuild: Annotated[bool, typer.Option(help="Even what is up to date.")] = False,
    any_version: Annotated[
        bool, typer.Option(help="Try a TensorRT that the bundle was not made for.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Build engines on the device and bring them home; a broken link is taken up again."""
    import sys
    from contextlib import ExitStack

    import edgec
    from edgec.export.progress import Reporter
    from edgec.runtime.tensorrt.build import build_engines
    from edgec.runtime.tensorrt.recipe import read_recipe
    from edgec.runtime.transports.machine import open_device

    opened = edgec.load(bundle)
    recipe = read_recipe(opened)
    names = recipe.names if all_engines else tuple(engine or recipe.names[:1])
    for name in names:
        recipe.engine(name)
    reporter = Reporter(2, quiet=quiet)
    with ExitStack() as stack:
        with reporter.stage(f"connect to {device}"):
            machine = stack.enter_context(open_device(device))
        with reporter.stage(f"build {', '.join(names)}") as tick:
            opened = build_engines(
                opened,
                machine,
                names,
                rebuild=rebuild,
                any_version=any_version,
                on_text=lambda text: None if quiet else print(text, end="", file=sys.stderr),
                tick=tick,
            )
    built = [
        a
        for a in opened.manifest.artifacts
        if a.format == "tensorrt" and a.status == "built" and a.precision in names
    ]
    if json:
        print_json(
            "edgec.build/1",
            {
                "bundle": str(bundle),
                "device": device,
                "engines": [
                    {
                        "path": a.path,
                        "bytes": a.bytes,
                        "sha256": a.sha256,
                        **a.checks["built"],
                        "ran": a.checks["ran"],
                    }
                    for a in built
                ],
            },
        )
        return
    print_table(
        ("engine", "MiB", "TensorRT", "device", "build s", "first ms", "max |Δ| to golden"),
        [
            (
                a.path,
                f"{(a.bytes or 0) / 2**20:.1f}",
                a.checks["built"]["tensorrt"],
                str(a.checks["built"]["device"]),
                f"{a.checks['built']['build_seconds']:.0f}",
                *_first_run(a.checks["ran"]),
            )
            for a in built
        ],
    )
    print(f"measure: edgec bench {bundle} --device {device} --artifact {built[0].path}")
    for artifact in built:
        if "why" in artifact.checks["ran"]:
            print(f"{artifact.path} was not run: {artifact.checks['ran']['why']}")
        elif is_astray(artifact.checks["ran"]):
            print(f"{artifact.path}: {how_astray(artifact.checks['ran'])}")


def _first_run(ran: dict[str, Any]) -> tuple[str, str]:
    """Median milliseconds and distance to the golden outputs of an engine's first runs."""
    if "why" in ran:
        return "-", "-"
    check = ran["output_check"]
    return f"{ran['median_ms']:.3f}", f"{check['max_abs']:.3g}" if check["finite"] else "not finite"
