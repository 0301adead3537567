"""Operators that move or resize, as kernel calls.

The kernels move bytes: wider elements are runs of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgec.export.emit.c.call import Call, Share, Table
from edgec.export.emit.c.frame import Frame, grid, suffix, unsupported, width
from edgec.export.tflite.model import Operator, Tensor
from edgec.export.tflite.reference.fixed_point import zero_of
from edgec.export.tflite.reference.moves import nearest
from edgec.profiles.memory import overlap


def transpose(frame: Frame, op: Operator) -> list[Call]:
    """TRANSPOSE; axes that stay neighbours count as one."""
    x, y = frame.tensor(0), frame.output
    pitch = _pitch(x)
    strides = [pitch[int(axis)] for axis in frame.constant(1)]
    return [_copy(frame, op, 0, 0, y.shape, strides, frame.output_index)]


def _copy(
    frame: Frame,
    op: Operator,
    source: int,
    start: int,
    shape: Sequence[int],
    strides: Sequence[int],
    output: int,
    shares: tuple[Share, ...] = (),
) -> Call:
    size = width(frame.tensor(source))
    # elements are the innermost loop, over their bytes
    loops = _merged((*shape, size), (*(stride * size for stride in strides), 1))
    run = loops.pop()[0] if loops and loops[-1][1] == 1 else 1
    if len(loops) > 5:
        raise unsupported(frame, op, f"{len(loops)} dimensions")
    loops = [(1, 0)] * (5 - len(loops)) + loops
    return Call(
        "edgec_strided_copy_s8",
        {
            "start": start * size,
            "run": run,
            "shape": tuple(count for count, _ in loops),
            "stride": tuple(stride for _, stride in loops),
        },
        (frame.operand(source),),
        output,
        shares,
    )


def _pitch(x: Tensor) -> list[int]:
    return [prod(x.shape[axis + 1 :]) for axis in range(len(x.shape))]


def _merged(shape: Sequence[int], strides: Sequence[int]) -> list[tuple[int, int]]:
    """(size, stride) of loops, outermost first; loops that continue one another are one."""
    loops: list[tuple[int, int]] = []
    for size, stride in zip(shape, strides, strict=True):
        if size == 1:
            continue
        if loops and loops[-1][1] == size * stride:
            loops[-1] = (loops[-1][0] * size, stride)
        else:
            loops.append((size, stride))
    return loops


def pad(frame: Frame, op: Operator) -> list[Call]:
    """PAD of up to four dimensions with zero, PADV2 with a constant."""
    x, y = frame.tensor(0), frame.output
    amounts = np.asarray(frame.constant(1))
    lead = 4 - len(x.shape)
    if lead < 0:
        raise unsupported(frame, op, f"{len(x.shape)} dimensions")
    fill = zero_of(x) if x.dtype in ("INT8", "INT16") else 0
    if op.code == "PADV2":
        value = frame.constant(2).reshape(-1)[:1]
        fill = int(value.view(np.int32)[0] if width(x) == 4 else value[0])

    def bytes_of(sizes: Sequence[int], first: int) -> tuple[int, ...]:
        four = (*(first,) * lead, *sizes)
        return (*four[:3], four[3] * width(x))

    return [
        Call(
            "edgec_pad_s8",
            {
                "in_shape": bytes_of(x.shape, 1),
                "before": bytes_of([int(a) for a in amounts[:, 0]], 0),
                "out_shape": bytes_of(y.shape, 1),
                "width": width(x),
                "fill": fill,
            },
            (frame.index(0),),
            frame.output_index,
        )
    ]


def concatenation(frame: Frame, op: Operator) -> list[Call]:
    """CONCATENATION: one call per operand."""
    y = frame.output
    if op.options["fused_activation_function"] != "NONE":
        raise unsupported(frame, op, "a fused activation")
    axis = op.options["axis"] % len(y.shape)
    return _joined(frame, op, axis)


def pack(frame: Frame, op: Operator) -> list[Call]:
    """PACK: a concatenation along a new axis."""
    return _joined(frame, op, op.options["axis"] % len(frame.output.shape))


def _joined(frame: Frame, op: Operator, axis: int) -> list[Call]:
    y = frame.output
    inner = prod(y.shape[axis + 1 :]) * width(y)
    calls, start = [], 0
    for number in range(len(op.inputs)):
        x = frame.tensor(number)
        if y.dtype in ("INT8", "INT16") and grid(x) != grid(y):
            raise unsupported(frame, op, "operands on other grids than the output")
        row = x.elements * width(y) // prod(y.shape[:axis])
        calls.append(
            Call(
                "edgec_concat_s8",
                {
                    "rows": prod(y.shape[:axis]),
                    "in_row": row,
                    "out_row": y.shape[axis] * inner,
                    "start": start,
                },
                (frame.operand(number),),
                frame.output_index,
            )
        )
        start += row
    return calls


def split(frame: Frame, op: Operator) -> list[Call]:
    """SPLIT and SPLIT_V: one call per part."""
    source, axis_input = (1, 0) if op.code == "SPLIT" else (0, 2)
    x = frame.tensor(source)
    axis = int(np.asarray(frame.constant(axis_input)).reshape(-1)[0]) % len(x.shape)
    calls, start = [], 0
    for index in op.outputs:
        shape = frame.graph.tensors[index].shape
        begin = [start if a == axis else 0 for a in range(len(shape))]
        calls.append(_block(frame, op, source, begin, shape, frame.roots[index]))
        start += shape[axis]
    return calls


def unpack(frame: Frame, op: Operator) -> list[Call]:
    """UNPACK: one call per part."""
    x = frame.tensor(0)
    axis = op.options["axis"] % len(x.shape)
    shape = tuple(1 if a == axis else size for a, size in enumerate(x.shape))
    return [
        _block(
            frame,
            op,
            0,
            [number if a == axis else 0 for a in range(len(shape))],
            shape,
            frame.roots[index],
        )
        for number, index in enumerate(op.outputs)
    ]


def slice_(frame: Frame, op: Operator) -> list[Call]:
    """SLICE from a constant place."""
    shape = frame.output.shape
    begin = [int(b) for b in np.asarray(frame.constant(1)).reshape(-1)]
    return [_block(frame, op, 0, begin, shape, frame.output_index)]


def strided_slice(frame: Frame, op: Operator) -> list[Call]:
    """STRIDED_SLICE forwards from constant places."""
    x, y = frame.tensor(0), frame.output
    masks = ("ellipsis_mask", "new_axis_mask")
    if any(op.options[mask] for mask in masks) or len(y.shape) != len(x.shape):
        raise unsupported(frame, op, "axes come or go")
    begin, steps = (np.asarray(frame.constant(n)).reshape(-1) for n in (1, 3))
    if (steps <= 0).any():
        raise unsupported(frame, op, "it runs backwards")
    places = [
        0
        if op.options["begin_mask"] >> axis & 1
        else int(first) % size
        if first < 0
        else int(first)
        for axis, (first, size) in enumerate(zip(begin, x.shape, strict=True))
    ]
    pitch = _pitch(x)
    start = sum(place * step for place, step in zip(places, pitch, strict=True))
    strides = [int(step) * own for step, own in zip(steps, pitch, strict=True)]
    shares = () if frame.is_constant(0) else (Share(0, overlap.elementwise()),)
    return [_copy(frame, op, 0, start, y.shape, strides, frame.output_index, shares)]


def broadcast_to(frame: Frame, op: Operator) -> list[Call]:
    """BROADCAST_TO: strides of 0 repeat."""
    x, y = frame.tensor(0), frame.output
    pitch = [0] * (len(y.shape) - len(x.shape)) + [
        0 if size == 1 else step for size, step in zip(x.shape, _pitch(x), strict=True)
    ]
    return [_copy(frame, op, 0, 0, y.shape, pitch, frame.output_index)]


def tile(frame: Frame, op: Operator) -> list[Call]:
    """TILE: each axis is repeated as a whole."""
    x = frame.tensor(0)
    shape: list[int] = []
    strides: list[int] = []
    times = np.asarray(frame.constant(1)).reshape(-1)
    for count, size, step in zip(times, x.shape, _pitch(x), strict=True):
        shape += [int(count), size]
        strides += [0, step]
    return [_copy(frame, op, 0, 0, shape, strides, frame.output_index)]


def rearranged_blocks(frame: Frame, op: Operator) -> list[Call]:
    """SPACE_TO_DEPTH and DEPTH_TO_SPACE: transposes of rows and columns within blocks."""
    x, y = frame.tensor(0), frame.output
    block = op.options["block_size"]
    batch, height, width_, channels = x.shape
    if op.code == "SPACE_TO_DEPTH":
        parts = (batch, height // block, block, width_ // block, block, channels)
    else:
        parts = (batch, height, width_, block, block, y.shape[3])
    pitch = [prod(parts[axis + 1 :]) for axis in range(6)]
    # row and column within a block change sides with the column of the block
    order = (0, 1, 3, 2, 4, 5)
    return [
        _copy(
            frame,
            op,
            0,
            0,
            [parts[a] for a in order],
            [pitch[a] for a in order],
            frame.output_index,
        )
    ]


def _block(
    frame: Frame, op: Operator, source: int, begin: list[int], shape: tuple[int, ...], output: int
) -> Call:
    """A block of an input; its elements are read in order of address, never behind the output."""
    pitch = _pitch(frame.tensor(source))
    start = sum(b * p for b, p in zip(begin, pitch, strict=True))
    shares = () if frame.is_constant(source) else (Share(0, overlap.elementwise()),)
    return _copy(frame, op, source, start, shape, pitch, output, shares)


def gather(frame: Frame, op: Operator) -> list[Call]:
    """GATHER of constant indices along an axis."""
    x = frame.tensor(0)
    if op.options["batch_dims"]:
        raise unsupported(frame, op, "batch axes")
    axis = op.options["axis"] % len(x.shape)
    indices = np.asarray(frame.constant(1)).reshape(-1).astype(np.int32) % x.shape[axis]
    outer, inner = prod(x.shape[:axis]), prod(x.shape[axis + 1 :])
    return [_gather(frame, frame.operand(0), outer, x.shape[axis], inner * width(x), indices)]


def _gather(
    frame: Frame,
    source: int | Table,
    outer: int,
    axis: int,
    inner: int,
    indices: NDArray[np.int32],
) -> Call:
    return Call(
        "edgec_gather_s8",
        {
            "outer": outer,
            "axis": axis,
            "inner": inner,
            "count": len(indices),
            "indices": Table(indices),
        },
        (source,),
        frame.output_index,
    )


def resize_nearest(frame: Frame, op: Operator) -> list[Call]:
    """RESIZE_NEAREST_NEIGHBOR: pixels by their number in the image."""
    x, y = frame.tensor(0), frame.output
    rows, columns = (
        nearest(op.options, x.shape[axis], y.shape[axis]).astype(np.int32) for axis in (1, 2)
    )
    pixels = (rows[:, None] * x.shape[2] + columns).reshape(-1)
    inner = x.shape[3] * width(x)
    return [_gather(frame, frame.operand(0), x.shape[0], x.shape[1] * x.shape[2], inner, pixels)]


def resize_bilinear(frame: Frame, op: Operator) -> list[Call]:
    """RESIZE_BILINEAR."""
    x, y = frame.tensor(0), frame.output
    rows, columns = (_interpolation(op, x, y, axis) for axis in (1, 2))
    return [interpolation(frame, f"edgec_resize_bilinear_{suffix(y)}", rows, columns)]


def interpolation(
    frame: Frame, kernel: str, rows: tuple[float, float], columns: tuple[float, float]
) -> Call:
    """The call of a bilinear kernel: where the first row and column lie in the input, and how far
    apart they are."""
    return Call(
        kernel,
        {
            **image_sizes(frame.tensor(0), frame.output),
            "start_h": rows[0],
            "start_w": columns[0],
            "scale_h": rows[1],
            "scale_w": columns[1],
        },
        (frame.index(0),),
        frame.output_index,
    )


def image_sizes(x: Tensor, y: Tensor) -> dict[str, int]:
    """Sizes of an image and of what is made of it, with the same channels."""
    return {
        "batch": x.shape[0],
        "in_h": x.shape[1],
        "in_w": x.shape[2],
        "out_h": y.shape[1],
        "out_w": y.shape[2],
        "channels": x.shape[3],
    }


def _interpolation(op: Operator, x: Tensor, y: Tensor, axis: int) -> tuple[int, int]:
    """Position of the first output and distance between two, in 1/1024 pixels."""
    corners = op.options["align_corners"] and y.shape[axis] > 1
    old, new = (t.shape[axis] - int(corners) for t in (x, y))
    scale = ((1 << 10) * old + new // 2) // new
    return (scale // 2 - (1 << 9) if op.options["half_pixel_centers"] else 0), scale


LOWERINGS: Final[Mapping[str, Callable[[Frame, Operator], list[Call]]]] = {
    "TRANSPOSE": transpose,
    "PAD": pad,
    "PADV2": pad,
    "CONCATENATION": concatenation,
    "PACK": pack,
    "SPLIT": split,
    "SPLIT_V": split,
    "UNPACK": unpack,
    "SLICE": slice_,
    "STRIDED_SLICE": strided_slice,
    "BROADCAST_TO": broadcast_to,
    "TILE": tile,
    "GATHER": gather,
    "SPACE_TO_DEPTH": rearranged_blocks,
    "DEPTH_TO_SPACE": rearranged_blocks,
    "RESIZE_NEAREST_NEIGHBOR": resize_nearest,
}
"""Operators that move elements of any width."""
