"""What a graph remembers of the .tflite file it was read from, to be written as it was.

A file of edgec's own has names and a layout that were chosen already. Its reader leaves on each
ONNX value the tensor's name and the order in which its axes are stored, and on each node the
position of the operator. A graph that still has all of them is written with the same operators in
the same order; where a rewrite has changed it, layouts are searched as for any other graph.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from edgec.export.tflite.model import Model

SCHEMA = "edgec.tflite/1"
"""Of the metadata entry that edgec writes into its files."""
METADATA = "edgec"
"""Name of the metadata entry: JSON with version, layout, preprocessing and labels."""
OPERATOR_KEY = "edgec.tflite_operator"
"""Key on nodes: position of the operator in the file and its name, e.g. ``12 CONV_2D``."""
TENSOR_KEY = "edgec.tflite_tensor"
"""Key on values: name of the tensor."""
ORDER_KEY = "edgec.tflite_order"
"""Key on values: ``stored = value.transpose(order)``, e.g. ``0 2 3 1`` for images."""


class _Marked(Protocol):
    """An ONNX value or node."""

    @property
    def name(self) -> str | None: ...

    @property
    def metadata_props(self) -> dict[str, str]: ...


def own_entry(model: Model) -> dict[str, Any] | None:
    """What edgec wrote about the file that it made; None for files of others.

    Images are NHWC in files of edgec's own, inputs and outputs included.
    """
    try:
        entry = json.loads(model.metadata.get(METADATA, b""))
    except (ValueError, RecursionError):  # the file may say anything
        return None
    return entry if isinstance(entry, dict) and entry.get("schema") == SCHEMA else None


def mark(value: _Marked, name: str, order: Sequence[int]) -> None:
    """Leave a tensor's name and order on an ONNX value."""
    value.metadata_props[TENSOR_KEY] = name
    value.metadata_props[ORDER_KEY] = " ".join(map(str, order))


def is_marked(values: Iterable[_Marked]) -> bool:
    """Whether a graph with these inputs was read from a file of edgec's own."""
    return all(ORDER_KEY in value.metadata_props for value in values)


def order_of(value: _Marked) -> tuple[int, ...] | None:
    """The order that `mark` left, None where there is none."""
    text = value.metadata_props.get(ORDER_KEY)
    return None if text is None else tuple(int(word) for word in text.split())


def name_of(value: _Marked) -> str:
    """The tensor's name, or that of the value where it has none."""
    return value.metadata_props.get(TENSOR_KEY) or str(value.name)


def position_of(holder: _Marked | None) -> int | None:
    """The position that the reader left on a node, or on the value of a DEQUANTIZE."""
    text = None if holder is None else holder.metadata_props.get(OPERATOR_KEY)
    return None if text is None else int(text.split()[0])
