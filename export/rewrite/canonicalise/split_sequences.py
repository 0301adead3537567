"""A tensor split into a sequence and indexed again becomes a plain Split.

torch's exporter writes chunk, split and unbind as SplitToSequence and SequenceAt; hardly any edge
runtime knows sequences.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgec.export.rewrite.base import RewritePass
from edgec.export.rewrite.graph import (
    Builder,
    constant,
    int_attr,
    is_op,
    remove_dead,
    replace_value,
    scalar,
    shape_of,
)


class SplitSequences(RewritePass):
    """SplitToSequence whose readers all take one element by constant index.

    Refuses computed sizes or indices, and a sequence that leaves the graph.
    """

    name = "split-sequences"
    change = "SplitToSequence → SequenceAt(i) → Split (→ Squeeze)"

    def rewrite(self, graph: ir.Graph) -> int:
        count = 0
        for node in graph:
            if is_op(node, "SplitToSequence"):
                count += _replace(node)
        return count


def _replace(node: ir.Node) -> int:
    sequence, x = node.outputs[0], node.inputs[0]
    shape = shape_of(x)
    if x is None or shape is None or sequence.is_graph_output() or not sequence.uses():
        return 0
    axis = int_attr(node, "axis", 0) % len(shape)
    sizes = _sizes(node, shape[axis])
    readers = [use.node for use in sequence.uses()]
    if sizes is None or not all(is_op(r, "SequenceAt") for r in readers):
        return 0
    indices = [scalar(r.inputs[1]) for r in readers]
    if any(i is None or not -len(sizes) <= i < len(sizes) for i in indices):
        return 0
    builder = Builder(node)
    parts = [
        ir.Value(
            shape=ir.Shape((*shape[:axis], size, *shape[axis + 1 :])),
            type=None if x.dtype is None else ir.TensorType(x.dtype),
        )
        for size in sizes
    ]
    split = builder.constant(np.asarray(sizes, np.int64), "split")
    builder.multi("Split", [x, split], parts, axis=axis)
    squeezed = len(node.inputs) < 2 and not int_attr(node, "keepdims", 1)
    for reader, index in zip(readers, indices, strict=True):
        part = parts[int(index or 0)]
        if squeezed:
            part = Builder(reader).reshape(part, (*shape[:axis], *shape[axis + 1 :]))
        output = reader.outputs[0]
        output.shape, output.type = part.shape, part.type
        replace_value(output, part)
    remove_dead([*readers, node])
    return 1


def _sizes(node: ir.Node, total: int) -> list[int] | None:
    """Sizes of the parts: given one by one, as one size for all but the last, or all ones."""
    if len(node.inputs) < 2 or node.inputs[1] is None:
        return [1] * total
    split = constant(node.inputs[1])
    if split is None:
        return None
    if split.ndim == 0:
        step = int(split)
        return [min(step, total - start) for start in range(0, total, step)]
    return [int(size) for size in split]
