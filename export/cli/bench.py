"""``edgec bench``: measured latency."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from edgec.export.bundle import Bundle
from edgec.export.cli.output import Json, Quiet, print_json, print_table
from edgec.export.cli.stored import Store, keep, show_stored
from edgec.export.errors import UsageError

MOST_DETAILED = 2
"""Artifacts of which the slowest layers are printed; the record has them all."""
ASTRAY, ROUNDING = 3.0, 0.01
"""Times the graph's own distance to the golden outputs, and part of their range, that an engine may
be off: it rounds elsewhere than ONNX Runtime does, in TF32 or float16."""


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    app.command("bench", epilog="Example: edgec bench build/mynet --device local --threads 2")(
        bench
    )


def bench(
    bundle: Annotated[
        Path | None, typer.Argument(help="Folder that edgec export wrote.", show_default=False)
    ] = None,
    device: Annotated[
        str,
        typer.Option(
            "--device",
            help="local, ssh://USER@HOST:PORT (folder optional), adb: or adb:SERIAL, "
            "serial:///dev/TTY, or qemu:BOARD.",
        ),
    ] = "local",
    artifact: Annotated[
        list[str] | None, typer.Option(help="Artifact or precision (repeatable). [default: all]")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of the runtime.")] = 1,
    runs: Annotated[int, typer.Option(min=1, help="Samples per artifact (at least 50).")] = 100,
    warmup: Annotated[int, typer.Option(min=0, help="Uncounted runs before.")] = 10,
    benchmark_model: Annotated[
        Path | None,
        typer.Option(
            help="LiteRT's benchmark_model for the device, to measure .tflite files with. "
            "[default: EDGEC_BENCHMARK_MODEL, on Android /data/local/tmp/benchmark_model]"
        ),
    ] = None,
    power_trace: Annotated[
        Path | None,
        typer.Option(
            help="With serial://: CSV file of time (Unix seconds) and watts that a power meter's "
            "program is writing, to tell energy from."
        ),
    ] = None,
    save: Annotated[Path | None, typer.Option(help="Write the JSON record to this file.")] = None,
    store: Store = None,
    list_: Annotated[
        bool, typer.Option("--list", help="Show what was measured and exported, and stop.")
    ] = False,
    csv: Annotated[
        bool, typer.Option("--csv", help="With --list: every figure as CSV on stdout.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Time artifacts: all samples kept, outputs checked, conditions recorded.

    TensorRT engines that edgec build made are measured where they are; of other bundles, the ONNX,
    .tflite and C artifacts in turn. Over ssh:// the device needs nothing of edgec: for ONNX python3
    with onnxruntime, for C a shell and a compiler, or a cross compiler here. On Android (adb:), and
    wherever --benchmark-model is given, LiteRT's own program measures .tflite artifacts.
    """
    if list_:
        show_stored(store, as_json=json, as_csv=csv)
        return
    if bundle is None:
        raise UsageError(
            "EC236", "nothing to measure", fix="give the folder of a bundle, or --list"
        )
    import edgec
    from edgec.export.files import atomic_write, dump_json
    from edgec.export.progress import Reporter
    from edgec.runtime.bench_any import bench_any, chosen_artifacts

    opened = edgec.load(bundle)
    if device.startswith("qemu:"):
        _count(opened, device.removeprefix("qemu:"), save, store, json, quiet)
        return
    chosen = chosen_artifacts(opened, artifact or [], device)
    reporter = Reporter(1, quiet=quiet)
    with reporter.stage(f"measure {len(chosen)} artifacts") as tick:
        record = bench_any(
            opened,
            chosen,
            device,
            threads=threads,
            runs=runs,
            warmup=warmup,
            tool=benchmark_model,
            power=power_trace,
            tick=tick,
        )
    if save is not None:
        atomic_write(save, dump_json(record).encode())
    keep(store, record)
    if json:
        print_json("edgec.bench/1", record)
        return
    print(_conditions(record))
    for path, why in record.get("left_out", {}).items():
        print(f"{path} not measured: {why}")
    elsewhere = [r["artifact"] for r in record["results"] if r["made_for_elsewhere"]]
    if elsewhere:
        print(f"{', '.join(elsewhere)}: quantized for other hardware: times mean little")
    if record["throttled"]:
        worst = max(r["latency"].get("drift", 1.0) for r in record["results"])
        how = f" by {worst:.2f}x" if worst > 1 else ", its firmware says"
        print(f"the machine slowed down{how} meanwhile: heat, or other work on it")
    base = record["results"][0]["latency"]["median_ms"]
    print_table(
        ("artifact", "min ms", "median ms", "p90 ms", "vs first", "max |Δ| to golden"),
        [
            (
                r["artifact"],
                f"{r['latency']['min_ms']:.3f}",
                f"{r['latency']['median_ms']:.3f}",
                _optional(r["latency"]["p90_ms"], ".3f"),
                f"{r['latency']['median_ms'] / base:.2f}x",
                _optional((r["output_check"] or {}).get("max_abs"), ".3g"),
            )
            for r in record["results"]
        ],
    )
    for result in record["results"]:
        for remark in _remarks(result):
            print(f"{result['artifact']}: {remark}")
    _slowest(record)


def _remarks(result: dict[str, Any]) -> list[str]:
    """What a table of times does not tell."""
    remarks = []
    if "build" in result:
        remarks.append(f"compiled by {result['build']['compiler']} ({result['build']['where']})")
    if "statistics" in result["latency"]:
        remarks.append(f"statistics of {result['latency']['statistics']}; no single samples")
    if "no_output_check" in result:
        remarks.append(f"outputs not compared: {result['no_output_check']}")
    if is_astray(result):
        remarks.append(how_astray(result))
    if "energy" in result:
        spent = result["energy"]
        remarks.append(
            f"{1e3 * spent['joules_per_inference']:.4g} mJ per inference "
            f"({spent['meter']}: {spent['watts']:.3g} W, idle {spent['idle_watts']:.3g} W)"
        )
    return remarks


def is_astray(result: dict[str, Any]) -> bool:
    """Whether outputs are off by more than rounding explains: NaN, or an engine several times
    further from the golden outputs than its ONNX graph is in ONNX Runtime."""
    check, graph = result["output_check"], result.get("graph_check")
    if check is None or check["finite"] is False:
        return check is not None
    if not graph or check["relative"] is None or graph["relative"] is None:
        return False
    return bool(check["relative"] > ASTRAY * graph["relative"] + ROUNDING)


def how_astray(result: dict[str, Any]) -> str:
    """What `is_astray` found, in words."""
    check = result["output_check"]
    if not check["finite"]:
        return "outputs are not finite"
    return (
        f"outputs are {check['relative']:.3g} of their range off the golden ones, where the ONNX "
        f"graph is {result['graph_check']['relative']:.3g} off"
    )


def _optional(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _count(
    bundle: Bundle, board: str, save: Path | None, store: str | None, json: bool, quiet: bool
) -> None:
    """The C artifact on a simulated board: exact instructions, never called latency."""
    from edgec.export.files import atomic_write, dump_json
    from edgec.export.progress import Reporter
    from edgec.runtime.qemu.artifact import count_bundle

    with Reporter(1, quiet=quiet).stage(f"run on {board}"):
        record = count_bundle(bundle, board)
    if save is not None:
        atomic_write(save, dump_json(record).encode())
    keep(store, record)
    if json:
        print_json("edgec.count/1", record)
        return
    print(f"{record['compiler']}; {record['simulator']}")
    print("self-test     " + ("every output byte agrees" if record["agreed"] else "OUTPUTS DIFFER"))
    per_mac = record["instructions"] / max(record["macs"], 1)
    print(
        f"instructions  {record['instructions']:,} on {record['core']} "
        f"({per_mac:.2f} per multiply-accumulate; no latency)"
    )
    print(f"RAM           {record['ram_bytes']:,} bytes, of which arena {record['arena_bytes']:,}")
    print(f"stack         {record['stack_bytes']:,} bytes used")
    print(f"flash         {record['flash_bytes']:,} bytes, golden data of the self-test included")
    _top(record["layers"], "instructions", ",")
    if not record["agreed"]:
        raise typer.Exit(1)


def _conditions(record: dict[str, Any]) -> str:
    """One line: runtime, machine, what was going on there."""
    machine = record["environment_before"]
    if record["runtime"] == "tensorrt":
        mode = machine["power_mode"] or "power mode unknown"
        return f"TensorRT {machine['tensorrt']} on {machine['device'] or 'this machine'}, {mode}"
    if record["runtime"] == "edgec-c":
        return f"C firmware {machine['model']} ({machine['device']}) on {record['device']}"
    compiler = machine.get("compiler")
    told = {
        "onnxruntime": f"onnxruntime {machine.get('onnxruntime')}",
        "C": "C" + (f" ({compiler})" if compiler else ""),
        "litert": "LiteRT",
    }
    programs = ", ".join(told.get(name, name) for name in record["runtime"].split(", "))
    keys = ("ro.product.model", "board", "cpu", "machine")
    where = next(str(machine[key]) for key in keys if machine.get(key))
    return f"{programs} on {where}, {record['threads']} thread(s), load {machine['load_1min']}"


def _slowest(record: dict[str, Any]) -> None:
    """The five slowest layers of each artifact, where few were measured, in module names."""
    results = record["results"] if len(record["results"]) <= MOST_DETAILED else []
    for result in results:
        layers = result.get("layers") or []
        if layers:
            print(f"{result['artifact']}: slowest of {len(layers)} kernels")
            _top(layers, "ms", ".4f")


def _top(layers: list[dict[str, Any]], unit: str, form: str) -> None:
    """The first rows of a table of layers."""
    print_table(
        (unit, "module", "kernel"),
        [(format(row[unit], form), row["module"] or "-", row["name"][:60]) for row in layers[:5]],
    )
