"""Squeeze, Unsqueeze, Flatten and every spelling of Reshape become Reshape to a literal shape."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgec.export.rewrite.base import RewritePass
from edgec.export.rewrite.graph import (
    Builder,
    constant,
    is_op,
    remove_dead,
    replace_value,
    shape_of,
)


class StaticReshape(RewritePass):
    """One spelling for views that move no data: no 0, no -1, no allowzero, no axes.

    Refuses tensors whose shape is unknown or empty.
    """

    name = "static-reshape"
    change = "Squeeze, Unsqueeze, Flatten, Reshape(0, -1) → Reshape to a literal shape"

    def rewrite(self, graph: ir.Graph) -> int:
        count = 0
        for node in graph:
            if not is_op(node, "Reshape", "Squeeze", "Unsqueeze", "Flatten"):
                continue
            shape = shape_of(node.outputs[0])
            if shape is None or 0 in shape or shape_of(node.inputs[0]) is None:
                continue
            if is_op(node, "Reshape") and not node.attributes:
                target = constant(node.inputs[1])
                if target is not None and target.tolist() == list(shape):
                    continue
            builder = Builder(node)
            literal = builder.constant(np.asarray(shape, np.int64), "shape")
            result = builder.op(
                "Reshape", [node.inputs[0], literal], shape=shape, dtype=node.outputs[0].dtype
            )
            replace_value(node.outputs[0], result)
            remove_dead([node])
            count += 1
        return count
