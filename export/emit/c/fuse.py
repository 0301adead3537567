"""Norms that compute on integers, one operator where the lowered graph has three; constants that
are floats; functions of one int16.

A lowered network keeps LayerNormalization as a custom operator on floats, between a DEQUANTIZE and
a QUANTIZE; the latter may come only after the result has been reshaped or transposed. On a device
without floats the three are one map from integers to integers, whose meaning
`edgec.export.emit.c.norm` defines.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from edgec.export.emit.c.interpolate import interpolated
from edgec.export.tflite.model import Model, Operator, Subgraph, Tensor
from edgec.export.tflite.reference.fixed_point import parameters

NORMS: Final = frozenset({"LayerNormalization", "InstanceNormalization", "GroupNormalization"})
"""Custom operators that become integer ones."""
_MOVES: Final = frozenset({"RESHAPE", "SQUEEZE", "EXPAND_DIMS", "TRANSPOSE"})


def fuse(model: Model) -> Model:
    """The same network with norms on integers, with functions of int16 as one operator each, and
    without DEQUANTIZE of constants; tensors keep their indices, the model is not modified.

    A norm whose float result is used by anything but one QUANTIZE stays as it is.
    """
    main = interpolated(_Fusion(model.main).fused())
    return replace(model, subgraphs=[main, *model.subgraphs[1:]])


class _Fusion:
    def __init__(self, graph: Subgraph) -> None:
        self.graph = graph
        self.tensors: list[Tensor] = list(graph.tensors)
        self.source = {
            op.outputs[0]: op.inputs[0]
            for op in graph.operators
            if op.code == "DEQUANTIZE" and graph.tensors[op.inputs[0]].dtype in ("INT8", "INT16")
        }
        self.readers: dict[int, list[int]] = {}
        for position, op in enumerate(graph.operators):
            for index in op.inputs:
                self.readers.setdefault(index, []).append(position)

    def fused(self) -> Subgraph:
        changed: dict[int, Operator | None] = {}
        for position, op in enumerate(self.graph.operators):
            if op.code == "DEQUANTIZE" and self.tensors[op.inputs[0]].data is not None:
                self._fold(op)
                changed[position] = None
        for position, op in enumerate(self.graph.operators):
            if op.custom_code in NORMS and op.inputs[0] in self.source:
                path = self._to_quantize(position)
                if path:
                    changed |= self._on_integers(path)
        operators = [changed.get(n, op) for n, op in enumerate(self.graph.operators)]
        kept = [op for op in operators if op is not None]
        # conversions to float that nothing reads any more go too
        used = set(self.graph.outputs) | {index for op in kept for index in op.inputs}
        kept = [op for op in kept if op.code != "DEQUANTIZE" or op.outputs[0] in used]
        return replace(self.graph, tensors=self.tensors, operators=kept)

    def _fold(self, op: Operator) -> None:
        """A constant that is dequantized is a constant of floats."""
        source, result = self.tensors[op.inputs[0]], self.tensors[op.outputs[0]]
        data = np.asarray(source.data)
        if data.dtype.kind != "f":
            grid = parameters(source)
            shape = [1] * data.ndim
            shape[grid.axis if grid.per_channel else 0] = -1
            zero = grid.zero_point.reshape(shape)
            data = (data.astype(np.int64) - zero) * grid.scale.reshape(shape).astype(np.float64)
        self.tensors[op.outputs[0]] = replace(result, data=data.astype(np.float32))

    def _to_quantize(self, position: int) -> list[int]:
        """Positions from a norm to the QUANTIZE of its result; empty if it has other readers."""
        path = [position]
        while True:
            output = self.graph.operators[path[-1]].outputs[0]
            readers = self.readers.get(output, [])
            if len(readers) != 1 or output in self.graph.outputs:
                return []
            path.append(readers[0])
            code = self.graph.operators[path[-1]].code
            if code == "QUANTIZE":
                return path
            if code not in _MOVES:
                return []

    def _on_integers(self, path: list[int]) -> dict[int, Operator | None]:
        """New operators by position, None for the one that goes."""
        *before, last = path
        operators = self.graph.operators
        result = operators[last].outputs[0]
        changed: dict[int, Operator | None] = {n: operators[n] for n in before}
        for n in before[:-1]:
            index = operators[n].outputs[0]
            grid = self.tensors[result]
            self.tensors[index] = replace(
                self.tensors[index], dtype=grid.dtype, quantization=grid.quantization
            )
        norm = operators[before[0]]
        changed[before[0]] = replace(norm, inputs=[self.source[norm.inputs[0]], *norm.inputs[1:]])
        end = changed[before[-1]]
        assert end is not None
        changed[before[-1]] = replace(end, outputs=[result])
        changed[last] = None
        return changed
