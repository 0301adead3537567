"""Common subexpressions are computed once."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from edgec.export.rewrite.base import RewritePass
from edgec.export.rewrite.graph import (
    Builder,
    constant,
    is_op,
    remove_dead,
    replace_value,
    shape_of,
)
from edgec.export.rewrite.numerics import RANDOM_OPS
from edgec.export.rewrite.recognise.marks import merge_marks

_COMMUTATIVE = frozenset({"Add", "Mul", "Max", "Min", "Equal", "And", "Or", "Sum"})


class ShareCommon(RewritePass):
    """Nodes with equal operator, attributes and inputs (in any order, if commutative) become one.

    Where that leaves a tensor added to itself, the sum becomes a multiplication by two, which later
    passes can fold into weights.
    """

    name = "share-common"
    change = "f(x), f(x) → f(x) once; x + x → 2·x"

    def rewrite(self, graph: ir.Graph) -> int:
        count = 0
        seen: dict[Any, ir.Node] = {}
        for node in graph:
            count += _double(node)
            if node.graph is not graph:
                continue
            key = _key(node)
            if key is None:
                continue
            first = seen.setdefault(key, node)
            if first is node:
                continue
            for old, new in zip(node.outputs, first.outputs, strict=True):
                if old.is_graph_output() and new.is_graph_output():
                    break  # two outputs with the same value: each needs its own producer
                replace_value(old, new)
            else:
                merge_marks(first, node)
                remove_dead([node])
                count += 1
        return count


def _key(node: ir.Node) -> Any:
    """Hashable identity of what a node computes; None if it must not be shared."""
    if node.op_type in RANDOM_OPS or node.op_type in ("Constant", "Dropout"):
        return None
    attributes = []
    for name in sorted(node.attributes):
        attribute = node.attributes[name]
        if attribute.type in (
            ir.AttributeType.GRAPH,
            ir.AttributeType.GRAPHS,
            ir.AttributeType.TENSOR,
            ir.AttributeType.TENSORS,
        ):
            return None
        value = attribute.value
        attributes.append((name, repr(tuple(value) if isinstance(value, list | tuple) else value)))
    inputs = [_identity(v) for v in node.inputs]
    if is_op(node, *_COMMUTATIVE):
        inputs.sort(key=repr)
    used = tuple(bool(o.name) for o in node.outputs)
    return node.op_identifier(), tuple(inputs), tuple(attributes), used


def _identity(value: ir.Value | None) -> Any:
    """Small constants are the same if they hold the same numbers."""
    array = constant(value)
    if array is None or array.size > 4096 or array.dtype.kind == "O":
        return id(value)
    return str(array.dtype), array.shape, array.tobytes()


def _double(node: ir.Node) -> int:
    if not is_op(node, "Add") or len(node.inputs) != 2 or node.inputs[0] is not node.inputs[1]:
        return 0
    x = node.inputs[0]
    if x is None or x.dtype is None or not x.dtype.is_floating_point():
        return 0
    builder = Builder(node)
    two = ir.tensor([2.0], dtype=x.dtype).numpy().reshape(())
    shape = shape_of(node.outputs[0])
    doubled = builder.op("Mul", [x, builder.constant(two, "two")], shape=shape, dtype=x.dtype)
    replace_value(node.outputs[0], doubled)
    remove_dead([node])
    return 1
