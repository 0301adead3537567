"""Brings the graph to the forms that layouts and operator lowerings know.

Products with a constant matrix become ``Linear``, Reshape, Transpose and their kin ``View`` (chains
of them one), operands of element-wise operators get the rank of the output, axes are non-negative.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from edgec.export.emit.tflite.graph import Graph, Node, Shape, Value
from edgec.export.emit.tflite.one_dimensional import as_image, is_one_dimensional
from edgec.export.emit.tflite.overlapping import add_blocks
from edgec.export.rewrite.layout import View
from edgec.export.tflite.model import Quantization

VARIADIC = frozenset({"Max", "Min"})
BROADCASTING = frozenset(
    "Add Sub Mul Div Max Min PRelu Pow Equal Less LessOrEqual Greater GreaterOrEqual And Or Where"
    " Expand".split()
)
VIEWS = frozenset(
    {"Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "SpaceToDepth", "DepthToSpace"}
)
_FACTORS = 6
"""Of a View: dimensions of a TRANSPOSE in LiteRT. Runtimes that take fewer get several."""
_REDUCTIONS = {"GlobalAveragePool": "ReduceMean", "GlobalMaxPool": "ReduceMax"}


def normalise(graph: Graph) -> Graph:
    """The same computation in canonical forms; `graph` is changed."""
    return merge_views(canonical(graph))


def canonical(graph: Graph) -> Graph:
    """`normalise` without merging views."""
    nodes: list[Node] = []
    for node in graph.nodes:
        nodes.extend(_canonical(node))
    graph.nodes = nodes
    _reciprocal_roots(graph)
    _drop_dead(graph)
    return graph


def _canonical(node: Node) -> Iterator[Node]:
    if node.op == "Gemm":
        yield from _gemm(node)
    elif node.op == "MatMul":
        yield from _matmul(node)
    elif node.op in _REDUCTIONS:
        rank = len(node.operands[0].shape)
        node.attrs = {"axes": tuple(range(2, rank)), "keepdims": 1}
        node.op = _REDUCTIONS[node.op]
        yield node
    elif node.op in VIEWS:
        yield _view(node)
    elif node.op == "Col2Im":
        yield from add_blocks(node)
    elif is_one_dimensional(node):
        yield from as_image(node)
    else:
        if node.op.startswith("Reduce"):
            _reduction(node)
        elif node.op in ("ArgMax", "ArgMin"):
            along = int(node.attrs.get("axis", 0)) % len(node.operands[0].shape)
            node.attrs |= {"axes": (along,), "keepdims": int(node.attrs.get("keepdims", 1))}
        elif node.op == "Gather":
            yield from _gather(node)
            return
        elif node.op in BROADCASTING:
            if node.op in VARIADIC and len(node.operands) != 2:
                yield from _binary_chain(node)
                return
            yield from _equal_ranks(node)
        axis = node.attrs.get("axis")
        if isinstance(axis, int):
            node.attrs["axis"] = axis % max(1, len(node.operands[0].shape))
        yield node


# --- products --------------------------------------------------------------------------------


def _gemm(node: Node) -> Iterator[Node]:
    x, weight, *rest = node.inputs
    assert x is not None
    assert weight is not None
    bias = rest[0] if rest else None
    if weight.const is None:
        raise node.refuse("its matrix is computed")
    if node.attrs.get("transA"):
        raise node.refuse("it transposes its input (transA)")
    alpha, beta = float(node.attrs.get("alpha", 1.0)), float(node.attrs.get("beta", 1.0))
    if not node.attrs.get("transB"):
        weight = transposed(weight)
    if alpha != 1.0:
        weight = _scaled(node, weight, alpha)
    if bias is not None and beta != 1.0:
        bias = _scaled(node, bias, beta)
    if bias is not None and (bias.const is None or bias.elements != weight.shape[0]):
        raise node.refuse("its bias is no constant vector")
    if bias is not None and len(bias.shape) != 1:
        assert bias.const is not None
        bias = Value(
            bias.name, (bias.elements,), bias.dtype, bias.const.reshape(-1), bias.quantization
        )
    yield _linear(node, [x, weight, bias], axis=-1)


def _matmul(node: Node) -> Iterator[Node]:
    a, b, *rest = node.inputs
    assert a is not None
    assert b is not None
    bias = rest[0] if rest else None
    if b.const is not None and len(b.shape) == 2 and a.const is None:
        yield _linear(node, [a, transposed(b), bias], axis=-1)
        return
    if a.const is not None and len(a.shape) == 2 and len(b.shape) >= 2 and symmetric(a):
        yield _linear(node, [b, a, bias], axis=-2)
        return
    rank = max(len(a.shape), len(b.shape))
    operands: list[Value] = []
    for value in (a, b):
        if len(value.shape) < 2:
            raise node.refuse("one of the operands is a vector", "write it as a matrix")
        wanted = (1,) * (rank - len(value.shape)) + value.shape
        node_view, value = _reshaped(value, wanted, node)
        if node_view is not None:
            yield node_view
        operands.append(value)
    node.inputs = list(operands)
    yield node


def symmetric(weight: Value) -> bool:
    """Whether a constant can be the weight of a convolution or FULLY_CONNECTED."""
    grid = weight.quantization
    return grid is None or not grid.zero_point.any()


def _linear(node: Node, inputs: list[Value | None], axis: int) -> Node:
    node.op = "Linear"
    node.inputs = inputs if inputs[2] is not None else inputs[:2]
    node.attrs = {"axis": axis}
    return node


def transposed(weight: Value) -> Value:
    """A constant matrix with its axes swapped."""
    assert weight.const is not None
    grid = weight.quantization
    if grid is not None and grid.per_channel:
        grid = Quantization(grid.scale, grid.zero_point, 1 - grid.axis)
    array = np.ascontiguousarray(weight.const.T)
    integers = None if weight.integers is None else transposed(weight.integers)
    return Value(weight.name, array.shape, weight.dtype, array, grid, integers=integers)


def _scaled(node: Node, value: Value, factor: float) -> Value:
    if value.quantized or value.const is None:
        raise node.refuse("alpha or beta of a quantized operator differ from one")
    return Value(value.name, value.shape, value.dtype, (value.const * factor).astype(value.dtype))


# --- element-wise operators ------------------------------------------------------------------


def _binary_chain(node: Node) -> Iterator[Node]:
    """Max and Min of one operand, or of more than two, two at a time."""
    left = node.operands[0]
    if len(node.operands) == 1:
        yield replace(node, op="View", attrs={"view": View.identity(left.shape)})
    for number, right in enumerate(node.operands[1:]):
        last = number == len(node.operands) - 2
        shape = np.broadcast_shapes(left.shape, right.shape)
        out = node.outputs[0]
        if not last:
            out = Value(f"{out.name}/{number}", tuple(shape), out.dtype, None, out.quantization)
        step = replace(node, inputs=[left, right], outputs=[out], name=f"{node.name}/{number}")
        yield from _equal_ranks(step)
        yield step
        left = out


def _gather(node: Node) -> Iterator[Node]:
    """Gather; one constant index is a Slice whose axis a View drops, a table of them a vector whose
    axis a View cuts."""
    source, indices = node.operands[:2]
    axis = int(node.attrs.get("axis", 0)) % len(source.shape)
    node.attrs["axis"] = axis
    if indices.const is None or len(indices.shape) == 1:
        yield node
        return
    count = indices.elements
    shape = tuple(count if i == axis else d for i, d in enumerate(source.shape))
    output = node.outputs[0]
    part = Value(f"{output.name}/part", shape, output.dtype, None, output.quantization)
    if indices.shape == ():
        at = int(indices.const) % source.shape[axis]
        attrs = {"starts": [at], "ends": [at + 1], "axes": [axis]}
        yield replace(node, op="Slice", inputs=[source], outputs=[part], attrs=attrs)
    else:
        flat = replace(indices, shape=(count,), const=indices.const.reshape(-1))
        yield replace(node, inputs=[source, flat], outputs=[part])
    view = View.identity(shape).reshape(output.shape)
    yield replace(node, op="View", inputs=[part], attrs={"view": view})


def _equal_ranks(node: Node) -> Iterator[Node]:
    """Reshape operands to the rank of the output, so that all have the same axes."""
    rank = len(node.outputs[0].shape)
    for index, value in enumerate(node.inputs):
        if value is None or len(value.shape) == rank:
            continue
        view, value = _reshaped(value, (1,) * (rank - len(value.shape)) + value.shape, node)
        node.inputs[index] = value
        if view is not None:
            yield view


def _reshaped(value: Value, shape: Shape, reader: Node) -> tuple[Node | None, Value]:
    if value.shape == shape:
        return None, value
    made = Value(f"{value.name}/{'x'.join(map(str, shape))}", shape, value.dtype)
    made.quantization = value.quantization
    if value.const is not None:
        grid = value.quantization
        if grid is not None and grid.per_channel:
            shift = len(shape) - len(value.shape)
            made.quantization = Quantization(grid.scale, grid.zero_point, grid.axis + shift)
        made.const = value.const.reshape(shape)
        if value.integers is not None:
            made.integers = _reshaped(value.integers, shape, reader)[1]
        return None, made
    view = View.identity(value.shape).reshape(shape)
    node = Node("View", made.name, [value], [made], {"view": view}, reader.module)
    return node, made


def _reduction(node: Node) -> None:
    rank = len(node.operands[0].shape)
    axes = node.attrs.get("axes")
    if axes is None or np.size(axes) == 0:
        empty = bool(node.attrs.get("noop_with_empty_axes", 0))
        axes = () if empty else range(rank)
    keep = int(node.attrs.get("keepdims", 1))
    node.attrs = {
        "axes": tuple(sorted(int(a) % rank for a in np.ravel(list(axes)))),
        "keepdims": keep,
    }


def _reciprocal_roots(graph: Graph) -> None:
    """1 / √x as one ``Rsqrt``, where nothing else reads the root.

    LiteRT's kernel computes ``1.f / std::sqrt(x)``, the same two roundings.
    """
    readers = graph.readers()
    roots = {node.outputs[0]: node for node in graph.nodes if node.op == "Sqrt"}
    gone: set[Node] = set()
    for node in graph.nodes:
        below = node.operands[-1] if node.operands else None
        if not _is_reciprocal(node) or below not in roots or below in graph.outputs:
            continue
        if len(readers[below]) == 1 and below.shape == node.outputs[0].shape:
            gone.add(roots[below])
            node.op, node.inputs, node.attrs = "Rsqrt", list(roots[below].inputs), {}
    graph.nodes = [node for node in graph.nodes if node not in gone]


def _is_reciprocal(node: Node) -> bool:
    if node.op == "Div" and node.activation == "NONE" and not node.integer:
        above = node.operands[0].const
        return above is not None and above.size == 1 and float(above.reshape(-1)[0]) == 1.0
    return node.op == "Reciprocal"


# --- views -----------------------------------------------------------------------------------


def _view(node: Node) -> Node:
    source, output = node.operands[0], node.outputs[0]
    start: View | None = View.identity(source.shape)
    assert start is not None
    if node.op == "Transpose":
        default = tuple(reversed(range(len(source.shape))))
        view: View | None = start.transpose(node.attrs.get("perm", default))
    elif node.op == "SpaceToDepth":
        view = start.space_to_depth(int(node.attrs["blocksize"]))
    elif node.op == "DepthToSpace":
        view = start.depth_to_space(int(node.attrs["blocksize"]), node.attrs.get("mode", "DCR"))
    else:
        view = start.reshape(output.shape)
    perm = node.attrs.get("perm") if node.op == "Transpose" else None
    node.attrs = {"view": view} if perm is None else {"view": view, "perm": tuple(perm)}
    node.op = "View"
    return node


def merge_views(graph: Graph) -> Graph:
    """Compose each View with the one before it that nothing else reads, of `_FACTORS` at most."""
    readers = graph.readers()
    producers = {output: node for node in graph.nodes for output in node.outputs}
    gone: set[Node] = set()
    for node in graph.nodes:
        if node.op != "View" or node.attrs["view"] is None:
            continue
        while True:
            source = node.operands[0]
            before = producers.get(source)
            if before is None or before.op != "View" or before.attrs["view"] is None:
                break
            if len(readers[source]) > 1 or source in graph.outputs:
                break
            view = before.attrs["view"].then(node.attrs["view"])
            if view is None or len(view.simplified().sizes) > _FACTORS:
                break
            node.attrs = {"view": view}
            node.inputs = list(before.inputs)
            gone.add(before)
    graph.nodes = [node for node in graph.nodes if node not in gone]
    return graph


def _drop_dead(graph: Graph) -> None:
    needed = set(graph.outputs)
    kept = []
    for node in reversed(graph.nodes):
        if any(output in needed for output in node.outputs):
            kept.append(node)
            needed.update(node.operands)
    graph.nodes = kept[::-1]
