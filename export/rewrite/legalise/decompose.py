"""Operators of newer opsets spelled out in older ones.

The forms are those that runtimes recognise and fuse again where they can, and that lose no
accuracy: LayerNormalization subtracts the mean before it squares.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir

from edgec.export.rewrite.graph import (
    Array,
    Builder,
    constant,
    float_attr,
    int_attr,
    shape_of,
    str_attr,
)

Decomposition = Callable[[ir.Node, Builder, int], ir.Value | None]
"""(node, builder, target opset) → the value that replaces output 0; None if it cannot."""


def _number(builder: Builder, value: float, dtype: ir.DataType, name: str) -> ir.Value:
    return builder.constant(np.asarray(value, np.float64).astype(dtype.numpy()), name)


def _mean(builder: Builder, x: ir.Value, axes: list[int], opset: int) -> ir.Value:
    shape = [1 if i in axes else d for i, d in enumerate(shape_of(x) or ())]
    if opset >= 18:
        given = builder.constant(np.asarray(axes, np.int64), "axes")
        return builder.op("ReduceMean", [x, given], shape=shape, dtype=x.dtype, keepdims=1)
    return builder.op("ReduceMean", [x], shape=shape, dtype=x.dtype, axes=axes, keepdims=1)


# Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26: |error| <= 1.5e-7
_ERF_RATE = 0.3275911
_ERF_FACTORS = (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)


def erf(node: ir.Node, builder: Builder, opset: int) -> ir.Value | None:
    """Erf (9): sign(x) · (1 − t·p(t)·exp(−x²)) with t = 1 / (1 + 0.3275911·|x|), p of degree 4.

    Right to 1.5e-7, the step of float32 below 2: for runtimes without the function.
    """
    x, dtype, shape = node.inputs[0], node.outputs[0].dtype, shape_of(node.inputs[0])
    if x is None or dtype != ir.DataType.FLOAT or shape is None:
        return None

    def op(kind: str, *inputs: ir.Value) -> ir.Value:
        return builder.op(kind, list(inputs), shape=shape, dtype=dtype)

    def number(value: float, name: str) -> ir.Value:
        return _number(builder, value, ir.DataType.FLOAT, name)

    size, one = op("Abs", x), number(1.0, "one")
    t = op("Div", one, op("Add", op("Mul", size, number(_ERF_RATE, "rate")), one))
    *factors, last = (number(value, f"a{i}") for i, value in enumerate(_ERF_FACTORS, 1))
    series = op("Mul", t, last)
    for factor in reversed(factors):
        series = op("Mul", op("Add", series, factor), t)
    tail = op("Mul", series, op("Exp", op("Mul", op("Mul", x, x), number(-1.0, "minus_one"))))
    # not Sign, which fewer runtimes have; zero over the tiny number is zero
    sign = op("Div", x, op("Max", size, number(1e-30, "tiny")))
    return op("Mul", op("Sub", one, tail), sign)


def gelu(node: ir.Node, builder: Builder, opset: int) -> ir.Value | None:
    """Gelu (20): 0.5·x·(1 + erf(x/√2)), or the tanh form."""
    x, dtype = node.inputs[0], node.outputs[0].dtype
    shape = shape_of(x)
    if x is None or dtype is None or shape is None:
        return None

    def op(kind: str, *inputs: ir.Value) -> ir.Value:
        return builder.op(kind, list(inputs), shape=shape, dtype=dtype)

    one, half = _number(builder, 1.0, dtype, "one"), _number(builder, 0.5, dtype, "half")
    if str_attr(node, "approximate", "none") == "none":
        root = _number(builder, 2**0.5, dtype, "sqrt2")
        inner = op("Add", op("Erf", op("Div", x, root)), one)
    else:
        cube = op("Mul", x, op("Mul", x, x))
        bent = op("Add", x, op("Mul", cube, _number(builder, 0.044715, dtype, "c")))
        root = _number(builder, (2 / np.pi) ** 0.5, dtype, "sqrt2_pi")
        inner = op("Add", op("Tanh", op("Mul", bent, root)), one)
    return op("Mul", op("Mul", x, inner), half)


def layer_normalization(node: ir.Node, builder: Builder, opset: int) -> ir.Value | None:
    """LayerNormalization (17); float16 inputs are normalised in float32 as stash_type asks."""
    x, y = node.inputs[0], node.outputs[0]
    shape, dtype = shape_of(x), y.dtype
    if x is None or shape is None or dtype is None or any(o.uses() for o in node.outputs[1:]):
        return None
    axis = int_attr(node, "axis", -1) % len(shape)
    if axis == 1 and len(shape) > 2 and dtype == ir.DataType.FLOAT and _is_plain(node):
        return _single_group(builder, x, float_attr(node, "epsilon", 1e-5))
    wide = ir.DataType.DOUBLE if dtype == ir.DataType.DOUBLE else ir.DataType.FLOAT
    if dtype != wide:
        x = builder.op("Cast", [x], shape=shape, dtype=wide, to=wide)
    axes = list(range(axis, len(shape)))
    centred = builder.op("Sub", [x, _mean(builder, x, axes, opset)], shape=shape, dtype=wide)
    two = _number(builder, 2.0, wide, "two")
    square = builder.op("Pow", [centred, two], shape=shape, dtype=wide)
    variance = _mean(builder, square, axes, opset)
    small = shape_of(variance)
    epsilon = _number(builder, float_attr(node, "epsilon", 1e-5), wide, "epsilon")
    shifted = builder.op("Add", [variance, epsilon], shape=small, dtype=wide)
    deviation = builder.op("Sqrt", [shifted], shape=small, dtype=wide)
    result = builder.op("Div", [centred, deviation], shape=shape, dtype=wide)
    if dtype != wide:
        result = builder.op("Cast", [result], shape=shape, dtype=dtype, to=dtype)
    result = builder.op("Mul", [result, node.inputs[1]], shape=shape, dtype=dtype)
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        result = builder.op("Add", [result, node.inputs[2]], shape=shape, dtype=dtype)
    return result


def _is_plain(node: ir.Node) -> bool:
    """No scale but one and no offset."""
    scale = constant(node.inputs[1])
    offset = node.inputs[2] if len(node.inputs) > 2 else None
    return scale is not None and bool((scale == 1).all()) and offset is None


def _single_group(builder: Builder, x: ir.Value, epsilon: float) -> ir.Value:
    """Everything but the batch normalised together: three nodes and no constant of x's size."""
    shape = shape_of(x) or ()
    flat = builder.reshape(x, (shape[0], 1, int(np.prod(shape[1:]))))
    one = builder.constant(np.ones(1, np.float32), "one")
    zero = builder.constant(np.zeros(1, np.float32), "zero")
    normal = builder.op(
        "InstanceNormalization",
        [flat, one, zero],
        shape=shape_of(flat),
        dtype=x.dtype,
        epsilon=epsilon,
    )
    return builder.reshape(normal, shape)


def group_normalization(node: ir.Node, builder: Builder, opset: int) -> ir.Value | None:
    """GroupNormalization (21): InstanceNormalization of the groups, then scale and bias.

    Version 18 of the operator, with scale and bias per group, is deprecated and refused by ONNX's
    checker, so there is no form of it below 21.
    """
    x, dtype = node.inputs[0], node.outputs[0].dtype
    shape, groups = shape_of(x), int_attr(node, "num_groups", 1)
    scale, bias = constant(node.inputs[1]), constant(node.inputs[2])
    if x is None or shape is None or dtype is None or scale is None or bias is None:
        return None
    flat = builder.reshape(x, (shape[0], groups, int(np.prod(shape[1:])) // groups))
    ones = builder.constant(np.ones(groups, dtype.numpy()), "ones")
    zeros = builder.constant(np.zeros(groups, dtype.numpy()), "zeros")
    normal = builder.op(
        "InstanceNormalization",
        [flat, ones, zeros],
        shape=shape_of(flat),
        dtype=dtype,
        epsilon=float_attr(node, "epsilon", 1e-5),
    )
    result = builder.reshape(normal, shape)
    gain, offset = per_channel(scale, shape), per_channel(bias, shape)
    around = (-1, *[1] * (len(shape) - 2))
    factor = builder.constant(gain.reshape(around), "scale")
    result = builder.op("Mul", [result, factor], shape=shape, dtype=dtype)
    shift = builder.constant(offset.reshape(around), "bias")
    return builder.op("Add", [result, shift], shape=shape, dtype=dtype)


def per_channel(per_group: Array, shape: tuple[int, ...]) -> Array:
    """One number per channel from one per group (or per channel already)."""
    return np.repeat(per_group.reshape(-1), shape[1] // per_group.size)


def hard_swish(node: ir.Node, builder: Builder, opset: int) -> ir.Value | None:
    """HardSwish (14): x · HardSigmoid(x; 1/6, 1/2)."""
    x, dtype, shape = node.inputs[0], node.outputs[0].dtype, shape_of(node.inputs[0])
    gate = builder.op("HardSigmoid", [x], shape=shape, dtype=dtype, alpha=1 / 6, beta=0.5)
    return builder.op("Mul", [x, gate], shape=shape, dtype=dtype)


def mish(node: ir.Node, builder: Builder, opset: int) -> ir.Value | None:
    """Mish (18): x · tanh(softplus(x))."""
    x, dtype, shape = node.inputs[0], node.outputs[0].dtype, shape_of(node.inputs[0])
    soft = builder.op("Softplus", [x], shape=shape, dtype=dtype)
    gate = builder.op("Tanh", [soft], shape=shape, dtype=dtype)
    return builder.op("Mul", [x, gate], shape=shape, dtype=dtype)


DECOMPOSITIONS: Mapping[str, tuple[int, Decomposition]] = {
    "Erf": (9, erf),
    "Gelu": (20, gelu),
    "GroupNormalization": (21, group_normalization),
    "HardSwish": (14, hard_swish),
    "LayerNormalization": (17, layer_normalization),
    "Mish": (18, mish),
}
"""Operator → (first opset that has it, what to write below that)."""
