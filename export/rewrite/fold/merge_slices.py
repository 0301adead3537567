"""Slices of slices, slices of concatenations and concatenations of neighbouring slices.

Exporters write x[:, 1:, 1:] as two Slices and x[:, :1], x[:, 1:] as two more; a class token that is
concatenated in front of the patches is cut off again by the next operator. All of these are fewer
nodes, or none.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgec.export.rewrite.base import RewritePass
from edgec.export.rewrite.graph import (
    Builder,
    int_attr,
    is_op,
    remove_dead,
    replace_value,
    shape_of,
    sole_user,
)
from edgec.export.rewrite.slices import forward_range, slices_of


@dataclass(frozen=True)
class _Piece:
    """`value` = source[..., start:stop, ...] along one axis."""

    value: ir.Value
    source: ir.Value
    axis: int
    start: int
    stop: int


class MergeSlices(RewritePass):
    """Compose chains, take parts of a Concat directly, join neighbours, split what is partitioned.

    Refuses negative steps, computed bounds, ranges that cut through several parts of a Concat, and
    slices that overlap or leave gaps.
    """

    name = "merge-slices"
    change = "Slice → Slice, Slice(Concat(a, b)), Concat(x[:i], x[i:j]) → one Slice, a, x[:j]"

    def rewrite(self, graph: ir.Graph) -> int:
        count = 0
        for node in graph:
            if is_op(node, "Slice"):
                count += _compose(node) or _of_concat(node)
            elif is_op(node, "Concat"):
                count += _join(node)
        seen: set[ir.Value] = set()
        for node in graph:
            source = node.inputs[0] if is_op(node, "Slice") else None
            if source is None or source in seen:
                continue
            seen.add(source)
            count += self._partition(source, node)
        return count

    def _partition(self, source: ir.Value, first: ir.Node) -> int:
        """All slices of `source`, if they cut one axis into neighbours without a gap, as Split.

        `first` is the first of them in the order of the graph.
        """
        shape = shape_of(source)
        users = [use.node for use in source.uses() if is_op(use.node, "Slice")]
        if shape is None or len(users) < 2 or any(user.graph is not first.graph for user in users):
            return 0
        pieces = [_piece(user.outputs[0]) for user in users]
        known = [piece for piece in pieces if piece is not None]
        if len(known) < len(pieces) or len({piece.axis for piece in known}) != 1:
            self.refuse(first, "the slices cut several axes, or step")
            return 0
        axis = known[0].axis
        known.sort(key=lambda piece: piece.start)
        bounds = [0, *(piece.stop for piece in known)]
        if bounds[-1] != shape[axis] or [p.start for p in known] != bounds[:-1]:
            self.refuse(first, "the slices overlap or leave a gap")
            return 0
        builder = Builder(first)
        outputs = [
            ir.Value(
                shape=ir.Shape(shape_of(piece.value) or ()),
                type=None if source.dtype is None else ir.TensorType(source.dtype),
            )
            for piece in known
        ]
        sizes = np.asarray([piece.stop - piece.start for piece in known], np.int64)
        builder.multi("Split", [source, builder.constant(sizes, "split")], outputs, axis=axis)
        for piece, output in zip(known, outputs, strict=True):
            replace_value(piece.value, output)
        remove_dead(users)
        return 1


def _piece(value: ir.Value | None) -> _Piece | None:
    """`value` as a range of one axis, if a Slice or Split made it."""
    node = None if value is None else value.producer()
    source = None if node is None or not node.inputs else node.inputs[0]
    shape = shape_of(source)
    if value is None or node is None or source is None or shape is None:
        return None
    if is_op(node, "Split"):
        axis, start = int_attr(node, "axis", 0) % len(shape), 0
        for part in node.outputs:
            size = (shape_of(part) or (0,) * len(shape))[axis]
            if part is value:
                return _Piece(value, source, axis, start, start + size)
            start += size
        return None
    cut = slices_of(node, shape)
    cuts = [] if cut is None else [(i, c) for i, c in enumerate(cut) if c != slice(0, shape[i], 1)]
    span = forward_range(cuts[0][1]) if len(cuts) == 1 else None
    return None if span is None else _Piece(value, source, cuts[0][0], *span)


def _compose(node: ir.Node) -> int:
    """Slice(Slice(x)): bounds add up; steps multiply."""
    inner = node.inputs[0].producer() if node.inputs[0] is not None else None
    if inner is None or not is_op(inner, "Slice") or sole_user(inner.outputs[0]) is not node:
        return 0
    shape, middle = shape_of(inner.inputs[0]), shape_of(inner.outputs[0])
    if shape is None or middle is None or 0 in middle or 0 in (shape_of(node.outputs[0]) or (0,)):
        return 0
    first, second = slices_of(inner, shape), slices_of(node, middle)
    if first is None or second is None or any(c.step < 1 for c in (*first, *second)):
        return 0
    both = []
    for a, b in zip(first, second, strict=True):
        step = a.step * b.step
        start = a.start + b.start * a.step
        last = a.start + (b.start + (len(range(b.start, b.stop, b.step)) - 1) * b.step) * a.step
        both.append((start, last + 1, step))
    axes = [i for i, d in enumerate(shape) if both[i] != (0, d, 1)]
    _replace_by_slice(node, inner.inputs[0], [both[i] for i in axes], axes)
    return 1


def _replace_by_slice(
    node: ir.Node, source: ir.Value | None, bounds: list[tuple[int, int, int]], axes: list[int]
) -> None:
    builder, output = Builder(node), node.outputs[0]
    starts, ends, steps = (np.asarray([b[i] for b in bounds], np.int64) for i in range(3))
    inputs = [
        source,
        builder.constant(starts, "starts"),
        builder.constant(ends, "ends"),
        builder.constant(np.asarray(axes, np.int64), "axes"),
    ]
    if (steps != 1).any():
        inputs.append(builder.constant(steps, "steps"))
    result = builder.op("Slice", inputs, shape=shape_of(output), dtype=output.dtype)
    replace_value(output, result)
    remove_dead([node])


def _of_concat(node: ir.Node) -> int:
    """A range of one part of a Concat is a range of that part."""
    piece = _piece(node.outputs[0])
    concat = None if piece is None else piece.source.producer()
    if piece is None or concat is None or not is_op(concat, "Concat"):
        return 0
    rank = len(shape_of(piece.source) or ())
    if int_attr(concat, "axis", 0) % rank != piece.axis:
        return 0
    start = 0
    for part in concat.inputs:
        shape = shape_of(part)
        if part is None or shape is None:
            return 0
        stop = start + shape[piece.axis]
        if start <= piece.start and piece.stop <= stop:
            if (piece.start, piece.stop) == (start, stop):
                replace_value(node.outputs[0], part)
                remove_dead([node])
            else:
                bounds = [(piece.start - start, piece.stop - start, 1)]
                _replace_by_slice(node, part, bounds, [piece.axis])
            return 1
        start = stop
    return 0


def _join(node: ir.Node) -> int:
    """Neighbouring ranges of one tensor among the inputs of a Concat, of which it has all."""
    pieces = [_piece(value) for value in node.inputs]
    known = [piece for piece in pieces if piece is not None]
    if len(known) < len(pieces) or len(known) < 2:
        return 0
    first = known[0]
    rank = len(shape_of(first.source) or ())
    if int_attr(node, "axis", 0) % rank != first.axis:
        return 0
    for a, b in itertools.pairwise(known):
        if b.source is not first.source or b.axis != first.axis or b.start != a.stop:
            return 0
    whole = (shape_of(first.source) or ())[first.axis]
    if (first.start, known[-1].stop) == (0, whole):
        replace_value(node.outputs[0], first.source)
        remove_dead([node])
    else:
        _replace_by_slice(node, first.source, [(first.start, known[-1].stop, 1)], [first.axis])
    return 1
