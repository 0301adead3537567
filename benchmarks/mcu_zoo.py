"""Embedded C of whole networks of the zoo at 224x224, for an STM32H743.

    PYTHONPATH=.src python benchmarks/mcu_zoo.py --json benchmarks/results/mcu_zoo.json

Each network gets random weights, is calibrated on noise and exported in int8: the C is planned for
the AXI SRAM, executed byte by byte in its arena, and its self-test is run on a simulated Cortex-M7,
whose instructions are counted (no latency), or, where constants exceed that board's memory, on this
machine. Networks with more weights than the chip has flash get a board with 16 MB of QSPI.
`streamed` counts the expansions that had to be computed row by row for the arena to fit.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zoo import export_in_a_process

from edgec.export.files import dump_json
from edgec.models.registry import get_spec
from edgec.targets.registry import target_toml

NETWORKS = (
    "emov2_1m", "edgenext_xx_small", "mcuformer_t_e", "mcuformer_t_d", "mcuformer_t_c",
    "mcuformer_t_a", "mcuformer_t_b",
)  # fmt: skip
TARGET = "stm32h743"
QSPI = """
[[memory]]
name = "qspi"
kind = "flash"
bytes = 16777216
base = 0x90000000
source = "a flash chip of 16 MB on the board"
"""
FLASH = 2 << 20
"""Bytes on the chip."""
BOARD = "mps2-an500"
MOST_FLASH = 3_500_000
"""Bytes of constants that leave room for code and golden data on the simulated board."""


def measure(model: str) -> dict[str, Any]:
    """Export, execute, count."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # a byte for each parameter at least
        outside = (get_spec(model).params or 0) > FLASH
        row: dict[str, Any] = {"model": model, "flash_outside": outside}
        target = TARGET
        if outside:
            board = folder / "with-qspi.toml"
            board.write_text(_without_aliases(target_toml(TARGET)) + QSPI)
            target = str(board)
        answer, seconds, gib = export(model, target, folder)
        row |= {"cpu_seconds": round(seconds), "peak_gib": round(gib, 1)}
        if "report" not in answer:
            found = answer["error"]
            return row | {"error": f"{found['code']}: {found['what']} ({found.get('why')})"}
        report = answer["report"]
        (made,) = (a for a in report["artifacts"] if a["format"] == "c")
        checks = made["checks"]
        row |= {
            "macs": checks["macs"],
            "arena": checks["arena_bytes"],
            "lower_bound": checks["arena_lower_bound"],
            "streamed": len(checks["streamed"]),
            "constants": checks["constant_bytes"],
            "executed": checks["executed"],
        }
        if checks["constant_bytes"] > MOST_FLASH:
            done = subprocess.run(["make", "-s", "-C", str(folder / "bundle" / "c"), "test"])
            return row | {"self_test": "here", "agreed": done.returncode == 0}
        counted = json.loads(_edgec("bench", str(folder / "bundle"), "--device", f"qemu:{BOARD}"))
        return row | {
            "self_test": counted["board"],
            "agreed": counted["agreed"],
            "instructions": counted["instructions"],
            "ram": counted["ram_bytes"],
            "flash": counted["flash_bytes"],
        }


def export(model: str, target: str, folder: Path) -> tuple[dict[str, Any], float, float]:
    """`edgec export` of random weights; returns (JSON, CPU seconds, peak GiB)."""
    arguments = ["--model", model, "--weights", "random", "--target", target]
    arguments += ["--precision", "int8", "--calib", "random", "--calib-limit", "4"]
    arguments += ["--recipe", "plain", "--format", "c", "--out", str(folder / "bundle")]
    if model.startswith(("emo", "edgenext")):
        arguments += ["--input-size", "224"]
    return export_in_a_process(arguments, folder / "cache")


def _edgec(*arguments: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "edgec", *arguments, "--json", "--quiet"],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env={**os.environ, "EDGEC_STORE": "none"},
    ).stdout


def _without_aliases(text: str) -> str:
    """Names that another target has already."""
    return "\n".join(x if not x.startswith("aliases") else "aliases = []" for x in text.split("\n"))


def main(argv: Sequence[str] | None = None) -> int:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(description="Whole networks as embedded C.")
    parser.add_argument("--models", nargs="*", default=list(NETWORKS))
    parser.add_argument("--json", type=Path, default=Path("mcu_zoo.json"))
    options = parser.parse_args(argv)
    rows: dict[str, dict[str, Any]] = {}
    if options.json.is_file():
        rows = {row["model"]: row for row in json.loads(options.json.read_text("utf-8"))["rows"]}
    for model in options.models:
        rows[model] = measure(model)
        print(json.dumps(rows[model]), flush=True)
        facts = {"target": TARGET, "board": BOARD}
        options.json.write_text(dump_json({"facts": facts, "rows": list(rows.values())}), "utf-8")
    return 1 if any("error" in row or not row["agreed"] for row in rows.values()) else 0


if __name__ == "__main__":
    raise SystemExit(main())
