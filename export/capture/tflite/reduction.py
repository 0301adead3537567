"""Operators that work along axes: reductions, softmax, normalisation, concatenation, split, pad."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edgec.export.capture.tflite.context import TO_FIRST, Context
from edgec.export.capture.tflite.elementwise import operands
from edgec.export.errors import InputError
from edgec.export.tflite import Operator

Translate = Callable[[Context, Operator], None]


def positive(ctx: Context, axis: int, rank: int) -> int:
    """An axis counted from the front.

    Raises:
        InputError: the tensor has no such axis (EC709).
    """
    if not -rank <= axis < rank:
        raise InputError("EC709", f"axis {axis} of {rank} axes", where=ctx.place)
    return axis % rank


def moved(axis: int, *, first: bool) -> int:
    """Where an axis of the file's layout is."""
    return TO_FIRST.index(axis) if first else axis


def reduce(op_type: str) -> Translate:
    """A reduction over constant axes."""

    def translate(ctx: Context, op: Operator) -> None:
        x, y = op.inputs[0], op.outputs[0]
        rank = len(ctx.shape(x))
        given = ctx.integers(op.inputs[1], "the list of axes")
        axes = sorted({positive(ctx, a, rank) for a in given})
        keep = bool(op.options["keep_dims"])
        # without the reduced axes, channels-first holds only if height and width are both gone
        # or all that stays is in order anyway
        first = ctx.first(x) and (keep or len(axes) > 2 or axes in ([1, 2], [3]))
        value = ctx.read(x, first=first)
        if not axes:
            ctx.write(y, value, first=first)
            return
        places = sorted(moved(a, first=first) for a in axes)
        value = ctx.emit(op_type, [value, ctx.numbers(places, "axes")], keepdims=int(keep))
        ctx.write(y, value, first=first and keep)

    return translate


def arg(op_type: str) -> Translate:
    """Index of the largest or smallest element along an axis."""

    def translate(ctx: Context, op: Operator) -> None:
        x, y = op.inputs[0], op.outputs[0]
        axis = positive(ctx, ctx.integers(op.inputs[1], "the axis")[0], len(ctx.shape(x)))
        value = ctx.emit(op_type, [ctx.read(x)], axis=axis, keepdims=0)
        if ctx.tensor(y).dtype == "INT32":
            value = ctx.emit("Cast", [value], to=6)
        ctx.write(y, value)

    return translate


def softmax(ctx: Context, op: Operator) -> None:
    """Along the last axis of the file's layout."""
    x, y = op.inputs[0], op.outputs[0]
    first = ctx.first(x)
    value = ctx.read(x, first=first)
    beta = op.options["beta"]
    if beta != 1.0:
        value = ctx.emit("Mul", [value, ctx.scalar(beta, ctx.tensor(x))])
    value = ctx.emit("Softmax", [value], axis=1 if first else -1)
    ctx.write(y, value, first=first)


def log_softmax(ctx: Context, op: Operator) -> None:
    """Along the last axis of the file's layout."""
    first = ctx.first(op.inputs[0])
    value = ctx.read(op.inputs[0], first=first)
    value = ctx.emit("LogSoftmax", [value], axis=1 if first else -1)
    ctx.write(op.outputs[0], value, first=first)


def l2_normalization(ctx: Context, op: Operator) -> None:
    """Over the last axis of the file's layout."""
    first = ctx.first(op.inputs[0])
    value = ctx.read(op.inputs[0], first=first)
    value = ctx.emit("LpNormalization", [value], axis=1 if first else -1, p=2)
    activation = op.options["fused_activation_function"]
    ctx.write(op.outputs[0], value, first=first, activation=activation)


def concatenation(ctx: Context, op: Operator) -> None:
    """Operands side by side."""
    y = op.outputs[0]
    rank = len(ctx.shape(y))
    axis = positive(ctx, op.options["axis"], rank)
    if any(len(ctx.shape(i)) != rank for i in op.inputs):
        raise InputError("EC709", "the operands have different ranks", where=ctx.place)
    values, first = operands(ctx, op.inputs) if rank == 4 else ([], False)
    if rank != 4:
        values = [ctx.read(i) for i in op.inputs]
    value = ctx.emit("Concat", values, axis=moved(axis, first=first))
    ctx.write(y, value, first=first, activation=op.options["fused_activation_function"])


def split(ctx: Context, op: Operator) -> None:
    """Equal parts; the axis comes first."""
    _split(ctx, op, op.inputs[1], ctx.integers(op.inputs[0], "the axis")[0])


def split_v(ctx: Context, op: Operator) -> None:
    """Parts of the sizes of the outputs."""
    _split(ctx, op, op.inputs[0], ctx.integers(op.inputs[2], "the axis")[0])


def _split(ctx: Context, op: Operator, x: int, axis: int) -> None:
    axis = positive(ctx, axis, len(ctx.shape(x)))
    first = ctx.first(x)
    sizes = [ctx.shape(y)[axis] for y in op.outputs]
    values = ctx.multi(
        "Split",
        [ctx.read(x, first=first), ctx.numbers(sizes, "sizes")],
        len(sizes),
        axis=moved(axis, first=first),
    )
    for y, value in zip(op.outputs, values, strict=True):
        ctx.write(y, value, first=first)


def pad(ctx: Context, op: Operator) -> None:
    """PAD fills with the real number zero, PADV2 with a scalar."""
    inputs = list(op.inputs)
    x, first, amounts = _amounts(ctx, inputs)
    values = [ctx.read(x, first=first), ctx.numbers(amounts, "pads")]
    if len(inputs) > 2:
        values.append(ctx.reshape(ctx.read(inputs[2]), ()))
    ctx.write(op.outputs[0], ctx.emit("Pad", values, mode="constant"), first=first)


def mirror_pad(ctx: Context, op: Operator) -> None:
    """ONNX mirrors without repeating the edge (REFLECT) only."""
    if op.options["mode"] != "REFLECT":
        raise ctx.unsupported(f"padding of mode {op.options['mode']}")
    x, first, amounts = _amounts(ctx, op.inputs)
    values = [ctx.read(x, first=first), ctx.numbers(amounts, "pads")]
    ctx.write(op.outputs[0], ctx.emit("Pad", values, mode="reflect"), first=first)


def _amounts(ctx: Context, inputs: Sequence[int]) -> tuple[int, bool, list[int]]:
    x = inputs[0]
    rank = len(ctx.shape(x))
    given = ctx.integers(inputs[1], "the padding")
    if len(given) != 2 * rank:
        raise InputError("EC709", f"{len(given)} paddings for {rank} axes", where=ctx.place)
    first = ctx.first(x)
    order = TO_FIRST if first else range(rank)
    return x, first, [given[2 * a] for a in order] + [given[2 * a + 1] for a in order]


def cumsum(ctx: Context, op: Operator) -> None:
    """Running sums along a constant axis."""
    axis = ctx.integers(op.inputs[1], "the axis")[0]
    value = ctx.emit(
        "CumSum",
        [ctx.read(op.inputs[0]), ctx.numbers([axis], "axis")],
        exclusive=int(op.options["exclusive"]),
        reverse=int(op.options["reverse"]),
    )
    ctx.write(op.outputs[0], value)
