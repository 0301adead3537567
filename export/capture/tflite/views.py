"""Operators that move elements: shapes, permutations, slices, blocks."""

from __future__ import annotations

from math import prod

import numpy as np

from edgec.export.capture.tflite.context import TO_FIRST, Context
from edgec.export.capture.tflite.reduction import moved, positive
from edgec.export.errors import InputError
from edgec.export.tflite import Operator

MAX_CONSTANT = 1 << 22
"""Elements of a constant that an operator makes up."""


def reshape(ctx: Context, op: Operator) -> None:
    """RESHAPE, SQUEEZE, EXPAND_DIMS: to the output's shape, which the file always has.

    The shape may also come as an option or a tensor, computed ones included.
    """
    x, y = op.inputs[0], op.outputs[0]
    if ctx.tensor(x).elements != ctx.tensor(y).elements:
        raise InputError(
            "EC709",
            f"{list(ctx.shape(x))} cannot become {list(ctx.shape(y))}",
            where=ctx.place,
        )
    ctx.write(y, ctx.reshaped(x, ctx.shape(y)))


def transpose(ctx: Context, op: Operator) -> None:
    """A permutation; one that undoes the layout of its input costs nothing."""
    x, y = op.inputs[0], op.outputs[0]
    perm = ctx.integers(op.inputs[1], "the permutation")
    rank = len(ctx.shape(x))
    perm = [positive(ctx, p, rank) for p in perm]
    if sorted(perm) != list(range(rank)):
        raise InputError("EC709", f"{perm} is no permutation of {rank} axes", where=ctx.place)
    first = ctx.first(x) and not ctx.marked
    if first:
        perm = [TO_FIRST.index(p) for p in perm]
    value = ctx.read(x, first=first)
    if perm != list(range(rank)) or ctx.marked:
        value = ctx.emit("Transpose", [value], perm=perm)
    ctx.write(y, value)


def pack(ctx: Context, op: Operator) -> None:
    """Operands along a new axis."""
    y = op.outputs[0]
    axis = positive(ctx, op.options["axis"], len(ctx.shape(y)))
    shape = list(ctx.shape(y))
    shape[axis] = 1
    values = [ctx.reshaped(i, shape) for i in op.inputs]
    ctx.write(y, ctx.emit("Concat", values, axis=axis))


def unpack(ctx: Context, op: Operator) -> None:
    """Parts along an axis, without it."""
    x = op.inputs[0]
    axis = positive(ctx, op.options["axis"], len(ctx.shape(x)))
    count = len(op.outputs)
    values = ctx.multi("Split", [ctx.read(x), ctx.numbers([1] * count, "sizes")], count, axis=axis)
    for y, value in zip(op.outputs, values, strict=True):
        ctx.write(y, ctx.reshape(value, ctx.shape(y)))


def slice_(ctx: Context, op: Operator) -> None:
    """A block from a start; its size is the output's."""
    x, y = op.inputs[0], op.outputs[0]
    begin = ctx.integers(op.inputs[1], "the start")
    shape = ctx.shape(y)
    if len(begin) != len(shape) or min(begin, default=0) < 0:
        raise InputError("EC709", f"the start {begin} for {list(shape)}", where=ctx.place)
    end = [b + n for b, n in zip(begin, shape, strict=True)]
    _slice(ctx, x, y, begin, end, [1] * len(begin))


def strided_slice(ctx: Context, op: Operator) -> None:
    """A block with steps; masks leave out ends and drop axes (numpy's ``a[1:, 0]``)."""
    x, y = op.inputs[0], op.outputs[0]
    if op.options["ellipsis_mask"] or op.options["new_axis_mask"] or op.options["offset"]:
        raise ctx.unsupported("an ellipsis or a new axis in a slice")
    begin, end, step = (
        ctx.integers(i, what)
        for i, what in zip(op.inputs[1:], ("the start", "the end", "the step"), strict=True)
    )
    shape = ctx.shape(x)
    if not len(begin) == len(end) == len(step) <= len(shape) or 0 in step:
        raise InputError("EC709", "start, end and step do not fit", where=ctx.place)
    for axis, size in enumerate(shape[: len(begin)]):
        if op.options["shrink_axis_mask"] >> axis & 1:
            start = begin[axis] % size if size else 0
            begin[axis], end[axis], step[axis] = start, start + 1, 1
            continue
        if op.options["begin_mask"] >> axis & 1:
            begin[axis] = 0 if step[axis] > 0 else size - 1
        if op.options["end_mask"] >> axis & 1:
            end[axis] = size if step[axis] > 0 else -size - 1
    _slice(ctx, x, y, begin, end, step)


def _slice(ctx: Context, x: int, y: int, begin: list[int], end: list[int], step: list[int]) -> None:
    first = ctx.first(x) and len(ctx.shape(y)) == 4
    shape = ctx.shape(x)
    axes = [
        a for a in range(len(begin)) if not (begin[a] == 0 and end[a] >= shape[a] and step[a] == 1)
    ]
    value = ctx.read(x, first=first)
    if axes:
        lists = [[values[a] for a in axes] for values in (begin, end)]
        lists += [[moved(a, first=first) for a in axes], [step[a] for a in axes]]
        names = ("starts", "ends", "axes", "steps")
        inputs = [ctx.numbers(v, n) for v, n in zip(lists, names, strict=True)]
        value = ctx.emit("Slice", [value, *inputs])
    size = [
        len(range(*slice(begin[a], end[a], step[a]).indices(n))) if a < len(begin) else n
        for a, n in enumerate(shape)
    ]
    if tuple(size) != ctx.shape(y):
        value = ctx.reshape(value, ctx.shape(y))
    ctx.write(y, value, first=first)


def gather(ctx: Context, op: Operator) -> None:
    """Entries along an axis."""
    x, indices = op.inputs[:2]
    if op.options["batch_dims"]:
        raise ctx.unsupported("a gather with batch axes")
    axis = positive(ctx, op.options["axis"], len(ctx.shape(x)))
    value = ctx.emit("Gather", [ctx.read(x), ctx.read(indices)], axis=axis)
    ctx.write(op.outputs[0], value)


def gather_nd(ctx: Context, op: Operator) -> None:
    """Entries by index vectors."""
    x, indices = op.inputs
    wide = ctx.emit("Cast", [ctx.read(indices)], to=7)
    ctx.write(op.outputs[0], ctx.emit("GatherND", [ctx.read(x), wide]))


def tile(ctx: Context, op: Operator) -> None:
    """Repetitions along every axis."""
    times = ctx.integers(op.inputs[1], "the number of repetitions")
    value = ctx.emit("Tile", [ctx.read(op.inputs[0]), ctx.numbers(times, "repeats")])
    ctx.write(op.outputs[0], value)


def broadcast_to(ctx: Context, op: Operator) -> None:
    """To the output's shape."""
    y = op.outputs[0]
    value = ctx.emit("Expand", [ctx.read(op.inputs[0]), ctx.numbers(ctx.shape(y), "shape")])
    ctx.write(y, value)


def fill(ctx: Context, op: Operator) -> None:
    """One number everywhere."""
    y = op.outputs[0]
    scalar = ctx.reshape(ctx.read(op.inputs[1]), ())
    ctx.write(y, ctx.emit("Expand", [scalar, ctx.numbers(ctx.shape(y), "shape")]))


def shape(ctx: Context, op: Operator) -> None:
    """A constant: shapes are static here."""
    y = op.outputs[0]
    size = np.asarray(ctx.shape(op.inputs[0]), ctx.tensor(y).numpy_dtype)
    ctx.write(y, ctx.initializer(size, ctx.tensor(y).name or "shape"))


def zeros_like(ctx: Context, op: Operator) -> None:
    """A constant of zeros."""
    y = op.outputs[0]
    if ctx.tensor(y).elements > MAX_CONSTANT:
        raise ctx.unsupported(f"{ctx.tensor(y).elements:,} zeros")
    zeros = np.zeros(ctx.shape(y), ctx.tensor(y).numpy_dtype)
    ctx.write(y, ctx.initializer(zeros, ctx.tensor(y).name or "zeros"))


def reverse(ctx: Context, op: Operator) -> None:
    """Axes run backwards."""
    x, y = op.inputs[0], op.outputs[0]
    rank = len(ctx.shape(x))
    axes = [positive(ctx, a, rank) for a in ctx.integers(op.inputs[1], "the list of axes")]
    ends = [-ctx.shape(x)[a] - 1 for a in axes]
    inputs = [
        ctx.numbers(values, name)
        for values, name in (
            ([-1] * len(axes), "starts"),
            (ends, "ends"),
            (axes, "axes"),
            ([-1] * len(axes), "steps"),
        )
    ]
    ctx.write(y, ctx.emit("Slice", [ctx.read(x), *inputs]))


def space_to_depth(ctx: Context, op: Operator) -> None:
    """Blocks of pixels become channels, row, column and channel of the block in this order."""
    value = ctx.read(op.inputs[0], first=True)
    value = ctx.emit("SpaceToDepth", [value], blocksize=op.options["block_size"])
    ctx.write(op.outputs[0], value, first=True)


def depth_to_space(ctx: Context, op: Operator) -> None:
    """Channels become blocks of pixels."""
    value = ctx.read(op.inputs[0], first=True)
    value = ctx.emit("DepthToSpace", [value], blocksize=op.options["block_size"], mode="DCR")
    ctx.write(op.outputs[0], value, first=True)


def space_to_batch_nd(ctx: Context, op: Operator) -> None:
    """Pixels of the same place in their blocks become images of their own."""
    x, y = op.inputs[0], op.outputs[0]
    block = ctx.integers(op.inputs[1], "the block")
    pads = ctx.integers(op.inputs[2], "the padding")
    size = _image(ctx, x, block, pads)
    amounts = [0, *pads[0::2], 0, 0, *pads[1::2], 0]
    value = ctx.read(x)
    if any(amounts):
        value = ctx.emit("Pad", [value, ctx.numbers(amounts, "pads")], mode="constant")
    height, width = (size[a + 1] + pads[2 * a] + pads[2 * a + 1] for a in (0, 1))
    if height % block[0] or width % block[1]:
        raise InputError("EC709", "the image is no whole number of blocks", where=ctx.place)
    inner = (size[0], height // block[0], block[0], width // block[1], block[1], size[3])
    value = ctx.emit("Transpose", [ctx.reshape(value, inner)], perm=[2, 4, 0, 1, 3, 5])
    ctx.write(y, ctx.reshape(value, ctx.shape(y)))


def batch_to_space_nd(ctx: Context, op: Operator) -> None:
    """The way back, with a border cut off."""
    x, y = op.inputs[0], op.outputs[0]
    block = ctx.integers(op.inputs[1], "the block")
    crops = ctx.integers(op.inputs[2], "the crops")
    size = _image(ctx, x, block, crops)
    batch = size[0] // prod(block)
    inner = (*block, batch, size[1], size[2], size[3])
    value = ctx.emit("Transpose", [ctx.reshape(ctx.read(x), inner)], perm=[2, 3, 0, 4, 1, 5])
    height, width = size[1] * block[0], size[2] * block[1]
    value = ctx.reshape(value, (batch, height, width, size[3]))
    if any(crops):
        starts = [crops[0], crops[2]]
        ends = [height - crops[1], width - crops[3]]
        inputs = [ctx.numbers(v, n) for v, n in ((starts, "starts"), (ends, "ends"))]
        value = ctx.emit("Slice", [value, *inputs, ctx.numbers([1, 2], "axes")])
    ctx.write(y, value)


def _image(ctx: Context, x: int, block: list[int], border: list[int]) -> tuple[int, ...]:
    size = ctx.shape(x)
    if len(size) != 4 or len(block) != 2 or len(border) != 4 or min(block) < 1:
        raise ctx.unsupported("blocks of something that is no image")
    return size
