"""Norms that compute on integers: one operator where the lowered graph has three.

A lowered network keeps LayerNormalization as a custom operator on floats, between a DEQUANTIZE and
a QUANTIZE. On a device without floats the three are one map from int8 to int8, whose meaning
`edgec.export.emit.c.norm` defines.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from edgec.export.tflite.model import Model, Operator, Subgraph

NORMS: Final = frozenset({"LayerNormalization", "InstanceNormalization", "GroupNormalization"})
"""Custom operators that become integer ones."""


def fuse(model: Model) -> Model:
    """The same network with int8 norms; tensors keep their indices, the model is not modified.

    A norm whose float result is used by anything but QUANTIZE stays as it is.
    """
    main = model.main
    graph = replace(main, operators=_without_unused(main, _norms_on_integers(main)))
    return replace(model, subgraphs=[graph, *model.subgraphs[1:]])


def _norms_on_integers(graph: Subgraph) -> list[Operator]:
    source = {
        op.outputs[0]: op.inputs[0]
        for op in graph.operators
        if op.code == "DEQUANTIZE" and graph.tensors[op.inputs[0]].dtype == "INT8"
    }
    readers: dict[int, list[Operator]] = {}
    for op in graph.operators:
        for index in op.inputs:
            readers.setdefault(index, []).append(op)
    found: list[Operator] = []
    gone: set[int] = set()
    for op in graph.operators:
        if id(op) in gone:
            continue
        users = readers.get(op.outputs[0], [])
        if (
            op.custom_code in NORMS
            and op.inputs[0] in source
            and op.outputs[0] not in graph.outputs
            and users
            and all(user.code == "QUANTIZE" for user in users)
        ):
            inputs = [source[op.inputs[0]], *op.inputs[1:]]
            found += [replace(op, inputs=inputs, outputs=list(u.outputs)) for u in users]
            gone.update(map(id, users))
        else:
            found.append(op)
    return found


def _without_unused(graph: Subgraph, operators: list[Operator]) -> list[Operator]:
    """Without conversions to float that nothing reads any more."""
    used = set(graph.outputs) | {index for op in operators for index in op.inputs}
    return [op for op in operators if op.code != "DEQUANTIZE" or op.outputs[0] in used]
