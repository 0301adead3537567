"""Transposes that are left in the .tflite files of every registered network.

    PYTHONPATH=.src python benchmarks/tflite_layout.py --json benchmarks/results/tflite_layout.json

Networks have random parameters, the files are float32. What is counted: `LayoutCopies`. A file of
results keeps the rows of what is not measured again.
"""

from __future__ import annotations

from typing import Any

from _rows import command_line, measure
from tflite import network

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
    arguments = command_line(__doc__, models.list_models()).parse_args()
    measure(TITLE, arguments, lambda name: [row(name)])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
