"""``edgec profile``: what a network costs, layer by layer, and how long it will take."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgec.export.cli.output import InputSize, Json, Quiet, Shapes, print_json, print_table

if TYPE_CHECKING:
    from edgec.profiles.latency.predict import Prediction
    from edgec.profiles.layers import StaticProfile


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    app.command("profile", epilog="Example: edgec profile emov2_1m -t raspberry-pi-4 --svg w.svg")(
        profile
    )


def profile(
    model: Annotated[
        str, typer.Argument(help="Bundle, .tflite or .onnx file, or what export takes.")
    ],
    target: Annotated[
        str | None,
        typer.Option("--target", "-t", help="Predict latency there. [default: a bundle's own]"),
    ] = None,
    artifact: Annotated[
        str | None,
        typer.Option(help="Of a bundle: path or precision. [default: int8, else fp32]"),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of the runtime.")] = 1,
    anchors: Annotated[
        Path | None,
        typer.Option(help="JSON with 3 to 10 measurements of your board, to calibrate by."),
    ] = None,
    measured: Annotated[
        Path | None, typer.Option(help="Record of edgec bench, to show beside the prediction.")
    ] = None,
    svg: Annotated[Path | None, typer.Option(help="Write the waterline view here.")] = None,
    layers: Annotated[
        int, typer.Option(min=0, help="Layers to show, most costly first; 0 for all in order.")
    ] = 15,
    input_size: InputSize = None,
    shape: Shapes = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Tell MACs, bytes, memory and predicted latency of a network by layer."""
    from edgec.export.bundle import Bundle
    from edgec.export.files import atomic_write
    from edgec.export.profile import (
        measured_by_module,
        need_target,
        profiled_artifact,
        read_anchors,
        side_by_side,
        static_profile,
    )
    from edgec.export.progress import Reporter
    from edgec.profiles.latency.target import predict_for, transfer
    from edgec.profiles.waterline import own_balance, waterline, waterline_svg
    from edgec.targets.registry import get_target

    if target is None and Path(model).is_dir():
        target = str(Bundle.open(Path(model)).manifest.target["name"])
    found = get_target(target) if target is not None else None
    reporter = Reporter(quiet=quiet or json)
    options = {"input_size": input_size, "shapes": shape}
    facts = static_profile(model, found, options, reporter, artifact=artifact)
    prediction, elsewhere = None, {}
    if anchors is not None:
        found = need_target(target, "--anchors")
    if found is not None:
        calibration = None
        if anchors is not None:
            calibration = read_anchors(anchors, facts.precision, found, reporter)
            elsewhere = transfer(calibration) if calibration is not None else {}
        prediction = predict_for(
            facts.layers, facts.precision, found, threads=threads, anchors=calibration
        )
    line = waterline(facts, own_balance(facts), "half of the network's MACs lie above")
    if svg is not None:
        atomic_write(svg, waterline_svg(facts, line).encode())
    comparison = None
    if measured is not None:
        unit, sums = measured_by_module(measured, profiled_artifact(model, artifact))
        rows = side_by_side(facts, prediction.layer_ms if prediction else (), sums)
        comparison = {"unit": unit, "modules": rows}
    if json:
        print_json(
            "edgec.profile/1",
            {
                "model": model,
                "target": found and found.name,
                "profile": facts.to_json(),
                "waterline": line.to_json(),
                "latency": prediction and prediction.to_json(),
                "transfer": {name: p.to_json() for name, p in elsewhere.items()},
                "measured": comparison,
            },
        )
        return
    _print_totals(facts, prediction)
    _print_layers(facts, prediction, layers)
    for name, other in elsewhere.items():
        print(f"  {name:<20} {other.line()}")
    if comparison is not None:
        _print_comparison(comparison)


def _print_totals(facts: StaticProfile, prediction: Prediction | None) -> None:
    from edgec.profiles.memory.bill import kib

    print(f"{facts.name}: {len(facts.layers)} kernels, activations in {facts.precision}")
    kinds = ", ".join(
        f"{kind} {100 * macs / facts.macs:.0f} %" for kind, macs in facts.macs_by_kind().items()
    )
    print(f"  MACs         {facts.macs:,}" + (f" ({kinds})" if kinds else ""))
    print(f"  parameters   {facts.parameters:,}, {kib(facts.weight_bytes)}")
    print(f"  activations  {kib(facts.activation_bytes)} read and written")
    print(f"  peak memory  {kib(facts.peak_bytes)} ({facts.peak_basis})")
    if prediction is not None:
        print(f"  latency      {prediction.line()}")


def _print_layers(facts: StaticProfile, prediction: Prediction | None, shown: int) -> None:
    times = prediction.layer_ms if prediction is not None else ()
    rows = list(enumerate(facts.layers))
    if shown:
        rows.sort(key=lambda r: (-(times[r[0]] if times else r[1].macs), r[0]))
        rows = rows[:shown]
    print()
    header = ["module", "operator", "kind", "MACs", "parameters", "bytes", "MACs/byte"]
    table = [
        [
            layer.module or layer.name[:48],
            layer.operator,
            layer.kind,
            f"{layer.macs:,}",
            f"{layer.parameters:,}",
            f"{layer.bytes:,}",
            f"{layer.intensity:.2f}",
            *([f"{times[index]:.3g}"] if times else []),
        ]
        for index, layer in rows
    ]
    print_table([*header, *(["ms predicted"] if times else [])], table)
    if len(rows) < len(facts.layers):
        print(f"{len(facts.layers) - len(rows)} more: --layers 0 shows all in order")


def _print_comparison(comparison: dict[str, Any]) -> None:
    print()
    rows = [
        (
            row["module"] or "-",
            f"{row['macs']:,}",
            "-" if row["predicted_ms"] is None else f"{row['predicted_ms']:.4g}",
            "-" if row["measured"] is None else f"{row['measured']:.4g}",
        )
        for row in comparison["modules"]
    ]
    print_table(("module", "MACs", "ms predicted", f"{comparison['unit']} measured"), rows)
