"""``edgec export``: the whole pipeline."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from edgec.export.cli.output import Json, Quiet, Verbose, print_json, print_table
from edgec.export.cli.stored import Store, keep


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    app.command("export", epilog="Example: edgec export --model emov2_5m --target jetson")(export)


def print_passes(value: bool) -> None:
    """Print every rewrite pass with what it changes (``--list-passes``)."""
    if not value:
        return
    from edgec.export.rewrite.engine import list_passes

    print_table(
        ("stage", "pass", "what it changes"), [(p.stage, p.name, p.change) for p in list_passes()]
    )
    raise typer.Exit


def export(
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            help="Zoo name, timm:NAME, path of .onnx, .tflite, .pt2 or .json, or FILE.py:FACTORY.",
            show_default=False,
        ),
    ],
    target: Annotated[
        str,
        typer.Option(
            "--target", "-t", help="Target name, alias or .toml file.", show_default=False
        ),
    ],
    precision: Annotated[
        str | None,
        typer.Option(
            help="fp32, fp16, int8, mixed, or int16x8 (.tflite, C). [default: the target's]"
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(help="PATH (.pth .pt .safetensors .npz), URL, pretrained[:TAG] or random."),
    ] = None,
    calib: Annotated[
        str | None,
        typer.Option(
            help="Calibration data: folder, .zip, video or .npz (images, or arrays by input); "
            "none for inputs distilled from the network itself."
        ),
    ] = None,
    calib_limit: Annotated[
        int | None, typer.Option(help="Use at most this many of them. [default: 128]")
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="Quantization recipe: auto, plain, default, equalized, wide, qhyvit, smooth, "
            "rounding, compensated, tuned, centred, or a .toml file. "
            "[default: the network family's, else auto]"
        ),
    ] = None,
    calib_method: Annotated[
        str | None,
        typer.Option(
            help="minmax, percentile, entropy, mse or fisher. [default: the recipe's, mostly mse]"
        ),
    ] = None,
    no_bias_correction: Annotated[
        bool, typer.Option("--no-bias-correction", help="Leave biases as they are in int8.")
    ] = False,
    keep_float: Annotated[
        list[str] | None,
        typer.Option(
            help="Module, node or operator type that int8 leaves in float (repeatable); "
            "`edgec eval --explain` suggests some."
        ),
    ] = None,
    time_mixes: Annotated[
        bool | None,
        typer.Option(
            "--time-mixes/--no-time-mixes",
            help="Time fp32 and int8 as .tflite in LiteRT here, and where int8 is not clearly "
            "faster, mixes of both: the report tells what holds int8 up. [default: time-mixes]",
            show_default=False,
        ),
    ] = None,
    fastest_mix: Annotated[
        bool | None,
        typer.Option(
            "--fastest-mix",
            help="Make the int8 .tflite file the mix of float and int8 that is fastest in LiteRT "
            "here, if one is measurably faster than int8.",
        ),
    ] = None,
    placement: Annotated[
        str | None,
        typer.Option(
            help="Where int8 goes in a TensorRT graph: auto, default, attention, skip-arms, "
            "fused-arms, no-arms, convolutions, wide, wide-attention, linear. [default: auto, the "
            "fewest kernels of NVIDIA's compiler where the extra trt-check is installed]"
        ),
    ] = None,
    preprocess: Annotated[
        str | None,
        typer.Option(help="JSON file telling how images become the input (own networks)."),
    ] = None,
    input_size: Annotated[
        str | None, typer.Option(help="Input as SIZE or HEIGHTxWIDTH, in pixels.")
    ] = None,
    shape: Annotated[
        list[str] | None,
        typer.Option(help="Static shape NAME=1,3,224,224 (own networks; repeatable)."),
    ] = None,
    features: Annotated[
        str | None,
        typer.Option(
            help="Feature maps instead of classes: all, stages 2,3,4 or strides /8,/16,/32."
        ),
    ] = None,
    format_: Annotated[
        str | None,
        typer.Option("--format", help="Artifact formats, comma-separated. [default: the target's]"),
    ] = None,
    labels: Annotated[
        str | None, typer.Option(help="Text file with one class name per line.")
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(help="Points of top-1 (or agreement) that int8 may lose; exit 4 beyond."),
    ] = None,
    max_bytes: Annotated[
        str | None, typer.Option(help="Bytes of weights for --precision mixed, e.g. 2M.")
    ] = None,
    max_latency: Annotated[
        float | None,
        typer.Option(help="Milliseconds for --precision mixed, as predicted for the target."),
    ] = None,
    min_sqnr: Annotated[
        float | None,
        typer.Option(help="SQNR in dB that int8 must keep at every output; exit 4 below."),
    ] = None,
    force: Annotated[
        bool | None, typer.Option("--force", help="Keep a bundle that fails the gate, marked.")
    ] = None,
    ram: Annotated[
        str | None, typer.Option(help="RAM budget, e.g. 64M: weights + activations; exit 5 beyond.")
    ] = None,
    flash: Annotated[
        str | None, typer.Option(help="Storage budget of the artifact, e.g. 8M; exit 5 beyond.")
    ] = None,
    skip_pass: Annotated[
        list[str] | None, typer.Option(help="Leave a rewrite pass out (repeatable).")
    ] = None,
    dump_passes: Annotated[
        str | None, typer.Option(help="Folder for the graph before and after each pass.")
    ] = None,
    list_passes: Annotated[
        bool,
        typer.Option(
            "--list-passes",
            callback=print_passes,
            is_eager=True,
            help="Print the rewrite passes in order and stop.",
        ),
    ] = False,
    out: Annotated[
        str | None, typer.Option("--out", "-o", help="Folder to write. [default: build/…]")
    ] = None,
    overwrite: Annotated[
        bool | None, typer.Option("--overwrite", help="Replace the folder if it exists.")
    ] = None,
    no_cache: Annotated[
        bool, typer.Option("--no-cache", help="Neither read nor write the stage cache.")
    ] = False,
    seed: Annotated[int | None, typer.Option(help="Seed of everything drawn. [default: 0]")] = None,
    config: Annotated[
        Path | None, typer.Option(help="Configuration file. [default: ./edgec.toml]")
    ] = None,
    show_config: Annotated[
        bool, typer.Option("--show-config", help="Print each option with its origin and stop.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done and stop.")
    ] = False,
    store: Store = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Capture a network, rewrite and quantize it, and write a checked bundle for a target."""
    from edgec.export.plan import dry_run as plan
    from edgec.export.plan import prepare
    from edgec.export.progress import Reporter

    job = prepare(
        model,
        target,
        {
            "precision": precision,
            "weights": weights,
            "calib": calib,
            "calib_limit": calib_limit,
            "recipe": recipe,
            "calib_method": calib_method,
            "bias_correction": False if no_bias_correction else None,
            "keep_float": keep_float,
            "time_mixes": time_mixes,
            "fastest_mix": fastest_mix,
            "placement": placement,
            "preprocess": preprocess,
            "input_size": input_size,
            "shapes": shape,
            "features": features,
            "formats": format_,
            "labels": labels,
            "max_drop": max_drop,
            "max_bytes": max_bytes,
            "max_latency": max_latency,
            "min_sqnr": min_sqnr,
            "force": force,
            "ram": ram,
            "flash": flash,
            "skip_passes": skip_pass,
            "dump_passes": dump_passes,
            "out": out,
            "overwrite": overwrite,
            "cache": False if no_cache else None,
            "seed": seed,
        },
        config=config,
    )
    if show_config:
        if json:
            print_json("edgec.config/1", {"options": job.resolved.to_json()})
        else:
            for name, entry in job.resolved.to_json().items():
                print(f"{name:<14} {entry['value']!r:<24} {entry['origin']}")
        return
    if dry_run:
        steps = plan(job)
        if json:
            print_json("edgec.plan/1", steps)
        else:
            print("\n".join(steps["steps"]))
        return
    from edgec.export.pipeline import run_job
    from edgec.export.report import text_report

    bundle, report = run_job(job, Reporter(quiet=quiet, verbose=verbose))
    keep(store, report)
    if json:
        print_json("edgec.export/1", {"bundle": str(bundle.path), "report": report})
        return
    print(text_report(report), end="")
    print(f"\nbundle: {bundle.path}")
    print("next:")
    images = bundle.manifest.preprocess is not None and len(bundle.manifest.inputs) == 1
    print(f"  edgec run {bundle.path} --input {'IMAGE' if images else 'FILE.npz'}")
    classes = images and bundle.manifest.labels is not None
    data = "FOLDER_OF_CLASSES" if classes else "FOLDER_OF_IMAGES" if images else "FILE.npz"
    print(f"  edgec eval {bundle.path} --data {data}")
    print(f"  edgec bench {bundle.path} --device local")
    if any(a.format == "c" and a.status == "built" for a in bundle.manifest.artifacts):
        print(f"  make -C {shlex.quote(str(bundle.path / 'c'))} test")
        print(f"  edgec bench {bundle.path} --device qemu:mps2-an500")
    if any(a.format == "tensorrt" for a in bundle.manifest.artifacts):
        print(f"  edgec build {bundle.path} --device ssh://USER@DEVICE")
