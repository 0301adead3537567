"""Depthwise convolutions with several filters per channel as several with one.

XNNPACK's depthwise kernels compute one filter per channel; more become a convolution in groups,
each a matrix product with one row, which takes up to six times as long in int8 (measured with
LiteRT 2.3: 14×14×48 with 4 filters of 3×3 228 µs in one operator, 33 µs in four and a
CONCATENATION). The parts lie behind each other, those of one channel apart: a view brings them
together, which cancels against the channel shuffle behind such a layer where there is one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from edgec.export.emit.tflite.graph import Graph, Node, Value
from edgec.export.emit.tflite.operators.convolution import is_depthwise
from edgec.export.rewrite.layout import View
from edgec.export.tflite.model import Quantization

_MOST = 5
"""Filters per channel from which on float convolutions of few channels are faster whole."""
_FEW = 16
"""Channels below which they are."""


def split_multiplied(graph: Graph, *, always: bool = False) -> None:
    """Divide the depthwise convolutions of `graph` that get faster by it, or all."""
    graph.nodes = [part for node in graph.nodes for part in _divided(node, always)]


def _divided(node: Node, always: bool) -> Iterator[Node]:
    if node.op != "Conv" or len(node.operands[0].shape) != 4 or not is_depthwise(node):
        yield node
        return
    output, weight, bias = node.outputs[0], node.inputs[1], [*node.inputs, None][2]
    batch, channels, *size = output.shape
    groups = node.operands[0].shape[1]
    count = channels // groups
    whole = not always and not node.integer and groups < _FEW and count > _MOST
    constants = weight is not None and all(v is None or v.const is not None for v in (weight, bias))
    if count == 1 or whole or not constants:
        yield node
        return
    parts = [
        Value(f"{output.name}/{j}", (batch, groups, *size), output.dtype, None, output.quantization)
        for j in range(count)
    ]
    for j, part in enumerate(parts):
        inputs = [node.inputs[0], *(v and _every(v, j, count) for v in (weight, bias))]
        yield replace(node, inputs=inputs, outputs=[part])
    behind = replace(output, name=f"{output.name}/parts")
    yield Node("Concat", f"{node.name}/parts", [*parts], [behind], {"axis": 1}, node.module)
    view = View.identity(output.shape).reshape((batch, count, groups, *size))
    assert view is not None
    view = view.transpose((0, 2, 1, 3, 4)).reshape(output.shape)
    yield Node("View", f"{node.name}/channels", [behind], [output], {"view": view}, node.module)


def _every(value: Value, first: int, step: int) -> Value:
    """Every `step`-th of a constant's output channels."""
    assert value.const is not None
    array = value.const[first::step]
    grid = value.quantization
    if grid is not None and grid.per_channel:
        grid = Quantization(grid.scale[first::step], grid.zero_point[first::step], grid.axis)
    name = f"{value.name}/{first}"
    integers = None if value.integers is None else _every(value.integers, first, step)
    return Value(name, array.shape, value.dtype, array, grid, integers=integers)
