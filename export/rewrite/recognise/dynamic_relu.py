"""Dynamic ReLU (Chen et al., 2020) is found and marked.

max over k of aₖ·x + bₖ, where slopes and offsets per channel are computed for every image; with two
slopes and no offsets in Mobile-Former.
"""

from __future__ import annotations

import onnx_ir as ir

from edgec.export.rewrite.graph import constant, is_op, shape_of
from edgec.export.rewrite.recognise.marks import MarkingPass, kinds_of


class RecogniseDynamicRelu(MarkingPass):
    """Max(x · a₁ [+ b₁], x · a₂ [+ b₂]) with computed a and b per channel, marked.

    Refuses maxima of different tensors, and constant slopes (a leaky ReLU).
    """

    name = "recognise-dynamic-relu"
    change = "Max(x · a₁, x · a₂) → the same, marked as DyReLU"
    annotates = True

    def rewrite(self, graph: ir.Graph) -> int:
        count = 0
        for node in graph:
            if not is_op(node, "Max") or len(node.inputs) < 2 or "dynamic_relu" in kinds_of(node):
                continue
            found = _match(node)
            if isinstance(found, str):
                self.refuse(node, found)
                continue
            self.marker.mark("dynamic_relu", found)
            count += 1
        return count


def _match(node: ir.Node) -> list[ir.Node] | str:
    source: ir.Value | None = None
    nodes: list[ir.Node] = []
    for value in node.inputs:
        found = _line(value)
        if found is None:
            return "an operand is not a slope per channel times a map"
        x, parts = found
        if source is not None and x is not source:
            return "the operands scale different tensors"
        source = x
        nodes += parts
    return [*nodes, node]


def _line(value: ir.Value | None) -> tuple[ir.Value, list[ir.Node]] | None:
    """(x, nodes) if `value` is x · a or x · a + b with a and b per image and channel."""
    node = None if value is None else value.producer()
    if node is None or not is_op(node, "Add", "Mul"):
        return None
    for large, small in (node.inputs, tuple(reversed(node.inputs))):
        if large is None or not _per_channel(small, large):
            continue
        if is_op(node, "Mul"):
            return large, [node]
        inner = _line(large)
        if inner is not None and len(inner[1]) == 1:
            return inner[0], [*inner[1], node]
    return None


def _per_channel(small: ir.Value | None, large: ir.Value) -> bool:
    shape, full = shape_of(small), shape_of(large)
    if shape is None or full is None or len(full) < 3 or constant(small) is not None:
        return False
    return (
        len(shape) == len(full) and shape[:2] == full[:2] and set(shape[2:]) == {1} != set(full[2:])
    )
