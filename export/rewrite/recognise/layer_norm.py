"""Layer normalization (Ba et al., 2016), spelled out in means, becomes LayerNormalization.

Over the last axis that is one node. Channels-first networks normalise axis 1 of NCHW: there it
becomes Transpose, LayerNormalization, Transpose, and the view passes merge the transposes with
what is around them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgec.export.rewrite.base import RewritePass
from edgec.export.rewrite.graph import (
    Array,
    Builder,
    constant,
    int_attr,
    is_op,
    reduce_axes,
    remove_dead,
    replace_value,
    scalar,
    shape_of,
    sole_user,
)


@dataclass(frozen=True)
class _Match:
    x: ir.Value
    axis: int
    epsilon: float
    normalized: ir.Value


class RecogniseLayerNorm(RewritePass):
    """(x - mean) / √(var + ε) · γ + β over one axis; γ and β may be missing.

    The square may be Pow 2, a product with itself, or the deviation computed twice; the division
    may be Div by Sqrt or Mul by Reciprocal(Sqrt). Refuses several axes, computed ε, and a variance
    of another tensor.
    """

    name = "recognise-layer-norm"
    change = "ReduceMean, Sub, Pow, ReduceMean, Add, Sqrt, Div (, Mul, Add) → LayerNormalization"

    def rewrite(self, graph: ir.Graph) -> int:
        count = 0
        for node in graph:
            match = _match(node)
            if match is None:
                continue
            _replace(match)
            count += 1
        return count


def _match(node: ir.Node) -> _Match | None:
    """Match from the node that divides by the standard deviation."""
    deviation, deviator = _quotient(node)
    if deviator is None or not is_op(deviator, "Sqrt") or deviation is None:
        return None
    shifted = _producer(deviator.inputs[0])
    if shifted is None or not is_op(shifted, "Add"):
        return None
    variance, epsilon = shifted.inputs[0], scalar(shifted.inputs[1])
    if epsilon is None:
        variance, epsilon = shifted.inputs[1], scalar(shifted.inputs[0])
    centred = _centred(deviation)
    spread = _mean_of_square(variance)
    if centred is None or spread is None or epsilon is None:
        return None
    if centred[0] is not spread[0] or centred[1] != spread[1]:
        return None
    x, axis = centred
    return _Match(x, axis, epsilon, node.outputs[0])


def _quotient(node: ir.Node) -> tuple[ir.Value | None, ir.Node | None]:
    """(numerator, producer of the denominator) of a division, also by way of Reciprocal."""
    if is_op(node, "Div"):
        return node.inputs[0], _producer(node.inputs[1])
    if is_op(node, "Mul"):
        for one, other in (node.inputs, tuple(reversed(node.inputs))):
            reciprocal = _producer(other)
            if reciprocal is not None and is_op(reciprocal, "Reciprocal"):
                return one, _producer(reciprocal.inputs[0])
    return None, None


def _producer(value: ir.Value | None) -> ir.Node | None:
    return None if value is None else value.producer()


def _mean(value: ir.Value | None) -> tuple[ir.Value, int] | None:
    """(x, axis) if `value` is the mean of x over one axis with the axis kept."""
    node = _producer(value)
    if node is None or not is_op(node, "ReduceMean") or not int_attr(node, "keepdims", 1):
        return None
    axes = reduce_axes(node)
    if axes is None or len(axes) != 1 or node.inputs[0] is None:
        return None
    return node.inputs[0], axes[0]


def _centred(value: ir.Value | None) -> tuple[ir.Value, int] | None:
    """(x, axis) if `value` is x minus its own mean."""
    node = _producer(value)
    if node is None or not is_op(node, "Sub"):
        return None
    mean = _mean(node.inputs[1])
    return mean if mean is not None and mean[0] is node.inputs[0] else None


def _mean_of_square(value: ir.Value | None) -> tuple[ir.Value, int] | None:
    """(x, axis) if `value` is the variance of x over one axis."""
    mean = _mean(value)
    if mean is None:
        return None
    square, axis = mean
    node = square.producer()
    if node is None:
        return None
    is_square = (is_op(node, "Pow") and scalar(node.inputs[1]) == 2.0) or (
        is_op(node, "Mul") and node.inputs[0] is node.inputs[1]
    )
    centred = _centred(node.inputs[0]) if is_square else None
    return centred if centred is not None and centred[1] == axis else None


def _replace(match: _Match) -> None:
    shape = shape_of(match.x)
    assert shape is not None
    channels = shape[match.axis]
    last, gain, offset = match.normalized, None, None
    gain, last = _followed_by(last, "Mul", match.axis, shape)
    offset, last = _followed_by(last, "Add", match.axis, shape)
    anchor = last.producer()
    normalizer = match.normalized.producer()
    assert anchor is not None
    assert normalizer is not None
    builder = Builder(anchor, normalizer)
    dtype = match.x.dtype
    kind = np.float32 if dtype is None else dtype.numpy()
    scale = np.ones(channels, kind) if gain is None else gain.astype(kind)
    inputs: list[ir.Value | None] = [builder.constant(scale, "scale")]
    if offset is not None:
        inputs.append(builder.constant(offset.astype(kind), "offset"))
    rank = len(shape)
    to_last = [i for i in range(rank) if i != match.axis] + [match.axis]
    back = [int(i) for i in np.argsort(to_last)]
    x = builder.transpose(match.x, to_last)
    result = builder.op(
        "LayerNormalization",
        [x, *inputs],
        shape=shape_of(x),
        dtype=dtype,
        axis=-1,
        epsilon=match.epsilon,
    )
    replace_value(last, builder.transpose(result, back))
    remove_dead([anchor])


def _followed_by(
    value: ir.Value, op_type: str, axis: int, shape: tuple[int, ...]
) -> tuple[Array | None, ir.Value]:
    """(vector along `axis`, result) if the only reader multiplies or adds one."""
    node = sole_user(value)
    if node is None or not is_op(node, op_type):
        return None, value
    other = node.inputs[1] if node.inputs[0] is value else node.inputs[0]
    array = constant(other)
    if array is None or shape_of(node.outputs[0]) != shape:
        return None, value
    full = array.reshape((1,) * (len(shape) - array.ndim) + array.shape)
    if any(d != 1 for i, d in enumerate(full.shape) if i != axis):
        return None, value
    return np.broadcast_to(full.reshape(-1), (shape[axis],)), node.outputs[0]
