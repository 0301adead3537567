"""Padding that a file spells out, put back into the convolutions that it is for.

TFLite knows padding before and after an image only as SAME, which puts the smaller half first;
networks from other frameworks pad both sides alike and get a PAD of their own. The C kernels take
any padding and count it as the zero point, so that no padded copy has to exist.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from edgec.export.emit.c.frame import grid
from edgec.export.tflite.model import Operator, Subgraph
from edgec.export.tflite.reference.fixed_point import zero_of

OPTION: Final = "padding_before"
"""Of convolutions in these graphs: rows and columns of padding before the first ones."""
_CONVOLUTIONS: Final = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D"})


def with_folded_pads(graph: Subgraph) -> Subgraph:
    """The same function; a PAD goes where all of its readers are convolutions without padding."""
    readers: dict[int, list[Operator]] = {}
    for op in graph.operators:
        for index in op.inputs:
            readers.setdefault(index, []).append(op)
    folded = {
        op.outputs[0]: op
        for op in graph.operators
        if _spatial(graph, op)
        and op.outputs[0] not in graph.outputs
        and all(_takes(reader, op.outputs[0]) for reader in readers.get(op.outputs[0], []))
    }
    operators = []
    for op in graph.operators:
        if op.outputs[0] in folded:
            continue
        pad = folded.get(op.inputs[0]) if op.inputs else None
        operators.append(op if pad is None else _with(graph, op, pad))
    return replace(graph, operators=operators)


def _spatial(graph: Subgraph, op: Operator) -> bool:
    """Whether an operator pads rows and columns of images with zero."""
    if op.code not in ("PAD", "PADV2"):
        return False
    image = graph.tensors[op.inputs[0]]
    amounts = graph.tensors[op.inputs[1]].data
    if len(image.shape) != 4 or amounts is None or np.any(np.asarray(amounts)[[0, 3]]):
        return False
    integers = image.dtype in ("INT8", "INT16")
    if integers and grid(image) != grid(graph.tensors[op.outputs[0]]):
        return False
    if op.code == "PAD":
        return True
    fill = graph.tensors[op.inputs[2]].data
    zero = zero_of(image) if integers else 0
    return fill is not None and bool(np.all(fill == zero))


def _takes(reader: Operator, index: int) -> bool:
    return (
        reader.code in _CONVOLUTIONS
        and reader.options["padding"] == "VALID"
        and reader.inputs.count(index) == 1
        and reader.inputs[0] == index
    )


def _with(graph: Subgraph, op: Operator, pad: Operator) -> Operator:
    amounts = np.asarray(graph.tensors[pad.inputs[1]].data)
    before = (int(amounts[1, 0]), int(amounts[2, 0]))
    return replace(
        op, inputs=[pad.inputs[0], *op.inputs[1:]], options=op.options | {OPTION: before}
    )
