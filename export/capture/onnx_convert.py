"""Brings a checked ONNX model to the master opset."""

from __future__ import annotations

from pathlib import Path

import onnx

from edgec.export.capture import OPSET
from edgec.export.errors import UnsupportedError

OLDEST = 7
"""Oldest opset that ONNX Runtime still executes and the version converter still reads."""


def opset_of(proto: onnx.ModelProto) -> int:
    """Version of the standard domain (0 if the model uses none)."""
    return max((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), default=0)


def to_master_opset(proto: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """A copy of `proto` at opset `OPSET`.

    Raises:
        UnsupportedError: the opset is too old or an operator cannot be converted.
    """
    version = opset_of(proto)
    if version < OLDEST:
        raise UnsupportedError(
            "EC344",
            f"opset {version} is too old",
            where=str(path),
            why=f"the oldest that can be converted is {OLDEST}",
            fix="Export the model again at opset 13 or later.",
        )
    if version == OPSET:
        copy = onnx.ModelProto()
        copy.CopyFrom(proto)
        return copy
    try:
        return onnx.version_converter.convert_version(proto, OPSET)
    except Exception as error:
        raise UnsupportedError(
            "EC344",
            f"the model cannot be converted from opset {version} to {OPSET}",
            where=str(path),
            why=(str(error).splitlines() or [type(error).__name__])[0][:300],
            fix="Export the model again at opset 13 or later.",
        ) from error
