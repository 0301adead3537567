"""Transposes that are left in the .tflite files of every registered network.

    PYTHONPATH=.src python benchmarks/tflite_layout.py --json benchmarks/results/tflite_layout.json

Networks have random parameters, the files are float32. What is counted: `LayoutCopies`. A file of
results keeps the rows of what is not measured again.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from _ptq import machine, save
from tflite import merged, network, table

from edgec import models
from edgec.export.emit.tflite.write import convert
from edgec.export.tflite.layout_copies import layout_copies

TITLE = "Transposes of TFLite files"


def row(name: str) -> dict[str, Any]:
    """One network: its operators, and how many of them are transposes, and where."""
    model = convert(network(name, verify=False)).lowered.model
    found = vars(layout_copies(model))
    return {"model": name, "variant": "fp32", "operators": len(model.main.operators), **found}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--networks", default=",".join(models.list_models()))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for name in arguments.networks.split(","):
        rows.append(row(name))
        if arguments.json is not None:
            save(TITLE, merged(rows, arguments.json), machine(), arguments.json)
    table(rows)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
