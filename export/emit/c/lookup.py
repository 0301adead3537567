"""Operators that together compute one int8 from one int8, as tables of 256 results.

Whatever lies between, floats included (DEQUANTIZE, NEG, QUANTIZE) or branches that meet again
(x · sigmoid(x)), is evaluated once for each of the 256 inputs by the reference kernels, so that the
table is exact by construction.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgec.export.emit.c.call import Call, Share, Table
from edgec.export.emit.c.reference import KERNELS
from edgec.export.tflite.model import Operator, Subgraph, Tensor
from edgec.export.tflite.reference.call import Call as ReferenceCall

UNARY = frozenset("QUANTIZE DEQUANTIZE NEG RELU RELU6 RSQRT LOGISTIC TANH GELU HARD_SWISH".split())
"""Operators of one element that the reference can evaluate."""
BINARY = frozenset("ADD SUB MUL SQUARED_DIFFERENCE MAXIMUM MINIMUM".split())
"""The same of two; one of them may be a constant of one element."""


def region_from(graph: Subgraph, position: int, consumers: dict[int, list[int]]) -> list[int]:
    """Positions of the operators that make one table, from `position` on; empty for none.

    The table is of the operator's only computed input; the last position writes the result.
    """
    first = graph.operators[position]
    roots = {i for i in first.inputs if i >= 0 and graph.tensors[i].data is None}
    if len(roots) != 1 or graph.tensors[min(roots)].dtype != "INT8":
        return []
    known = set(roots)
    if not _computable(graph, first, known):
        return []
    members, best = [position], []
    known.add(first.outputs[0])
    while True:
        if _closed(graph, members, consumers):
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


def lookup(graph: Subgraph, region: list[int], roots: dict[int, int]) -> Call:
    """The call for a region from `region_from`."""
    operators = [graph.operators[i] for i in region]
    source = next(i for i in operators[0].inputs if i >= 0 and graph.tensors[i].data is None)
    last = operators[-1].outputs[0]
    values: dict[int, NDArray[Any]] = {source: np.arange(-128, 128, dtype=np.int8)}
    for op in operators:
        values[op.outputs[0]] = _evaluate(graph, op, values)
    return Call(
        "edgec_lookup_s8",
        {"count": graph.tensors[last].elements, "table": Table(values[last].astype(np.int8))},
        (roots[source],),
        roots[last],
        (Share(0, 0),),
    )


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


def _closed(graph: Subgraph, members: list[int], consumers: dict[int, list[int]]) -> bool:
    """Whether only the last member's result is used elsewhere, and is int8."""
    *inner, last = (graph.operators[member].outputs[0] for member in members)
    return graph.tensors[last].dtype == "INT8" and all(
        index not in graph.outputs and set(consumers.get(index, [])) <= set(members)
        for index in inner
    )


def _evaluate(graph: Subgraph, op: Operator, values: dict[int, NDArray[Any]]) -> NDArray[Any]:
    def line(tensor: Tensor, size: int = 256) -> Tensor:
        return replace(tensor, shape=(size,), data=None, shape_signature=None)

    tensors = [graph.tensors[i] for i in op.inputs]
    arrays = [
        values[i] if t.data is None else np.asarray(t.data).reshape(-1)
        for i, t in zip(op.inputs, tensors, strict=True)
    ]
    shaped = [line(t, a.size) for t, a in zip(tensors, arrays, strict=True)]
    output = line(graph.tensors[op.outputs[0]])
    call = ReferenceCall(op, shaped, arrays, [output])
    return np.asarray(KERNELS[op.code](call)).astype(output.numpy_dtype)
