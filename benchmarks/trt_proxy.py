"""What NVIDIA's ahead-of-time compiler makes of every registered network, without a GPU.

    EDGEC_TENSORRT_RTX=/path/to/python-with-tensorrt-rtx PYTHONPATH=.src \
        python benchmarks/trt_proxy.py --json benchmarks/results/trt_proxy.json

One row per network: the graphs in fp32, fp16 and int8 of an export for a Jetson Orin Nano, compiled
by TensorRT for RTX for SM86, a proxy for the device's own TensorRT, and the same graphs for SM120,
the proxy for Blackwell (Thor, RTX 50; its profiles read the same opset). Kernels do not depend on
weights, so the zoo's are random and int8 is calibrated on noise. `--placements` tries every
placement of Q/DQ instead, on trained networks and images of EDGEC_BENCH_DATA; its rows go into a
file of their own (trt_placements.json).

The file is the regression table: a network that was compiled and is refused now, or needs more
kernels than before from the same compiler, is named, and the exit status is 1. Rows already in the
file are kept, so that a run can be stopped and goes on (--again measures those of --models anew).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from _ptq_networks import CIFAR, CIFAR_ARCHIVE, MissingError, archive_of
from zoo import export_in_a_process

from edgec.export.emit.tensorrt.proxy import compile_for, proxy_python
from edgec.export.files import dump_json
from edgec.models.registry import get_spec, list_models

TARGET = "jetson-orin-nano-jp6.2"
PRECISIONS = ("fp32", "fp16", "int8")
BLACKWELL = "SM120"
SAMPLES = 4


def measure(model: str) -> dict[str, Any]:
    """The row of a network."""
    spec = get_spec(model)
    shipped = bool(spec.checkpoints) and spec.checkpoints[0].url.startswith("edgec:")
    arguments = [] if shipped else ["--weights", "random"]
    arguments += ["--calib", "random", "--calib-limit", str(SAMPLES), "--recipe", "plain"]
    return row_of(model, [*arguments, "--placement", "default"], blackwell=True)


def measure_placements(model: str, archive: Path) -> list[dict[str, Any]]:
    """A row for each placement in a trained network, calibrated on the images of `archive`."""
    row = row_of(model, ["--calib", str(archive), "--calib-limit", "256", "--placement", "auto"])
    if row["error"]:
        raise SystemExit(f"{model}: {row['error']}")
    step = row["placement"]
    half = {
        "name": "none (fp16)",
        "kernels": row["kernels"]["fp16"],
        "fused": row["fused"]["fp16"],
        "attention": row["attention_fused"]["fp16"],
        "integer_macs": 0.0,
        "sqnr_db": None,
    }
    return [
        {"model": model, "placement": found["name"], "chosen": found["name"] == step["chosen"]}
        | {key: found[key] for key in half if key != "name"}
        for found in (half, *step["candidates"])
    ]


def row_of(model: str, arguments: Sequence[str], *, blackwell: bool = False) -> dict[str, Any]:
    """Export `model` and read what the proxy said; `blackwell` compiles for `BLACKWELL` as well."""
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "bundle"
        answer, seconds, _ = export_in_a_process(
            ["--model", model, "--target", TARGET, "--precision", "int8", *arguments,
             "--format", "onnx,tensorrt", "--out", str(bundle), "--force"],
            Path(folder) / "cache",
        )  # fmt: skip
        beside = compile_beside(bundle, answer) if blackwell and "report" in answer else {}
    row: dict[str, Any] = {"model": model, "cpu_seconds": round(seconds, 1), "error": None}
    if "report" not in answer:
        return row | {"error": answer["error"]["code"], "engines": {}}
    report = answer["report"]
    (made,) = (a for a in report["artifacts"] if a["path"] == "tensorrt")
    proxy = made["checks"]["proxy"]
    engines = proxy["engines"]
    steps = report["calibration"]["recipe"]["steps"]
    placement = next((step for step in steps if step["step"] == "placement"), None)
    return row | {
        "compiler": proxy["compiler"],
        "capability": proxy["capability"],
        "attentions": proxy["attentions"],
        "kernels": {p: e["kernels"] for p, e in engines.items()},
        "fused": {p: e["kinds"].get("runtime_fusion", 0) for p, e in engines.items()},
        "attention_fused": {p: e["attention"] for p, e in engines.items()},
        "engines": engines,
        **beside,
        **({"placement": placement} if placement else {}),
    }


def compile_beside(bundle: Path, answer: dict[str, Any]) -> dict[str, Any]:
    """The ONNX files of a bundle, compiled for `BLACKWELL`."""
    python = proxy_python()
    assert python is not None
    plans = {
        artifact["precision"]: compile_for(python, bundle / artifact["path"], BLACKWELL)[0]
        for artifact in answer["report"]["artifacts"]
        if artifact["path"].endswith(".onnx")
    }
    return {
        "kernels_sm120": {p: plan.kernels for p, plan in plans.items()},
        "fused_sm120": {p: plan.kinds.get("runtime_fusion", 0) for p, plan in plans.items()},
        "attention_fused_sm120": {p: plan.attention for p, plan in plans.items()},
        "engines_sm120": {p: asdict(plan) for p, plan in plans.items()},
    }


def regressions(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What got worse in a network, by the same compiler."""
    if before.get("compiler") != after.get("compiler"):
        return []
    found = []
    plans = after.get("engines_sm120", {})
    pairs = [(p, old, after["engines"].get(p)) for p, old in before["engines"].items()]
    pairs += [
        (f"{p} {BLACKWELL}", old, plans.get(p))
        for p, old in before.get("engines_sm120", {}).items()
    ]
    for name, old, new in pairs:
        if not old["built"]:
            continue
        if new is None or not new["built"]:
            found.append(f"{after['model']} {name}: was compiled, is refused")
        elif new["kernels"] > old["kernels"]:
            more = f"{old['kernels']} kernels, now {new['kernels']}"
            found.append(f"{after['model']} {name}: {more}")
    return found


def refused(row: dict[str, Any]) -> list[str]:
    """Precisions that are not compiled, for either capability."""
    return [
        p
        for p in PRECISIONS
        for plans in (row["engines"], row.get("engines_sm120", {}))
        if not plans.get(p, {}).get("built")
    ]


def line(row: dict[str, Any]) -> str:
    """A network in one line."""
    if row["error"]:
        return f"{row['model']:<26}{row['error']}"
    cells = [f"{row['model']:<26}{row['attentions']:>5}"]
    for precision in PRECISIONS:
        plan = row["engines"].get(precision)
        if plan is None or not plan["built"]:
            cells.append(f"{'refused':>27}")
            continue
        fused = plan["kinds"].get("runtime_fusion", 0)
        newer = row.get("kernels_sm120", {}).get(precision, "-")
        cells.append(f"{plan['kernels']:>8}{fused:>6}{plan['attention']:>6}{newer:>7}")
    return "".join(cells)


def placements(names: Sequence[str], file: Path) -> int:
    """Choose placements in trained networks."""
    try:
        archive = archive_of(CIFAR_ARCHIVE)
    except MissingError as error:
        print(f"skipped: {error}", file=sys.stderr)
        return 0
    rows = []
    for model in names:
        for row in measure_placements(model, archive):
            rows.append(row)
            noise = "" if row["sqnr_db"] is None else f"{row['sqnr_db']:.1f} dB"
            print(
                f"{model:<26}{row['placement']:<14}{row['kernels']:>5}{row['fused']:>5}"
                f"{row['attention']:>4}{row['integer_macs']:>7.0%}  {noise:<8}"
                + (" chosen" if row["chosen"] else ""),
                flush=True,
            )
    file.write_text(dump_json({"facts": {"target": TARGET}, "rows": rows}), "utf-8")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(description="Compile every network with NVIDIA's proxy.")
    parser.add_argument("--models", nargs="*")
    parser.add_argument(
        "--json", type=Path, help="by default trt_proxy.json or trt_placements.json, here"
    )
    parser.add_argument("--again", action="store_true", help="measure those anew that the file has")
    parser.add_argument("--placements", action="store_true", help="choose placements, trained nets")
    options = parser.parse_args(argv)
    if proxy_python() is None:
        print("needs TensorRT for RTX: pip install 'edgec[trt-check]'", file=sys.stderr)
        return 6
    if options.placements:
        names = options.models or [f"{name}_cifar10" for name in CIFAR]
        return placements(names, options.json or Path("trt_placements.json"))
    file = options.json or Path("trt_proxy.json")
    rows: dict[str, dict[str, Any]] = {}
    if file.is_file():
        rows = {row["model"]: row for row in json.loads(file.read_text("utf-8"))["rows"]}
    names = options.models or list_models()
    worse: list[str] = []
    print(
        f"{'network':<26}{'att.':>5}"
        + "".join(f"{p + ': kernels fused att. SM120':>27}" for p in PRECISIONS)
    )
    for model in sorted(names, key=lambda name: (get_spec(name).macs, name)):
        before = rows.get(model)
        if before is None or options.again or "engines_sm120" not in before:
            row = measure(model)
            worse += [] if before is None else regressions(before, row)
            rows[model] = row
            facts = {"target": TARGET, "compiler": row.get("compiler")}
            content = {"facts": facts, "rows": list(rows.values())}
            file.write_text(dump_json(content), "utf-8")
        print(line(rows[model]), flush=True)
    failed = [name for name in names if rows[name]["error"] or refused(rows[name])]
    print(f"{len(names)} networks, {len(failed)} not compiled in every precision {failed or ''}")
    print("\n".join(worse))
    return 1 if failed or worse else 0


if __name__ == "__main__":
    raise SystemExit(main())
