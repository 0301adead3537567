"""CastLike becomes Cast, so that it depends on no tensor but the one it casts.

torch's exporter writes attention's default scale as 1 / Sqrt(CastLike(width, queries)); the second
input contributes its type alone, but hides that all of it is constant.
"""

from __future__ import annotations

import onnx_ir as ir

from edgec.export.rewrite.base import RewritePass
from edgec.export.rewrite.graph import Builder, is_op, remove_dead, replace_value, shape_of


class StaticCast(RewritePass):
    """CastLike to a known type.

    Refuses if the type of the second input is unknown.
    """

    name = "static-cast"
    change = "CastLike(x, y) → Cast(x) to the type of y"

    def rewrite(self, graph: ir.Graph) -> int:
        count = 0
        for node in graph:
            like = node.inputs[1] if is_op(node, "CastLike") else None
            if like is None:
                continue
            if like.dtype is None:
                self.refuse(node, "the type is unknown")
                continue
            attributes = {name: a.value for name, a in node.attributes.items()}
            result = Builder(node).op(
                "Cast",
                [node.inputs[0]],
                shape=shape_of(node.outputs[0]),
                dtype=like.dtype,
                to=like.dtype,
                **attributes,
            )
            replace_value(node.outputs[0], result)
            remove_dead([node])
            count += 1
        return count
