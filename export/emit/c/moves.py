"""Operators that move or resize, as kernel calls."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from edgec.export.emit.c.call import Call, Share, Table
from edgec.export.emit.c.frame import Frame, grid, unsupported
from edgec.export.tflite.model import Operator, Tensor
from edgec.export.tflite.reference.fixed_point import zero_of
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
    loops = _merged(shape, strides)
    run = loops.pop()[0] if loops and loops[-1][1] == 1 else 1
    if len(loops) > 5:
        raise unsupported(frame, op, f"{len(loops)} dimensions")
    loops = [(1, 0)] * (5 - len(loops)) + loops
    return Call(
        "edgec_strided_copy_s8",
        {
            "start": start,
            "run": run,
            "shape": tuple(size for size, _ in loops),
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
    """PAD of up to four dimensions, with the integer of zero."""
    x, y = frame.tensor(0), frame.output
    amounts = np.asarray(frame.constant(1))
    lead = 4 - len(x.shape)
    if lead < 0:
        raise unsupported(frame, op, f"{len(x.shape)} dimensions")
    return [
        Call(
            "edgec_pad_s8",
            {
                "in_shape": (1,) * lead + tuple(x.shape),
                "before": (0,) * lead + tuple(int(a) for a in amounts[:, 0]),
                "out_shape": (1,) * lead + tuple(y.shape),
                "fill": zero_of(x),
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
    inner = prod(y.shape[axis + 1 :])
    calls, start = [], 0
    for number in range(len(op.inputs)):
        x = frame.tensor(number)
        if grid(x) != grid(y):
            raise unsupported(frame, op, "operands on other grids than the output")
        row = x.shape[axis] * inner
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
    indices = np.asarray(frame.constant(1)).reshape(-1).astype(np.int32)
    return [
        Call(
            "edgec_gather_s8",
            {
                "outer": prod(x.shape[:axis]),
                "axis": x.shape[axis],
                "inner": prod(x.shape[axis + 1 :]),
                "count": len(indices),
                "indices": Table(indices % x.shape[axis]),
            },
            (frame.operand(0),),
            frame.output_index,
        )
    ]


def resize_bilinear(frame: Frame, op: Operator) -> list[Call]:
    """RESIZE_BILINEAR."""
    x, y = frame.tensor(0), frame.output
    places = [_interpolation(op, x, y, axis) for axis in (1, 2)]
    return [
        Call(
            "edgec_resize_bilinear_s8",
            {
                "batch": x.shape[0],
                "in_h": x.shape[1],
                "in_w": x.shape[2],
                "out_h": y.shape[1],
                "out_w": y.shape[2],
                "channels": x.shape[3],
                "start_h": places[0][0],
                "start_w": places[1][0],
                "scale_h": places[0][1],
                "scale_w": places[1][1],
            },
            (frame.index(0),),
            frame.output_index,
        )
    ]


def _interpolation(op: Operator, x: Tensor, y: Tensor, axis: int) -> tuple[int, int]:
    """Position of the first output and distance between two, in 1/1024 pixels."""
    corners = op.options["align_corners"] and y.shape[axis] > 1
    old, new = (t.shape[axis] - int(corners) for t in (x, y))
    scale = ((1 << 10) * old + new // 2) // new
    return (scale // 2 - (1 << 9) if op.options["half_pixel_centers"] else 0), scale
