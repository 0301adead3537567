"""Operators that together compute one element from one element of one tensor."""

from __future__ import annotations

from edgec.export.tflite.model import Operator, Subgraph

UNARY = frozenset("QUANTIZE DEQUANTIZE NEG RELU RELU6 RSQRT LOGISTIC TANH GELU HARD_SWISH".split())
"""Operators of one element that the reference can evaluate."""
BINARY = frozenset("ADD SUB MUL SQUARED_DIFFERENCE MAXIMUM MINIMUM".split())
"""The same of two; one of them may be a constant of one element."""


def region_from(
    graph: Subgraph, position: int, consumers: dict[int, list[int]], dtype: str = "INT8"
) -> list[int]:
    """Positions of the operators that make one table, from `position` on; empty for none.

    The table is of the operator's only computed input; the last position writes the result. Both
    are of `dtype`.
    """
    first = graph.operators[position]
    roots = {i for i in first.inputs if i >= 0 and graph.tensors[i].data is None}
    if len(roots) != 1 or graph.tensors[min(roots)].dtype != dtype:
        return []
    known = set(roots)
    if not _computable(graph, first, known):
        return []
    members, best = [position], []
    known.add(first.outputs[0])
    while True:
        if _closed(graph, members, consumers, dtype):
            best = list(members)
        candidates = sorted(
            {
                reader
                for member in members
                for reader in consumers.get(graph.operators[member].outputs[0], [])
                if reader not in members and _computable(graph, graph.operators[reader], known)
            }
        )
        if not candidates:
            return best
        members.append(candidates[0])
        known.add(graph.operators[candidates[0]].outputs[0])


def _computable(graph: Subgraph, op: Operator, known: set[int]) -> bool:
    """Whether each element of the result depends on one element of what is known."""
    tensors = [graph.tensors[i] for i in op.inputs]
    if op.code in UNARY:
        return op.inputs[0] in known
    if op.code not in BINARY:
        return False
    shape = graph.tensors[op.outputs[0]].shape
    return all(
        (tensor.data is not None and tensor.elements == 1)
        or (index in known and tensor.shape == shape)
        for index, tensor in zip(op.inputs, tensors, strict=True)
    )


def _closed(
    graph: Subgraph, members: list[int], consumers: dict[int, list[int]], dtype: str
) -> bool:
    """Whether only the last member's result is used elsewhere, and is of `dtype`."""
    *inner, last = (graph.operators[member].outputs[0] for member in members)
    return graph.tensors[last].dtype == dtype and all(
        index not in graph.outputs and set(consumers.get(index, [])) <= set(members)
        for index in inner
    )
