"""SOFTMAX of int16: exponential and reciprocal from tables that no scale enters."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgec.export.tflite.reference.call import Call
from edgec.export.tflite.reference.fixed_point import Multiplier, scale_of
from edgec.export.tflite.reference.interpolated import look_up, table

REACH: Final = 10.0
"""Differences to the largest element from which on an exponential counts as exp(−10)."""
_UNIT: Final = 2.0**-15
_LOW, _HIGH = -(1 << 15), (1 << 15) - 1


@cache
def exponentials() -> NDArray[np.int16]:
    """exp from −`REACH` to 0, in 2⁻¹⁵."""
    return table(np.exp, -REACH, 0.0, _UNIT)


@cache
def reciprocals() -> NDArray[np.int16]:
    """1 / (1 + x) from 0 to 1, in 2⁻¹⁵."""
    return table(lambda x: 1 / (1 + x), 0.0, 1.0, _UNIT)


def scale(beta: float, step: NDArray[np.float32]) -> Multiplier:
    """From differences of inputs to the input of `exponentials`."""
    return Multiplier.of(float(np.float32(step)) * float(np.float32(beta)) / (REACH / 65535.0))


def softmax_int16(call: Call) -> NDArray[Any]:
    """Along the last axis; the output has the scale 2⁻¹⁵ and no zero point."""
    x = call.array(0).astype(np.int64)
    near = scale(call.options["beta"], scale_of(call.tensor(0)))(x - x.max(axis=-1, keepdims=True))
    powers = look_up(exponentials(), np.clip(near + _HIGH, _LOW, _HIGH))
    total = powers.sum(axis=-1, keepdims=True)
    length = np.frexp(total.astype(np.float64))[1].astype(np.int64)
    # the sum is 1 + x times a power of two; x in 65,536 steps, around the middle of the table
    fraction = ((total << (31 - length)) + (1 << 13)) >> 14
    place = np.clip(fraction - (3 << 15), _LOW, _HIGH)
    right = length - 1
    product = powers * look_up(reciprocals(), place) + (np.int64(1) << (right - 1))
    return np.asarray(np.clip(product >> right, 0, _HIGH), np.int16)
