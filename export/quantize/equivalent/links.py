"""Channel links: where a factor per channel can move from one operator to the next.

Dividing channel c of a producer by r[c] and multiplying what consumers make of it by r[c] changes
nothing if everything in between commutes with positive factors. ReLU, LeakyReLU, PReLU, poolings
and views that keep the channels together do; SiLU, GELU, HardSwish and a Clip do not, nor does an
addition whose other arm stays as it is. A link is found with all its readers or refused with the
reason: no transform here is approximately right.

A shift per channel (x − b, given back by the bias of the consumer) passes through less: views only,
and no convolution that pads, because padding inserts zeros after the shift.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgec.export.quantize.graph import constant_of
from edgec.export.rewrite.graph import (
    add_initializer,
    int_attr,
    ints,
    is_op,
    module_of,
    shape_of,
    str_attr,
)
from edgec.export.rewrite.layout import View
from edgec.export.rewrite.linear import Linear, match_linear
from edgec.export.rewrite.view_nodes import extend

Vector = NDArray[np.float64]

_POOLS = ("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool")
_HOMOGENEOUS = ("Relu", "LeakyRelu", "PRelu", "Abs", *_POOLS)
_VIEWS = ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Dropout")


@dataclass(frozen=True)
class Consumer:
    """A linear operator that reads the channels: `axis` of its input 0."""

    linear: Linear
    axis: int


@dataclass(frozen=True)
class Link:
    """A producer of channels and everything that reads them.

    Attributes:
        producer: node that computes the channels: a linear operator or a LayerNormalization.
        tensor: value that it writes (behind its bias); channels along `axis`.
        channels: how many.
        between: operators on the way, in graph order.
        consumers: the linear operators that end it; at least one.
        inputs: names of the tensors that the consumers read.
        linear: the producer as linear operator, None for LayerNormalization.
    """

    producer: ir.Node
    tensor: ir.Value
    axis: int
    channels: int
    between: tuple[ir.Node, ...]
    consumers: tuple[Consumer, ...]
    linear: Linear | None

    @property
    def name(self) -> str:
        """Module path of the producer, else its node name."""
        return module_of(self.producer) or str(self.producer.name)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the tensors that the consumers read, without repetition."""
        return tuple(self.input_axes)

    @property
    def input_axes(self) -> dict[str, int]:
        """Axis of the channels in each of them: views move it."""
        return {str(_input(c.linear.node).name): c.axis for c in self.consumers}

    def shift_obstacle(self) -> str:
        """Why no shift can move along this link; empty if one can."""
        for node in self.between:
            if node.op_type not in _VIEWS:
                return f"{node.op_type} does not commute with a shift"
        for consumer in self.consumers:
            reason = offset_obstacle(consumer.linear)
            if reason:
                return reason
        if self.linear is not None and self.linear.bias is None and is_op(self.producer, "MatMul"):
            return f"{self.producer.name} has no bias"
        return ""


def offset_obstacle(reader: Linear) -> str:
    """Why the bias of a linear operator cannot make up for an offset of its input; or empty."""
    node = reader.node
    if node.op_type == "Conv" and (
        any(ints(node, "pads") or ())
        or str_attr(node, "auto_pad", "NOTSET") not in ("NOTSET", "VALID")
    ):
        return f"{node.name} pads with zeros"
    if node.op_type == "MatMul" and reader.bias is None:
        return f"{node.name} has no bias"
    return ""


@dataclass(frozen=True)
class Refused:
    """A producer whose channels cannot be rescaled, and why."""

    producer: str
    reason: str


def find_links(model: ir.Model) -> tuple[list[Link], list[Refused]]:
    """All links of a graph with static shapes, and the producers that have none, in graph order."""
    links, refused = [], []
    order = {node: i for i, node in enumerate(model.graph)}
    for node in model.graph:
        found = _producer(node)
        if found is None:
            continue
        value, axis, channels, linear = found
        between: list[ir.Node] = []
        consumers: list[Consumer] = []
        reason = _follow(value, axis, order, between, consumers)
        if not reason and not consumers:
            reason = "nothing reads it"
        if not reason and any(c.linear.node is node for c in consumers):
            reason = "it reads itself"
        if reason:
            refused.append(Refused(module_of(node) or str(node.name), reason))
            continue
        between.sort(key=order.__getitem__)
        links.append(Link(node, value, axis, channels, tuple(between), tuple(consumers), linear))
    return links, refused


def _producer(node: ir.Node) -> tuple[ir.Value, int, int, Linear | None] | None:
    if is_op(node, "LayerNormalization"):
        shape, gain = shape_of(node.inputs[0]), constant_of(node.inputs[1])
        if shape is None or gain is None or gain.ndim != 1 or gain.size != shape[-1]:
            return None
        if int_attr(node, "axis", -1) % len(shape) != len(shape) - 1 or len(node.outputs) > 1:
            return None
        return node.outputs[0], len(shape) - 1, gain.size, None
    linear = match_linear(node)
    if linear is None or is_op(node, "ConvTranspose"):
        return None
    return linear.output, linear.axis, linear.channels, linear


def _follow(
    value: ir.Value,
    axis: int,
    order: Mapping[ir.Node, int],
    between: list[ir.Node],
    consumers: list[Consumer],
) -> str:
    """Collect all readers of `value`; why one of them stands in the way, or empty."""
    if value.is_graph_output():
        return f"{value.name} is an output of the graph"
    for use in sorted(value.uses(), key=lambda u: (order[u.node], u.idx)):
        node = use.node
        linear = match_linear(node)
        if linear is not None and use.idx == 0:
            if not _reads_channels(linear, axis, len(value.shape or ())):
                return f"{node.op_type} {node.name} mixes other axes than the channels"
            consumers.append(Consumer(linear, axis))
            continue
        if is_op(node, *_VIEWS) and use.idx == 0:
            moved = _moved(node, axis)
            if moved is None:
                return f"{node.op_type} {node.name} takes the channels apart"
            further = moved
        elif is_op(node, *_HOMOGENEOUS) and use.idx == 0 and len(node.outputs) == 1:
            if node.op_type in _POOLS and axis != 1:
                return f"{node.op_type} {node.name} mixes the channels"
            further = axis
        else:
            return f"{node.op_type} {node.name} is not positively homogeneous in one input"
        if node not in between:
            between.append(node)
        reason = _follow(node.outputs[0], further, order, between, consumers)
        if reason:
            return reason
    return ""


def _reads_channels(linear: Linear, axis: int, rank: int) -> bool:
    node = linear.node
    if node.op_type == "Conv":
        return axis == 1
    if node.op_type == "Gemm" and int_attr(node, "transA", 0):
        return False
    return node.op_type in ("Gemm", "MatMul") and axis == rank - 1


def _moved(node: ir.Node, axis: int) -> int | None:
    """The axis that holds exactly the channels behind a view, if there is one."""
    shape = shape_of(node.inputs[0])
    if shape is None or 0 in shape or shape[axis] == 1:
        return None
    if node.op_type in ("Identity", "Dropout"):
        return axis
    view = extend(View.identity(shape), node)
    if view is None:
        return None
    at, kept = 0, -1
    for i, size in enumerate(shape):
        factors, rest = [], size
        while rest > 1:
            rest //= view.sizes[at]
            factors.append(at)
            at += 1
        if i == axis:
            kept = next((j for j, group in enumerate(view.groups()) if group == factors), -1)
    return kept if kept >= 0 else None


def _input(node: ir.Node) -> ir.Value:
    value = node.inputs[0]
    assert value is not None
    return value


# --- surgery ---------------------------------------------------------------------------------


def rescale(link: Link, factors: Vector, shift: Vector | None = None) -> None:
    """Let the producer write (x − shift) / factors, and the consumers make up for it.

    Weights are computed in float64 and stored in their own type; names of nodes and values stay.

    Args:
        link: of the graph that is changed, with the weights that it has now.
        factors: one per channel, finite and positive.
        shift: one per channel; only where `Link.shift_obstacle` is empty.

    Raises:
        ValueError: factors or shift do not fit the link.
    """
    if factors.shape != (link.channels,) or not (np.isfinite(factors) & (factors > 0)).all():
        raise ValueError(f"{link.name}: factors must be {link.channels} positive numbers")
    offset = np.zeros(link.channels) if shift is None else shift
    if offset.any() and link.shift_obstacle():
        raise ValueError(f"{link.name}: {link.shift_obstacle()}")
    for consumer in link.consumers:
        _multiply_input(consumer.linear.node, factors, offset)
    if link.linear is None:
        _divide_norm(link.producer, factors, offset)
    else:
        _divide_output(link.linear, factors, offset)


def shift_channels(link: Link, amount: Vector) -> None:
    """Lower the producer's bias by `amount` per channel and raise the consumers' accordingly.

    Exact where everything between takes x − amount to f(x) − amount; the caller knows when.
    """
    for consumer in link.consumers:
        give_back(consumer.linear, amount)
    assert link.linear is not None
    _divide_output(link.linear, np.ones(link.channels), amount)


def give_back(reader: Linear, amount: Vector) -> None:
    """Raise the bias of a linear operator by what it makes of `amount`, which its input lost.

    Args:
        reader: with an empty `offset_obstacle`.
        amount: one number per input channel.
    """
    _multiply_input(reader.node, np.ones(len(amount)), amount)


def input_weight(node: ir.Node) -> NDArray[np.float64]:
    """Weights of a consumer with input channels first: (inputs, …); all groups in one."""
    linear = match_linear(node)
    assert linear is not None
    weight = linear.weight.astype(np.float64)
    if node.op_type == "Conv":
        grouped = weight.reshape(linear.groups, -1, *weight.shape[1:])
        per_input = np.moveaxis(grouped, 2, 1)  # (G, C / G, M / G, …)
        return per_input.reshape(-1, *per_input.shape[2:])
    return weight if linear.weight_axis == 1 else weight.T


def _multiply_input(node: ir.Node, factors: Vector, offset: Vector) -> None:
    linear = match_linear(node)
    assert linear is not None
    weight = linear.weight.astype(np.float64)
    if node.op_type == "Conv":
        per_group = weight.shape[1]
        index = np.arange(weight.shape[0]) // (weight.shape[0] // linear.groups)
        channel = index[:, None] * per_group + np.arange(per_group)
        around = (...,) + (None,) * (weight.ndim - 2)
        scaled = weight * factors[channel][around]
        moved = (weight * offset[channel][around]).sum(axis=tuple(range(1, weight.ndim)))
    else:
        shape = (-1, 1) if linear.weight_axis == 1 else (1, -1)
        scaled = weight * factors.reshape(shape)
        moved = (weight * offset.reshape(shape)).sum(axis=1 - linear.weight_axis)
    _store(node, 1, scaled)
    if offset.any():
        _add_bias(linear, moved)


def _divide_output(linear: Linear, factors: Vector, offset: Vector) -> None:
    now = match_linear(linear.node)
    assert now is not None
    around = [1] * now.weight.ndim
    around[now.weight_axis] = -1
    _store(now.node, 1, now.weight.astype(np.float64) / factors.reshape(around))
    bias = 0.0 if now.bias is None else now.bias.astype(np.float64)
    moved = (bias - offset) / factors
    if now.bias is not None or offset.any():
        _set_bias(now, np.broadcast_to(moved, factors.shape))


def _divide_norm(node: ir.Node, factors: Vector, offset: Vector) -> None:
    gain = constant_of(node.inputs[1])
    assert gain is not None
    _store(node, 1, gain.astype(np.float64) / factors)
    old = constant_of(node.inputs[2]) if len(node.inputs) > 2 else None
    if old is None and not offset.any():
        return
    if len(node.inputs) < 3:
        node.resize_inputs(3)
    moved = ((0.0 if old is None else old.astype(np.float64)) - offset) / factors
    _store(node, 2, np.broadcast_to(moved, factors.shape), like=gain.dtype)


def _add_bias(linear: Linear, amount: Vector) -> None:
    bias = 0.0 if linear.bias is None else linear.bias.astype(np.float64)
    _set_bias(linear, bias + amount)


def _set_bias(linear: Linear, bias: Vector) -> None:
    node = linear.node
    if node.op_type == "MatMul":
        add = linear.last
        index = 0 if add.inputs[1] is node.outputs[0] else 1
        shape = constant_of(add.inputs[index]).shape  # type: ignore[union-attr]
        _store(add, index, bias.reshape(shape))
        return
    if len(node.inputs) < 3:
        node.resize_inputs(3)
    _store(node, 2, bias, like=linear.weight.dtype)


def _store(
    node: ir.Node, index: int, array: Vector, like: np.dtype[np.generic] | None = None
) -> None:
    """Give a node a constant of its own; other readers of the old one keep it."""
    old, graph = node.inputs[index], node.graph
    assert isinstance(graph, ir.Graph)
    number = constant_of(old)
    dtype = like if number is None else number.dtype
    name = f"{node.name}_input{index}" if old is None or old.name is None else old.name
    if old is not None and len(old.uses()) == 1 and old.is_initializer():
        del graph.initializers[name]
    value = add_initializer(graph, np.asarray(array).astype(dtype), name)
    node.replace_input_with(index, value)
