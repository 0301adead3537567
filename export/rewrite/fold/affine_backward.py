"""Constant scales and shifts go into the operator that computed their input."""

from __future__ import annotations

import onnx_ir as ir

from edgec.export.rewrite.affine import absorb_backward, match_affine
from edgec.export.rewrite.base import RewritePass
from edgec.export.rewrite.graph import remove_dead, replace_value
from edgec.export.rewrite.linear import match_linear


class FoldAffineBackward(RewritePass):
    """BatchNormalization, layer scale, attention scale, constant Mul/Div/Add/Sub backwards.

    Refuses where a tensor on the way has a second reader, where the map varies along an axis that
    the weights do not have, and where a shift meets an operator without bias.
    """

    name = "fold-affine-backward"
    change = "Conv/Gemm/MatMul/LayerNorm → (views, mean, product) → BN, × γ, × 1/√d, + c → weights"

    def rewrite(self, graph: ir.Graph) -> int:
        count = 0
        for node in graph:
            matched = match_affine(node)
            if matched is None or _is_own_bias(node):
                continue
            x, affine = matched
            plans = absorb_backward(node, list(node.inputs).index(x), affine)
            if plans is None:
                continue
            for commit in plans:
                commit()
            now = match_affine(node)  # the commits have replaced x
            assert now is not None
            replace_value(node.outputs[0], now[0])
            remove_dead([node])
            count += 1
        return count


def _is_own_bias(node: ir.Node) -> bool:
    """The Add after a MatMul is that MatMul's bias already."""
    producers = [v.producer() if v is not None else None for v in node.inputs]
    return any((m := match_linear(p)) is not None and m.last is node for p in producers if p)
