"""Chains of views become the shortest chain of the lowest rank with the same effect."""

from __future__ import annotations

import onnx_ir as ir

from edgec.export.rewrite.base import Options, RewritePass
from edgec.export.rewrite.graph import (
    Builder,
    is_op,
    remove_dead,
    replace_value,
    shape_of,
    sole_user,
)
from edgec.export.rewrite.layout import View, plan
from edgec.export.rewrite.view_nodes import as_view, emit, extend


class ComposeViews(RewritePass):
    """Compose each maximal chain of views and print it anew if that is shorter or of lower rank.

    A chain ends where a second reader needs an intermediate tensor.
    """

    name = "compose-views"
    change = "Reshape, Transpose, Squeeze, … chains of any rank → at most three nodes of rank ≤ 4"

    def __init__(self) -> None:
        super().__init__()
        self.max_rank = 4

    def configure(self, options: Options) -> None:
        self.max_rank = options.max_rank

    def rewrite(self, graph: ir.Graph) -> int:
        count = 0
        for node in graph:
            if as_view(node) is None or _continues_chain(node):
                continue
            chain, view = _chain(node)
            if _cost_of_nodes(chain, self.max_rank) <= _cost_of_plan(view, self.max_rank):
                continue
            source, last = node.inputs[0], chain[-1]
            if source is None or (
                not plan(view, self.max_rank) and last.outputs[0].is_graph_output()
            ):
                continue
            result = emit(Builder(last, node), source, view, self.max_rank)
            replace_value(last.outputs[0], result)
            remove_dead([last])
            count += 1
        return count


def _continues_chain(node: ir.Node) -> bool:
    """Whether the node's input is itself the unshared result of a view it composes with."""
    source = node.inputs[0]
    before = source.producer() if source is not None else None
    if source is None or before is None or sole_user(source) is not node:
        return False
    view = as_view(before)
    return view is not None and extend(view, node) is not None


def _chain(first: ir.Node) -> tuple[list[ir.Node], View]:
    chain, view = [first], as_view(first)
    assert view is not None
    while (following := sole_user(chain[-1].outputs[0])) is not None:
        if following.graph is not first.graph or following.inputs[0] is not chain[-1].outputs[0]:
            break
        extended = extend(view, following)
        if extended is None:
            break
        chain.append(following)
        view = extended
    return chain, view


def _cost_of_nodes(chain: list[ir.Node], max_rank: int) -> tuple[int, int, int]:
    """(nodes above the rank limit, nodes, sum of ranks); plain reshapes are cheapest as Reshape."""
    shapes = [shape_of(node.outputs[0]) or () for node in chain]
    named = sum(is_op(node, "Squeeze", "Unsqueeze", "Flatten") for node in chain)
    return (
        sum(len(shape) > max_rank for shape in shapes),
        len(chain),
        sum(len(shape) for shape in shapes) + named,
    )


def _cost_of_plan(view: View, max_rank: int) -> tuple[int, int, int]:
    steps = plan(view, max_rank)
    return (
        sum(len(step.shape) > max_rank for step in steps),
        len(steps),
        sum(len(step.shape) for step in steps),
    )
