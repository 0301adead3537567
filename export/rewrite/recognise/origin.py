"""Where the elements of a tensor come from: its axes traced back to a map or a row of tokens.

Attention code reshapes, transposes, slices and gathers its queries, keys and values in countless
ways. Instead of matching those, the coordinates of the tensor they all start from are pushed
through the very same operators; how they vary along the axes of a matrix product then tells heads,
windows, dilation and which of tokens and channels attend.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgec.export.rewrite.graph import Array, constant, int_attr, is_op, shape_of
from edgec.export.rewrite.slices import slices_of
from edgec.export.rewrite.view_nodes import as_view

MAX_ELEMENTS = 1 << 21
"""Larger tensors are not traced."""

_ELEMENTWISE = (
    *("Add", "Sub", "Mul", "Div", "Clip", "Cast", "Relu", "Gelu", "Sigmoid", "HardSwish", "Erf"),
    *("LpNormalization", "QuantizeLinear", "DequantizeLinear", "Dropout", "Tanh", "Softmax"),
)
_ELEMENTWISE_OF_ONE = (
    *("LpNormalization", "Mul", "Div", "Cast", "Dropout", "QuantizeLinear", "DequantizeLinear"),
)
_FIRST_AXIS = (
    *("Conv", "ConvTranspose", "BatchNormalization", "InstanceNormalization", "Resize"),
    *("MaxPool", "AveragePool", "GlobalAveragePool"),
)


@dataclass(frozen=True)
class Origin:
    """A tensor traced back to `source`.

    Attributes:
        source: the tensor that its elements come from, unmoved.
        channel_axis: the axis of `source` that holds channels.
        coordinates: for every axis of `source`, the position on it of each element (int64 arrays of
            the traced tensor's shape).
    """

    source: ir.Value
    channel_axis: int
    coordinates: tuple[Array, ...]

    def varies(self, axis: int, along: Iterable[int]) -> bool:
        """Whether the position on `axis` of the source changes along axes of the tensor."""
        return any(_varies(self.coordinates[axis], i) for i in along)

    def count(self, axes: Iterable[int], along: Iterable[int]) -> int:
        """Number of different positions on `axes` of the source met along axes of the tensor."""
        along = tuple(along)
        total = 1
        for axis in axes:
            array = self.coordinates[axis]
            line = array[tuple(slice(None) if i in along else 0 for i in range(array.ndim))]
            total *= len(np.unique(line))
        return total

    def step(self, axis: int, along: int) -> int:
        """Smallest positive distance between positions on `axis` along an axis of the tensor."""
        array = np.moveaxis(self.coordinates[axis], along, -1)
        line = np.unique(array.reshape(-1, array.shape[-1])[0])
        return int(np.diff(line).min()) if len(line) > 1 else 0


def trace(value: ir.Value | None) -> Origin | None:
    """The origin of `value` behind views, selections and elementwise operators.

    None if the tensor is too large, its shape unknown, or its channel axis cannot be told.
    """
    moves: list[tuple[ir.Node, ir.Value]] = []
    while value is not None and (node := value.producer()) is not None:
        if not node.inputs or node.inputs[0] is None:
            break
        moved = as_view(node) is not None or _is_selection(node)
        if not moved and not _passes(node):
            break
        if moved:
            moves.append((node, value))
        value = _data(node)
    shape = shape_of(value)
    axis = channel_axis(value)
    if value is None or shape is None or axis is None or math.prod(shape) > MAX_ELEMENTS:
        return None
    grids: list[Array] = list(
        np.meshgrid(*[np.arange(d) for d in shape], indexing="ij", copy=False)
    )
    for node, output in reversed(moves):
        grids = [_move(node, output, grid) for grid in grids]
    return Origin(value, axis, tuple(grids))


def _passes(node: ir.Node) -> bool:
    """Elementwise, of one computed tensor of the result's shape."""
    if not is_op(node, *_ELEMENTWISE_OF_ONE):
        return False
    computed = [v for v in node.inputs if v is not None and constant(v) is None]
    return len(computed) == 1 and shape_of(computed[0]) == shape_of(node.outputs[0])


def _data(node: ir.Node) -> ir.Value | None:
    return next((v for v in node.inputs if v is not None and constant(v) is None), None)


def _is_selection(node: ir.Node) -> bool:
    if not is_op(node, "Slice", "Gather", "Split") or constant(node.inputs[0]) is not None:
        return False
    return all(v is None or constant(v) is not None for v in node.inputs[1:])


def _move(node: ir.Node, output: ir.Value, array: Array) -> Array:
    """What a view or selection does to an array of its input's shape."""
    view = as_view(node)
    if view is not None:
        return view.apply(array)
    if is_op(node, "Gather"):
        index = constant(node.inputs[1])
        assert index is not None
        return np.take(array, index, axis=int_attr(node, "axis", 0))
    if is_op(node, "Split"):
        axis, start = int_attr(node, "axis", 0) % array.ndim, 0
        for part in node.outputs:
            size = (shape_of(part) or (0,) * array.ndim)[axis]
            if part is output:
                return np.take(array, np.arange(start, start + size), axis=axis)
            start += size
    cut = slices_of(node, array.shape)
    assert cut is not None
    return array[cut]


def _varies(array: Array, axis: int) -> bool:
    return bool((array != np.take(array, [0], axis=axis)).any())


def channel_axis(value: ir.Value | None) -> int | None:
    """The axis of `value` that holds channels, told by the operator that computed it.

    Elementwise operators are looked through, views are not.
    """
    for _ in range(64):
        node = None if value is None else value.producer()
        shape = shape_of(value)
        if node is None or shape is None:
            return None
        if is_op(node, *_FIRST_AXIS):
            return 1
        if is_op(node, "LayerNormalization"):
            return 1 if int_attr(node, "axis", -1) % len(shape) == 1 else len(shape) - 1
        if is_op(node, "MatMul", "Gemm"):
            weight = constant(node.inputs[1])
            return len(shape) - 1 if weight is not None and weight.ndim == 2 else None
        if not is_op(node, *_ELEMENTWISE, "Concat", "Max", "Min"):
            return None
        value = next(
            (
                v
                for v in node.inputs
                if v is not None
                and constant(v) is None
                and (shape_of(v) == shape or node.op_type == "Concat")
            ),
            None,
        )
    return None
