"""Gather whose indices only count: a view, not a table look-up.

torch.export leaves ``as_strided`` behind a pooled map of channels-last memory, and exporters write
it as Reshape to a vector and Gather by a tensor of indices of the result's shape. Runtimes copy
element by element for it, and several have no Gather with more than one axis of indices.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgec.export.rewrite.base import RewritePass
from edgec.export.rewrite.graph import (
    Builder,
    constant,
    int_attr,
    is_op,
    remove_dead,
    replace_value,
    shape_of,
)


class GatherToView(RewritePass):
    """Replace Gather by Reshape and Transpose where its constant indices are 0, 1, 2, …, each once,
    in any order of the axes of the index tensor.

    Refuses single indices, parts of the axis, repetitions, and every other order.
    """

    name = "gather-to-view"
    change = "Gather(x, 0 … n-1 in any order of axes) → Reshape → Transpose → Reshape"

    def rewrite(self, graph: ir.Graph) -> int:
        count = 0
        for node in graph:
            if not is_op(node, "Gather"):
                continue
            source, shape = node.inputs[0], shape_of(node.inputs[0])
            indices = constant(node.inputs[1])
            if source is None or not shape or indices is None or not indices.size:
                continue
            axis = int_attr(node, "axis", 0) % len(shape)
            extent = shape[axis]
            perm = _counting_order(np.where(indices < 0, indices + extent, indices), extent)
            if perm is None:
                continue
            builder = Builder(node)
            before, after = shape[:axis], shape[axis + 1 :]
            stored = [indices.shape[p] for p in perm]
            value = builder.reshape(source, (*before, *stored, *after))
            inner = [axis + perm.index(i) for i in range(len(perm))]
            rest = range(axis + len(perm), axis + len(perm) + len(after))
            value = builder.transpose(value, [*range(axis), *inner, *rest])
            replace_value(node.outputs[0], value)
            remove_dead([node])
            count += 1
        return count


def _counting_order(indices: NDArray[np.int64], extent: int) -> list[int] | None:
    """Axes of `indices`, outermost first, in whose order they count from 0 to extent - 1."""
    if indices.ndim == 0 or indices.size != extent:
        return None
    strides = []
    for axis, size in enumerate(indices.shape):
        second = tuple(int(a == axis) for a in range(indices.ndim))
        strides.append(int(indices[second]) if size > 1 else 0)
    # an axis of one element may stand anywhere: where it is, next to its neighbour
    order = [a for a in range(indices.ndim) if indices.shape[a] > 1]
    order.sort(key=lambda a: -strides[a])
    if order == sorted(order):
        order = list(range(indices.ndim))
    else:
        order += [a for a in range(indices.ndim) if indices.shape[a] == 1]
    sizes = [indices.shape[a] for a in order]
    counted = np.arange(math.prod(sizes)).reshape(sizes)
    inverse = [order.index(a) for a in range(indices.ndim)]
    return order if np.array_equal(counted.transpose(inverse), indices) else None
