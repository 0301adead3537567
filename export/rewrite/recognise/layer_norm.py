"""Layer normalization (Ba et al., 2016), spelled out in means, becomes LayerNormalization.

Over trailing axes that is one node. Channels-first networks normalise axis 1 of NCHW: there it
becomes Transpose, LayerNormalization, Transpose, and the view passes merge the transposes with
what is around them. Over the pixels of each channel it is InstanceNormalization (Ulyanov et al.,
2016), over all but the batch the normalization of one group (Wu and He, 2018).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgec.export.rewrite.base import RewritePass
from edgec.export.rewrite.graph import (
    Array,
    Builder,
    add_initializer,
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
    axes: tuple[int, ...]
    epsilon: float
    normalized: ir.Value


class RecogniseLayerNorm(RewritePass):
    """(x - mean) / √(var + ε) · γ + β over one axis or all trailing ones; γ and β may be missing.

    The square may be Pow 2, a product with itself, or the deviation computed twice; the division
    may be Div by Sqrt or Mul by Reciprocal(Sqrt). Refuses several axes that are not the last ones,
    computed ε, and a variance of another tensor.
    """

    name = "recognise-layer-norm"
    change = "ReduceMean, Sub, Pow, …, Sqrt, Div (, Mul, Add) → Layer- or InstanceNormalization"

    def rewrite(self, graph: ir.Graph) -> int:
        count = 0
        for node in graph:
            match = _match(node)
            if match is None:
                continue
            rank = len(shape_of(match.x) or ())
            trailing = match.axes == tuple(range(match.axes[0], rank))
            if not trailing and len(match.axes) > 1:
                self.refuse(node, f"axes {match.axes} are several and not the last ones")
                continue
            if trailing and match.axes[0] == 2 and rank > 3:
                _replace_per_channel(match)
            elif trailing and len(match.axes) > 1:
                _replace_trailing(match)
            else:
                _replace(match, match.axes[0])
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
    numerator = centred(deviation)
    spread = _mean_of_square(variance)
    if numerator is None or spread is None or epsilon is None:
        return None
    if numerator[0] is not spread[0] or numerator[1] != spread[1]:
        return None
    x, axes = numerator
    return _Match(x, axes, epsilon, node.outputs[0])


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


def _mean(value: ir.Value | None) -> tuple[ir.Value, tuple[int, ...]] | None:
    """(x, axes) if `value` is the mean of x over some axes, which are kept."""
    node = _producer(value)
    if node is None or not is_op(node, "ReduceMean") or not int_attr(node, "keepdims", 1):
        return None
    axes = reduce_axes(node)
    if not axes or node.inputs[0] is None or shape_of(node.inputs[0]) is None:
        return None
    return node.inputs[0], axes


def centred(value: ir.Value | None) -> tuple[ir.Value, tuple[int, ...]] | None:
    """(x, axes) if `value` is x minus its own mean."""
    node = _producer(value)
    if node is None or not is_op(node, "Sub"):
        return None
    mean = _mean(node.inputs[1])
    return mean if mean is not None and mean[0] is node.inputs[0] else None


def _mean_of_square(value: ir.Value | None) -> tuple[ir.Value, tuple[int, ...]] | None:
    """(x, axes) if `value` is the variance of x over some axes."""
    mean = _mean(value)
    if mean is None:
        return None
    square, axes = mean
    node = square.producer()
    if node is None:
        return None
    is_square = (is_op(node, "Pow") and scalar(node.inputs[1]) == 2.0) or (
        is_op(node, "Mul") and node.inputs[0] is node.inputs[1]
    )
    deviation = centred(node.inputs[0]) if is_square else None
    return deviation if deviation is not None and deviation[1] == axes else None


def _replace_per_channel(match: _Match) -> None:
    """Every channel of NC… by itself, γ and β per channel."""
    shape = shape_of(match.x)
    assert shape is not None
    gain, last = _followed_by(match.normalized, "Mul", 1, shape)
    offset, last = _followed_by(last, "Add", 1, shape)
    anchor, normalizer = last.producer(), match.normalized.producer()
    assert anchor is not None
    assert normalizer is not None
    builder = Builder(anchor, normalizer)
    kind = np.float32 if match.x.dtype is None else match.x.dtype.numpy()
    scale = np.ones(shape[1]) if gain is None else gain
    shift = np.zeros(shape[1]) if offset is None else offset
    result = builder.op(
        "InstanceNormalization",
        [
            match.x,
            builder.constant(scale.astype(kind), "scale"),
            builder.constant(shift.astype(kind), "offset"),
        ],
        shape=shape,
        dtype=match.x.dtype,
        epsilon=match.epsilon,
    )
    replace_value(last, result)
    remove_dead([anchor])


def _replace_trailing(match: _Match) -> None:
    """All trailing axes at once; γ and β stay outside, where weights can take them in."""
    shape = shape_of(match.x)
    normalizer = match.normalized.producer()
    assert shape is not None
    assert normalizer is not None
    builder = Builder(normalizer)
    axis = match.axes[0]
    result = builder.op(
        "LayerNormalization",
        [match.x, shared_ones(builder.graph, shape[axis:], match.x.dtype)],
        shape=shape,
        dtype=match.x.dtype,
        axis=axis,
        epsilon=match.epsilon,
    )
    replace_value(match.normalized, result)
    remove_dead([normalizer])


def shared_ones(graph: ir.Graph, shape: tuple[int, ...], dtype: ir.DataType | None) -> ir.Value:
    """The scale that changes nothing, one initializer per shape for all that need it."""
    kind = np.dtype(np.float32 if dtype is None else dtype.numpy())
    name = f"ones_{'x'.join(map(str, shape))}_{kind}"
    known = graph.initializers.get(name)
    array = constant(known)
    if known is not None and array is not None and array.shape == shape and (array == 1).all():
        return known
    return add_initializer(graph, np.ones(shape, kind), name)


def _replace(match: _Match, axis: int) -> None:
    shape = shape_of(match.x)
    assert shape is not None
    channels = shape[axis]
    last, gain, offset = match.normalized, None, None
    gain, last = _followed_by(last, "Mul", axis, shape)
    offset, last = _followed_by(last, "Add", axis, shape)
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
    to_last = [i for i in range(rank) if i != axis] + [axis]
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
