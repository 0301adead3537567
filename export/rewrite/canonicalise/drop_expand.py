"""Expand in front of an operator that broadcasts by itself."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgec.export.rewrite.base import RewritePass
from edgec.export.rewrite.graph import is_op, remove_dead, shape_of

_BROADCASTING = (
    "Add",
    "Sub",
    "Mul",
    "Div",
    "Pow",
    "Max",
    "Min",
    "Where",
    "Equal",
    "Less",
    "Greater",
    "LessOrEqual",
    "GreaterOrEqual",
    "And",
    "Or",
    "Mean",
    "Sum",
)


class DropExpand(RewritePass):
    """Let broadcasting readers read the tensor before Expand.

    Refuses if the reader's result would lose its shape, because no other operand has it.
    """

    name = "drop-expand"
    change = "Expand → Add, Mul, Div, … → Add, Mul, Div, … (they broadcast)"

    def rewrite(self, graph: ir.Graph) -> int:
        count = 0
        for node in graph:
            if not is_op(node, "Expand") or shape_of(node.inputs[0]) is None:
                continue
            source, output = node.inputs[0], node.outputs[0]
            for use in list(output.uses()):
                if _broadcasts(use.node, output, source):
                    use.node.replace_input_with(use.idx, source)
                    count += 1
            remove_dead([node])
        return count


def _broadcasts(reader: ir.Node, expanded: ir.Value, source: ir.Value | None) -> bool:
    if not is_op(reader, *_BROADCASTING):
        return False
    shapes = [shape_of(source if v is expanded else v) for v in reader.inputs]
    if any(s is None for s in shapes):
        return False
    result = np.broadcast_shapes(*[s for s in shapes if s is not None])
    return result == shape_of(reader.outputs[0])
