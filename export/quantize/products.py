"""Layers with weights as plain products: W·x per group and patch of the input.

A convolution multiplies each patch of its input by the filters of the patch's group. Seen so, what
is known about a layer's input is the statistics of its patches.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from edgec.export.quantize.graph import constant_of
from edgec.export.rewrite.graph import float_attr, int_attr, ints, is_op, str_attr

Array = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Product:
    """A Conv (any spatial rank), Gemm or MatMul with a constant weight.

    Attributes:
        node: the layer.
        shape: of the weight as stored.
        groups: of a convolution; 1 for others.
        depth: numbers in a patch.
    """

    node: ir.Node
    shape: tuple[int, ...]
    groups: int
    depth: int

    @classmethod
    def of(cls, node: ir.Node) -> Product | None:
        """The product of a node with its second input; None if it has another form."""
        number = constant_of(node.inputs[1]) if len(node.inputs) > 1 else None
        if number is None or not is_op(node, "Conv", "Gemm", "MatMul"):
            return None
        shape = number.shape
        if node.op_type == "Conv":
            if str_attr(node, "auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
                return None
            return cls(node, shape, int_attr(node, "group", 1), number[0].size)
        scaled = float_attr(node, "alpha", 1.0) != 1.0 or float_attr(node, "beta", 1.0) != 1.0
        if len(shape) != 2 or int_attr(node, "transA", 0) or scaled:
            return None
        return cls(node, shape, 1, shape[1] if int_attr(node, "transB", 0) else shape[0])

    @property
    def _columns(self) -> bool:
        return self.node.op_type != "Conv" and not int_attr(self.node, "transB", 0)

    def rows(self, weight: Array) -> Array:
        """(groups, outputs of a group, depth) from the weight's shape."""
        return weight.T[None] if self._columns else weight.reshape(self.groups, -1, self.depth)

    def weight(self, rows: Array) -> Array:
        """The way back."""
        return np.ascontiguousarray(rows[0].T) if self._columns else rows.reshape(self.shape)

    def patches(self, x: Array, count: int, generator: np.random.Generator) -> Array:
        """(groups, patches, depth): all patches of an input, or `count` drawn ones."""
        return self.patches_at(x, _drawn(self.places(x), count, generator))

    def places(self, x: Array) -> int:
        """How many patches an input has: outputs of one channel."""
        if self.node.op_type != "Conv":
            return prod(x.shape[:-1])
        return len(x) * prod(self._windows(x).shape[2 : x.ndim])

    def patches_at(self, x: Array, places: NDArray[np.int64]) -> Array:
        """(groups, patches, depth): the patches of some outputs, numbered as these are stored."""
        if self.node.op_type != "Conv":
            return x.reshape(-1, x.shape[-1])[places][None]
        windows = self._windows(x)
        image, *place = np.unravel_index(places, (len(x), *windows.shape[2 : x.ndim]))
        chosen: tuple[Any, ...] = (image, slice(None), *place)
        found = windows[chosen].reshape(len(places), self.groups, self.depth)
        return np.moveaxis(found, 1, 0)

    def mean_patch(self, x: Array) -> Array:
        """(groups, depth), float64: the mean over all patches."""
        if self.node.op_type != "Conv":
            return np.asarray(x.reshape(1, -1, x.shape[-1]).mean(axis=1, dtype=np.float64))
        found = self._padded(x)
        steps = zip(self.shape[2:], self._strides, self._dilations, strict=True)
        for size, stride, dilation in steps:
            count = (found.shape[2] - (size - 1) * dilation - 1) // stride + 1
            starts = (dilation * tap for tap in range(size))
            taps = [found[:, :, a : a + stride * count : stride].mean(axis=2) for a in starts]
            found = np.stack(taps, axis=-1)
        return np.asarray(found.mean(axis=0, dtype=np.float64)).reshape(self.groups, self.depth)

    def _windows(self, x: Array) -> Array:
        """A view (images, channels, output size…, kernel size…) of the padded input."""
        spans = zip(self.shape[2:], self._dilations, strict=True)
        reach = [(size - 1) * dilation + 1 for size, dilation in spans]
        windows = sliding_window_view(self._padded(x), reach, axis=tuple(range(2, x.ndim)))
        steps = (slice(None, None, step) for step in (*self._strides, *self._dilations))
        view: Array = windows[(slice(None), slice(None), *steps)]
        return view

    def _padded(self, x: Array) -> Array:
        rank = x.ndim - 2
        pads = ints(self.node, "pads") or (0,) * (2 * rank)
        padded: Array = np.pad(x, ((0, 0), (0, 0), *zip(pads[:rank], pads[rank:], strict=True)))
        return padded

    @property
    def _strides(self) -> tuple[int, ...]:
        return ints(self.node, "strides") or (1,) * (len(self.shape) - 2)

    @property
    def _dilations(self) -> tuple[int, ...]:
        return ints(self.node, "dilations") or (1,) * (len(self.shape) - 2)


def _drawn(total: int, count: int, generator: np.random.Generator) -> NDArray[np.int64]:
    if total <= count:
        return np.arange(total)
    return np.sort(generator.choice(total, count, replace=False))
