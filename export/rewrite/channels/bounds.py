"""Forward walk: bounds of every channel of every tensor, and the relations between them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from edgec.export.rewrite.channels import interval
from edgec.export.rewrite.channels.constants import Constant, read_constant
from edgec.export.rewrite.channels.interval import ANY, Interval
from edgec.export.rewrite.channels.linear import linear
from edgec.export.rewrite.channels.relations import (
    Analysis,
    Channels,
    Join,
    Rule,
    Tie,
    Whole,
)
from edgec.export.rewrite.graph import (
    constant,
    float_attr,
    int_attr,
    ints,
    is_op,
    reduce_axes,
    scalar,
    shape_of,
    str_attr,
)

_UNIT = Interval(np.zeros(1), np.ones(1))


def analyse(graph: ir.Graph) -> Analysis:
    """Walk over `graph`, whose shapes are static."""
    analysis = Analysis(graph)
    for value in graph.inputs:
        shape = shape_of(value)
        if shape is not None and len(shape) > 1:
            analysis.channels[value] = _unknown(1, shape[1])
    for node in graph:
        rule = _RULES.get(node.op_type) if is_op(node, node.op_type) else None
        simple = all(shape_of(v) is not None for v in node.outputs if v.name or v.uses())
        if rule is not None and simple and rule(node, analysis):
            continue
        used = [v for v in node.inputs if v is not None]
        for attribute in node.attributes.values():
            if attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
                used += _captured(attribute)
        analysis.relations.append(Whole(tuple(v for v in used if v in analysis.channels)))
        if is_op(node, "Softmax"):
            analysis.channels[node.outputs[0]] = Channels(None, _UNIT)
    return analysis


def _captured(attribute: ir.Attr) -> list[ir.Value]:
    """Values that bodies of control flow read from outside."""
    graphs = [attribute.as_graph()] if attribute.type == ir.AttributeType.GRAPH else []
    if attribute.type == ir.AttributeType.GRAPHS:
        graphs = list(attribute.as_graphs())
    found: list[ir.Value] = []
    for graph in graphs:
        found.extend(graph.outputs)
        for node in graph.all_nodes():
            found += [v for v in node.inputs if v is not None]
    return found


def _unknown(axis: int, size: int) -> Channels:
    return Channels(axis, Interval(np.full(size, -np.inf), np.full(size, np.inf)))


def _of(value: ir.Value | None, analysis: Analysis) -> Channels:
    return (
        analysis.channels.get(value, Channels(None, ANY))
        if value is not None
        else Channels(None, ANY)
    )


def _tie(
    node: ir.Node,
    analysis: Analysis,
    axis: int | None,
    bounds: Interval,
    *,
    constants: Sequence[tuple[int, int]] = (),
    literal: tuple[int, int] | None = None,
    inputs: Sequence[ir.Value] | None = None,
) -> bool:
    """Record an operator whose first output has the channels of its inputs."""
    output = node.outputs[0]
    used = [node.inputs[0]] if inputs is None else list(inputs)
    if axis is None:
        analysis.relations.append(Whole(tuple(v for v in used if v in analysis.channels)))
        analysis.channels[output] = Channels(None, bounds.hull())
        return True
    values = (*(v for v in used if v is not None), output)
    analysis.relations.append(Tie(node, values, tuple(constants), literal))
    analysis.channels[output] = Channels(axis, bounds)
    return True


def _activation(node: ir.Node, analysis: Analysis) -> bool:
    x = _of(node.inputs[0], analysis)
    attributes: dict[str, Any] = {"approximate": str_attr(node, "approximate", "none")}
    if node.op_type == "HardSigmoid":
        alpha, beta = float_attr(node, "alpha", 0.2), float_attr(node, "beta", 0.5)
        if alpha < 0:
            return False
        attributes |= {"alpha": alpha, "beta": beta}
    if node.op_type == "Clip":
        limits = []
        for index, default in ((1, -math.inf), (2, math.inf)):
            value = node.inputs[index] if len(node.inputs) > index else None
            number = default if value is None else scalar(value)
            if number is None:
                constant_limit = read_constant(value)
                if constant_limit is None or constant_limit.real.size != 1:
                    return False
                number = float(constant_limit.real.reshape(()))
            limits.append(number)
        attributes |= {"min": limits[0], "max": limits[1]}
    return _tie(node, analysis, x.axis, interval.apply(node.op_type, x.bounds, attributes))


def _quantize(node: ir.Node, analysis: Analysis) -> bool:
    x, scale = _of(node.inputs[0], analysis), constant(node.inputs[1])
    zero = constant(node.inputs[2]) if len(node.inputs) > 2 else np.zeros((), np.uint8)
    if scale is None or zero is None or scale.size != 1 or zero.dtype.kind not in "iu":
        return False
    limits = np.iinfo(zero.dtype)
    bounds = interval.quantized(
        x.bounds, float(scale.reshape(())), int(zero.reshape(())), int(limits.min), int(limits.max)
    )
    return _tie(node, analysis, x.axis, bounds)


def _dequantize(node: ir.Node, analysis: Analysis) -> bool:
    x, scale = _of(node.inputs[0], analysis), constant(node.inputs[1])
    zero = constant(node.inputs[2]) if len(node.inputs) > 2 else np.zeros((), np.uint8)
    if constant(node.inputs[0]) is not None:
        return True  # a constant operand; its reader looks at it
    if scale is None or zero is None or scale.size != 1:
        return False
    step, offset = float(scale.reshape(())), int(zero.reshape(()))
    bounds = Interval((x.bounds.low - offset) * step, (x.bounds.high - offset) * step)
    return _tie(node, analysis, x.axis, bounds)


def _elementwise(node: ir.Node, analysis: Analysis) -> bool:
    shape = shape_of(node.outputs[0])
    assert shape is not None
    operands: list[tuple[int, ir.Value, Channels, Constant | None]] = []
    for index, value in enumerate(node.inputs):
        if value is None or shape_of(value) is None:
            return False
        number = None if value in analysis.channels else read_constant(value)
        operands.append((index, value, _of(value, analysis), number))
    axis = _shared_axis(operands, shape)
    tied: list[ir.Value] = []
    constants: list[tuple[int, int]] = []
    bounds: list[Interval] = []
    for index, value, channels, number in operands:
        own = shape_of(value) or ()
        at = None if axis is None else axis - (len(shape) - len(own))
        varies = at is not None and at >= 0 and own[at] > 1
        if number is not None:
            if varies and at is not None:
                constants.append((index, at))
            bounds.append(_bounds_of(number, at if varies else None))
        elif varies:
            tied.append(value)
            bounds.append(channels.bounds)
        else:
            analysis.relations.append(Whole((value,)))
            bounds.append(channels.bounds.hull())
    total = bounds[0]
    for more in bounds[1:]:
        total = interval.combine(node.op_type, total, more)
    if node.op_type == "Mul" and node.inputs[0] is node.inputs[1]:
        total = Interval(np.maximum(total.low, 0.0), total.high)
    if axis is not None:
        size = shape[axis]
        total = Interval(np.broadcast_to(total.low, size), np.broadcast_to(total.high, size))
    return _tie(node, analysis, axis, total, constants=constants, inputs=tied)


def _shared_axis(
    operands: Sequence[tuple[int, ir.Value, Channels, Constant | None]], shape: tuple[int, ...]
) -> int | None:
    """The axis of the result that is the channel axis of all operands that vary along it."""
    axes = set()
    for _, value, channels, number in operands:
        own = shape_of(value) or ()
        if number is None and channels.axis is not None and own[channels.axis] > 1:
            axes.add(channels.axis + len(shape) - len(own))
    if len(axes) != 1:
        return None
    axis = axes.pop()
    for _, value, channels, number in operands:
        own = shape_of(value) or ()
        at = axis - (len(shape) - len(own))
        if number is None and at >= 0 and own[at] > 1 and channels.axis != at:
            return None
    return axis


def _bounds_of(number: Constant, axis: int | None) -> Interval:
    axes = tuple(i for i in range(number.real.ndim) if i != axis)
    low, high = number.real.min(axis=axes), number.real.max(axis=axes)
    return Interval(*(np.atleast_1d(side).astype(np.float64) for side in (low, high)))


def _batch_norm(node: ir.Node, analysis: Analysis) -> bool:
    x = _of(node.inputs[0], analysis)
    parameters = [read_constant(v) for v in node.inputs[1:5]]
    if x.axis != 1 or int_attr(node, "training_mode", 0) or len(node.inputs) != 5:
        return False
    if any(p is None or p.integers is not None for p in parameters):
        return False
    numbers = [p.real.astype(np.float64) for p in parameters if p is not None]
    gamma, beta, mean, variance = numbers
    factor = gamma / np.sqrt(variance + float_attr(node, "epsilon", 1e-5))
    weight = factor.reshape(-1, 1, 1, 1)
    bounds = interval.weighted_sum(weight, x.bounds, (beta - mean * factor).reshape(-1, 1))
    return _tie(node, analysis, 1, bounds, constants=[(i, 0) for i in range(1, 5)])


def _pool(node: ir.Node, analysis: Analysis) -> bool:
    x = _of(node.inputs[0], analysis)
    if len([v for v in node.outputs if v.name and (v.uses() or v.is_graph_output())]) > 1:
        return False
    if x.axis != 1:
        return False
    bounds = x.bounds
    if is_op(node, "AveragePool") and int_attr(node, "count_include_pad", 0):
        bounds = bounds.with_value(0.0)
    return _tie(node, analysis, 1, bounds)


def _reduce(node: ir.Node, analysis: Analysis) -> bool:
    x, axes = _of(node.inputs[0], analysis), reduce_axes(node)
    shape = shape_of(node.inputs[0])
    if x.axis is None or not axes or shape is None or x.axis in axes:
        return False
    axis = x.axis
    if not int_attr(node, "keepdims", 1):
        axis -= sum(a < axis for a in axes)
    bounds = x.bounds
    if is_op(node, "ReduceSum"):
        count = math.prod(shape[a] for a in axes)
        bounds = Interval(bounds.low * count, bounds.high * count)
    return _tie(node, analysis, axis, bounds)


def _pad(node: ir.Node, analysis: Analysis) -> bool:
    x, shape = _of(node.inputs[0], analysis), shape_of(node.inputs[0])
    pads = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    if x.axis is None or shape is None or pads is None or pads.size != 2 * len(shape):
        return False
    if pads[x.axis] or pads[x.axis + len(shape)]:
        return False
    bounds = x.bounds
    if str_attr(node, "mode", "constant") == "constant":
        given = node.inputs[2] if len(node.inputs) > 2 else None
        number = 0.0 if given is None else scalar(given)
        if number is None:
            return False
        bounds = bounds.with_value(number)
    return _tie(node, analysis, x.axis, bounds)


def _resize(node: ir.Node, analysis: Analysis) -> bool:
    x, shape = _of(node.inputs[0], analysis), shape_of(node.inputs[0])
    after = shape_of(node.outputs[0])
    if x.axis is None or shape is None or after is None or shape[x.axis] != after[x.axis]:
        return False
    sizes = len(node.inputs) > 3 and node.inputs[3] is not None
    whole = str_attr(node, "coordinate_transformation_mode", "half_pixel") != "tf_crop_and_resize"
    if "axes" in node.attributes or not whole or str_attr(node, "mode", "nearest") == "cubic":
        return False
    if sizes and constant(node.inputs[3]) is None:
        return False
    literal = (3, x.axis) if sizes else None
    return _tie(node, analysis, x.axis, x.bounds, literal=literal)


def _transpose(node: ir.Node, analysis: Analysis) -> bool:
    x, shape = _of(node.inputs[0], analysis), shape_of(node.outputs[0])
    if x.axis is None or shape is None:
        return False
    perm = ints(node, "perm") or tuple(reversed(range(len(shape))))
    return _tie(node, analysis, perm.index(x.axis), x.bounds)


def _reshape(node: ir.Node, analysis: Analysis) -> bool:
    x, before = _of(node.inputs[0], analysis), shape_of(node.inputs[0])
    after = shape_of(node.outputs[0])
    if x.axis is None or before is None or after is None or before[x.axis] == 1:
        return False
    ahead = math.prod(before[: x.axis])
    places = [
        i for i in range(len(after)) if after[i] == before[x.axis] and math.prod(after[:i]) == ahead
    ]
    if not places:
        return False
    literal = None
    if is_op(node, "Reshape"):
        target = constant(node.inputs[1])
        # 0 and -1 would come to mean something else once a channel is gone
        if target is None or target.tolist() != list(after):
            return False
        literal = (1, places[0])
    elif is_op(node, "Squeeze") and reduce_axes(node) == ():
        return False  # it would also drop a channel axis that shrinks to one
    return _tie(node, analysis, places[0], x.bounds, literal=literal)


def _concat(node: ir.Node, analysis: Analysis) -> bool:
    shape = shape_of(node.outputs[0])
    parts = [v for v in node.inputs if v is not None]
    known = [_of(v, analysis) for v in parts]
    axes = {c.axis for c in known}
    if shape is None or len(axes) != 1 or None in axes:
        return False
    axis = axes.pop()
    assert axis is not None
    low, high = ([getattr(c.bounds, side) for c in known] for side in ("low", "high"))
    if int_attr(node, "axis", 0) % len(shape) != axis:
        bounds = Interval(np.min(low, axis=0), np.max(high, axis=0))
        return _tie(node, analysis, axis, bounds, inputs=parts)
    analysis.relations.append(Join(node, tuple(parts), node.outputs[0]))
    bounds = Interval(np.concatenate(low), np.concatenate(high))
    analysis.channels[node.outputs[0]] = Channels(axis, bounds)
    return True


_RULES: dict[str, Rule] = {
    **dict.fromkeys(interval.ACTIVATIONS, _activation),
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "Max", "Min"), _elementwise),
    **dict.fromkeys(("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"), _pool),
    **dict.fromkeys(("ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum"), _reduce),
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), _reshape),
    **dict.fromkeys(("Conv", "ConvTranspose", "Gemm", "MatMul"), linear),
    "QuantizeLinear": _quantize,
    "DequantizeLinear": _dequantize,
    "BatchNormalization": _batch_norm,
    "Pad": _pad,
    "Resize": _resize,
    "Transpose": _transpose,
    "Concat": _concat,
}
