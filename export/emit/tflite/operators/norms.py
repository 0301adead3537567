"""Norms and softmax: spelled out in float builtins, or kept whole where the reader knows them."""

from __future__ import annotations

import json
from math import prod

import numpy as np

from edgec.export.emit.tflite.emitter import Emitter
from edgec.export.emit.tflite.graph import Array, Node
from edgec.export.emit.tflite.layouts import stored_axis

_LEAST_NORM = 1e-6
"""Below it L2_NORMALIZATION divides by this instead of the norm (l2norm.cc)."""
_MANY = 1 << 13
"""Elements from which a mean over several axes is computed in two steps: added in float32 one by
one, as LiteRT's own kernel does, they lose about as many units in the last place as they are."""


def emit_softmax(emitter: Emitter, node: Node) -> None:
    """Softmax over the last stored axis."""
    emitter.op("SOFTMAX", [emitter.input(0)], emitter.output(), beta=1.0)


def emit_log_softmax(emitter: Emitter, node: Node) -> None:
    """LogSoftmax over the last stored axis."""
    emitter.op("LOG_SOFTMAX", [emitter.input(0)], emitter.output())


def l2_obstacle(node: Node) -> str:
    """Only the Euclidean norm has a builtin."""
    return "" if int(node.attrs.get("p", 2)) == 2 else "it is no Euclidean norm (p is not 2)"


def emit_l2_norm(emitter: Emitter, node: Node) -> None:
    """LpNormalization over the last stored axis.

    Spelled out it divides by the larger of the norm and `_LEAST_NORM`, as L2_NORMALIZATION does.
    """
    x = emitter.input(0)
    if node.integer or node.op not in emitter.flavour.float_operators:
        emitter.op("L2_NORMALIZATION", [x], emitter.output())
        return
    shape = emitter.shape(x)
    small = (*shape[:-1], 1)
    square = emitter.op("MUL", [x, x], emitter.temporary("square", shape))
    total = emitter.op(
        "SUM",
        [square, emitter.integers([len(shape) - 1], "axes")],
        emitter.temporary("total", small),
        keep_dims=True,
    )
    least = emitter.number(_LEAST_NORM**2, "least", len(shape))
    safe = emitter.op("MAXIMUM", [total, least], emitter.temporary("safe", small))
    factor = emitter.op("RSQRT", [safe], emitter.temporary("factor", small))
    emitter.op("MUL", [x, factor], emitter.output())


def _constants_obstacle(node: Node) -> str:
    computed = [v for v in node.inputs[1:] if v is not None and v.const is None]
    return "its scale or offset is computed" if computed else ""


def norm_obstacle(node: Node) -> str:
    """Why a norm cannot be written."""
    if len(node.outputs) > 1:
        return "its mean and deviation are used"
    return _constants_obstacle(node)


def emit_layer_norm(emitter: Emitter, node: Node) -> None:
    """LayerNormalization over the axes from `axis` on."""
    rank = len(node.outputs[0].shape)
    axes = tuple(range(int(node.attrs.get("axis", rank - 1)) % rank, rank))
    pad = rank - len(axes)
    gains = [
        None if v is None else v.real().reshape((1,) * pad + v.shape)
        for v in (*node.inputs[1:3], *(None,) * (3 - len(node.inputs)))
    ]
    _norm(emitter, node, axes, gains, float(node.attrs.get("epsilon", 1e-5)))


def emit_instance_norm(emitter: Emitter, node: Node) -> None:
    """InstanceNormalization: over all axes but batch and channels."""
    rank = len(node.outputs[0].shape)
    gains = [None if v is None else _per_channel(v.real(), rank) for v in node.inputs[1:3]]
    _norm(emitter, node, tuple(range(2, rank)), gains, float(node.attrs.get("epsilon", 1e-5)))


def group_norm_obstacle(node: Node) -> str:
    """Groups other than one and the channels would need a further dimension."""
    groups = int(node.attrs.get("num_groups", 1))
    if groups not in (1, node.operands[0].shape[1]):
        return f"it has {groups} groups; one, or one per channel, can be written"
    return norm_obstacle(node)


def emit_group_norm(emitter: Emitter, node: Node) -> None:
    """GroupNormalization with one group, or one per channel."""
    rank = len(node.outputs[0].shape)
    first = 1 if int(node.attrs.get("num_groups", 1)) == 1 else 2
    gains = [None if v is None else _per_channel(v.real(), rank) for v in node.inputs[1:3]]
    _norm(emitter, node, tuple(range(first, rank)), gains, float(node.attrs.get("epsilon", 1e-5)))


def _per_channel(array: Array, rank: int) -> Array:
    return array.reshape((1, -1, *(1,) * (rank - 2)))


def _norm(
    emitter: Emitter, node: Node, axes: tuple[int, ...], gains: list[Array | None], epsilon: float
) -> None:
    """(x - mean) / sqrt(variance + ε) · scale + offset; scale and offset have the value's rank."""
    perm = emitter.layout[node].outputs[0]
    scale, offset = (None if g is None else _collapsed(g).transpose(perm) for g in gains)
    if scale is not None and np.all(scale == 1.0):
        scale = None
    if offset is not None and not offset.any():
        offset = None
    stored = sorted(stored_axis(perm, axis) for axis in axes)
    if node.op in emitter.flavour.composites:
        _whole(emitter, node, stored, scale, offset, epsilon)
        return
    x = emitter.input(0)
    shape = emitter.shape(x)
    small = tuple(1 if i in stored else d for i, d in enumerate(shape))

    def step(code: str, name: str, to: tuple[int, ...], *inputs: int, **options: object) -> int:
        return emitter.op(code, inputs, emitter.temporary(name, to), **options)

    def average(name: str, x: int) -> int:
        # LiteRT's own kernel adds one by one: the fewer at a time, the fewer digits are lost
        few = len(stored) == 1 or prod(shape[i] for i in stored) < _MANY
        for axes in [stored] if few else [stored[:-1], stored[-1:]]:
            along = emitter.integers(axes, "axes")
            to = tuple(1 if i in axes else d for i, d in enumerate(emitter.shape(x)))
            x = step(
                "MEAN", name if to == small else f"{name}/partial", to, x, along, keep_dims=True
            )
        return x

    mean = average("mean", x)
    centred = step("SUB", "centred", shape, x, mean)
    square = step("MUL", "square", shape, centred, centred)
    variance = average("variance", square)
    least = emitter.number(epsilon, "epsilon", len(shape))
    safe = step("ADD", "safe", small, variance, least)
    factor = step("RSQRT", "factor", small, safe)
    todo: list[tuple[str, int]] = [("MUL", factor)]
    if scale is not None:
        todo.append(("MUL", emitter.constant(scale, f"{node.name}/scale")))
    if offset is not None:
        todo.append(("ADD", emitter.constant(offset, f"{node.name}/offset")))
    result = centred
    for number, (code, operand) in enumerate(todo):
        target = emitter.output() if number == len(todo) - 1 else emitter.temporary("scaled", shape)
        result = emitter.op(code, [result, operand], target)


def _collapsed(array: Array) -> Array:
    """Axes along which nothing changes, reduced to one entry."""
    for axis in range(array.ndim):
        first = np.take(array, [0], axis)
        if np.array_equal(np.broadcast_to(first, array.shape), array):
            array = first
    return np.asarray(array, np.float32)


def _whole(
    emitter: Emitter,
    node: Node,
    axes: list[int],
    scale: Array | None,
    offset: Array | None,
    epsilon: float,
) -> None:
    """One custom operator with the ONNX name: input, scale, offset; options as JSON."""
    inputs = [emitter.input(0)]
    for array, default, name in ((scale, 1.0, "scale"), (offset, 0.0, "offset")):
        given = np.full((1,) * len(axes), default, np.float32) if array is None else array
        inputs.append(emitter.constant(given, f"{node.name}/{name}"))
    options = json.dumps({"axes": axes, "epsilon": epsilon}, sort_keys=True).encode()
    emitter.custom(node.op, inputs, emitter.output(), options)


def batch_norm_obstacle(node: Node) -> str:
    """Only inference has a fixed map."""
    if int(node.attrs.get("training_mode", 0)):
        return "it is in training mode"
    return _constants_obstacle(node)


def emit_batch_norm(emitter: Emitter, node: Node) -> None:
    """BatchNormalization at inference: an affine map per channel."""
    scale, offset, mean, variance = (v.real() for v in node.operands[1:5])
    factor = scale / np.sqrt(variance + float(node.attrs.get("epsilon", 1e-5)))
    rank = len(node.outputs[0].shape)
    perm = emitter.layout[node].outputs[0]
    gains = [
        _per_channel(np.asarray(g, np.float32), rank).transpose(perm)
        for g in (factor, offset - mean * factor)
    ]
    x = emitter.input(0)
    scaled = emitter.op(
        "MUL",
        [x, emitter.constant(gains[0], f"{node.name}/scale")],
        emitter.temporary("scaled", emitter.shape(x)),
    )
    emitter.op("ADD", [scaled, emitter.constant(gains[1], f"{node.name}/offset")], emitter.output())
