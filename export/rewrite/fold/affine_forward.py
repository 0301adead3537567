"""Constant scales and shifts go into the operators that read their result."""

from __future__ import annotations

import onnx_ir as ir

from edgec.export.rewrite.affine import absorb_forward, match_affine
from edgec.export.rewrite.base import RewritePass
from edgec.export.rewrite.graph import remove_dead, replace_value
from edgec.export.rewrite.linear import match_linear


class FoldAffineForward(RewritePass):
    """A pre-norm BatchNormalization, or a constant Mul/Add, into the 1×1 Conv or Gemm that follows.

    Refuses a shift before a padded convolution (the border is zero, not the shift), and any reader
    that is not linear.
    """

    name = "fold-affine-forward"
    change = "BN, × a, + b → (views, mean) → Conv/Gemm/MatMul → Conv/Gemm/MatMul with other weights"

    def rewrite(self, graph: ir.Graph) -> int:
        count = 0
        for node in graph:
            matched = match_affine(node)
            if matched is None or node.outputs[0].is_graph_output() or _is_bias(node):
                continue
            x, affine = matched
            plans = absorb_forward(node.outputs[0], affine)
            if plans is None:
                continue
            for commit in plans:
                commit()
            replace_value(node.outputs[0], x)
            remove_dead([node])
            count += 1
        return count


def _is_bias(node: ir.Node) -> bool:
    producers = [v.producer() if v is not None else None for v in node.inputs]
    return any((m := match_linear(p)) is not None and m.last is node for p in producers if p)
