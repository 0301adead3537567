"""A reduction over a transposed tensor reduces the tensor itself over other axes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgec.export.rewrite.base import RewritePass
from edgec.export.rewrite.graph import (
    Builder,
    int_attr,
    ints,
    is_op,
    reduce_axes,
    remove_dead,
    replace_value,
    shape_of,
    sole_user,
)

_REDUCTIONS = ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2", "ReduceProd")


class ReduceBeforeTranspose(RewritePass):
    """Drop the Transpose before a global pooling that treats all moved axes alike.

    Refuses if the axes that remain would come out in another order.
    """

    name = "reduce-before-transpose"
    change = "Transpose → ReduceMean(axes) → ReduceMean(other axes)"

    def rewrite(self, graph: ir.Graph) -> int:
        count = 0
        for node in graph:
            if not is_op(node, *_REDUCTIONS) or int_attr(node, "keepdims", 1):
                continue
            before = node.inputs[0].producer() if node.inputs[0] is not None else None
            axes = reduce_axes(node)
            if before is None or not is_op(before, "Transpose") or not axes:
                continue
            if sole_user(before.outputs[0]) is not node:
                continue
            perm = ints(before, "perm")
            if perm is None:
                continue
            kept = [p for i, p in enumerate(perm) if i not in axes]
            if kept != sorted(kept):
                continue
            builder = Builder(node)
            moved = np.asarray(sorted(perm[a] for a in axes), np.int64)
            result = builder.op(
                node.op_type,
                [before.inputs[0], builder.constant(moved, "axes")],
                shape=shape_of(node.outputs[0]),
                dtype=node.outputs[0].dtype,
                keepdims=0,
            )
            replace_value(node.outputs[0], result)
            remove_dead([node, before])
            count += 1
        return count
