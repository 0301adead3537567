"""Unfolding of a map into patches, and folding back, are found and marked.

MobileViT lets equal places of all patches attend to each other: the map (N, C, H, W) becomes rows
of tokens by views alone, and back. A chain of views is an unfold if both spatial axes of a map are
cut and regrouped, and a fold if its inverse is one. Windows that feed attention directly are part
of it (`attention`), not patterns of their own.
"""

from __future__ import annotations

import onnx_ir as ir

from edgec.export.rewrite.graph import int_attr, is_op, sole_user
from edgec.export.rewrite.layout import View
from edgec.export.rewrite.recognise.attention import is_dynamic_product
from edgec.export.rewrite.recognise.marks import MarkingPass, kinds_of
from edgec.export.rewrite.recognise.origin import channel_axis
from edgec.export.rewrite.view_nodes import as_view, extend

_SKIP = ("DepthToSpace", "SpaceToDepth")


class RecogniseUnfold(MarkingPass):
    """Chains of views from a map to its patches and back, marked.

    Refuses views that keep rows of pixels whole, and views into and out of attention's products.
    """

    name = "recognise-unfold"
    change = "Reshape, Transpose, … between a map and its patches → the same, marked"
    annotates = True

    def rewrite(self, graph: ir.Graph) -> int:
        count = 0
        for node in graph:
            if (
                as_view(node) is None
                or _continues(node)
                or {"unfold", "fold"} & set(kinds_of(node))
            ):
                continue
            chain, view = _chain(node)
            kind = _kind(chain, view)
            if kind is None:
                continue
            if _touches_attention(chain):
                self.refuse(node, "the windows belong to an attention")
                continue
            self.marker.mark(kind, chain)
            count += 1
        return count


def _continues(node: ir.Node) -> bool:
    source = node.inputs[0]
    before = None if source is None else source.producer()
    return before is not None and as_view(before) is not None and sole_user(source) is node  # type: ignore[arg-type]


def _chain(first: ir.Node) -> tuple[list[ir.Node], View]:
    """All views that follow `first` one after the other, and what they do together."""
    chain, view = [first], as_view(first)
    assert view is not None
    while (following := sole_user(chain[-1].outputs[0])) is not None:
        extended = extend(view, following) if following.graph is first.graph else None
        if extended is None or following.inputs[0] is not chain[-1].outputs[0]:
            break
        chain.append(following)
        view = extended
    return chain, view


def _kind(chain: list[ir.Node], view: View) -> str | None:
    """ "unfold", "fold" or None."""
    if any(is_op(node, *_SKIP) for node in chain):
        return None
    first, last = chain[0], chain[-1]
    if len(view.in_shape) == 4 and channel_axis(first.inputs[0]) == 1 and _cuts_map(view):
        return "unfold"
    if len(view.out_shape) == 4 and any(map(_reads_map, _readers(last))):
        return "fold" if _cuts_map(view.inverse()) else None
    return None


def _reads_map(node: ir.Node) -> bool:
    """Whether `node` takes its input as a map, channels on axis 1."""
    over_all = is_op(node, "LayerNormalization") and int_attr(node, "axis", -1) == 1
    return over_all or is_op(node, "Conv", "ConvTranspose", "Resize", "InstanceNormalization")


def _readers(node: ir.Node) -> list[ir.Node]:
    return [use.node for use in node.outputs[0].uses()]


def _cuts_map(view: View) -> bool:
    """Whether both spatial axes of the input (N, C, H, W) are cut and the parts moved apart."""
    view = view.simplified()
    ends, size = [], 1
    for factor in view.sizes:
        size *= factor
        ends.append(size)
    n, c, h, w = view.in_shape
    total, plane = n * c * h * w, h * w
    # positions, counted from the outermost, at which a cut lies strictly inside H or inside W
    rows = any(total % end == 0 and w < total // end < plane for end in ends)
    columns = any(total % end == 0 and 1 < total // end < w for end in ends)
    return rows and columns


def _touches_attention(chain: list[ir.Node]) -> bool:
    before = chain[0].inputs[0].producer() if chain[0].inputs[0] is not None else None
    after = _readers(chain[-1])
    return is_dynamic_product(before) or any(is_dynamic_product(node) for node in after)
