"""Biases of keys and values that attention needs no addition for.

A bias of the keys adds the same number to all scores of one query, and the softmax over the keys
does not change when all its inputs move alike. A bias of the values comes out as it went in,
because the weights of each query sum to one; the projection that follows takes it into its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgec.export.rewrite.affine import update
from edgec.export.rewrite.base import RewritePass
from edgec.export.rewrite.graph import (
    Array,
    constant,
    int_attr,
    ints,
    is_op,
    remove_dead,
    replace_value,
    shape_of,
    sole_user,
)
from edgec.export.rewrite.layout import View
from edgec.export.rewrite.linear import Linear, match_linear
from edgec.export.rewrite.recognise.attention import Core, match_core
from edgec.export.rewrite.view_nodes import as_view


@dataclass(frozen=True)
class _Biased:
    """An operand whose values come from the addition of a constant.

    Attributes:
        add: the addition.
        x: what the constant is added to.
        bias: the constant in the shape and order of the operand.
    """

    add: ir.Node
    x: ir.Value
    bias: Array

    def drop(self) -> None:
        """Take the addition out of the graph."""
        replace_value(self.add.outputs[0], self.x)
        remove_dead([self.add])


class FoldAttentionBias(RewritePass):
    """Drop the Add after the projections to keys and to values.

    The bias of a Conv or Gemm stays, as it is no operator of its own. Refuses if anything but the
    attention reads a tensor on the way, if the bias differs between keys (positional encodings;
    cross-covariance attention, whose softmax runs over channels), if what lies between scores and
    softmax treats keys differently, and, for the values, if no linear operator follows.
    """

    name = "fold-attention-bias"
    change = "softmax(q·(k + b))·(v + c)·W + d → softmax(q·k)·v·W + (c·W + d)"

    def rewrite(self, graph: ir.Graph) -> int:
        count = 0
        for node in graph:
            core = match_core(node) if is_op(node, "Softmax") else None
            if core is None or isinstance(core, str) or core.scores.graph is not graph:
                continue
            count += self._keys(core)
            count += self._values(core)
        return count

    def _keys(self, core: Core) -> int:
        last = _runs_along_last_axis(core.softmax)
        if last is None:
            return 0
        keys = _biased(core.scores, 1 if last else 0)
        if keys is None or not _uniform(keys.bias, -1 if last else -2):
            return 0
        if not _moves_alike(core, -1 if last else -2):
            self.refuse(core.softmax, "keys are told apart between the product and the softmax")
            return 0
        keys.drop()
        return 1

    def _values(self, core: Core) -> int:
        product, side = core.product, core.value_side
        last = _runs_along_last_axis(core.softmax)
        if product.inputs[1 - side] is not core.softmax.outputs[0] or last is not (side == 1):
            return 0
        values, shape = _biased(product, side), shape_of(product.outputs[0])
        axis = -2 if last else -1
        if values is None or shape is None or not _uniform(values.bias, axis):
            return 0
        bias = values.bias.take([0], axis=axis)
        found = _linear_after(product.outputs[0], np.broadcast_to(bias, shape))
        if found is None:
            self.refuse(product, "no linear operator can take the bias of the values")
            return 0
        linear, extra = found
        values.drop()
        before = 0.0 if linear.bias is None else linear.bias.astype(np.float64)
        update(linear, linear.weight, before + extra)
        return 1


def _runs_along_last_axis(softmax: ir.Node) -> bool | None:
    """Whether a softmax over matrices runs along their rows; None if over neither axis."""
    rank = len(shape_of(softmax.outputs[0]) or ())
    axis = int_attr(softmax, "axis", -1) % max(rank, 1)
    return axis == rank - 1 if axis in (rank - 2, rank - 1) else None


def _uniform(array: Array, axis: int) -> bool:
    return bool((array == array.take([0], axis=axis)).all())


def _biased(product: ir.Node, side: int) -> _Biased | None:
    """The operand as views of an addition of a constant, each with this one reader."""
    value, reader = product.inputs[side], product
    views: list[View] = []
    while value is not None and sole_user(value) is reader:
        producer = value.producer()
        if producer is None or producer.graph is not product.graph:
            return None
        view = as_view(producer)
        if view is None:
            return _addition(producer, views)
        views.append(view)
        value, reader = producer.inputs[0], producer
    return None


def _addition(node: ir.Node, views: list[View]) -> _Biased | None:
    shape = shape_of(node.outputs[0])
    if not is_op(node, "Add") or shape is None:
        return None
    for x, other in (node.inputs, reversed(node.inputs)):
        array = constant(other)
        if x is None or array is None or array.dtype.kind != "f" or shape_of(x) != shape:
            continue
        bias: Array = np.broadcast_to(array.astype(np.float64), shape)
        for view in reversed(views):
            bias = view.apply(bias)
        return _Biased(node, x, bias)
    return None


def _moves_alike(core: Core, axis: int) -> bool:
    """Whether a number added to all scores of a query reaches the softmax as such."""
    value = core.scores.outputs[0]
    shape = shape_of(value)
    while True:
        node = sole_user(value)
        if node is None or node.graph is not core.scores.graph:
            return False
        if node is core.softmax:
            return True
        if shape is None or shape_of(node.outputs[0]) != shape:
            return False
        if is_op(node, "Mul", "Div") and node.inputs[0] is value:
            factor = constant(node.inputs[1])
            if factor is None or (factor.ndim >= -axis and factor.shape[axis] != 1):
                return False
        elif not is_op(node, "Add") and not (is_op(node, "Sub") and node.inputs[0] is value):
            return False
        value = node.outputs[0]


def _linear_after(value: ir.Value, added: Array) -> tuple[Linear, Array] | None:
    """The linear operator that takes in `added`, what is to be added to `value`, and its part."""
    while (node := sole_user(value)) is not None:
        view = as_view(node)
        if view is not None:
            value, added = node.outputs[0], view.apply(added)
            continue
        if is_op(node, "Add") and shape_of(node.outputs[0]) == added.shape:
            value = node.outputs[0]
            continue
        linear = match_linear(node)
        if linear is None or node.inputs[0] is not value:
            return None
        vector = _through(linear, added)
        if vector is None or linear.bias is not None or node.op_type != "MatMul":
            return None if vector is None else (linear, vector)
        value = linear.output
        added = np.broadcast_to(vector, shape_of(value) or ())
    return None


def _through(linear: Linear, added: Array) -> Array | None:
    """What the operator makes of `added`, one number per output channel."""
    axis = linear.axis if linear.node.op_type == "MatMul" else 1
    rows = np.moveaxis(added, axis, -1).reshape(-1, added.shape[axis])
    if not (rows == rows[0]).all():
        return None
    weight = linear.weight.astype(np.float64)
    if linear.node.op_type in ("MatMul", "Gemm"):
        return np.asarray(rows[0] @ (weight.T if linear.weight_axis == 0 else weight))
    if linear.node.op_type != "Conv" or linear.groups != 1 or any(ints(linear.node, "pads") or ()):
        return None  # at a padded border fewer inputs than elsewhere are added to
    if "auto_pad" in linear.node.attributes:
        return None
    return np.asarray(weight.reshape(*weight.shape[:2], -1).sum(axis=2) @ rows[0])
