"""Pixel shuffle and unshuffle (Shi et al., 2016), spelled as views, become one operator.

Reshape, Transpose, Reshape of rank 6 that move blocks of pixels between space and channels are
DepthToSpace (either channel order) or SpaceToDepth: one node of rank 4. Other orders of the
channels stay views, which the view passes print at the lowest cost.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from edgec.export.rewrite.graph import (
    Builder,
    is_op,
    remove_dead,
    replace_value,
    shape_of,
    sole_user,
)
from edgec.export.rewrite.layout import View
from edgec.export.rewrite.recognise.marks import MarkingPass, kinds_of
from edgec.export.rewrite.view_nodes import as_view, extend


class RecognisePixelShuffle(MarkingPass):
    """Chains of views that equal DepthToSpace or SpaceToDepth, and those operators themselves.

    Refuses chains of which an intermediate tensor has another reader.
    """

    name = "recognise-pixel-shuffle"
    change = "Reshape, Transpose, Reshape → DepthToSpace or SpaceToDepth"

    def rewrite(self, graph: ir.Graph) -> int:
        count = 0
        for node in graph:
            if is_op(node, "DepthToSpace", "SpaceToDepth"):
                if not {"pixel_shuffle", "pixel_unshuffle"} & set(kinds_of(node)):
                    self._mark(node)
                    count += 1
                continue
            found = _match(node)
            if found is None:
                continue
            last, op_type, attributes = found
            result = Builder(last, node).op(
                op_type,
                [node.inputs[0]],
                shape=shape_of(last.outputs[0]),
                dtype=last.outputs[0].dtype,
                **attributes,
            )
            replace_value(last.outputs[0], result)
            remove_dead([last])
            made = result.producer()
            assert made is not None
            self._mark(made)
            count += 1
        return count

    def _mark(self, node: ir.Node) -> None:
        kind = "pixel_shuffle" if node.op_type == "DepthToSpace" else "pixel_unshuffle"
        self.marker.mark(kind, (node,))


def _match(node: ir.Node) -> tuple[ir.Node, str, dict[str, int | str]] | None:
    """(last node, operator, attributes) of the shortest chain from `node` that is one operator."""
    shape = shape_of(node.inputs[0]) if node.inputs else None
    view = as_view(node) if shape is not None and len(shape) == 4 else None
    if view is None or shape is None or not is_op(node, "Reshape", "Transpose"):
        return None
    last = node
    for _ in range(4):
        following = sole_user(last.outputs[0])
        if following is None or following.graph is not node.graph:
            return None
        extended = extend(view, following)
        if extended is None or following.inputs[0] is not last.outputs[0]:
            return None
        view, last = extended, following
        if len(view.out_shape) == 4:
            simple = view.simplified()
            for known, op_type, attributes in _operators(shape, view.out_shape):
                if known == simple:
                    return last, op_type, attributes
    return None


def _operators(
    shape: tuple[int, ...], result: tuple[int, ...]
) -> Iterator[tuple[View, str, dict[str, int | str]]]:
    """The operators that lead from one shape to the other, as views."""
    identity = View.identity(shape)
    grown, shrunk = result[2] // max(1, shape[2]), shape[2] // max(1, result[2])
    for mode in ("DCR", "CRD"):
        if grown > 1 and shape[1] == result[1] * grown**2:
            view = identity.depth_to_space(grown, mode)
            if view is not None and view.out_shape == result:
                yield view.simplified(), "DepthToSpace", {"blocksize": grown, "mode": mode}
    if shrunk > 1 and result[1] == shape[1] * shrunk**2:
        view = identity.space_to_depth(shrunk)
        if view is not None and view.out_shape == result:
            yield view.simplified(), "SpaceToDepth", {"blocksize": shrunk}
