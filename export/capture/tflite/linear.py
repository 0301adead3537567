"""FULLY_CONNECTED, BATCH_MATMUL and EMBEDDING_LOOKUP."""

from __future__ import annotations

import onnx_ir as ir

from edgec.export.capture.tflite.context import Context
from edgec.export.capture.tflite.convolution import bias
from edgec.export.errors import InputError
from edgec.export.tflite import ABSENT, Operator


def fully_connected(ctx: Context, op: Operator) -> None:
    """Weights are (outputs, inputs): Gemm on vectors, MatMul and Add on more axes."""
    x, w = op.inputs[:2]
    y = op.outputs[0]
    if op.options["weights_format"] != "DEFAULT":
        raise ctx.unsupported(f"weights in the format {op.options['weights_format']}")
    weight, size, result = ctx.shape(w), ctx.shape(x), ctx.shape(y)
    if len(weight) != 2 or weight[1] == 0 or ctx.tensor(x).elements % weight[1]:
        raise InputError(
            "EC709", f"weights {list(weight)} for an input {list(size)}", where=ctx.place
        )
    added = None
    if len(op.inputs) > 2 and op.inputs[2] != ABSENT:
        added = bias(ctx, op.inputs[2], x, w)
    activation = op.options["fused_activation_function"]
    if len(result) > 2 and result[:-1] == size[:-1] and ctx.tensor(w).data is not None:
        value = ctx.emit("MatMul", [ctx.read(x), ctx.weight(w, (1, 0)).real])
        if added is not None:
            value = ctx.emit("Add", [value, added])
        ctx.write(y, value, activation=activation)
        return
    rows = ctx.tensor(x).elements // weight[1]
    inputs: list[ir.Value | None] = [ctx.reshaped(x, (rows, weight[1])), ctx.read(w)]
    if added is not None:
        inputs.append(added)
    value = ctx.emit("Gemm", inputs, transB=1)
    value = ctx.activate(value, activation, ctx.tensor(y))
    if result != (rows, weight[0]):
        value = ctx.reshape(value, result)
    ctx.write(y, value)


def batch_matmul(ctx: Context, op: Operator) -> None:
    """MatMul, with the last two axes of an operand swapped as its option says."""
    sides = []
    for index, swapped in zip(op.inputs, (op.options["adj_x"], op.options["adj_y"]), strict=False):
        rank = len(ctx.shape(index))
        perm = list(range(rank))
        if swapped and rank > 1:
            perm[-2:] = perm[:-3:-1]
        if ctx.tensor(index).data is not None:
            sides.append(ctx.weight(index, perm).real)
            continue
        form = ctx.form(index, first=False)
        if swapped:
            form = ctx.transposed(index, form, perm, stored=ctx.marked)
            ctx.mark(index, form, perm)  # nothing moves
        sides.append(form.real)
    ctx.write(op.outputs[0], ctx.emit("MatMul", sides))


def embedding_lookup(ctx: Context, op: Operator) -> None:
    """Rows of a table."""
    ids, table = op.inputs
    ctx.write(op.outputs[0], ctx.emit("Gather", [ctx.read(table), ctx.read(ids)], axis=0))
