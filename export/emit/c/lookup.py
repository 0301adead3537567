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
