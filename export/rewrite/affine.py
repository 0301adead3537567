"""Constant affine maps y = a·x + b, and the search for weights that can take them in.

BatchNormalization at inference, layer scale, attention scale, learned temperature and stray
constant Mul, Div, Add and Sub are all affine maps with constant a and b. `absorb_backward` carries
one towards the inputs, through views, reductions and dynamic products, to the linear operators that
can take it into their weights; `absorb_forward` carries it to the linear operators that read it.
Both first collect a complete plan and only then change the graph.

a and b are carried as arrays of the shape of the tensor they apply to (broadcast, so without
memory), which makes every Reshape and Transpose on the way trivial and exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgec.export.rewrite.graph import (
    Array,
    Builder,
    constant,
    float_attr,
    int_attr,
    ints,
    is_op,
    reduce_axes,
    remove_dead,
    replace_value,
    shape_of,
    sole_user,
    str_attr,
)
from edgec.export.rewrite.layout import View
from edgec.export.rewrite.linear import Linear, base_name, match_linear, rebuilt
from edgec.export.rewrite.view_nodes import as_view

Commit = Callable[[], None]
MAX_ELEMENTS = 1 << 24
"""Larger tensors are not followed through data-moving views (64 MiB per array)."""


@dataclass(frozen=True)
class Affine:
    """y = scale·x + shift, both of the shape of x (float64, usually broadcast views)."""

    scale: Array
    shift: Array

    @property
    def is_scaling(self) -> bool:
        """Whether nothing is added."""
        return not self.shift.any()


def match_affine(node: ir.Node) -> tuple[ir.Value, Affine] | None:
    """`node` as an affine map of one input: (that input, the map), or None.

    Refuses constants that broadcast the input to a larger shape.
    """
    if is_op(node, "BatchNormalization"):
        return _batch_norm(node)
    if not is_op(node, "Mul", "Div", "Add", "Sub") or len(node.inputs) != 2:
        return None
    left, right = node.inputs
    x, c, swapped = left, constant(right), False
    if c is None:
        x, c, swapped = right, constant(left), True
    shape = shape_of(x)
    if c is None or x is None or shape is None or shape != shape_of(node.outputs[0]):
        return None
    if c.dtype.kind != "f" or constant(x) is not None or (swapped and node.op_type == "Div"):
        return None
    c = np.broadcast_to(c.astype(np.float64), shape)
    one, zero = np.broadcast_to(1.0, shape), np.broadcast_to(0.0, shape)
    if node.op_type == "Mul":
        return x, Affine(c, zero)
    if node.op_type == "Div":
        return (x, Affine(_per_element(np.reciprocal, c), zero)) if c.all() else None
    if node.op_type == "Add":
        return x, Affine(one, c)
    return x, Affine(np.broadcast_to(-1.0, shape) if swapped else one, c if swapped else -c)


def _per_element(function: Callable[[Array], Array], array: Array) -> Array:
    """`function` on a broadcast array without materialising it."""
    base = array[tuple(slice(0, 1) if s == 0 else slice(None) for s in array.strides)]
    return np.broadcast_to(function(base), array.shape)


def _batch_norm(node: ir.Node) -> tuple[ir.Value, Affine] | None:
    """Inference form (ONNX BatchNormalization): (x - mean) / sqrt(var + eps) * scale + bias."""
    x, shape = node.inputs[0], shape_of(node.inputs[0])
    parameters = [constant(v) for v in node.inputs[1:5]]
    if x is None or shape is None or len(shape) < 2 or int_attr(node, "training_mode", 0):
        return None
    if any(p is None for p in parameters) or any(v.uses() for v in node.outputs[1:]):
        return None
    scale, bias, mean, var = (p.astype(np.float64) for p in parameters if p is not None)
    a = scale / np.sqrt(var + float_attr(node, "epsilon", 1e-5))
    b = bias - mean * a
    per_channel = (1, -1, *[1] * (len(shape) - 2))
    return x, Affine(
        np.broadcast_to(a.reshape(per_channel), shape),
        np.broadcast_to(b.reshape(per_channel), shape),
    )


def per_axis(array: Array, axis: int) -> Array | None:
    """The vector along `axis` if `array` is constant along all other axes, else None."""
    index = tuple(slice(None) if i == axis else slice(0, 1) for i in range(array.ndim))
    vector = array[index]
    broadcast = all(
        stride == 0 or size == 1
        for i, (stride, size) in enumerate(zip(array.strides, array.shape, strict=True))
        if i != axis
    )
    if not broadcast and not (array == vector).all():
        return None
    return vector.reshape(-1)


def constant_along(array: Array, axis: int) -> bool:
    """Whether `array` does not change along `axis`."""
    if array.shape[axis] == 1 or array.strides[axis] == 0:
        return True
    return bool((array == np.take(array, [0], axis=axis)).all())


def absorb_backward(
    reader: ir.Node, index: int, affine: Affine, depth: int = 0
) -> list[Commit] | None:
    """A plan after which input `index` of `reader` is affine(what it was), or None.

    Whatever the plan changes has no other reader, with one exception: where the search ends at the
    shared result of a linear operator (or a view of it), a uniform scale is left right there. If
    the other readers scale by the same number, the copies become one, and that one folds.
    """
    value = reader.inputs[index]
    node = None if value is None else value.producer()
    shape = shape_of(value)
    if value is None or node is None or shape is None or depth > 32:
        return None
    if sole_user(value) is None:
        return _leave_behind_shared(reader, index, affine) if depth else None
    matched = _absorb_linear(node, affine) or _absorb_norm(node, affine)
    if matched is not None:
        return matched
    view = as_view(node)
    if view is not None:
        if math.prod(shape) > MAX_ELEMENTS:
            return None
        back = view.inverse()
        moved = Affine(_apply(back, affine.scale), _apply(back, affine.shift))
        return absorb_backward(node, 0, moved, depth + 1)
    inner = match_affine(node)
    if inner is not None:
        return _through_affine(node, inner, affine, depth)
    if is_op(node, "ReduceMean", "GlobalAveragePool"):
        return _through_mean(node, affine, depth)
    if is_op(node, "MatMul") and affine.is_scaling:
        return _through_product(node, affine, depth)
    if is_op(node, "Add") and affine.is_scaling:
        return _through_sum(node, affine, depth)
    if is_op(node, "Split"):
        return _through_split(node, value, affine, depth)
    return None


def _apply(view: View, array: Array) -> Array:
    """The view of an array; uniform arrays stay free of memory."""
    if not any(array.strides):
        return np.broadcast_to(array.reshape(-1)[0], view.out_shape)
    return view.apply(array)


def _leave_behind_shared(reader: ir.Node, index: int, affine: Affine) -> list[Commit] | None:
    value = reader.inputs[index]
    if value is None or value.dtype is None or value.is_graph_output() or not affine.is_scaling:
        return None
    factor = affine.scale.reshape(-1)[:1]
    source = value.producer()
    while source is not None and as_view(source) is not None and source.inputs[0] is not None:
        source = source.inputs[0].producer()
    linear = _linear_ending_at(source)
    if linear is None or not (affine.scale == factor).all():
        return None

    def commit() -> None:
        builder = Builder(reader, linear.node)
        number = factor.astype(linear.weight.dtype).reshape(())
        scaled = builder.op(
            "Mul",
            [reader.inputs[index], builder.constant(number, "scale")],
            shape=shape_of(value),
            dtype=value.dtype,
        )
        reader.replace_input_with(index, scaled)

    return [commit]


def _linear_ending_at(node: ir.Node | None) -> Linear | None:
    """The linear operator whose result `node` computes (`node`, or the MatMul before its Add)."""
    if node is None:
        return None
    candidates = [node]
    if is_op(node, "Add"):
        candidates = [p for v in node.inputs if v is not None and (p := v.producer()) is not None]
    matches = (match_linear(candidate) for candidate in candidates)
    return next((m for m in matches if m is not None and m.last is node), None)


def _absorb_linear(node: ir.Node, affine: Affine) -> list[Commit] | None:
    """Into weights and bias of the linear operator whose result is the value."""
    linear = _linear_ending_at(node)
    if linear is None:
        return None
    a, b = per_axis(affine.scale, linear.axis), per_axis(affine.shift, linear.axis)
    if a is None or b is None or (linear.groups > 1 and linear.node.op_type == "ConvTranspose"):
        return None
    if b.any() and linear.node.op_type == "MatMul" and linear.bias is None:
        return None

    def commit() -> None:
        now = match_linear(linear.node)
        assert now is not None
        around = [1] * now.weight.ndim
        around[now.weight_axis] = -1
        weight = now.weight.astype(np.float64) * a.reshape(around)
        bias = now.bias
        if bias is not None or b.any():
            old = 0.0 if bias is None else bias.astype(np.float64)
            bias = old * a + b
        update(now, weight, bias)

    return [commit]


def update(linear: Linear, weight: Array, bias: Array | None) -> None:
    """Replace the operator in the graph by the same one on other weights."""
    builder = Builder(linear.last, linear.node)
    result = rebuilt(linear, builder, weight, bias)
    replace_value(linear.output, result)
    remove_dead([linear.last])


def _absorb_norm(node: ir.Node, affine: Affine) -> list[Commit] | None:
    """Into the affine part of LayerNormalization or BatchNormalization."""
    if is_op(node, "LayerNormalization"):
        shape = shape_of(node.inputs[0]) or ()
        axis = int_attr(node, "axis", -1) % max(len(shape), 1)
        if len(shape) - axis != 1:
            return None
        gain_at, offset_at = 1, 2
    elif is_op(node, "BatchNormalization") and match_affine(node) is not None:
        axis, gain_at, offset_at = 1, 1, 2
    else:
        return None
    gain = constant(node.inputs[gain_at])
    offset_value = node.inputs[offset_at] if len(node.inputs) > offset_at else None
    offset = constant(offset_value)
    a, b = per_axis(affine.scale, axis), per_axis(affine.shift, axis)
    if gain is None or a is None or b is None or (offset_value is not None and offset is None):
        return None

    def commit() -> None:
        builder = Builder(node)
        old = constant(node.inputs[gain_at])
        assert old is not None
        new = (old.astype(np.float64) * a).astype(old.dtype)
        node.replace_input_with(gain_at, builder.constant(new, base_name(node.inputs[1], "scale")))
        offset_now = constant(node.inputs[offset_at]) if len(node.inputs) > offset_at else None
        if offset_now is None and not b.any():
            return
        moved = (0.0 if offset_now is None else offset_now.astype(np.float64)) * a + b
        value = builder.constant(moved.astype(old.dtype), base_name(offset_value, "offset"))
        if len(node.inputs) <= offset_at:
            node.resize_inputs(offset_at + 1)
        node.replace_input_with(offset_at, value)

    return [commit]


def _through_affine(
    node: ir.Node, inner: tuple[ir.Value, Affine], outer: Affine, depth: int
) -> list[Commit] | None:
    """a·(c·x + d) + b = (a·c)·x + (a·d + b): merge, then carry on or stay in `node`."""
    x, own = inner
    merged = Affine(own.scale * outer.scale, own.shift * outer.scale + outer.shift)
    further = absorb_backward(node, list(node.inputs).index(x), merged, depth + 1)
    if further is None:
        return None

    def commit() -> None:
        now = match_affine(node)  # the plan before this commit may have replaced x
        assert now is not None
        replace_value(node.outputs[0], now[0])
        remove_dead([node])

    return [*further, commit]


def _through_mean(node: ir.Node, affine: Affine, depth: int) -> list[Commit] | None:
    """mean(x)·a + b = mean(a·x + b): a and b do not vary along what is averaged."""
    x = node.inputs[0]
    shape = shape_of(x)
    if x is None or shape is None:
        return None
    if node.op_type == "GlobalAveragePool":
        axes = tuple(range(2, len(shape)))
    else:
        axes = reduce_axes(node) or tuple(range(len(shape)))
    kept = [1 if i in axes else d for i, d in enumerate(shape)]
    spread = Affine(
        np.broadcast_to(affine.scale.reshape(kept), shape),
        np.broadcast_to(affine.shift.reshape(kept), shape),
    )
    return absorb_backward(node, 0, spread, depth + 1)


def _through_product(node: ir.Node, affine: Affine, depth: int) -> list[Commit] | None:
    """(u v)·a: into u if a is constant along columns, into v if constant along rows."""
    for side, along in ((0, -1), (1, -2)):
        operand = node.inputs[side]
        shape = shape_of(operand)
        if operand is None or shape is None or len(shape) < 2 or affine.scale.ndim < 2:
            continue
        if not constant_along(affine.scale, affine.scale.ndim + along):
            continue
        part = np.take(affine.scale, [0], axis=along)
        if part.ndim != len(shape):
            continue
        if any(p not in (1, d) for p, d in zip(part.shape, shape, strict=True)):
            continue
        scale, zero = np.broadcast_to(part, shape), np.broadcast_to(0.0, shape)
        planned = absorb_backward(node, side, Affine(scale, zero), depth + 1)
        if planned is not None:
            return planned
    return None


def _through_sum(node: ir.Node, affine: Affine, depth: int) -> list[Commit] | None:
    """(u + v)·a = u·a + v·a, if both sides can take it."""
    plans: list[Commit] = []
    if node.inputs[0] is node.inputs[1]:
        return None
    for index, operand in enumerate(node.inputs):
        if operand is None or shape_of(operand) != affine.scale.shape:
            return None
        planned = absorb_backward(node, index, affine, depth + 1)
        if planned is None:
            return None
        plans += planned
    return plans


def _through_split(
    node: ir.Node, output: ir.Value, affine: Affine, depth: int
) -> list[Commit] | None:
    """One part of a tensor is scaled: so is that part of the whole, all others by one."""
    shape = shape_of(node.inputs[0])
    if shape is None or math.prod(shape) > MAX_ELEMENTS:
        return None
    axis, start = int_attr(node, "axis", 0) % len(shape), 0
    for part in node.outputs:
        part_shape = shape_of(part)
        if part_shape is None:
            return None
        if part is output:
            break
        start += part_shape[axis]
    scale, shift = np.ones(shape), np.zeros(shape)
    at = [slice(None)] * len(shape)
    at[axis] = slice(start, start + affine.scale.shape[axis])
    scale[tuple(at)], shift[tuple(at)] = affine.scale, affine.shift
    return absorb_backward(node, 0, Affine(scale, shift), depth + 1)


def absorb_forward(value: ir.Value, affine: Affine, depth: int = 0) -> list[Commit] | None:
    """A plan that lets all readers of affine(value) read `value` instead, or None.

    Readers must be linear operators (directly, or behind views and means).
    """
    if value.is_graph_output() or not value.uses() or depth > 16:
        return None
    plans: list[Commit] = []
    for use in value.uses():
        if use.idx != 0:
            return None
        planned = _forward_into(use.node, affine, depth)
        if planned is None:
            return None
        plans += planned
    return plans


def _forward_into(node: ir.Node, affine: Affine, depth: int) -> list[Commit] | None:
    linear = match_linear(node)
    if linear is not None:
        return _forward_linear(linear, affine)
    view = as_view(node)
    if view is not None:
        if affine.scale.size > MAX_ELEMENTS:
            return None
        moved = Affine(view.apply(affine.scale), view.apply(affine.shift))
        return absorb_forward(node.outputs[0], moved, depth + 1)
    if is_op(node, "ReduceMean", "GlobalAveragePool"):
        rank = affine.scale.ndim
        axes = tuple(range(2, rank)) if node.op_type == "GlobalAveragePool" else reduce_axes(node)
        shape = shape_of(node.outputs[0])
        axes = axes or tuple(range(rank))
        if shape is None:
            return None
        a, b = affine.scale, affine.shift
        if not all(constant_along(a, i) and constant_along(b, i) for i in axes):
            return None
        first = tuple(slice(0, 1) if i in axes else slice(None) for i in range(rank))
        return absorb_forward(
            node.outputs[0], Affine(a[first].reshape(shape), b[first].reshape(shape)), depth + 1
        )
    return None


def _forward_linear(linear: Linear, affine: Affine) -> list[Commit] | None:
    """W(a·x + b) = (W·a)x + W·b; with zero padding only a scaling passes (the border is not b)."""
    node = linear.node
    axis = 1 if node.op_type != "MatMul" else affine.scale.ndim - 1
    if node.op_type == "Gemm" and int_attr(node, "transA", 0):
        return None
    a, b = per_axis(affine.scale, axis), per_axis(affine.shift, axis)
    if a is None or b is None or node.op_type == "ConvTranspose":
        return None
    padded = node.op_type == "Conv" and (
        any(ints(node, "pads") or ())
        or str_attr(node, "auto_pad", "NOTSET") not in ("NOTSET", "VALID")
    )
    if b.any() and (padded or (node.op_type == "MatMul" and linear.bias is None)):
        return None

    def commit() -> None:
        now = match_linear(node)
        assert now is not None
        weight = now.weight.astype(np.float64)
        if node.op_type == "Conv":
            # per group: inputs of output channel o are the channels of o's group
            inputs = weight.shape[1]
            group = np.arange(now.channels) // (now.channels // now.groups)
            index = group[:, None] * inputs + np.arange(inputs)[None, :]
            spatial = (1,) * (weight.ndim - 2)
            extra = (
                (weight * b[index].reshape(index.shape + spatial)).reshape(now.channels, -1).sum(1)
            )
            weight = weight * a[index].reshape(index.shape + spatial)
        else:
            rows = weight if now.weight_axis == 1 else weight.T
            extra = b @ rows
            rows = rows * a[:, None]
            weight = rows if now.weight_axis == 1 else rows.T
        bias = now.bias
        if bias is not None or b.any():
            bias = extra + (0.0 if bias is None else bias.astype(np.float64))
        update(now, weight, bias)

    return [commit]
