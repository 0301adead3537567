"""LOGISTIC and TANH of int16: 256 values of the sigmoid with straight lines between them.

TFLite's kernels (lite/kernels/internal/reference/integer_ops/logistic.h, tanh.h) know the sigmoid
of positive numbers in steps of 1/24 as 16-bit fractions; tanh x is 2·sigmoid(2x) − 1. The scale of
the input enters as a multiplier of 15 bits, or as a shift where it is a power of two.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgec.export.tflite.reference.call import Call
from edgec.export.tflite.reference.fixed_point import Integers, scale_of, zero_of

_STEPS = 24
"""Values of the table per unit."""
_LAST = 255
_ONE_MORE = (
    *(4, 8, 12, 14, 15, 16, 17, 19, 20, 21, 22, 25, 27, 28, 29, 30, 31, 33, 34, 35, 37, 39),
    *(40, 41, 43, 44, 45, 46, 49, 50, 54, 62, 63, 64, 66, 82, 86, 93, 100, 103, 112, 116, 135, 255),
)
"""Where TFLite's table is one above the rounded value: read off its TANH at the places n / 24."""


@lru_cache(maxsize=1)
def _sigmoid() -> Integers:
    """Sigmoid of n / 24 as fractions of 16 bits."""
    exact = (1 << 16) / (1 + np.exp(-np.arange(_LAST + 1) / _STEPS))
    values: Integers = np.minimum(np.rint(exact), (1 << 16) - 1).astype(np.int64)
    values[list(_ONE_MORE)] += 1
    return values


def _power_of_two(scale: float) -> int | None:
    """The binary logarithm of a scale that is within 1e-3 of a power of two."""
    exact = math.log2(scale)
    nearest = round(exact)
    return nearest if abs(exact - nearest) < 1e-3 else None


def _steps(call: Call) -> Integers:
    """The inputs in steps of 1 / 12 288."""
    if zero_of(call.tensor(0)) or zero_of(call.output):
        raise ValueError(f"{call.code} of int16 with a zero point")
    x, scale = call.array(0).astype(np.int64), float(scale_of(call.tensor(0)))
    power = _power_of_two(scale)
    shift = -1 if power is None else 12 + power
    if 0 <= shift <= 1:
        return x * (3 << shift)
    factor, shift = scale * 4096 * 3, 0
    while factor <= 32767 / 2 and shift <= 30:
        factor, shift = factor * 2, shift + 1
    rounding = 1 << (shift - 1) if shift else 0
    return (x * int(factor) + rounding) >> shift


def _between(size: Integers, bits: int) -> tuple[Integers, NDArray[np.bool_]]:
    """The line between two values `bits` finer than the table's, and what lies past the last."""
    piece = size >> bits
    table, start = _sigmoid(), np.minimum(piece, _LAST - 1)
    rise = table[start + 1] - table[start]
    return (table[start] << bits) + (size & ((1 << bits) - 1)) * rise, piece >= _LAST


def logistic_int16(call: Call) -> NDArray[Any]:
    """LOGISTIC, on 2⁻¹⁵.

    Raises:
        ValueError: there is a zero point.
    """
    steps = _steps(call)
    found, beyond = _between(np.abs(steps), 9)
    found = np.where(beyond, 0x7FFF << 10, found)
    half, one = 1 << 9, 1 << 25
    found = np.where(steps >= 0, found + half, one - found + half - 1)
    return np.asarray(found >> 10, np.int16)


def tanh_int16(call: Call) -> NDArray[Any]:
    """TANH, on 2⁻¹⁵.

    Raises:
        ValueError: there is a zero point.
    """
    steps = _steps(call)
    found, beyond = _between(np.abs(steps), 8)
    found = np.where(beyond, 0xFFFF << 8, found)
    half, middle = 1 << 7, 1 << 23
    found = np.where(steps >= 0, found - middle + half, middle - found + half - 1)
    return np.asarray(found >> 8, np.int16)
