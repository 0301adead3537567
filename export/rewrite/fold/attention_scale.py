"""Constant factors of attention scores that no weights could take in meet in one place.

Frameworks scale the queries, the keys, their product, or both operands by the root of the factor;
where the factor folds into a projection it is gone. What is left (queries that are pixels or tokens
as they are, a learned temperature behind an L2 norm) becomes one Mul on the smallest of the three
tensors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgec.export.rewrite.base import RewritePass
from edgec.export.rewrite.graph import (
    Array,
    Builder,
    constant,
    is_op,
    remove_dead,
    replace_value,
    shape_of,
    sole_user,
)
from edgec.export.rewrite.recognise.attention import match_core
from edgec.export.rewrite.view_nodes import as_view


@dataclass(frozen=True)
class _Factor:
    """A Mul or Div by a constant that does not vary within a matrix."""

    node: ir.Node
    x: ir.Value
    array: Array


class PlaceAttentionScale(RewritePass):
    """Scales on q, on k (behind views, if uniform) and on q k → one Mul on the smallest.

    Refuses scales that vary inside a matrix, tensors with a second reader, and a single Mul that is
    in the best place already.
    """

    name = "place-attention-scale"
    change = "(s₁·q)(s₂·k) / s₃ → one Mul by s₁·s₂/s₃ on the smallest of q, k and q k"

    def rewrite(self, graph: ir.Graph) -> int:
        count = 0
        for node in graph:
            core = match_core(node) if is_op(node, "Softmax") else None
            if core is None or isinstance(core, str) or core.scores.graph is not graph:
                continue
            count += self._place(core.scores)
        return count

    def _place(self, scores: ir.Node) -> int:
        output = scores.outputs[0]
        tensors = [scores.inputs[0], scores.inputs[1], output]
        shapes = [shape_of(value) for value in tensors]
        rank = len(shapes[2] or ())
        if any(shape is None or len(shape) != rank for shape in shapes):
            return 0
        leading = (shapes[2] or ())[:-2]
        before = [_factors_before(v, scores) for v in tensors[:2]]
        after = _factors_after(scores, leading)
        factors = [*before[0], *before[1], *after]
        if not factors:
            return 0
        sizes = [math.prod(shape or ()) for shape in shapes]
        if after:  # a factor on the product may vary between heads, as may one put there
            sizes[0] = sizes[0] if (shapes[0] or ())[:-2] == leading else sizes[2] + 1
            sizes[1] = sizes[1] if (shapes[1] or ())[:-2] == leading else sizes[2] + 1
        for i in (0, 1):  # learned queries: the factor goes into the constant
            sizes[i] = 0 if constant(tensors[i]) is not None and sizes[i] <= sizes[2] else sizes[i]
        if sole_user(output) is None:  # what reads the product several times is not scaled twice
            sizes[2] = sizes[0] + sizes[1]
        best = min((2, 0, 1), key=lambda i: sizes[i])
        now = [i for i, found in enumerate((before[0], before[1], after)) for _ in found]
        if len(factors) == 1 and sizes[now[0]] <= sizes[best] and is_op(factors[0].node, "Mul"):
            self.refuse(scores, "the scale is in the best place already")
            return 0
        total: Array = np.ones((1,) * rank)
        for factor in factors:
            total = total * factor.array
        for factor in factors:
            replace_value(factor.node.outputs[0], factor.x)
            remove_dead([factor.node])
        _insert(scores, best, total)
        return 1


def _insert(scores: ir.Node, place: int, array: Array) -> None:
    """One Mul on operand 0 or 1 of `scores` or on its result."""
    value = scores.outputs[0] if place == 2 else scores.inputs[place]
    assert value is not None
    shape, dtype = shape_of(value), value.dtype
    kind = np.float32 if dtype is None else dtype.numpy()
    number = array.reshape(()) if array.size == 1 else array
    learned = constant(value)
    if learned is not None:
        scaled_array = (learned.astype(np.float64) * array).astype(learned.dtype)
        new = Builder(scores).constant(scaled_array, value.name or "queries")
        scores.replace_input_with(place, new)
        return
    if place < 2:
        builder = Builder(scores)
        scale = builder.constant(number.astype(kind), "attention_scale")
        scaled = builder.op("Mul", [value, scale], shape=shape, dtype=dtype)
        scores.replace_input_with(place, scaled)
        return
    following = next(iter(value.uses())).node
    builder = Builder(following, scores)
    scale = builder.constant(number.astype(kind), "attention_scale")
    scaled = builder.op("Mul", [value, scale], shape=shape, dtype=dtype)
    value.replace_all_uses_with(scaled)
    made = scaled.producer()
    assert made is not None
    made.replace_input_with(0, value)


def _factors_before(value: ir.Value | None, reader: ir.Node) -> list[_Factor]:
    """Uniform factors on the way to an operand, through views; all of it has one reader."""
    found: list[_Factor] = []
    node = reader
    while value is not None and sole_user(value) is node:
        before = value.producer()
        if before is None or before.graph is not reader.graph:
            break
        factor = _factor(before)
        if factor is not None and factor.array.size == 1:
            rank = len(shape_of(reader.outputs[0]) or ())
            found.append(_Factor(before, factor.x, factor.array.reshape((1,) * rank)))
            value, node = factor.x, before
        elif as_view(before) is not None:
            value, node = before.inputs[0], before
        else:
            break
    return found


def _factors_after(scores: ir.Node, leading: tuple[int, ...]) -> list[_Factor]:
    """Factors right behind the product, each the only reader; they may differ between heads."""
    found: list[_Factor] = []
    value = scores.outputs[0]
    while (node := sole_user(value)) is not None and node.graph is scores.graph:
        factor = _factor(node)
        if factor is None or factor.x is not value:
            break
        rank = len(leading) + 2
        if factor.array.ndim > rank:
            break
        array = factor.array.reshape((1,) * (rank - factor.array.ndim) + factor.array.shape)
        if array.shape[-2:] != (1, 1):
            break
        found.append(_Factor(node, value, array))
        value = node.outputs[0]
    return found


def _factor(node: ir.Node) -> _Factor | None:
    """`node` as a constant factor that does not change the shape."""
    if not is_op(node, "Mul", "Div"):
        return None
    left, right = node.inputs
    x, array = left, constant(right)
    if array is None and is_op(node, "Mul"):
        x, array = right, constant(left)
    if x is None or array is None or array.dtype.kind != "f" or constant(x) is not None:
        return None
    if shape_of(x) is None or shape_of(x) != shape_of(node.outputs[0]):
        return None
    numbers = array.astype(np.float64)
    if is_op(node, "Div"):
        if not numbers.all():
            return None
        numbers = 1 / numbers
    return _Factor(node, x, numbers)
