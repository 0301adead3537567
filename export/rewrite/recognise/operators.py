"""Patterns that are one operator, because the network, the exporter or a rewrite wrote it so."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from edgec.export.rewrite.graph import is_op
from edgec.export.rewrite.recognise.marks import MarkingPass, marks_of

OPERATOR_KINDS: Mapping[str, str] = {
    "Gelu": "gelu",
    "GroupNormalization": "group_norm",
    "HardSigmoid": "hard_sigmoid",
    "HardSwish": "hard_swish",
    "InstanceNormalization": "instance_norm",
    "LayerNormalization": "layer_norm",
    "LpNormalization": "l2_norm",
}
"""Operator → kind of the pattern that it is."""


class MarkOperators(MarkingPass):
    """Mark operators that older opsets lack, so that their decompositions stay known.

    Leaves out nodes that belong to a pattern already.
    """

    name = "mark-operators"
    change = "Gelu, HardSwish, LayerNormalization, … → the same, marked"
    annotates = True

    def rewrite(self, graph: ir.Graph) -> int:
        count = 0
        for node in graph:
            kind = OPERATOR_KINDS.get(node.op_type)
            if kind is None or not is_op(node, node.op_type) or marks_of(node):
                continue
            self.marker.mark(kind, (node,))
            count += 1
        return count
