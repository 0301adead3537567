"""Casts between float types in a graph: each value gets one of a type, however many read it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgec.export.quantize.graph import constant_of
from edgec.export.rewrite.graph import MODULE_KEY


class Casts:
    """What was cast in a graph."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._made: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}

    def as_type(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        """The value as `dtype`: a constant of that type, or what a Cast behind it gives."""
        key = (value, dtype)
        if key not in self._made:
            number = constant_of(value)
            if number is not None:
                self._made[key] = self._constant(value, number, dtype)
            else:
                self._made[key] = self._behind(value, dtype)
        return self._made[key]

    def _constant(self, value: ir.Value, number: np.ndarray, dtype: ir.DataType) -> ir.Value:
        name = f"{value.name}_{dtype.name.lower()}"
        tensor = ir.tensor(number.astype(dtype.numpy()), name=name)
        constant = ir.Value(
            name=name, type=ir.TensorType(dtype), shape=value.shape, const_value=tensor
        )
        self._graph.register_initializer(constant)
        return constant

    def _behind(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        name = f"{value.name}_{dtype.name.lower()}"
        output = ir.Value(name=name, type=ir.TensorType(dtype), shape=value.shape)
        producer = value.producer()
        cast = _cast_node(value, output, dtype, producer)
        if producer is None:
            self._graph.insert_before(self._graph[0], [cast])
        else:
            self._graph.insert_after(producer, [cast])
        return output

    def give_output(self, position: int, value: ir.Value, dtype: ir.DataType) -> None:
        """Give a graph output its type back under its own name."""
        producer = value.producer()
        if producer is None:
            return  # an input or constant handed through keeps its type
        name = value.name
        value.name = f"{name}_{(value.dtype or dtype).name.lower()}"
        output = ir.Value(name=name, type=ir.TensorType(dtype), shape=value.shape)
        self._graph.append(_cast_node(value, output, dtype, producer))
        self._graph.outputs[position] = output


def _cast_node(
    value: ir.Value, output: ir.Value, dtype: ir.DataType, producer: ir.Node | None
) -> ir.Node:
    path = None if producer is None else producer.metadata_props.get(MODULE_KEY)
    return ir.node(
        "Cast",
        [value],
        attributes={"to": int(dtype)},
        outputs=[output],
        name=f"{output.name}_Cast",
        metadata_props={} if path is None else {MODULE_KEY: path},
    )
