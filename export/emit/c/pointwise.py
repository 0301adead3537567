"""Elementwise operators, pools, reductions and softmax as kernel calls."""

from __future__ import annotations

from math import prod

import numpy as np

from edgec.export.emit.c.call import Call, Share, Table
from edgec.export.emit.c.frame import (
    Frame,
    broadcast_loops,
    grid,
    range_of,
    same_padding,
    suffix,
    unsupported,
    width,
)
from edgec.export.emit.c.reference import exponentials, softmax_step
from edgec.export.tflite.model import Operator
from edgec.export.tflite.reference.fixed_point import Multiplier, scale_of, zero_of
from edgec.profiles.memory import overlap

SHIFT = {
    "INT8": {"ADD": 20, "SUB": 20, "SQUARED_DIFFERENCE": 7},
    "INT16": {"ADD": 15, "SUB": 15},
}
"""Bits by which sums refine their operands."""


def binary(frame: Frame, op: Operator) -> list[Call]:
    """ADD, SUB, MUL, SQUARED_DIFFERENCE, MAXIMUM, MINIMUM with broadcasting."""
    a, b, y = frame.tensor(0), frame.tensor(1), frame.output
    if not a.dtype == b.dtype == y.dtype:
        raise unsupported(frame, op, f"operands of {a.dtype} and {b.dtype}")
    loops = broadcast_loops(a.shape, b.shape, y.shape, axes=len(y.shape), least=4)
    if len(loops) > 4:
        raise unsupported(frame, op, f"broadcasting over {len(loops)} groups of dimensions")
    low, high = range_of(y, op.options.get("fused_activation_function", "NONE"))
    shift = SHIFT[y.dtype].get(op.code, 0)
    scales = [np.float32(scale_of(t)) for t in (a, b)]
    one = Multiplier.of(1.0)
    if op.code in ("MAXIMUM", "MINIMUM"):
        if not grid(a) == grid(b) == grid(y):
            raise unsupported(frame, op, "operands on other grids than the output")
        sides, back = [one, one], one
    elif op.code == "MUL":
        sides = [one, one]
        back = Multiplier.of(scales[0] * scales[1] / np.float32(scale_of(y)))
        if y.dtype == "INT16" and back.exponent > 0:
            raise unsupported(frame, op, "its products are coarser than its output")
    else:
        twice = float(np.float32(2) * max(scales))
        sides = [Multiplier.of(float(scale) / twice) for scale in scales]
        if op.code == "SQUARED_DIFFERENCE":
            real = twice * twice / ((1 << 2 * shift) * float(scale_of(y)))
        else:
            real = twice / ((1 << shift) * float(scale_of(y)))
        back = Multiplier.of(real)
    return [
        Call(
            f"edgec_{op.code.lower()}_{suffix(y)}",
            {
                "shape": tuple(size for size, _, _ in loops),
                "a_stride": tuple(step for _, step, _ in loops),
                "b_stride": tuple(step for _, _, step in loops),
                "a_zero": zero_of(a),
                "b_zero": zero_of(b),
                "out_zero": zero_of(y),
                "low": low,
                "high": high,
                "a_mantissa": int(sides[0].mantissa),
                "a_exponent": int(sides[0].exponent),
                "b_mantissa": int(sides[1].mantissa),
                "b_exponent": int(sides[1].exponent),
                "out_mantissa": int(back.mantissa),
                "out_exponent": int(back.exponent),
                "shift": shift,
            },
            (frame.operand(0), frame.operand(1)),
            frame.output_index,
            tuple(
                Share(number, overlap.elementwise())
                for number, tensor in enumerate((a, b))
                if tensor.shape == y.shape and not frame.is_constant(number)
            ),
        )
    ]


def pool_sizes(frame: Frame, op: Operator) -> tuple[dict[str, int], overlap.Window]:
    """Sizes of AVERAGE_POOL_2D and MAX_POOL_2D: parameters of the kernels, and the window."""
    x, y = frame.tensor(0), frame.output
    batch, in_h, in_w, channels = x.shape
    out_h, out_w = y.shape[1:3]
    size = (op.options["filter_height"], op.options["filter_width"])
    stride = (op.options["stride_h"], op.options["stride_w"])
    same = op.options["padding"] == "SAME"
    pad_h = same_padding(in_h, out_h, size[0], stride[0], 1) if same else 0
    pad_w = same_padding(in_w, out_w, size[1], stride[1], 1) if same else 0
    window = overlap.Window(
        (in_h, in_w),
        (out_h, out_w),
        channels,
        channels,
        size,
        stride,
        (pad_h, pad_w),
        depthwise=True,
    )
    sizes = {
        "batch": batch,
        "in_h": in_h,
        "in_w": in_w,
        "out_h": out_h,
        "out_w": out_w,
        "channels": channels,
        "k_h": size[0],
        "k_w": size[1],
        "stride_h": stride[0],
        "stride_w": stride[1],
        "pad_h": pad_h,
        "pad_w": pad_w,
    }
    return sizes, window


def pool(frame: Frame, op: Operator) -> list[Call]:
    """AVERAGE_POOL_2D and MAX_POOL_2D."""
    y = frame.output
    low, high = range_of(y, op.options["fused_activation_function"])
    sizes, window = pool_sizes(frame, op)
    distance = overlap.window(window, width=width(y))
    return [
        Call(
            f"edgec_{'max' if op.code == 'MAX_POOL_2D' else 'average'}_pool_{suffix(y)}",
            {**sizes, "low": low, "high": high},
            (frame.index(0),),
            frame.output_index,
            (Share(0, distance),) if sizes["batch"] == 1 else (),
        )
    ]


def reduced(frame: Frame, op: Operator) -> dict[str, int]:
    """Sizes of a reduction over neighbouring axes: [outer][count][inner]."""
    shape = frame.tensor(0).shape
    axes = sorted({int(a) % len(shape) for a in np.asarray(frame.constant(1)).reshape(-1)})
    if axes != list(range(axes[0], axes[0] + len(axes))):
        raise unsupported(frame, op, f"the axes {axes} are not neighbours")
    return {
        "outer": prod(shape[: axes[0]]),
        "count": prod(shape[a] for a in axes),
        "inner": prod(shape[axes[-1] + 1 :]),
    }


def mean(frame: Frame, op: Operator) -> list[Call]:
    """MEAN and SUM over neighbouring axes."""
    x, y = frame.tensor(0), frame.output
    sizes = reduced(frame, op)
    count = sizes["count"]
    scale = Multiplier.of(float(np.float32(scale_of(x)) / np.float32(scale_of(y))))
    exponent = int(scale.exponent)
    # the number of elements goes into the multiplier, as far as that stays precise
    shift = min(count.bit_length() - 1, 32, 31 + exponent) if op.code == "MEAN" else 0
    parts = count if op.code == "MEAN" else 1
    if y.dtype == "INT16" and count << max(exponent - shift, 0) >= 1 << 15:
        raise unsupported(frame, op, f"sums of {count} elements do not fit 30 bits")
    return [
        Call(
            f"edgec_{op.code.lower()}_{suffix(y)}",
            {
                **sizes,
                "in_zero": zero_of(x),
                "out_zero": zero_of(y),
                "mantissa": (int(scale.mantissa) << shift) // parts,
                "exponent": exponent - shift,
            },
            (frame.index(0),),
            frame.output_index,
        )
    ]


def extreme(frame: Frame, op: Operator) -> list[Call]:
    """REDUCE_MAX and REDUCE_MIN over neighbouring axes."""
    if grid(frame.tensor(0)) != grid(frame.output):
        raise unsupported(frame, op, "its operand is on another grid than the output")
    return [
        Call(
            f"edgec_{op.code.lower()}_{suffix(frame.output)}",
            reduced(frame, op),
            (frame.index(0),),
            frame.output_index,
        )
    ]


def softmax(frame: Frame, op: Operator) -> list[Call]:
    """SOFTMAX over the last axis."""
    x, y = frame.tensor(0), frame.output
    if zero_of(y) != -128 or float(scale_of(y)) != 1 / 256:
        raise unsupported(frame, op, "its output has another scale than 1/256")
    table = exponentials(softmax_step(op.options["beta"], scale_of(x)))
    size = x.shape[-1]
    return [
        Call(
            "edgec_softmax_s8",
            {"rows": x.elements // size, "size": size, "table": Table(table)},
            (frame.index(0),),
            frame.output_index,
            (Share(0, overlap.elementwise()),),
        )
    ]
