"""``edgec bench``: measured latency."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgec.export.cli.output import Json, Quiet, print_json, print_table
from edgec.export.errors import UsageError


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    app.command("bench", epilog="Example: edgec bench build/mynet --device local --threads 2")(
        bench
    )


def bench(
    bundle: Annotated[Path, typer.Argument(help="Folder that edgec export wrote.")],
    device: Annotated[str, typer.Option("--device", help="local: this machine.")] = "local",
    artifact: Annotated[
        list[str] | None, typer.Option(help="Artifact or precision (repeatable). [default: all]")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of the runtime.")] = 1,
    runs: Annotated[int, typer.Option(min=1, help="Samples per artifact (at least 50).")] = 100,
    warmup: Annotated[int, typer.Option(min=0, help="Uncounted runs before.")] = 10,
    save: Annotated[Path | None, typer.Option(help="Write the JSON record to this file.")] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Time artifacts (ONNX Runtime, LiteRT): all samples kept, artifacts interleaved."""
    import edgec
    from edgec.export.files import atomic_write, dump_json
    from edgec.export.progress import Reporter
    from edgec.runtime.bench import bench_local
    from edgec.runtime.runners import runnable_here

    if device != "local":
        raise UsageError(
            "EC213",
            f"no way to reach device {device!r}",
            fix="this version measures --device local",
        )
    opened = edgec.load(bundle)
    names = artifact or [a.path for a in runnable_here(opened)]
    chosen = [opened.artifact(name) for name in names]
    reporter = Reporter(1, quiet=quiet)
    with reporter.stage(f"measure {len(chosen)} artifacts") as tick:
        record = bench_local(opened, chosen, threads=threads, runs=runs, warmup=warmup, tick=tick)
    if save is not None:
        atomic_write(save, dump_json(record).encode())
    if json:
        print_json("edgec.bench/1", record)
        return
    base = record["results"][0]["latency"]["median_ms"]
    machine = record["environment_before"]
    print(
        f"onnxruntime {machine['onnxruntime']} on {machine['cpu']}, {threads} thread(s), "
        f"load {machine['load_1min']}"
    )
    elsewhere = [r["artifact"] for r in record["results"] if r["made_for_elsewhere"]]
    if elsewhere:
        print(f"{', '.join(elsewhere)}: quantized for other hardware: times mean little")
    print_table(
        ("artifact", "min ms", "median ms", "p90 ms", "vs first", "max |Δ| to golden"),
        [
            (
                r["artifact"],
                f"{r['latency']['min_ms']:.3f}",
                f"{r['latency']['median_ms']:.3f}",
                f"{r['latency']['p90_ms']:.3f}",
                f"{r['latency']['median_ms'] / base:.2f}x",
                f"{r['output_check']['max_abs']:.3g}",
            )
            for r in record["results"]
        ],
    )
