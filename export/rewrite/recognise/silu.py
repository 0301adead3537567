"""SiLU (Elfwing et al., 2017), x · Sigmoid(x), gets one operand order and a mark.

ONNX has an operator for it (Swish) only from opset 24 on.
"""

from __future__ import annotations

import onnx_ir as ir

from edgec.export.rewrite.graph import is_op, sole_user
from edgec.export.rewrite.recognise.marks import MarkingPass, kinds_of


class RecogniseSilu(MarkingPass):
    """Mul(x, Sigmoid(x)) in either order → Mul(x, Sigmoid(x)), marked.

    Refuses the sigmoid of another tensor (a gate) and a sigmoid with a second reader.
    """

    name = "recognise-silu"
    change = "Sigmoid(x) · x → x · Sigmoid(x), marked as SiLU"
    annotates = True

    def rewrite(self, graph: ir.Graph) -> int:
        count = 0
        for node in graph:
            if not is_op(node, "Sigmoid") or "silu" in kinds_of(node):
                continue
            x, gate = node.inputs[0], node.outputs[0]
            product = sole_user(gate)
            if product is None or not is_op(product, "Mul"):
                self.refuse(node, "its only reader is no product")
                continue
            if x is None or x not in product.inputs:
                self.refuse(node, "it gates another tensor than its own argument")
                continue
            if product.inputs[0] is gate:
                product.replace_input_with(0, x)
                product.replace_input_with(1, gate)
            self.marker.mark("silu", (node, product))
            count += 1
        return count
