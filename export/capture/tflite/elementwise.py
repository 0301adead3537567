"""Operators that treat every element alike: any layout will do, so they keep the one they find."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from edgec.export.capture.tflite.context import TO_FIRST, Context
from edgec.export.tflite import Operator, Tensor

Translate = Callable[[Context, Operator], None]


def operands(ctx: Context, indices: Sequence[int]) -> tuple[list[ir.Value], bool]:
    """The inputs in one layout, and whether that is channels-first.

    Operands of lower rank are broadcast over the leading axes of the file's layout: channels-first
    they need a shape of rank 4, which only constants get here.
    """
    ranks = [len(ctx.shape(i)) for i in indices]
    first = any(ctx.first(i) for i in indices) and all(
        rank == 4 or ctx.tensor(i).data is not None or ctx.tensor(i).elements == 1
        for i, rank in zip(indices, ranks, strict=True)
    )
    if not first:
        return [ctx.read(i) for i in indices], False
    found = []
    for index, rank in zip(indices, ranks, strict=True):
        tensor = ctx.tensor(index)
        if rank == 4:
            found.append(ctx.read(index, first=True))
        elif tensor.elements == 1:
            found.append(ctx.read(index))
        else:
            shape = (*[1] * (4 - rank), *tensor.shape)
            shape = tuple(shape[p] for p in TO_FIRST)
            moved = [p - (4 - rank) for p in TO_FIRST if p >= 4 - rank]
            quantization = tensor.quantization
            if quantization is not None and quantization.per_channel:
                raise ctx.unsupported("an operand has scales per channel")
            found.append(ctx.weight(index, moved, shape).real)
    return found, first


def same(op_type: str) -> Translate:
    """The ONNX operator of the same meaning, with a fused activation if the options have one."""

    def translate(ctx: Context, op: Operator) -> None:
        values, first = operands(ctx, op.inputs)
        activation = op.options.get("fused_activation_function", "NONE")
        ctx.write(op.outputs[0], ctx.emit(op_type, values), first=first, activation=activation)

    return translate


def activation(name: str) -> Translate:
    """An activation function as an operator of its own."""

    def translate(ctx: Context, op: Operator) -> None:
        values, first = operands(ctx, op.inputs[:1])
        ctx.write(op.outputs[0], values[0], first=first, activation=name)

    return translate


def unary(expression: Callable[[Context, Operator, ir.Value], ir.Value]) -> Translate:
    """An expression of the first input."""

    def translate(ctx: Context, op: Operator) -> None:
        values, first = operands(ctx, op.inputs[:1])
        ctx.write(op.outputs[0], expression(ctx, op, values[0]), first=first)

    return translate


gelu = unary(
    lambda ctx, op, x: ctx.emit(
        "Gelu", [x], approximate="tanh" if op.options["approximate"] else "none"
    )
)
leaky_relu = unary(lambda ctx, op, x: ctx.emit("LeakyRelu", [x], alpha=op.options["alpha"]))
rsqrt = unary(lambda ctx, op, x: ctx.emit("Reciprocal", [ctx.emit("Sqrt", [x])]))
square = unary(lambda ctx, op, x: ctx.emit("Mul", [x, x]))
elu = unary(lambda ctx, op, x: ctx.emit("Elu", [x]))


def squared_difference(ctx: Context, op: Operator) -> None:
    """(a − b)²."""
    values, first = operands(ctx, op.inputs)
    difference = ctx.emit("Sub", values)
    ctx.write(op.outputs[0], ctx.emit("Mul", [difference, difference]), first=first)


def floor_div(ctx: Context, op: Operator) -> None:
    """⌊a / b⌋; of integers, too, where ONNX's Div would round towards zero."""
    values, first = operands(ctx, op.inputs)
    if ctx.tensor(op.outputs[0]).numpy_dtype.kind != "f":
        raise ctx.unsupported("integers are divided")
    ctx.write(op.outputs[0], ctx.emit("Floor", [ctx.emit("Div", values)]), first=first)


def floor_mod(ctx: Context, op: Operator) -> None:
    """The remainder with the sign of the divisor."""
    values, first = operands(ctx, op.inputs)
    if ctx.tensor(op.outputs[0]).numpy_dtype.kind == "f":
        a, b = values
        quotient = ctx.emit("Floor", [ctx.emit("Div", [a, b])])
        value = ctx.emit("Sub", [a, ctx.emit("Mul", [quotient, b])])
    else:
        value = ctx.emit("Mod", values)
    ctx.write(op.outputs[0], value, first=first)


def not_equal(ctx: Context, op: Operator) -> None:
    """ONNX has Equal only."""
    values, first = operands(ctx, op.inputs)
    ctx.write(op.outputs[0], ctx.emit("Not", [ctx.emit("Equal", values)]), first=first)


def add_n(ctx: Context, op: Operator) -> None:
    """The sum of any number of tensors."""
    values, first = operands(ctx, op.inputs)
    ctx.write(op.outputs[0], ctx.emit("Sum", values), first=first)


_ONNX_TYPES = {
    "FLOAT32": ir.DataType.FLOAT,
    "FLOAT16": ir.DataType.FLOAT16,
    "FLOAT64": ir.DataType.DOUBLE,
    "INT8": ir.DataType.INT8,
    "INT16": ir.DataType.INT16,
    "INT32": ir.DataType.INT32,
    "INT64": ir.DataType.INT64,
    "UINT8": ir.DataType.UINT8,
    "UINT16": ir.DataType.UINT16,
    "UINT32": ir.DataType.UINT32,
    "UINT64": ir.DataType.UINT64,
    "BOOL": ir.DataType.BOOL,
}


def onnx_type(ctx: Context, dtype: str) -> ir.DataType:
    """ONNX's type of a tensor type.

    Raises:
        UnsupportedError: edgec has no use for it (EC305).
    """
    if dtype not in _ONNX_TYPES:
        raise ctx.unsupported(f"a tensor has the type {dtype}")
    return _ONNX_TYPES[dtype]


def cast(ctx: Context, op: Operator) -> None:
    """To the output's type."""
    values, first = operands(ctx, op.inputs)
    target = onnx_type(ctx, ctx.tensor(op.outputs[0]).dtype)
    ctx.write(op.outputs[0], ctx.emit("Cast", values, to=int(target)), first=first)


def requantize(ctx: Context, op: Operator) -> None:
    """QUANTIZE and DEQUANTIZE: the same real numbers, stored as the output tensor says.

    Converters put a DEQUANTIZE behind weights that they store in float16 or as integers; these
    stay constants, so that operators find their weights.
    """
    x, y = op.inputs[0], op.outputs[0]
    source = ctx.tensor(x)
    if op.code == "DEQUANTIZE" and source.data is not None:
        name = ctx.tensor(y).name
        if source.dtype == "FLOAT16":
            data = source.data.astype(np.float32)
            ctx.constants[y] = Tensor(name, source.shape, "FLOAT32", data)
        else:
            ctx.constants[y] = replace(source, name=name)
        return
    if source.dtype == "FLOAT16":
        cast(ctx, op)
        return
    values, first = operands(ctx, [x])
    form = ctx.form(x, first=first)
    if ctx.marked and op.code == "DEQUANTIZE" and form.stored is not None:
        values = [ctx.dequantized(form.stored, source).real]  # the file's own, with its place
    ctx.write(y, values[0], first=first)
