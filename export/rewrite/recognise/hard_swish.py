"""HardSwish (Howard et al., "Searching for MobileNetV3", 2019) becomes HardSwish.

Written as x · HardSigmoid(x), or as x · Clip(x + 3, 0, 6) / 6 with the sixth on x, on the clipped
tensor or on the product. Below opset 14 the legaliser spells it out again as x · HardSigmoid(x).
"""

from __future__ import annotations

import onnx_ir as ir

from edgec.export.rewrite.base import RewritePass
from edgec.export.rewrite.graph import (
    Builder,
    float_attr,
    is_op,
    remove_dead,
    replace_value,
    shape_of,
    sole_user,
)
from edgec.export.rewrite.recognise.hard_sigmoid import (
    affine_of,
    clip_bounds,
    clipped_affine,
    near,
    scaled,
)


class RecogniseHardSwish(RewritePass):
    """x · clip(x/6 + 1/2, 0, 1), however spelled → HardSwish.

    Refuses a gate of another tensor, another slope or offset, and a gate with a second reader.
    """

    name = "recognise-hard-swish"
    change = "x · HardSigmoid(x), x · Clip(x + 3, 0, 6) / 6 in any spelling → HardSwish"

    def rewrite(self, graph: ir.Graph) -> int:
        count = 0
        for node in graph:
            if not is_op(node, "HardSigmoid") and clip_bounds(node) is None:
                continue
            product = sole_user(node.outputs[0])
            if product is None or not is_op(product, "Mul"):
                if is_op(node, "HardSigmoid"):
                    self.refuse(node, "its only reader is no product")
                continue
            left, right = product.inputs
            other = right if left is node.outputs[0] else left
            found = None if other is None else _match(node, other, product.outputs[0])
            if found is None:
                self.refuse(node, "the product is not x · HardSigmoid(x; 1/6, 1/2)")
                continue
            x, last = found
            anchor = last.producer()
            assert anchor is not None
            result = Builder(anchor).op("HardSwish", [x], shape=shape_of(last), dtype=last.dtype)
            replace_value(last, result)
            remove_dead([anchor])
            count += 1
        return count


def _match(gate: ir.Node, other: ir.Value, product: ir.Value) -> tuple[ir.Value, ir.Value] | None:
    """(x, the value that is HardSwish(x)) if gate · other, perhaps scaled, is one."""
    if is_op(gate, "HardSigmoid"):
        standard = near(float_attr(gate, "alpha", 0.2), 1 / 6) and near(
            float_attr(gate, "beta", 0.5), 0.5
        )
        return (other, product) if standard and gate.inputs[0] is other else None
    bounds = clip_bounds(gate)
    assert bounds is not None
    for clipped in clipped_affine(bounds):
        for source, factor, shift in affine_of(other):
            if source is not clipped.x or shift != 0.0:
                continue
            for after, last in scaled(product):
                total = factor * after
                if (
                    near(clipped.low * total, 0.0)
                    and near(clipped.high * total, 1.0)
                    and near(clipped.slope * total, 1 / 6)
                    and near(clipped.offset * total, 0.5)
                ):
                    return clipped.x, last
    return None
