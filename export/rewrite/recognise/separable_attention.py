"""Separable self-attention (Mehta and Rastegari, MobileViT v2, 2022) is found and marked.

One score per pixel, softmax over the pixels, the keys' weighted sum (the context) scales all
values: linear in the number of pixels, no matrix product.
"""

from __future__ import annotations

import onnx_ir as ir

from edgec.export.rewrite.graph import constant, int_attr, is_op, reduce_axes, shape_of, sole_user
from edgec.export.rewrite.recognise.marks import MarkingPass, kinds_of

_AROUND = ("Expand", "Identity", "Cast", "QuantizeLinear", "DequantizeLinear")


class RecogniseSeparableAttention(MarkingPass):
    """ReduceSum(key · Softmax(score)) · value, marked; an Expand of the context may be left.

    Refuses a sum over another axis than the softmax's, scores of more than one channel, and a
    context that scales nothing.
    """

    name = "recognise-separable-attention"
    change = "ReduceSum(k · Softmax(s)) · v → the same, marked as separable attention"
    annotates = True

    def rewrite(self, graph: ir.Graph) -> int:
        count = 0
        for node in graph:
            if not is_op(node, "Softmax") or "separable_attention" in kinds_of(node):
                continue
            found = _match(node)
            if isinstance(found, str):
                self.refuse(node, found)
                continue
            self.marker.mark("separable_attention", found)
            count += 1
        return count


def _match(softmax: ir.Node) -> list[ir.Node] | str:
    shape = shape_of(softmax.outputs[0])
    weighted = sole_user(softmax.outputs[0])
    if shape is None or weighted is None or not is_op(weighted, "Mul"):
        return "the softmax is not multiplied with keys"
    axis = int_attr(softmax, "axis", -1) % len(shape)
    total = sole_user(weighted.outputs[0])
    if total is None or not is_op(total, "ReduceSum") or not int_attr(total, "keepdims", 1):
        return "the weighted keys are not summed"
    if reduce_axes(total) != (axis,):
        return "the sum runs over another axis than the softmax"
    keys = shape_of(weighted.outputs[0])
    if keys is None or len(keys) != len(shape) or shape[1] != 1 or keys[1] == 1:
        return "there is more than one score per pixel"
    nodes = [softmax, weighted, total]
    reader = sole_user(total.outputs[0])
    while reader is not None and is_op(reader, *_AROUND):
        nodes.append(reader)
        reader = sole_user(reader.outputs[0])
    if reader is None or not is_op(reader, "Mul"):
        return "the context scales no values"
    values = [v for v in reader.inputs if v is not nodes[-1].outputs[0]]
    if len(values) != 1 or constant(values[0]) is not None:
        return "the context scales no computed values"
    return [*nodes, reader]
