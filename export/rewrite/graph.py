"""Small tools that every rewrite uses: read constants, emit nodes, replace values, drop dead nodes.

All of them keep the invariants that the rest of the stage relies on: static shapes on every value
they create, the source module path (`MODULE_KEY`) on every node, and the names of graph inputs and
outputs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

MODULE_KEY = "edgec.module"
"""Node metadata key of the source module path, e.g. ``stage3.2.eops.0.qk.conv``."""

Array = NDArray[Any]


def constant(value: ir.Value | None) -> Array | None:
    """The array behind an initializer or Constant node; None for anything computed or fed.

    An initializer that is also a graph input can be overridden by the caller of the model, so it is
    not a constant (ONNX IR specification, section "Graphs").
    """
    if value is None or value.is_graph_input():
        return None
    tensor = ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


def scalar(value: ir.Value | None) -> float | None:
    """The number behind a constant with exactly one element, else None."""
    array = constant(value)
    return float(array.reshape(())) if array is not None and array.size == 1 else None


def shape_of(value: ir.Value | None) -> tuple[int, ...] | None:
    """The static shape, or None if rank or any dimension is unknown."""
    if value is None or value.shape is None:
        return None
    dims = value.shape.dims
    return tuple(int(d) for d in dims) if all(isinstance(d, int) for d in dims) else None  # type: ignore[arg-type]


def is_op(node: ir.Node | None, *op_types: str) -> bool:
    """Whether `node` is one of these operators of the standard domain."""
    return node is not None and node.domain in ("", "ai.onnx") and node.op_type in op_types


def sole_user(value: ir.Value) -> ir.Node | None:
    """The only node that reads `value` (once), or None; graph outputs have a reader outside."""
    uses = value.uses()
    if len(uses) != 1 or value.is_graph_output():
        return None
    return next(iter(uses)).node


def module_of(node: ir.Node | None) -> str | None:
    """Source module path of a node, if known."""
    return None if node is None else node.metadata_props.get(MODULE_KEY)


def ints(node: ir.Node, name: str) -> tuple[int, ...] | None:
    """An INTS attribute, or None if absent."""
    attribute = node.attributes.get(name)
    return None if attribute is None else tuple(attribute.as_ints())


def int_attr(node: ir.Node, name: str, default: int) -> int:
    """An INT attribute or its default."""
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_int()


def float_attr(node: ir.Node, name: str, default: float) -> float:
    """A FLOAT attribute or its default."""
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_float()


def str_attr(node: ir.Node, name: str, default: str) -> str:
    """A STRING attribute or its default."""
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_string()


def reduce_axes(node: ir.Node) -> tuple[int, ...] | None:
    """Non-negative axes of a reduction or (Un)squeeze, from input 1 or the attribute.

    None if they are not constant; the empty tuple if none are given.
    """
    axes: Sequence[int] | None = ints(node, "axes")
    if axes is None and len(node.inputs) > 1 and node.inputs[1] is not None:
        array = constant(node.inputs[1])
        if array is None:
            return None
        axes = [int(a) for a in array.reshape(-1)]
    shape = node.outputs[0].shape if node.op_type == "Unsqueeze" else node.inputs[0].shape  # type: ignore[union-attr]
    if shape is None:
        return None
    return tuple(sorted(a % len(shape) if len(shape) else 0 for a in axes or ()))


class Builder:
    """Emits nodes before `anchor`, with the metadata of `source` (the main node they stand for)."""

    def __init__(self, anchor: ir.Node, source: ir.Node | None = None) -> None:
        graph = anchor.graph
        if graph is None:
            raise ValueError(f"{anchor.name} is not part of a graph")
        self.graph: ir.Graph = graph
        self.anchor = anchor
        self.source = source or anchor

    def op(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        *,
        shape: Sequence[int] | None,
        dtype: ir.DataType | None,
        **attributes: Any,
    ) -> ir.Value:
        """One node with one output of the given shape and dtype; returns the output."""
        output = ir.Value(
            shape=None if shape is None else ir.Shape(tuple(shape)),
            type=None if dtype is None else ir.TensorType(dtype),
        )
        self.multi(op_type, inputs, [output], **attributes)
        return output

    def multi(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        outputs: Sequence[ir.Value],
        **attributes: Any,
    ) -> ir.Node:
        """One node with prepared outputs."""
        node = ir.Node(
            "",
            op_type,
            list(inputs),
            ir.convenience.convert_attributes(attributes),
            outputs=list(outputs),
            metadata_props=dict(self.source.metadata_props),
        )
        self.graph.insert_before(self.anchor, node)
        return node

    def constant(self, array: Array, name: str) -> ir.Value:
        """A new initializer; `name` gets a suffix if it is taken."""
        return add_initializer(self.graph, array, name)

    def reshape(self, value: ir.Value, shape: Sequence[int]) -> ir.Value:
        """`value` in another shape; `value` itself if it has that shape already."""
        if shape_of(value) == tuple(shape):
            return value
        target = self.constant(np.asarray(shape, np.int64), "shape")
        return self.op("Reshape", [value, target], shape=shape, dtype=value.dtype)

    def transpose(self, value: ir.Value, perm: Sequence[int]) -> ir.Value:
        """`value` with its axes permuted; `value` itself for the identity."""
        if list(perm) == list(range(len(perm))):
            return value
        shape = shape_of(value)
        if shape is None:
            raise ValueError(f"{value.name} has no static shape")
        return self.op(
            "Transpose", [value], shape=[shape[p] for p in perm], dtype=value.dtype, perm=list(perm)
        )


def add_initializer(graph: ir.Graph, array: Array, name: str) -> ir.Value:
    """Register `array` in `graph` as an initializer under a free name derived from `name`."""
    unique, n = name, 0
    while unique in graph.initializers:
        n += 1
        unique = f"{name}_{n}"
    tensor = ir.tensor(np.array(array, order="C"), name=unique)
    value = ir.Value(
        name=unique,
        shape=ir.Shape(array.shape),
        type=ir.TensorType(tensor.dtype),
        const_value=tensor,
    )
    graph.register_initializer(value)
    return value


def replace_value(old: ir.Value, new: ir.Value) -> None:
    """Let every reader of `old` (graph outputs included) read `new`.

    A graph output keeps its name. Where `new` cannot be renamed (it is a graph input, a constant or
    already an output) an Identity carries it.
    """
    if old is new:
        return
    if new.shape is None:
        new.shape = old.shape
    if new.type is None:
        new.type = old.type
    if old.is_graph_output():
        graph = old.graph
        producer = old.producer()
        if graph is None or producer is None:
            raise ValueError(f"graph output {old.name} has no producer")
        name = old.name
        movable = new.producer() is not None and new.graph is graph and not new.is_graph_output()
        if not movable:
            new = Builder(producer).op("Identity", [new], shape=shape_of(old), dtype=old.dtype)
        old.replace_all_uses_with(new, replace_graph_outputs=True)
        old.name = f"{name}__replaced"
        new.name = name
        return
    old.replace_all_uses_with(new)


def remove_dead(nodes: Iterable[ir.Node | None]) -> int:
    """Remove those of `nodes`, and then their producers, whose outputs nothing reads."""
    removed = 0
    pending = [node for node in nodes if node is not None]
    while pending:
        node = pending.pop()
        graph = node.graph
        if graph is None or any(o.uses() or o.is_graph_output() for o in node.outputs):
            continue
        inputs = [v for v in node.inputs if v is not None]
        graph.remove(node, safe=True)
        removed += 1
        pending += [p for v in inputs if (p := v.producer()) is not None]
    return removed
