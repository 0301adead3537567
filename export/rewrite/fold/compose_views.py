"""Chains of views become the cheapest chain of limited rank with the same effect."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from edgec.export.rewrite.base import ViewPass
from edgec.export.rewrite.graph import Builder, remove_dead, replace_value, sole_user
from edgec.export.rewrite.layout import Step, View, cost, plan
from edgec.export.rewrite.view_nodes import as_step, as_view, emit, extend


class ComposeViews(ViewPass):
    """Compose each maximal chain of views and print it anew if that is cheaper or of lower rank.

    A chain ends where a second reader needs an intermediate tensor.
    """

    name = "compose-views"
    change = "chains of Reshape, Transpose, … of any rank → few nodes of rank ≤ 5 (TFLite, C: 4)"

    def rewrite(self, graph: ir.Graph) -> int:
        count = 0
        for node in tuple(graph):  # what is printed here is not looked at again
            if node.graph is None or as_view(node) is None or _continues_chain(node):
                continue
            chain, view = view_chain(node)
            now, best = [as_step(link) for link in chain], plan(view, self.max_rank)
            if self._cost(now, view) <= self._cost(best, view):
                continue
            source, last = node.inputs[0], chain[-1]
            if source is None:
                continue
            if not best and last.outputs[0].is_graph_output() and not _can_be_output(source, graph):
                continue
            result = emit(Builder(last, node), source, view, self.max_rank)
            replace_value(last.outputs[0], result)
            remove_dead([last])
            count += 1
        return count

    def _cost(self, steps: Sequence[Step], view: View) -> tuple[int, float, int]:
        """Nodes above the rank limit, then estimated time, then sum of ranks."""
        high = sum(len(step.shape) > self.max_rank for step in steps)
        return high, *cost(steps, view.in_shape)


def _can_be_output(value: ir.Value, graph: ir.Graph) -> bool:
    """Whether an output of `graph` can be this value, renamed."""
    return value.producer() is not None and value.graph is graph and not value.is_graph_output()


def _continues_chain(node: ir.Node) -> bool:
    """Whether the node's input is itself the unshared result of a view it composes with."""
    source = node.inputs[0]
    before = source.producer() if source is not None else None
    if source is None or before is None or sole_user(source) is not node:
        return False
    view = as_view(before)
    return view is not None and before.graph is node.graph and extend(view, node) is not None


def view_chain(first: ir.Node) -> tuple[list[ir.Node], View]:
    """The chain that starts at `first`; it takes in what composes with all of it."""
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
