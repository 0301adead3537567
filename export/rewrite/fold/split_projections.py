"""One projection for q, k and v becomes one for each.

Attention code computes q, k and v in one linear operator and takes them apart with Slice, Squeeze,
Gather or Split after a reshape. Splitting the weights instead leaves no such nodes, gives each of
the three its own quantization scale and lets the attention scale fold into q alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgec.export.rewrite.base import ViewPass
from edgec.export.rewrite.graph import (
    Builder,
    constant,
    int_attr,
    is_op,
    remove_dead,
    replace_value,
    shape_of,
)
from edgec.export.rewrite.layout import View, plan
from edgec.export.rewrite.linear import Linear, match_linear, with_channels
from edgec.export.rewrite.slices import forward_range, slices_of
from edgec.export.rewrite.view_nodes import emit, extend


@dataclass(frozen=True)
class _Part:
    """`stop - start` entries of one axis; `drop` says whether the axis disappears."""

    output: ir.Value
    axis: int
    start: int
    stop: int
    drop: bool


@dataclass(frozen=True)
class _Leaf:
    """A part of the projection's result: its channels and the view that leads to it."""

    part: _Part
    channels: tuple[int, ...]
    view: View


class SplitProjections(ViewPass):
    """Split the weights of a linear operator whose result is only ever read in parts.

    Refuses if any reader takes the whole, if the parts are not runs of output channels, if they
    overlap (then work would be duplicated), and if it saves nothing: every part gets operators and
    views of its own, for one Split less.
    """

    name = "split-projections"
    change = "Conv/MatMul/Gemm → views → Slice, Gather or Split per q, k, v → one Conv/… for each"

    def rewrite(self, graph: ir.Graph) -> int:
        count = 0
        for node in graph:
            linear = match_linear(node)
            if linear is None or linear.groups != 1:
                continue
            found = _leaves(linear)
            if found is None or not _disjoint(found[0], linear.channels):
                continue
            leaves, between = found
            if not self._pays(leaves, between):
                self.refuse(node, "the parts would take more operators than they save")
                continue
            _split(linear, leaves, self.max_rank)
            count += 1
        return count

    def _pays(self, leaves: list[_Leaf], between: list[ir.Node]) -> bool:
        """Gather, Slice and ranks above 4 always go; a plain Split if fewer views are left."""
        if any(is_op(node, "Gather", "Slice") or _rank(node) > 4 for node in between):
            return True
        return sum(len(plan(leaf.view, self.max_rank)) for leaf in leaves) < len(between)


def _rank(node: ir.Node) -> int:
    return max(len(shape_of(value) or ()) for value in node.outputs)


def _leaves(linear: Linear) -> tuple[list[_Leaf], list[ir.Node]] | None:
    """All parts that are read and the nodes that cut them out, or None if more is read."""
    shape = shape_of(linear.output)
    if shape is None:
        return None
    leaves: list[_Leaf] = []
    between: dict[ir.Node, None] = {}
    pending = [(linear.output, View.identity(shape))]
    while pending:
        value, view = pending.pop()
        if value.is_graph_output() or not value.uses():
            return None
        for use in value.uses():
            if use.idx != 0 or use.node.graph is not linear.node.graph:
                return None
            between[use.node] = None
            parts = list(_parts(use.node))
            if not parts:
                extended = extend(view, use.node)
                if extended is None:
                    return None
                pending.append((use.node.outputs[0], extended))
                continue
            for part in parts:
                leaf = _leaf(linear, view, part)
                if leaf is None:
                    return None
                leaves.append(leaf)
    return leaves, list(between)


def _parts(node: ir.Node) -> Iterator[_Part]:
    """The parts of its input that a node takes; nothing if it is no Slice, Gather or Split."""
    shape = shape_of(node.inputs[0]) if node.inputs else None
    if shape is None:
        return
    if is_op(node, "Split"):
        axis, start = int_attr(node, "axis", 0) % len(shape), 0
        for output in node.outputs:
            size = (shape_of(output) or (0,) * len(shape))[axis]
            if output.uses() or output.is_graph_output():
                yield _Part(output, axis, start, start + size, drop=False)
            start += size
    elif is_op(node, "Gather"):
        index = constant(node.inputs[1])
        axis = int_attr(node, "axis", 0) % len(shape)
        if index is not None and index.ndim <= 1 and index.size == 1:
            at = int(index.reshape(())) % shape[axis]
            yield _Part(node.outputs[0], axis, at, at + 1, drop=index.ndim == 0)
    elif is_op(node, "Slice"):
        part = _slice_part(node, shape)
        if part is not None:
            yield part


def _slice_part(node: ir.Node, shape: tuple[int, ...]) -> _Part | None:
    """A Slice with step 1 that cuts exactly one axis."""
    cut = slices_of(node, shape)
    cuts = [] if cut is None else [(i, c) for i, c in enumerate(cut) if c != slice(0, shape[i], 1)]
    span = forward_range(cuts[0][1]) if len(cuts) == 1 else None
    return None if span is None else _Part(node.outputs[0], cuts[0][0], *span, drop=False)


def _leaf(linear: Linear, view: View, part: _Part) -> _Leaf | None:
    """Channels and remaining view of a part, or None if it cuts anything but channels."""
    shape, out_shape = shape_of(linear.output), shape_of(part.output)
    group = view.groups()[part.axis]
    if shape is None or out_shape is None or len(group) != 1:
        return None
    factor = group[0]
    inside = _channel_factors(view, shape, linear.axis)
    if inside is None or factor not in inside:
        return None
    sizes = [view.sizes[i] for i in inside]
    index = np.arange(linear.channels).reshape(sizes)
    at = inside.index(factor)
    kept = np.take(index, np.arange(part.start, part.stop), axis=at).reshape(-1)
    cut = list(view.sizes)
    cut[factor] = part.stop - part.start
    in_shape = list(shape)
    in_shape[linear.axis] = kept.size
    return _Leaf(
        part,
        tuple(int(i) for i in kept),
        _without_units(tuple(in_shape), cut, view.order, out_shape),
    )


def _channel_factors(view: View, shape: tuple[int, ...], axis: int) -> list[int] | None:
    """The factors that make up the channel axis, or None if one reaches beyond it."""
    before = int(np.prod(shape[:axis], dtype=np.int64))
    inside, at, size = [], 1, 1
    for i, factor in enumerate(view.sizes):
        if at < before:
            at *= factor
            if before % at:
                return None
        elif size < shape[axis]:
            size *= factor
            if shape[axis] % size:
                return None
            inside.append(i)
    return inside


def _without_units(
    in_shape: tuple[int, ...], sizes: list[int], order: tuple[int, ...], out_shape: tuple[int, ...]
) -> View:
    kept = [i for i, size in enumerate(sizes) if size != 1]
    position = {old: new for new, old in enumerate(kept)}
    return View(
        in_shape,
        tuple(sizes[i] for i in kept),
        tuple(position[i] for i in order if i in position),
        out_shape,
    )


def _disjoint(leaves: list[_Leaf], channels: int) -> bool:
    """At least two different parts, none overlapping."""
    distinct = {leaf.channels for leaf in leaves}
    total = [c for part in distinct for c in part]
    return len(distinct) > 1 and len(total) == len(set(total)) <= channels


def _split(linear: Linear, leaves: list[_Leaf], max_rank: int) -> None:
    made: dict[tuple[int, ...], ir.Value] = {}
    order = sorted({leaf.channels for leaf in leaves})
    builder = Builder(linear.last, linear.node)
    for channels in order:
        made[channels] = with_channels(linear, builder, np.asarray(channels))
    for leaf in leaves:
        reader = leaf.part.output.producer()
        assert reader is not None
        result = emit(Builder(reader, reader), made[leaf.channels], leaf.view, max_rank)
        if result is made[leaf.channels] and leaf.part.output.is_graph_output():
            result = Builder(reader).op(
                "Identity", [result], shape=shape_of(result), dtype=result.dtype
            )
        replace_value(leaf.part.output, result)
    remove_dead([leaf.part.output.producer() for leaf in leaves])
