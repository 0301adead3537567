"""Parallel branches that were trained apart become the one convolution that they compute.

RepVGG (Ding et al., 2021), MobileOne, FastViT and RepViT sum convolutions of different kernel size,
a BatchNorm and the input itself; all of them are convolutions of the widest kernel, whose weights
add up. Depthwise and grouped branches likewise.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from edgec.export.rewrite.affine import match_affine, per_axis, update
from edgec.export.rewrite.base import RewritePass
from edgec.export.rewrite.fold.merge_parallel import linear_behind
from edgec.export.rewrite.graph import (
    Array,
    ints,
    is_op,
    remove_dead,
    replace_value,
    shape_of,
    sole_user,
    str_attr,
)
from edgec.export.rewrite.linear import Linear
from edgec.export.rewrite.slices import slices_of


@dataclass(frozen=True)
class _Tap:
    """scale · x[..., start::step, ...] + shift per channel: a convolution with one weight."""

    x: ir.Value
    scale: Array
    shift: Array
    starts: tuple[int, ...]
    steps: tuple[int, ...]
    is_residual: bool = False


class MergeBranches(RewritePass):
    """Conv(x) ± Conv(x) of other kernel size, Conv(x) ± BN(x), Conv(x) ± x, Conv(x) ± s·x.

    Refuses other strides or dilations, kernels that do not lie inside the wider one, a wider kernel
    with more groups (the sum would cost more), branches with a second reader, and x added to a
    dense 1×1 convolution of it: that is the residual of a linear layer and no trained branch, and
    the integer grid of I + W would be too coarse for W.
    """

    name = "merge-branches"
    change = "Conv k×k(x) + Conv 1×1(x) + BN(x) + x → one Conv k×k"

    def rewrite(self, graph: ir.Graph) -> int:
        count = 0
        for node in graph:
            if not is_op(node, "Add", "Sub") or len(node.inputs) != 2:
                continue
            merged = _merge(node)
            if isinstance(merged, str):
                self.refuse(node, merged)
                continue
            if merged is None:
                continue
            kept, weight, bias = merged
            replace_value(node.outputs[0], kept.output)
            remove_dead([node])
            update(kept, weight, bias)
            count += 1
        return count


def _merge(node: ir.Node) -> tuple[Linear, Array, Array | None] | str | None:
    """(convolution to keep, its new weights and bias); why not; None if nothing is parallel."""
    out = shape_of(node.outputs[0])
    left, right = (_convolution(value, node) for value in node.inputs)
    if out is None or any(shape_of(value) != out for value in node.inputs):
        return None
    subtracted = is_op(node, "Sub")
    if subtracted and right is not None:
        right = _negated(right)
    if left is not None and right is not None:
        if left.node.inputs[0] is not right.node.inputs[0]:
            return None
        big, small = sorted((left, right), key=lambda c: (-c.weight[0, 0].size, c.groups))
        return _embed(big, small)
    conv, value = (left, node.inputs[1]) if left is not None else (right, node.inputs[0])
    tap = None if conv is None or value is None else _tap(value, node, conv.node.inputs[0])
    if conv is None or tap is None:
        return None
    if subtracted and left is not None:
        tap = replace(tap, scale=-tap.scale, shift=-tap.shift)
    return _add_tap(conv, tap)


def _negated(linear: Linear) -> Linear:
    bias = None if linear.bias is None else -linear.bias
    return replace(linear, weight=-linear.weight, bias=bias)


def _convolution(value: ir.Value | None, reader: ir.Node) -> Linear | None:
    linear = linear_behind(value, reader)
    return linear if linear is not None and is_op(linear.node, "Conv") else None


def _tap(value: ir.Value, reader: ir.Node, x: ir.Value | None) -> _Tap | None:
    """`value` as one tap on x: x itself, an affine map per channel, or every s-th pixel."""
    shape = shape_of(x)
    if x is None or shape is None or len(shape) < 3:
        return None
    spatial = len(shape) - 2
    one, zero = np.ones(shape[1]), np.zeros(shape[1])
    if value is x:
        return _Tap(x, one, zero, (0,) * spatial, (1,) * spatial, is_residual=True)
    node = value.producer()
    if node is None or sole_user(value) is not reader or node.inputs[0] is None:
        return None
    matched = match_affine(node)
    if matched is not None and matched[0] is x:
        scale, shift = per_axis(matched[1].scale, 1), per_axis(matched[1].shift, 1)
        if scale is None or shift is None:
            return None
        return _Tap(x, scale, shift, (0,) * spatial, (1,) * spatial)
    cut = slices_of(node, shape) if node.inputs[0] is x else None
    if cut is None or cut[:2] != (slice(0, shape[0], 1), slice(0, shape[1], 1)):
        return None
    if any(c.step < 1 for c in cut):
        return None
    return _Tap(x, one, zero, tuple(c.start for c in cut[2:]), tuple(c.step for c in cut[2:]))


def _geometry(linear: Linear) -> tuple[tuple[int, ...], ...] | None:
    """(strides, dilations, padding at the beginning) per spatial axis; None if automatic."""
    node, spatial = linear.node, linear.weight.ndim - 2
    if str_attr(node, "auto_pad", "NOTSET") != "NOTSET":
        return None
    ones, zeros = (1,) * spatial, (0,) * (2 * spatial)
    pads = ints(node, "pads") or zeros
    return ints(node, "strides") or ones, ints(node, "dilations") or ones, pads[:spatial]


def _embed(big: Linear, small: Linear) -> tuple[Linear, Array, Array | None] | str:
    """The weights of `small` added to those of `big`, centred where its kernel lies."""
    a, b = _geometry(big), _geometry(small)
    if a is None or b is None or a[0] != b[0]:
        return "the branches differ in stride, or pad automatically"
    kernel = small.weight.shape[2:]
    if a[1] != b[1] and set(kernel) != {1}:
        return "the branches differ in dilation"
    if big.weight.dtype != small.weight.dtype or small.groups % big.groups:
        return "the wider kernel has more groups"
    at = _position(a[2], b[2], a[1])
    inside = at is not None and all(
        p >= 0 and p + k <= full
        for p, k, full in zip(at, kernel, big.weight.shape[2:], strict=True)
    )
    if at is None or not inside:
        return "one kernel does not lie inside the other"
    weight = big.weight.astype(np.float64)
    window = tuple(slice(p, p + k) for p, k in zip(at, kernel, strict=True))
    weight[(slice(None), slice(None), *window)] += _regrouped(small, big.groups)
    return big, weight, _sum(big.bias, small.bias)


def _position(
    pads: tuple[int, ...], other: tuple[int, ...], dilations: tuple[int, ...]
) -> tuple[int, ...] | None:
    """Index into the kernel of the tap that reads what the other's first tap reads."""
    offsets = [p - o for p, o in zip(pads, other, strict=True)]
    if any(o % d for o, d in zip(offsets, dilations, strict=True)):
        return None
    return tuple(o // d for o, d in zip(offsets, dilations, strict=True))


def _regrouped(linear: Linear, groups: int) -> Array:
    """The weights written for fewer groups, with zeros between the channels of different ones."""
    weight: Array = linear.weight.astype(np.float64)
    if linear.groups == groups:
        return weight
    outputs, inputs = weight.shape[:2]
    per_group = linear.groups // groups
    full = np.zeros((outputs, inputs * per_group, *weight.shape[2:]))
    for o in range(outputs):
        member = o // (outputs // linear.groups) % per_group
        full[o, member * inputs : (member + 1) * inputs] = weight[o]
    return full


def _add_tap(conv: Linear, tap: _Tap) -> tuple[Linear, Array, Array | None] | str:
    geometry = _geometry(conv)
    if geometry is None or geometry[0] != tap.steps:
        return "the branches differ in stride, or pad automatically"
    channels = len(tap.scale)
    per_group = conv.weight.shape[1]
    if conv.channels != channels or per_group * conv.groups != channels:
        return "the convolution changes the number of channels"
    kernel = conv.weight.shape[2:]
    if set(kernel) == {1} and per_group > 1 and tap.is_residual:
        return "the residual of a linear layer"
    at = _position(geometry[2], tuple(-s for s in tap.starts), geometry[1])
    if at is None or any(not 0 <= p < k for p, k in zip(at, kernel, strict=True)):
        return "the pixel itself lies outside of the kernel"
    weight = conv.weight.astype(np.float64)
    index = np.arange(channels)
    weight[(index, index % per_group, *at)] += tap.scale
    shift = tap.shift if tap.shift.any() else None
    return conv, weight, _sum(conv.bias, shift)


def _sum(a: Array | None, b: Array | None) -> Array | None:
    if a is None or b is None:
        return b if a is None else a
    total: Array = a.astype(np.float64) + b
    return total
