"""LayerNormalization between integers of one width: constants, meaning, and the kernel call.

With n elements x of a row, S their sum and Q the sum of their squares, all integers,

    t = (n·x − S) / √(n·Q − S² + n²·ε / s²)

is the normalised element: the zero point cancels, and the scale s is only in ε. The kernel computes
the root's argument exactly but for ε, its root and the reciprocal to 30 bits, t to 2**-20, and
y = t · gain + offset with gain and offset in steps of the output, rounded once. `error_bound` says
how far that is from real arithmetic: thousandths of a step, so that results differ from a rounded
float LayerNorm by one step at most, where its value lies between two steps.
(I-BERT, Kim et al. 2021, arXiv:2101.01321, has integer roots too, but rounds the deviation to an
integer, which costs whole steps where a row is narrow.)

The L2 norm of int16 is made of the same root: x / √Σx² with 30 bits of the reciprocal, rounded
once.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import ceil, prod, sqrt
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgec.export.emit.c.call import Call, Share, Table, Word
from edgec.export.emit.c.frame import Frame, suffix, unsupported
from edgec.export.tflite.model import Operator, Tensor
from edgec.export.tflite.reference.fixed_point import scale_of, zero_of
from edgec.profiles.memory import overlap

ELEMENT_BITS: Final = 20
"""Fractional bits of a normalised element."""
MOST_GAIN_BITS: Final = 24
LEAST_GAIN_BITS: Final = 8
MOST_ELEMENTS: Final = {"INT8": 1 << 16, "INT16": 1 << 15}
"""Elements of a row: sums of squares of int8 fit 31 bits, sums of int16 30 bits."""
UNIT_BITS: Final = 15
"""Fractional bits of an int16 L2 norm's output."""


@dataclass(frozen=True, eq=False)
class Norm:
    """A norm over the middle axis of (outer, count, inner).

    Attributes:
        gain, offset: int32 in 2**-gain_bits output steps; the offset holds the output's zero point.
            Element p of an outer block (row-major) uses entry ``p % len(gain)``.
        spread_bits: fractional bits of the root's argument, even.
        epsilon: n²·ε / s² with those bits.
    """

    outer: int
    count: int
    inner: int
    gain: NDArray[np.int32]
    offset: NDArray[np.int32]
    gain_bits: int
    spread_bits: int
    epsilon: int


def blocks(op: Operator, x: Tensor) -> tuple[int, float, int, int, int]:
    """First normalised axis, ε, and the sizes (outer, count, inner).

    Raises:
        ValueError: a form that the kernels have not.
    """
    options = json.loads(op.custom_options)
    axes, epsilon = sorted(int(a) for a in options["axes"]), float(options["epsilon"])
    if axes != list(range(axes[0], axes[0] + len(axes))):
        raise ValueError(f"the axes {axes} are not neighbours")
    count, inner = prod(x.shape[a] for a in axes), prod(x.shape[axes[-1] + 1 :])
    most = MOST_ELEMENTS.get(x.dtype, MOST_ELEMENTS["INT8"])
    if not 1 < count <= most:
        raise ValueError(f"{count} elements in a row; 2 to {most} are possible")
    return axes[0], epsilon, prod(x.shape[: axes[0]]), count, inner


def constants(op: Operator, x: Tensor, gain: Tensor, offset: Tensor, y: Tensor) -> Norm:
    """The integers of a fused norm (`edgec.export.emit.c.fuse`).

    Raises:
        ValueError: a form that the kernel has not.
    """
    axis, epsilon, outer, count, inner = blocks(op, x)
    scale = float(scale_of(y))
    gains = entries(gain, x, axis) / scale
    offsets = entries(offset, x, axis) / scale + zero_of(y)
    period = max(len(gains), len(offsets), inner)
    gains, offsets = (np.resize(values, period) for values in (gains, offsets))
    most = max(np.abs(gains).max(), np.abs(offsets).max())
    # one bit less than fits, so that rounding cannot exceed it
    bits = next((b for b in range(MOST_GAIN_BITS, -1, -1) if most * (1 << b) < 1 << 30), -1)
    if bits < LEAST_GAIN_BITS:
        raise ValueError("gains or offsets are millions of output steps")
    in_scale = float(scale_of(x))
    small = count * count * epsilon / (in_scale * in_scale)
    largest = (count * count) << (14 if x.dtype == "INT8" else 30)
    spread = next((b for b in range(60, -1, -2) if _most_spread(largest, small, b) < 1 << 62), -1)
    if spread < 0:
        raise ValueError("ε is far above the largest variance")
    return Norm(
        outer=outer,
        count=count,
        inner=inner,
        gain=np.rint(gains * (1 << bits)).astype(np.int32),
        offset=np.rint(offsets * (1 << bits)).astype(np.int32),
        gain_bits=bits,
        spread_bits=spread,
        epsilon=round(small * (1 << spread)),
    )


def _most_spread(largest: int, small: float, bits: int) -> int:
    return (largest << bits) + ceil(small * (1 << bits))


def entries(tensor: Tensor, x: Tensor, axis: int) -> NDArray[np.float64]:
    """One period of a gain along the elements of an outer block."""
    data = np.asarray(tensor.data, np.float64)
    if data.size == 1:
        return data.reshape(1)
    if prod(data.shape[:axis]) != 1:
        raise ValueError("a gain varies along an axis before the normalised ones")
    varies = next(a for a in range(axis, data.ndim) if data.shape[a] != 1)
    return np.broadcast_to(data, (*data.shape[:varies], *x.shape[varies:])).reshape(-1)


def normalised(norm: Norm, x: NDArray[Any]) -> NDArray[Any]:
    """What the kernel computes; x and the result are int8 or int16."""
    blocks = x.reshape(norm.outer, norm.count, norm.inner)
    rows = blocks.transpose(0, 2, 1).reshape(-1, norm.count).astype(np.int64)
    places = np.arange(norm.count * norm.inner).reshape(norm.count, norm.inner) % len(norm.gain)
    place = np.tile(places.T, (norm.outer, 1))
    half = 1 << (ELEMENT_BITS + norm.gain_bits - 1)
    wide = elements(norm, rows) * norm.gain[place]
    wide += (norm.offset[place].astype(np.int64) << ELEMENT_BITS) + half
    limits = np.iinfo(x.dtype)
    found = np.clip(wide >> (ELEMENT_BITS + norm.gain_bits), limits.min, limits.max)
    back = found.reshape(norm.outer, norm.inner, norm.count).transpose(0, 2, 1)
    return np.asarray(back.reshape(x.shape), x.dtype)


def elements(norm: Norm, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """t of [rows][count] with `ELEMENT_BITS` fractional bits."""
    total = rows.sum(axis=1, keepdims=True)
    squares = (rows * rows).sum(axis=1, keepdims=True)
    spread = norm.count * squares - total * total
    argument = np.where(spread > 0, (spread << norm.spread_bits) + norm.epsilon, 1 << 60)
    inverse, pairs = inverse_roots(argument)
    right = 61 - ELEMENT_BITS - norm.spread_bits // 2 - pairs
    centred = norm.count * rows - total
    scaled = (centred * inverse + (np.int64(1) << (right - 1))) >> right
    return np.where(spread > 0, scaled, 0)


def inverse_roots(x: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """⌊(2**61 − 1) / ⌊√y⌋⌋ for y = x · 4**pairs in [2**60, 2**62), and the pairs.

    Args:
        x: in [1, 2**62).
    """
    pairs = np.zeros_like(x)
    for step in (16, 8, 4, 2, 1):
        small = (x << (2 * pairs)) < np.int64(1) << (62 - 2 * step)
        pairs += np.where(small, step, 0)
    y = x << (2 * pairs)
    # double precision is off by one at most
    root = np.sqrt(y.astype(np.float64)).astype(np.int64)
    root -= root * root > y
    root += (root + 1) * (root + 1) <= y
    return ((np.int64(1) << 61) - 1) // root, pairs


def unit_rows(x: NDArray[np.int16]) -> NDArray[np.int16]:
    """Rows of [rows][size] divided by their Euclidean norm, in 2**-15; rows of zeros stay."""
    rows = x.astype(np.int64)
    squares = (rows * rows).sum(axis=1, keepdims=True)
    inverse, pairs = inverse_roots(np.maximum(squares, 1))
    right = 61 - UNIT_BITS - pairs
    scaled = (rows * inverse + (np.int64(1) << (right - 1))) >> right
    return np.asarray(np.clip(scaled, -32768, 32767), np.int16)


def error_bound(norm: Norm) -> float:
    """Most that a result before its last rounding is off, in output steps.

    t is rounded to 2**-20, and its factor is within 2**-28 of itself; |t| ≤ √n; gain and offset
    are rounded to their last bits.
    """
    most = sqrt(norm.count)
    gain = float(np.abs(norm.gain.astype(np.float64)).max()) / (1 << norm.gain_bits)
    return gain * (2.0 ** -(ELEMENT_BITS + 1) + most * 2.0**-28) + (most + 1) * 2.0 ** -(
        norm.gain_bits + 1
    )


def norm(frame: Frame, op: Operator) -> list[Call]:
    """A norm between tensors of int8 or int16."""
    try:
        found = constants(op, frame.tensor(0), frame.tensor(1), frame.tensor(2), frame.output)
    except ValueError as error:
        raise unsupported(frame, op, str(error)) from error
    return [
        Call(
            f"edgec_layer_norm_{suffix(frame.output)}",
            {
                "outer": found.outer,
                "count": found.count,
                "inner": found.inner,
                "period": len(found.gain),
                "gain_bits": found.gain_bits,
                "spread_bits": found.spread_bits,
                "epsilon_high": found.epsilon >> 32,
                "epsilon_low": Word(found.epsilon & 0xFFFFFFFF),
                "gain": Table(found.gain),
                "offset": Table(found.offset),
            },
            (frame.index(0),),
            frame.output_index,
            # a row is summed up before the first of it is written
            (Share(0, overlap.elementwise()),) if found.inner == 1 else (),
        )
    ]


def l2_norm(frame: Frame, op: Operator) -> list[Call]:
    """L2_NORMALIZATION along the last axis."""
    x, y = frame.tensor(0), frame.output
    size = x.shape[-1]
    if y.dtype == "INT16" and float(scale_of(y)) != 2.0**-UNIT_BITS:
        raise unsupported(frame, op, f"its output has another scale than 2**-{UNIT_BITS}")
    if size >= 1 << 15:
        raise unsupported(frame, op, f"rows of {size} elements")
    return [
        Call(
            f"edgec_l2_norm_{suffix(y)}",
            {
                "rows": x.elements // size,
                "size": size,
                "in_zero": zero_of(x),
                "out_zero": zero_of(y),
            },
            (frame.index(0),),
            frame.output_index,
            (Share(0, overlap.elementwise()),),
        )
    ]
