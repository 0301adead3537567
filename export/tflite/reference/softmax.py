"""SOFTMAX of int8 in gemmlowp's fixed point: exponential by Taylor series, quotient by Newton."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgec.export.tflite.reference.call import Call
from edgec.export.tflite.reference.fixed_point import (
    Integers,
    Multiplier,
    doubling_high_product,
    limits,
    scale_of,
    shift_right,
)
from edgec.export.tflite.reference.softmax_int16 import softmax_int16

_ONE = (1 << 31) - 1
_DIFFERENCE_BITS = 5
"""Integer bits of a difference to the maximum."""
_SUM_BITS = 12
"""Integer bits of the sum of exponentials."""
_QUARTER = 1 << (31 - _DIFFERENCE_BITS - 2)


def softmax(call: Call) -> NDArray[Any]:
    """Along the last axis; the output has the scale 1/256 and the lowest zero point."""
    x, tensor, y = call.array(0), call.tensor(0), call.output
    if y.dtype == "INT16" and x.dtype == np.int16:
        return softmax_int16(call)
    if y.dtype != "INT8" or x.dtype != np.int8:
        raise ValueError(f"softmax of {tensor.dtype}")
    power, reached = _table(float(np.float32(call.options["beta"])) * float(scale_of(tensor)))
    distance = x.max(axis=-1, keepdims=True).astype(np.int64) - x
    powers = np.where(reached[distance], power[distance], 0)
    total = shift_right(powers, np.asarray(_SUM_BITS, np.int64)).sum(axis=-1, keepdims=True)
    # bit_length of every sum; sums are below 2**31
    length = np.frexp(total.astype(np.float64))[1].astype(np.int64)
    headroom = 32 - length
    inverse = _one_over_one_plus((total << headroom) - (np.int64(1) << 31))
    product = doubling_high_product(inverse, powers)
    low, high = limits(y)
    result = shift_right(product, _SUM_BITS - headroom + 31 - 8) + low
    return np.where(reached[distance], np.clip(result, low, high), low).astype(np.int8)


def _table(real: float) -> tuple[Integers, NDArray[np.bool_]]:
    """exp(−real · d) without integer bits for d from 0 to 255, and whether d is near enough."""
    multiplier = Multiplier.of(min(real * (1 << (31 - _DIFFERENCE_BITS)), (1 << 31) - 1.0))
    left = int(multiplier.exponent)
    if left < 0:
        raise ValueError("the scale of the softmax's input is below 2**-26")
    radius = ((1 << _DIFFERENCE_BITS) - 1) * (1 << (31 - _DIFFERENCE_BITS)) // (1 << left)
    distance = np.arange(256, dtype=np.int64)
    reached = distance <= radius
    rescaled = doubling_high_product(-distance << left, multiplier.mantissa)
    return _exp(np.where(reached, rescaled, 0)), reached


def _exp(a: Integers) -> Integers:
    """exp(a) of negative a with five integer bits."""
    within = (a & (_QUARTER - 1)) - _QUARTER
    result = _exp_of_quarter(within << _DIFFERENCE_BITS)
    remainder = within - a
    for exponent in range(-2, _DIFFERENCE_BITS):
        factor = np.int64(math.floor(math.exp(-(2.0**exponent)) * (1 << 31) + 0.5))
        bit = 1 << (31 - _DIFFERENCE_BITS + exponent)
        result = np.where(remainder & bit, doubling_high_product(result, factor), result)
    return np.where(a == 0, _ONE, result)


def _exp_of_quarter(a: Integers) -> Integers:
    """exp(a) for −1/4 ≤ a < 0: four terms around −1/8, all without integer bits."""
    centre = np.full_like(a, 1895147668)  # exp(−1/8)
    third = np.int64(715827883)
    x = a + (1 << 28)
    x2 = doubling_high_product(x, x)
    x3 = doubling_high_product(x2, x)
    x4 = doubling_high_product(x2, x2)
    higher = doubling_high_product(shift_right(x4, np.asarray(2)) + x3, third)
    terms = shift_right(higher + x2, np.asarray(1))
    return centre + doubling_high_product(centre, x + terms)


def _one_over_one_plus(a: Integers) -> Integers:
    """1 / (1 + a) for 0 ≤ a < 1 without integer bits."""
    total = a + _ONE
    half = np.where(total >= 0, (total + 1) >> 1, -((1 - total) >> 1))
    x = 1515870810 + doubling_high_product(half, np.int64(-1010580540))  # 48/17 and −32/17
    for _ in range(3):
        rest = (1 << 29) - doubling_high_product(half, x)
        x = x + _saturated(doubling_high_product(x, rest) << 2)
    return _saturated(x << 1)


def _saturated(x: Integers) -> Integers:
    return np.clip(x, -(1 << 31), _ONE)
