"""Operators on int16 activations as kernel calls: what differs from int8.

TFLite's scheme (symmetric int16 activations, int8 weights, biases of int64): no zero points, sums
of 64 bits where it takes them. Sums that provably fit 32 bits are added up in 32 bits, which gives
the same; ``wide`` marks the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgec.export.emit.c import floats, moves, norm, pointwise
from edgec.export.emit.c.call import Call, Scales, Share, Table
from edgec.export.emit.c.frame import Frame, range_of, unsupported, width
from edgec.export.emit.c.fuse import NORMS
from edgec.export.emit.c.interpolate import CODE as INTERPOLATED
from edgec.export.emit.c.products import (
    MOST_PAIRED,
    geometry,
    product_sizes,
    scales_of,
    taps_of,
)
from edgec.export.tflite.model import Operator
from edgec.export.tflite.reference import softmax_int16
from edgec.export.tflite.reference.fixed_point import Multiplier, scale_of, zero_of
from edgec.profiles.memory import overlap

WIDTH: Final = 2
"""Bytes of an element."""
_LARGEST: Final = 1 << 15
_FAST_EXPONENT: Final = -2
"""Largest exponent that the fast requantization takes (``edgec_scale_down_once``)."""
_MOST_SUM: Final = 1 << 46
"""Sums below it are multiplied in 64 bits."""


def conv_2d(frame: Frame, op: Operator) -> list[Call]:
    """CONV_2D and DEPTHWISE_CONV_2D."""
    y, weights = frame.output, frame.constant(1)
    depthwise = op.code == "DEPTHWISE_CONV_2D"
    sizes, window = geometry(frame, op)
    low, high = range_of(y, op.options["fused_activation_function"])
    gathers = sizes["groups"] == 1 and not depthwise
    distance = overlap.window(window, width=WIDTH, access="pixel" if gathers else "element")
    taps = taps_of(frame)
    scales = _short(scales_of(frame, sizes["out_c"]))
    return [
        Call(
            "edgec_depthwise_s16" if depthwise else "edgec_conv_s16",
            {
                **sizes,
                "low": low,
                "high": high,
                **_sums(frame, np.moveaxis(weights, -1 if depthwise else 0, 0), scales),
                "weights": Table(weights),
                "scales": scales,
            },
            (frame.index(0),),
            frame.output_index,
            (Share(0, distance),) if sizes["batch"] == 1 else (),
            y.elements * taps,
            WIDTH * sizes["in_c"] if depthwise else _row_scratch(taps),
        )
    ]


def fully_connected(frame: Frame, op: Operator) -> list[Call]:
    """FULLY_CONNECTED; its kernel in TFLite multiplies by all bits of the mantissa."""
    weight = frame.tensor(1)
    if op.options["weights_format"] != "DEFAULT":
        raise unsupported(frame, op, "shuffled weights")
    if weight.quantization is not None and weight.quantization.zero_point.any():
        raise unsupported(frame, op, "weights with a zero point")
    weights = frame.constant(1)
    scales = scales_of(frame, weights.shape[0])
    return [_linear(frame, weights, scales, op.options["fused_activation_function"])]


def batch_matmul(frame: Frame, op: Operator) -> list[Call]:
    """BATCH_MATMUL; constants may be int8, and one matrix of them makes a linear layer."""
    a, b, y = frame.tensor(0), frame.tensor(1), frame.output
    if a.dtype != "INT16" or np.ndim(scale_of(a)) or np.ndim(scale_of(b)):
        raise unsupported(frame, op, "a constant of int8 before it, or several scales of one")
    scale = _product_scale(frame)
    if b.dtype == "INT8" and b.elements == prod(b.shape[-2:]) and not op.options["adj_x"]:
        matrix = frame.constant(1).reshape(b.shape[-2:])
        weights = np.ascontiguousarray(matrix if op.options["adj_y"] else matrix.T)
        one = Scales(np.atleast_1d(scale.mantissa), np.atleast_1d(scale.exponent))
        return [_linear(frame, weights, one, "NONE")]
    low, high = range_of(y, "NONE")
    sizes = product_sizes(frame, op)
    inner = a.shape[-2] if op.options["adj_x"] else a.shape[-1]
    if inner * _LARGEST * _LARGEST >= _MOST_SUM:
        raise unsupported(frame, op, f"sums of {inner} products exceed 46 bits")
    return [
        Call(
            "edgec_matmul_s16",
            {
                **sizes,
                "b_width": width(b),
                "low": low,
                "high": high,
                "mantissa": int(scale.mantissa),
                "exponent": int(scale.exponent),
            },
            (frame.operand(0), frame.operand(1)),
            frame.output_index,
            (),
            y.elements * inner,
            4 * WIDTH * inner,
        )
    ]


def _product_scale(frame: Frame) -> Multiplier:
    product = np.float32(scale_of(frame.tensor(0))) * np.float32(scale_of(frame.tensor(1)))
    return Multiplier.of(np.float64(product) / np.float64(scale_of(frame.output))).short


def rescale(frame: Frame, op: Operator) -> list[Call]:
    """QUANTIZE to another scale, RELU and RELU6."""
    x, y = frame.tensor(0), frame.output
    if y.dtype == "INT8" and op.code == "QUANTIZE":
        return converted(frame, op)
    if y.dtype != "INT16":
        raise unsupported(frame, op, f"it writes {y.dtype}")
    if op.code == "QUANTIZE":
        scale = Multiplier.of(float(scale_of(x)) / float(scale_of(y)))
    else:
        scale = Multiplier.of(np.float32(scale_of(x)) / np.float32(scale_of(y)))
    if scale.exponent > 13:
        raise unsupported(frame, op, "its output is more than 8,000 times as fine as its input")
    low, high = range_of(y, "NONE" if op.code == "QUANTIZE" else op.code)
    return [
        _each(
            frame,
            "edgec_rescale_s16",
            mantissa=int(scale.mantissa),
            exponent=int(scale.exponent),
            low=low,
            high=high,
        )
    ]


def converted(frame: Frame, op: Operator) -> list[Call]:
    """QUANTIZE between int8 and int16: a border of the parts that compute in either."""
    x, y = frame.tensor(0), frame.output
    if {x.dtype, y.dtype} != {"INT8", "INT16"}:
        raise unsupported(frame, op, f"it reads {x.dtype} and writes {y.dtype}")
    widens = x.dtype == "INT8"
    scale = Multiplier.of(float(scale_of(x)) / float(scale_of(y)))
    # what is shifted to the left has to stay below 2**30
    if scale.exponent > (21 if widens else 13):
        raise unsupported(frame, op, "its output is too fine for its input")
    return [
        Call(
            "edgec_widen_s16" if widens else "edgec_narrow_s16",
            {
                "count": y.elements,
                "mantissa": int(scale.mantissa),
                "exponent": int(scale.exponent),
                "zero": zero_of(x if widens else y),
            },
            (frame.index(0),),
            frame.output_index,
            (Share(0, overlap.rows(width(x), width(y), y.elements, "row")),),
        )
    ]


def interpolated(frame: Frame, op: Operator) -> list[Call]:
    """A function with a table."""
    return [_each(frame, "edgec_interpolate_s16", table=Table(frame.constant(1)))]


def _each(frame: Frame, kernel: str, **parameters: int | Table) -> Call:
    return Call(
        kernel,
        {"count": frame.output.elements, **parameters},
        (frame.index(0),),
        frame.output_index,
        (Share(0, overlap.elementwise()),),
    )


def softmax(frame: Frame, op: Operator) -> list[Call]:
    """SOFTMAX over the last axis."""
    x, y = frame.tensor(0), frame.output
    if float(scale_of(y)) != 2.0**-15:
        raise unsupported(frame, op, "its output has another scale than 2**-15")
    size = x.shape[-1]
    scale = softmax_int16.scale(op.options["beta"], scale_of(x))
    if scale.exponent > 12 or size > _LARGEST:
        raise unsupported(frame, op, "its input has steps of a thousand, or rows of 32,769")
    return [
        Call(
            "edgec_softmax_s16",
            {
                "rows": x.elements // size,
                "size": size,
                "mantissa": int(scale.mantissa),
                "exponent": int(scale.exponent),
                "exponentials": Table(softmax_int16.exponentials()),
                "reciprocals": Table(softmax_int16.reciprocals()),
            },
            (frame.index(0),),
            frame.output_index,
            (Share(0, overlap.elementwise()),),
        )
    ]


def _linear(frame: Frame, weights: NDArray[Any], scales: Scales, activation: str) -> Call:
    """Rows times [outputs][inputs]."""
    out_size, in_size = weights.shape
    rows = frame.tensor(0).elements // in_size
    low, high = range_of(frame.output, activation)
    distance = overlap.rows(WIDTH * in_size, WIDTH * out_size, rows, "row")
    return Call(
        "edgec_fully_connected_s16",
        {
            "rows": rows,
            "in_size": in_size,
            "out_size": out_size,
            "low": low,
            "high": high,
            "scales_each": int(len(scales.mantissa) == out_size),
            **_sums(frame, weights, scales),
            "weights": Table(weights),
            "scales": scales,
        },
        (frame.index(0),),
        frame.output_index,
        (Share(0, distance),),
        rows * in_size * out_size,
        _row_scratch(in_size),
    )


def _sums(frame: Frame, weights: NDArray[Any], scales: Scales) -> dict[str, int | Table]:
    """Biases, and whether sums or scales need the slow arithmetic.

    Args:
        weights: outputs along the first axis.
    """
    given = frame.optional(2)
    bias = np.zeros(len(weights), np.int64) if given is None else given.astype(np.int64)
    taps = np.abs(weights.reshape(len(weights), -1).astype(np.int64)).sum(1)
    # partial sums are within the same limits: the bias comes first, signs may be any
    most = int((taps * _LARGEST + np.abs(bias)).max(initial=0))
    if most >= _MOST_SUM:
        raise unsupported(frame, frame.operator, "sums exceed 46 bits")
    wide = most >= 1 << 31 or bool((scales.exponent > _FAST_EXPONENT).any())
    return {
        "wide": int(wide),
        "bias": Table((bias & 0xFFFFFFFF).astype(np.uint32).view(np.int32)),
        "bias_high": Table((bias >> 32).astype(np.int32) if wide else None),
    }


def _short(scales: Scales) -> Scales:
    short = Multiplier(scales.mantissa, scales.exponent).short
    return Scales(short.mantissa, short.exponent)


def _row_scratch(size: int) -> int:
    """Two rows, or one that is long."""
    return WIDTH * size * (2 if size <= MOST_PAIRED else 1)


LOWERINGS: Final[Mapping[str, Callable[[Frame, Operator], list[Call]]]] = {
    "CONV_2D": conv_2d,
    "DEPTHWISE_CONV_2D": conv_2d,
    "FULLY_CONNECTED": fully_connected,
    "BATCH_MATMUL": batch_matmul,
    **dict.fromkeys(("ADD", "SUB", "MUL", "MAXIMUM", "MINIMUM"), pointwise.binary),
    **dict.fromkeys(("QUANTIZE", "RELU", "RELU6"), rescale),
    "DEQUANTIZE": floats.conversion,
    INTERPOLATED: interpolated,
    "AVERAGE_POOL_2D": pointwise.pool,
    "MAX_POOL_2D": pointwise.pool,
    "MEAN": pointwise.mean,
    "SUM": pointwise.mean,
    "REDUCE_MAX": pointwise.extreme,
    "REDUCE_MIN": pointwise.extreme,
    "SOFTMAX": softmax,
    "L2_NORMALIZATION": norm.l2_norm,
    **dict.fromkeys(sorted(NORMS), norm.norm),
    "RESIZE_BILINEAR": moves.resize_bilinear,
    **moves.LOWERINGS,
}
"""Operators whose data are int16."""
