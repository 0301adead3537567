"""``edgec plan``: which bytes of a device's memory each tensor gets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgec.export.cli.output import InputSize, Json, Quiet, Shapes, print_json

if TYPE_CHECKING:
    from edgec.export.progress import Reporter
    from edgec.profiles.memory.plan import Plan
    from edgec.profiles.memory.program import Program
    from edgec.targets.schema import Target

ORDERS = ("given", "best")
TRANSPOSES = ("absorb", "copy")
ELEMENT_BYTES = {"int8": 1, "fp16": 2, "fp32": 4}


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    app.command(
        "plan", epilog="Example: edgec plan -m edgenext_cifar10 -t stm32f746 --svg map.svg"
    )(plan)


def plan(
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            help="What export takes, or a .csv of buffers (id,lower,upper,size).",
            show_default=False,
        ),
    ],
    target: Annotated[
        str | None,
        typer.Option(
            "--target",
            "-t",
            help="Target whose memories are filled. [default: one memory without limit]",
            show_default=False,
        ),
    ] = None,
    precision: Annotated[
        str, typer.Option(help="int8, fp16 or fp32: bytes of an element.")
    ] = "int8",
    order: Annotated[
        str, typer.Option(help="Order of the steps: given, or best to search for one.")
    ] = "given",
    inplace: Annotated[
        bool,
        typer.Option(
            "--inplace/--no-inplace",
            help="Let input and output of a step overlap where its kernel allows it.",
        ),
    ] = True,
    transposes: Annotated[
        str, typer.Option(help="absorb: kernels read through them; copy: each has a buffer.")
    ] = "absorb",
    io: Annotated[
        bool,
        typer.Option("--io/--no-io", help="Keep inputs and outputs of the network in the arena."),
    ] = True,
    time_limit: Annotated[
        float, typer.Option(help="Seconds to search for a smaller arena, and for an order.")
    ] = 10.0,
    svg: Annotated[Path | None, typer.Option(help="Write the arena map here.")] = None,
    csv: Annotated[Path | None, typer.Option(help="Write buffers and offsets here.")] = None,
    input_size: InputSize = None,
    shape: Shapes = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Plan the memory of a network: peak, proof, and a map; exit 5 if the target has too little."""
    from edgec.export.errors import UsageError
    from edgec.export.progress import Reporter
    from edgec.profiles.memory import bill
    from edgec.profiles.memory.order.best import best_order
    from edgec.profiles.memory.order.graph import order_graph, reorder
    from edgec.profiles.memory.plan import plan as make_plan
    from edgec.profiles.memory.regions import ANY_RAM, Region
    from edgec.targets.registry import get_target

    for name, value, allowed in (
        ("order", order, ORDERS),
        ("transposes", transposes, TRANSPOSES),
        ("precision", precision, tuple(ELEMENT_BYTES)),
    ):
        if value not in allowed:
            raise UsageError(
                "EC206",
                f"bad value {value!r} for {name}",
                where="command line",
                fix=f"one of {', '.join(allowed)}",
            )
    if not 0 < time_limit <= 86_400:
        raise UsageError(
            "EC250",
            f"bad value {time_limit} for time-limit",
            where="command line",
            fix="seconds, more than 0 and at most 86400",
        )
    found = get_target(target) if target is not None else None
    reporter = Reporter(quiet=quiet or json)
    options = {"input_size": input_size, "shapes": shape}
    program = _program(
        model, found, options, ELEMENT_BYTES[precision], transposes == "absorb", reporter
    )
    searched = None
    if order == "best":
        with reporter.stage("order"):
            searched = best_order(order_graph(program, overlaps=inplace), time_limit=time_limit)
        program = reorder(program, searched.order)
    regions = [Region.of(memory) for memory in (found.memory if found else ())]
    with reporter.stage("plan"):
        result = make_plan(
            program,
            regions or [ANY_RAM],
            overlaps=inplace,
            io_outside=not io,
            time_limit=time_limit,
        )
    _write(result, svg, csv)
    if json:
        data = result.to_json()
        if searched is not None:
            data["order"] = {
                "given_peak": searched.given_peak,
                "peak": searched.peak,
                "lower_bound": searched.lower_bound,
                "proved": searched.proved,
            }
        print_json("edgec.plan/1", {"model": model, "target": found and found.name, **data})
    else:
        print(bill.text(result, found.name if found else None))
        if searched is not None:
            proof = "proved" if searched.proved else "not proved"
            print(f"order: {searched.given_peak:,} → {searched.peak:,} live bytes, {proof}")
    if found is not None:
        bill.check_budget(result, found.name)


def _program(
    model: str,
    target: Target | None,
    options: Mapping[str, object],
    element_bytes: int,
    absorb: bool,
    reporter: Reporter,
) -> Program:
    from edgec.profiles.memory.from_onnx import from_onnx
    from edgec.profiles.memory.source import graph_of, program_of_table
    from edgec.targets.registry import get_target

    if model.lower().endswith(".csv"):
        return program_of_table(Path(model))
    # without a target the graph is written for the runtime that knows most operators
    graph = graph_of(model, target or get_target("generic-x86-64"), options, reporter)
    program = from_onnx(graph, element_bytes=element_bytes, absorb_transposes=absorb)
    return replace(program, name=Path(model).stem if "." in model else model)


def _write(result: Plan, svg: Path | None, csv: Path | None) -> None:
    from edgec.export.files import atomic_write, explain_os_errors
    from edgec.profiles.memory.minimalloc_csv import format_csv
    from edgec.profiles.memory.problem import Item, Problem
    from edgec.profiles.memory.svg import plan_svg

    if svg is not None:
        with explain_os_errors(svg):
            atomic_write(svg, plan_svg(result).encode())
    if csv is not None:
        items = tuple(Item(b.id, b.lower, b.upper, b.size) for b in result.buffers)
        table = format_csv(Problem(items), [b.offset for b in result.buffers])
        with explain_os_errors(csv):
            atomic_write(csv, table.encode())
