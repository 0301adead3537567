"""Layouts of graphs that were read from files of edgec's own: as the file has them."""

from __future__ import annotations

from edgec.export.emit.tflite.graph import Graph, Node, Value
from edgec.export.emit.tflite.layout import Layout
from edgec.export.emit.tflite.layouts import Choices, Config, Rule
from edgec.export.emit.tflite.perms import Perm, identity, inverse

AS_STORED = "as stored"
"""Form of a View that is written as the one operator that it was, or as none."""


def keep_stored(graph: Graph, rules: dict[str, Rule]) -> bool:
    """Settle the layout of a graph whose values all remember how they were stored.

    Its nodes then are in the order of the file's operators. Nothing is changed where a value or a
    node was made since, or where an operator cannot compute in the orders of its values.

    Args:
        graph: views not merged.
        rules: configs by operator.

    Returns:
        Whether the layout is settled: ``graph.layout``.
    """
    nodes = _in_file_order(graph)
    if nodes is None:
        return False
    layout: Layout = {}
    for node in nodes:
        config = _config(node, rules)
        if config is None:
            return False
        layout[node] = config
    graph.nodes, graph.layout = nodes, layout
    return True


def _in_file_order(graph: Graph) -> list[Node] | None:
    """The nodes by position, if that is an order of execution."""
    if any(node.position is None for node in graph.nodes):
        return None
    nodes = sorted(graph.nodes, key=lambda node: node.position or 0)
    known: set[Value] = set(graph.inputs)
    for node in nodes:
        if any(v.const is None and v not in known for v in node.operands):
            return None
        known.update(node.outputs)
    return None if any(v.order is None for v in known) else nodes


def _config(node: Node, rules: dict[str, Rule]) -> Config | None:
    """The cheapest config in which operands and outputs have their orders, constants too if any."""
    constants = [None if v is None or v.const is None else v.order for v in node.inputs]
    inputs = [None if v is None or v.const is not None else v.order for v in node.inputs]
    outputs = [v.order or () for v in node.outputs]
    if node.op == "View":
        if inputs[0] is None:
            return None
        return Config((inputs[0],), (outputs[0],), form=AS_STORED)
    offered = tuple(() if order is None else (order,) for order in inputs)
    choices = Choices(offered, tuple((order,) for order in outputs))
    fitting = [
        config
        for config in rules[node.op](node, choices)
        if list(config.outputs) == outputs
        and all(o is None or o == c for o, c in zip(inputs, config.inputs, strict=True))
    ]

    def moved(config: Config) -> tuple[int, float]:
        pairs = zip(constants, config.inputs, strict=True)
        return sum(o is not None and o != c for o, c in pairs), config.cost

    return min(fitting, key=moved, default=None)


def stored_perm(node: Node, config: Config) -> Perm | None:
    """What a Transpose does to the stored axes; None for other views."""
    perm = node.attrs.get("perm")
    if perm is None:
        return None
    back = inverse(config.inputs[0])
    return tuple(back[perm[axis]] for axis in config.outputs[0])


def moves_nothing(perm: Perm) -> bool:
    """Whether the stored tensor stays as it is."""
    return perm == identity(len(perm))
