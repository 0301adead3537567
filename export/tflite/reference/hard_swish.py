"""HARD_SWISH of int8, in 16-bit fixed point."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgec.export.tflite.reference.call import Call
from edgec.export.tflite.reference.fixed_point import (
    Integers,
    Multiplier,
    finish,
    scale_of,
    shift_right,
    zero_of,
)

_LOW, _HIGH = -(1 << 15), (1 << 15) - 1
_FINER = 7
"""Bits by which the input is refined before anything is rounded."""


def hard_swish(call: Call) -> NDArray[Any]:
    """x · min(max(x + 3, 0), 6) / 6: one factor on nearly the output's scale, one from 0 to 1."""
    x, tensor, y = call.array(0), call.tensor(0), call.output
    if x.dtype != np.int8:
        raise ValueError(f"HARD_SWISH of {tensor.dtype}")
    fine_scale = np.float32(scale_of(tensor)) / np.float32(1 << _FINER)
    to_output, output_exponent = _narrow(fine_scale / np.float32(scale_of(y)))
    to_unit, exponent = _narrow(fine_scale / (np.float32(3) / np.float32(1 << 15)))
    fine = (x.astype(np.int64) - zero_of(tensor)) << _FINER
    factor = _rounding_product(fine, to_output)
    # three is the whole range of 16 bits; larger values saturate on the way
    gate = fine
    if exponent > 0:
        gate = _saturated(gate << (exponent - 1))
    gate = _rounding_product(gate, to_unit)
    if exponent > 0:
        gate = _saturated(gate << 1)
    elif exponent < 0:
        gate = shift_right(gate, np.asarray(-exponent, np.int64))
    gate = (gate + (1 << 15)) >> 1
    product = gate * factor
    product = np.where(product >= 0, product >> 15, -(-product >> 15))
    if output_exponent > 0:
        raise ValueError("the output's scale is below that of the refined input")
    return finish(shift_right(product, np.asarray(-output_exponent, np.int64)), y)


def _narrow(real: Any) -> tuple[int, int]:
    """A 16-bit multiplier and its exponent."""
    multiplier = Multiplier.of(float(real))
    return min((int(multiplier.mantissa) + (1 << 15)) >> 16, _HIGH), int(multiplier.exponent)


def _rounding_product(a: Integers, b: int) -> Integers:
    """The upper half of ``2·a·b`` of 16-bit integers, halves upwards."""
    product = a * b
    nudged = product + np.where(product >= 0, 1 << 14, 1 - (1 << 14))
    return np.where(nudged >= 0, nudged >> 15, -(-nudged >> 15))


def _saturated(x: Integers) -> Integers:
    return np.clip(x, _LOW, _HIGH)
