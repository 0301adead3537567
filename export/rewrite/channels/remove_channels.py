"""Dead and constant channels leave the network, and their work with them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgec.export.errors import UnsupportedError
from edgec.export.rewrite.base import RewritePass
from edgec.export.rewrite.channels.bounds import analyse
from edgec.export.rewrite.channels.constants import read_constant, sliced
from edgec.export.rewrite.channels.linear import (
    accumulator_grid,
    contribution,
    integer_contribution,
)
from edgec.export.rewrite.channels.needs import needed
from edgec.export.rewrite.channels.relations import Analysis, Linear, Mask, Tie
from edgec.export.rewrite.graph import (
    Array,
    Builder,
    constant,
    is_op,
    remove_dead,
    shape_of,
    sole_user,
)
from edgec.profiles.macs import count_graph_macs


class RemoveChannels(RewritePass):
    """Cut out channels that nothing reads, or that hold one number whatever the input.

    A constant channel moves into the bias of its readers: exactly so in integers; in float up to
    the order of the sum. It stays where a reader pads (the border sees zeros instead of the
    constant) unless the constant is zero, or where a reader cannot be sliced (attention, norms over
    channels). Channels that element-wise operators and Concat tie together stay or go together.

    Refuses operators that it does not know, tensors without static shapes, and numbers narrower
    than float32 that are not quantized.
    """

    name = "remove-channels"
    change = "channels that are dead or constant → sliced from weights, constants into the bias"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Remove what can be removed; `note` then tells the MACs before and after."""
        before = _macs(model)
        result = super().call(model)
        after = _macs(model) if result.modified else None
        if before is not None and after is not None:
            self.note = f"{before / 1e6:.3f} to {after / 1e6:.3f} M MACs"
        return result

    def rewrite(self, graph: ir.Graph) -> int:
        # Bounds are tighter once constants are in the biases, so that more may turn out constant.
        # Every round makes a tensor smaller, which ends the loop.
        total = 0
        while removed := _remove(graph):
            total += removed
        return total


def _remove(graph: ir.Graph) -> int:
    """One analysis and what follows from it; returns the number of operators made smaller."""
    analysis = analyse(graph)
    keep = needed(analysis)
    if all(mask.all() for mask in keep.values()):
        return 0
    removed = 0
    for relation in analysis.relations:
        if isinstance(relation, Linear) and relation.x is not None:
            _move_to_bias(relation, ~keep[relation.x], analysis, keep)
    for relation in analysis.relations:
        if isinstance(relation, Linear):
            removed += _slice_linear(relation, keep)
        elif isinstance(relation, Tie):
            _slice_tie(relation, keep[relation.values[-1]])
    for value, mask in keep.items():
        shape, axis = shape_of(value), analysis.channels[value].axis
        if shape is not None and axis is not None and not mask.all():
            value.shape = ir.Shape(_with(shape, axis, int(mask.sum())))
    return removed


def _macs(model: ir.Model) -> int | None:
    """MACs, or None where a shape is not known."""
    try:
        return count_graph_macs(model).total
    except UnsupportedError:
        return None


def _with(shape: tuple[int, ...], axis: int, size: int) -> tuple[int, ...]:
    return (*shape[:axis], size, *shape[axis + 1 :])


def _move_to_bias(
    relation: Linear, removed: Mask, analysis: Analysis, keep: dict[ir.Value, Mask]
) -> None:
    """Add what the removed constant inputs contribute; at full size, sliced afterwards."""
    if not (removed & relation.fold & (relation.constant != 0)).any():
        return
    node, stored = relation.node, relation.stored
    if accumulator_grid(node, stored) is not None:
        _integer_bias(node, relation, integer_contribution(relation, removed))
        return
    extra = contribution(relation, removed)
    if not extra.any():
        return
    if is_op(node, "MatMul"):
        _after_matmul(node, extra, analysis, keep)
        return
    builder = Builder(node)
    given = node.inputs[2] if len(node.inputs) > 2 else None
    before = constant(given)
    total = extra if before is None else before.astype(np.float64) + extra
    dtype = np.float32 if before is None else before.dtype
    _set_input(node, 2, builder.constant(total.astype(dtype), _name(given, "bias")))


def _integer_bias(node: ir.Node, relation: Linear, extra: Array) -> None:
    builder = Builder(node)
    given = node.inputs[2] if len(node.inputs) > 2 else None
    before = read_constant(given)
    if before is not None and before.integers is not None and given is not None:
        dequantize = given.producer()
        assert dequantize is not None
        total = before.integers + extra.reshape(before.integers.shape)
        scale: ir.Value | None = dequantize.inputs[1]
        attributes = {key: a.value for key, a in dequantize.attributes.items()}
    else:
        total = extra
        grid = accumulator_grid(node, relation.stored)
        assert grid is not None
        scale = builder.constant(grid.astype(np.float32), f"{node.name}_bias_scale")
        attributes = {"axis": 0}
    bias = builder.constant(total.astype(np.int32), f"{node.name}_bias_quantized")
    value = builder.op(
        "DequantizeLinear",
        [bias, scale],
        shape=total.shape,
        dtype=node.outputs[0].dtype,
        **attributes,
    )
    _set_input(node, 2, value)


def _after_matmul(
    node: ir.Node, extra: Array, analysis: Analysis, keep: dict[ir.Value, Mask]
) -> None:
    """Into the constant that is added to the product anyway, or into an Add of its own."""
    output = node.outputs[0]
    add = sole_user(output)
    if add is not None and is_op(add, "Add") and add.graph is node.graph:
        index = 1 if add.inputs[0] is output else 0
        vector = constant(add.inputs[index])
        if vector is not None and vector.size == extra.size == vector.shape[-1]:
            total = (vector.reshape(-1).astype(np.float64) + extra).astype(vector.dtype)
            value = Builder(add).constant(
                total.reshape(vector.shape), _name(add.inputs[index], "bias")
            )
            add.replace_input_with(index, value)
            return
    assert node.graph is not None
    bias = Builder(node).constant(extra.astype(np.float32), f"{node.name}_bias")
    result = ir.Value(shape=output.shape, type=output.type)
    is_output, name = output.is_graph_output(), output.name
    output.replace_all_uses_with(result, replace_graph_outputs=True)
    addition = ir.Node(
        "", "Add", [output, bias], outputs=[result], metadata_props=dict(node.metadata_props)
    )
    node.graph.insert_after(node, addition)
    if is_output:
        output.name, result.name = f"{name}_product", name
    analysis.channels[result] = analysis.channels[output]
    analysis.relations.append(Tie(addition, (output, result), ((1, 0),)))
    keep[result] = keep[output]


def _name(value: ir.Value | None, default: str) -> str:
    return value.name if value is not None and value.name else default


def _set_input(node: ir.Node, index: int, value: ir.Value) -> None:
    before = node.inputs[index] if len(node.inputs) > index else None
    node.resize_inputs(max(index + 1, len(node.inputs)))
    node.replace_input_with(index, value)
    if before is not None:
        remove_dead([before.producer()])


def _slice_linear(relation: Linear, keep: dict[ir.Value, Mask]) -> int:
    """Cut weights and bias; 1 if that made the operator smaller."""
    node, out = relation.node, keep[relation.output]
    full = np.ones(relation.weight.shape[2] * relation.groups, bool)
    into = full if relation.x is None else keep[relation.x]
    if out.all() and into.all():
        return 0
    builder, outputs = Builder(node), np.flatnonzero(out)
    out_axis, in_axis = relation.axes
    cut = {out_axis: outputs}
    if relation.groups == 1:
        cut[in_axis] = np.flatnonzero(into)
    else:
        groups = int(into.reshape(relation.groups, -1).any(axis=1).sum())
        node.attributes["group"] = ir.AttrInt64("group", groups)
    weight = node.inputs[1]
    assert weight is not None
    node.replace_input_with(1, sliced(builder, weight, cut))
    given = node.inputs[2] if len(node.inputs) > 2 else None
    if given is not None:
        rank = len(shape_of(given) or (0,))
        _set_input(node, 2, sliced(builder, given, {rank - 1: outputs}))
    remove_dead([weight.producer()])
    return 1


def _slice_tie(relation: Tie, mask: Mask) -> None:
    if mask.all():
        return
    node, index = relation.node, np.flatnonzero(mask)
    for position, axis in relation.constants:
        value = node.inputs[position]
        assert value is not None
        node.replace_input_with(position, sliced(Builder(node), value, {axis: index}))
        remove_dead([value.producer()])
    if relation.literal is not None:
        position, place = relation.literal
        target = constant(node.inputs[position])
        assert target is not None
        target = target.copy()
        target[place] = len(index)
        node.replace_input_with(position, Builder(node).constant(target, "shape"))
