"""Compute now what depends on constants only.

All foldable nodes of a graph are evaluated in one ONNX Runtime session, so that the numbers are
those of the kernels that would have computed them. Positional encodings, relative-position tables,
shape arithmetic on static shapes and mask construction end up as one initializer each.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir

from edgec.export.rewrite import numerics
from edgec.export.rewrite.base import RewritePass
from edgec.export.rewrite.graph import (
    Array,
    add_initializer,
    constant,
    is_op,
    remove_dead,
    replace_value,
    shape_of,
)

MAX_BYTES = 16 << 20
"""Larger results stay computed: a file that grows by more than this costs more than the node."""

# Growing operators are evaluated only if their result size is known beforehand.
_GROWING = frozenset({"ConstantOfShape", "Expand", "OneHot", "Pad", "Range", "Resize", "Tile"})
# A constant behind Q/DQ is quantized on purpose.
_QUANTIZED = frozenset({"DequantizeLinear", "QuantizeLinear", "DynamicQuantizeLinear"})


class FoldConstants(RewritePass):
    """Replace every node that depends on constants only by its value."""

    name = "fold-constants"
    change = "nodes on constants, Shape of a static tensor → initializer"

    def rewrite(self, graph: ir.Graph) -> int:
        count = sum(_fold_shape(node) for node in graph if is_op(node, "Shape", "Size"))
        nodes, frontier = _constant_region(graph)
        if not frontier:
            return count
        for value, array in zip(frontier, _evaluate(nodes, frontier), strict=True):
            if not isinstance(array, np.ndarray) or array.nbytes > MAX_BYTES:  # or a sequence
                continue
            replace_value(value, add_initializer(graph, array, value.name or "folded"))
            remove_dead([value.producer()])
            count += 1
        return count


def _fold_shape(node: ir.Node) -> int:
    shape = shape_of(node.inputs[0])
    if shape is None or node.outputs[0].is_graph_output() or node.graph is None:
        return 0
    if node.op_type == "Size":
        array: Array = np.asarray(int(np.prod(shape)), np.int64)
    else:
        start, end = node.attributes.get("start"), node.attributes.get("end")
        part = slice(start.as_int() if start else 0, end.as_int() if end else None)
        array = np.asarray(shape[part], np.int64)
    replace_value(node.outputs[0], add_initializer(node.graph, array, node.outputs[0].name or "s"))
    remove_dead([node])
    return 1


def _constant_region(graph: ir.Graph) -> tuple[list[ir.Node], list[ir.Value]]:
    """Nodes that can be evaluated now, in order, and those of their outputs others read."""
    nodes: list[ir.Node] = []
    computed: set[ir.Value] = set()
    for node in graph:
        inputs = [v for v in node.inputs if v is not None]
        if _foldable(node) and all(v in computed or constant(v) is not None for v in inputs):
            nodes.append(node)
            computed.update(node.outputs)
    members = set(nodes)
    frontier = [
        value
        for node in nodes
        for value in node.outputs
        if not value.is_graph_output() and any(use.node not in members for use in value.uses())
    ]
    return nodes, frontier


def _foldable(node: ir.Node) -> bool:
    if node.domain not in ("", "ai.onnx") or node.op_type in numerics.RANDOM_OPS | _QUANTIZED:
        return False
    if node.op_type == "Constant":
        return False  # becomes an initializer elsewhere
    kinds = {a.type for a in node.attributes.values()}
    if kinds & {ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS}:
        return False
    if any(v.is_graph_output() for v in node.outputs):
        return False
    sizes = [_nbytes(v) for v in node.outputs]
    if any(s is None for s in sizes):
        return node.op_type not in _GROWING
    return sum(s or 0 for s in sizes) <= MAX_BYTES


def _nbytes(value: ir.Value) -> int | None:
    shape = shape_of(value)
    if shape is None or value.dtype is None:
        return None
    return int(np.prod(shape) * max(value.dtype.itemsize, 1))


def _evaluate(nodes: list[ir.Node], wanted: list[ir.Value]) -> list[Array | None]:
    """Values of `wanted`; None where ONNX Runtime has no kernel for a node on the way."""
    try:
        return list(_run(nodes, wanted))
    except Exception:  # a node without kernel: fold what does not depend on it
        results: list[Array | None] = []
        for value in wanted:
            needed = _ancestors(nodes, value)
            try:
                results += _run(needed, [value])
            except Exception:
                results.append(None)
        return results


def _ancestors(nodes: list[ir.Node], value: ir.Value) -> list[ir.Node]:
    needed = {value.producer()}
    for node in reversed(nodes):
        if node in needed:
            needed.update(v.producer() for v in node.inputs if v is not None)
    return [node for node in nodes if node in needed]


def _run(nodes: list[ir.Node], wanted: list[ir.Value]) -> list[Array]:
    produced = {v for node in nodes for v in node.outputs}
    leaves = {
        v.name: v for node in nodes for v in node.inputs if v is not None and v not in produced
    }
    graph = onnx.helper.make_graph(
        [ir.to_proto(node) for node in nodes],
        "constants",
        [],
        [onnx.helper.make_empty_tensor_value_info(v.name or "") for v in wanted],
        [_tensor_proto(name or "", constant(v)) for name, v in leaves.items()],
    )
    versions = dict(nodes[0].graph.opset_imports) if nodes[0].graph is not None else {}
    opset = versions.get("", versions.get("ai.onnx", 20))
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=10
    )
    return numerics.run(numerics.onnx_bytes(model), [{}])


def _tensor_proto(name: str, array: Array | None) -> onnx.TensorProto:
    if array is None:
        raise ValueError(f"{name} is no constant")
    proto: onnx.TensorProto = ir.to_proto(ir.tensor(array, name=name))
    return proto
