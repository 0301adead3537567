"""Chains of operators that compute one int8 from one int8, as tables of 256 results.

Whatever lies between, floats included (DEQUANTIZE, NEG, QUANTIZE), is evaluated once for each of
the 256 inputs by the reference kernels, so that the table is exact by construction.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgec.export.emit.c.call import Call, Share, Table
from edgec.export.tflite.model import Operator, Subgraph, Tensor
from edgec.export.tflite.reference.call import Call as ReferenceCall
from edgec.export.tflite.reference.executor import KERNELS

UNARY = frozenset("QUANTIZE DEQUANTIZE NEG RELU RELU6 RSQRT LOGISTIC TANH GELU HARD_SWISH".split())
"""Operators of one element that the reference can evaluate."""


def chain_from(graph: Subgraph, position: int, consumers: dict[int, list[int]]) -> list[int]:
    """Positions of the operators that make one table, from `position` on; empty for none."""
    first = graph.operators[position]
    if first.code not in UNARY or graph.tensors[first.inputs[0]].dtype != "INT8":
        return []
    found, best = [position], []
    while True:
        output = graph.operators[found[-1]].outputs[0]
        if graph.tensors[output].dtype == "INT8":
            best = list(found)
        readers = consumers.get(output, [])
        if len(readers) != 1 or output in graph.outputs:
            return best
        follower = graph.operators[readers[0]]
        if follower.code not in UNARY:
            return best
        found.append(readers[0])


def lookup(graph: Subgraph, chain: list[int], roots: dict[int, int]) -> Call:
    """The call for a chain from `chain_from`."""
    operators = [graph.operators[i] for i in chain]
    first, last = operators[0].inputs[0], operators[-1].outputs[0]
    value = np.arange(-128, 128, dtype=np.int8)
    for op in operators:
        value = _evaluate(graph, op, value)
    return Call(
        "edgec_lookup_s8",
        {"count": graph.tensors[last].elements, "table": Table(value.astype(np.int8))},
        (roots[first],),
        roots[last],
        (Share(0, 0),),
    )


def _evaluate(graph: Subgraph, op: Operator, value: NDArray[Any]) -> NDArray[Any]:
    def line(tensor: Tensor) -> Tensor:
        return replace(tensor, shape=(value.size,), data=None, shape_signature=None)

    output = line(graph.tensors[op.outputs[0]])
    call = ReferenceCall(op, [line(graph.tensors[op.inputs[0]])], [value], [output])
    return np.asarray(KERNELS[op.code](call)).astype(output.numpy_dtype)
