"""Sums of linear operators on the same input are one linear operator."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgec.export.rewrite.affine import update
from edgec.export.rewrite.base import RewritePass
from edgec.export.rewrite.graph import Array, is_op, remove_dead, replace_value, sole_user
from edgec.export.rewrite.linear import Linear, match_linear


class MergeParallel(RewritePass):
    """Averaged classifier heads and parallel branches of the same geometry.

    Refuses if the operators differ in anything but their weights, or if one result has another
    reader.
    """

    name = "merge-parallel"
    change = "A·x + B·x (same x, same geometry) → (A + B)·x"

    def rewrite(self, graph: ir.Graph) -> int:
        count = 0
        for node in graph:
            if not is_op(node, "Add") or len(node.inputs) != 2:
                continue
            left, right = (linear_behind(value, node) for value in node.inputs)
            if left is None or right is None or not _same_geometry(left, right):
                continue
            replace_value(node.outputs[0], left.output)
            remove_dead([node])
            weight = left.weight.astype(np.float64) + right.weight
            update(left, weight, _sum(left.bias, right.bias))
            count += 1
        return count


def linear_behind(value: ir.Value | None, reader: ir.Node) -> Linear | None:
    """The linear operator whose result `value` is, if `reader` alone reads it."""
    if value is None or sole_user(value) is not reader:
        return None
    producer = value.producer()
    if producer is None:
        return None
    candidates = [producer, *(v.producer() for v in producer.inputs if v is not None)]
    for candidate in candidates:
        linear = match_linear(candidate)
        if linear is not None and linear.output is value:
            return linear
    return None


def _same_geometry(left: Linear, right: Linear) -> bool:
    a, b = left.node, right.node
    if a is b or a.op_type != b.op_type or a.inputs[0] is not b.inputs[0]:
        return False
    if left.weight.shape != right.weight.shape or left.weight.dtype != right.weight.dtype:
        return False
    return {k: v.value for k, v in a.attributes.items()} == {
        k: v.value for k, v in b.attributes.items()
    }


def _sum(a: Array | None, b: Array | None) -> Array | None:
    if a is None or b is None:
        return b if a is None else a
    total: Array = a.astype(np.float64) + b
    return total
