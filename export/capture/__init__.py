"""From a torch network, an .onnx, .pt2 or .tflite file or a Python factory to the master graph.

Whatever comes in, what goes out is an `onnx_ir.Model` at opset `OPSET` with static shapes on every
value, stable input and output names, and (from torch) the source module path on every node. The
functions are loaded on first use, because they need torch or onnx:

- `from_torch`, `from_exported_program`, `from_factory`
- `from_onnx`
- `from_tflite`, whose graph holds the quantization of the file as Q/DQ
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgec.export.capture.onnx_file import from_onnx
    from edgec.export.capture.sources import from_exported_program, from_factory
    from edgec.export.capture.tflite.reader import from_tflite
    from edgec.export.capture.torch_export import from_torch

OPSET = 20
"""Opset of the master graph: the first with Gelu, the last that every converter reads."""

CAPTURE_DIFFERENCE = "edgec.capture_difference"
"""Key in the metadata of a graph captured from torch: largest absolute difference between the two
on seeded inputs, in e notation."""

WIDENED = "edgec.widened"
"""Key in the metadata of a graph from a file whose floats were of other types; names them."""

__all__ = [
    "CAPTURE_DIFFERENCE",
    "OPSET",
    "WIDENED",
    "from_exported_program",
    "from_factory",
    "from_onnx",
    "from_tflite",
    "from_torch",
]

_HOME = {
    "from_torch": "edgec.export.capture.torch_export",
    "from_exported_program": "edgec.export.capture.sources",
    "from_factory": "edgec.export.capture.sources",
    "from_onnx": "edgec.export.capture.onnx_file",
    "from_tflite": "edgec.export.capture.tflite.reader",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME[name]), name)
