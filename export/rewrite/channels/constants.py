"""Constant operands, stored as floats or as integers behind a DequantizeLinear."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgec.export.rewrite.graph import Array, Builder, constant, int_attr, is_op

Floats = NDArray[np.float64]
Reals = NDArray[np.float32] | NDArray[np.float64]

_FLOATS = (np.float32, np.float64)
"""Narrower types round too coarsely for bounds to be trusted; their operators are left alone."""


@dataclass(frozen=True)
class Constant:
    """A constant operand.

    Attributes:
        real: its numbers, in the precision they are stored in; sums of them are for the reader to
            take in double precision.
        integers: stored integers less the zero point; None for a float initializer.
        scale: the scale of the integers, a scalar or one per index of `axis`.
        axis: the axis that has scales of its own, None where one scale holds for all.
    """

    real: Reals
    integers: NDArray[np.int64] | None = None
    scale: NDArray[np.float32] | None = None
    axis: int | None = None


def read_constant(value: ir.Value | None) -> Constant | None:
    """The constant behind `value`; None if it is computed, or quantized in blocks."""
    array = constant(value)
    if array is not None:
        return Constant(array) if array.dtype in _FLOATS else None
    node = None if value is None else value.producer()
    if node is None or not is_op(node, "DequantizeLinear") or int_attr(node, "block_size", 0):
        return None
    stored, scale = constant(node.inputs[0]), constant(node.inputs[1])
    if stored is None or scale is None or scale.dtype != np.float32 or scale.ndim > 1:
        return None
    zero: Array = np.zeros((), np.int64)
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        given = constant(node.inputs[2])
        if given is None:
            return None
        zero = given
    if stored.dtype.kind not in "iu":
        return None
    axis = None
    if scale.ndim == 1:
        axis = int_attr(node, "axis", 1) % stored.ndim
        if scale.size != stored.shape[axis]:
            return None
    integers = stored.astype(np.int64) - along(zero.astype(np.int64), axis, stored.ndim)
    real = integers * along(scale.astype(np.float64), axis, stored.ndim)
    return Constant(real, integers, scale, axis)


def along(vector: NDArray[Any], axis: int | None, rank: int) -> NDArray[Any]:
    """A vector laid along `axis` of a tensor of that rank; scalars stay as they are."""
    if axis is None or vector.ndim == 0:
        return vector.reshape(()) if vector.size == 1 else vector
    return vector.reshape([-1 if i == axis else 1 for i in range(rank)])


def sliced(builder: Builder, value: ir.Value, keep: Mapping[int, Array]) -> ir.Value:
    """The constant `value` with only the indices `keep` of each axis; stored as it was."""
    name = value.name or "constant"
    array = constant(value)
    if array is not None:
        return builder.constant(_take(array, keep), name)
    node = value.producer()
    assert node is not None
    stored = constant(node.inputs[0])
    assert stored is not None
    axis = int_attr(node, "axis", 1) % max(stored.ndim, 1)
    inputs = [builder.constant(_take(stored, keep), node.inputs[0].name or name)]  # type: ignore[union-attr]
    for parameter in node.inputs[1:]:
        vector = constant(parameter)
        if parameter is not None and vector is not None and vector.ndim == 1 and axis in keep:
            parameter = builder.constant(vector[keep[axis]], parameter.name or name)
        inputs.append(parameter)  # type: ignore[arg-type]
    shape = constant(inputs[0]).shape  # type: ignore[union-attr]
    attributes = {key: a.value for key, a in node.attributes.items()}
    return builder.op("DequantizeLinear", inputs, shape=shape, dtype=value.dtype, **attributes)


def _take(array: Array, keep: Mapping[int, Array]) -> Array:
    for axis, index in keep.items():
        array = np.take(array, index, axis=axis)
    return array
