"""Networks that come quantized: exported with the integers of their file, never quantized again.

Quantizing a quantized network would round twice and silently lose accuracy; dropping its quantizers
would ship another network than the one that was trained and measured. So its scales and zero points
are kept in every format, and the graph of the file stands where the float master otherwise does.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from edgec.export.capture.onnx_checks import read_proto
from edgec.export.errors import EdgecError, UsageError
from edgec.export.options import INT16X8, Resolved
from edgec.export.tflite import load
from edgec.export.tflite.model import Tensor

AS_IN_FILE = "as in the file"


def scheme_of(precision: str) -> str:
    """What manifests call the scheme of such a network, e.g. ``int8 (as in the file)``."""
    return f"{precision} ({AS_IN_FILE})"


def quantized_as(model: Any) -> str | None:
    """The precision of a .tflite or .onnx file whose activations are integers.

    Quantized weights alone do not count: they are read as float constants. A file that cannot be
    read is no such file; capture says what is wrong with it.

    Returns:
        ``int8``, ``int16x8`` where any activation has 16 bits, or None.
    """
    if not isinstance(model, str):
        return None
    path = Path(model)
    try:
        if path.suffix == ".tflite":
            types = {t.dtype for t in load(path).main.tensors if _is_quantized_activation(t)}
            return None if not types else INT16X8 if "INT16" in types else "int8"
        if path.suffix == ".onnx" and any(
            node.op_type == "QuantizeLinear" for node in read_proto(path).graph.node
        ):
            return "int8"
    except EdgecError:
        return None
    return None


def as_in_file(resolved: Resolved, precision: str) -> Resolved:
    """The options of an export of such a network: its precision, whatever the target's default.

    Raises:
        UsageError: EC231, another precision, calibration or a recipe was asked for.
    """
    options = resolved.options
    default = resolved.origin["precision"].startswith("target")
    asked = [f"--precision {options.precision}"] if options.precision != precision else []
    asked = [] if default else asked
    asked += ["--calib"] if options.calib is not None else []
    asked += ["--recipe"] if options.recipe is not None else []
    if asked:
        raise UsageError(
            "EC231",
            f"the network is quantized already, so {' and '.join(asked)} cannot apply",
            why="quantizing twice loses accuracy silently",
            fix="leave that out: the integers of the file are kept; for another precision start "
            "from the float network",
        )
    origin = resolved.origin | {"precision": "the quantized network"} if default else None
    return replace(
        resolved,
        options=replace(options, precision=precision),
        origin=resolved.origin if origin is None else origin,
    )


def _is_quantized_activation(tensor: Tensor) -> bool:
    return tensor.data is None and tensor.quantization is not None and "INT" in tensor.dtype
