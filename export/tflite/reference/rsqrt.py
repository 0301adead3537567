"""RSQRT and L2_NORMALIZATION of int8: Newton's iteration in gemmlowp's fixed point."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgec.export.tflite.reference.call import Call
from edgec.export.tflite.reference.fixed_point import (
    Multiplier,
    finish,
    limits,
    scale_of,
    shift_right,
    zero_of,
)

_EXTRA = 20
_NORM_BITS = 7
_ONE = 1 << 28
"""1 with three integer bits."""
_HALF_THREE = _ONE + _ONE // 2
_HALF_ROOT_2 = 1518500250
"""√2 / 2 without integer bits."""


def rsqrt(call: Call) -> NDArray[Any]:
    """1 / √x; the largest integer where x is zero."""
    x, tensor, y = call.array(0), call.tensor(0), call.output
    if x.dtype.kind == "f":
        floats: NDArray[Any] = np.float32(1) / np.sqrt(x)
        return floats
    if x.dtype != np.int8:  # TFLite has a table on int16, which is coarse next to zero
        raise ValueError(f"{call.code} of {tensor.dtype}")
    steps = x.astype(np.int64) - zero_of(tensor)
    if steps.min() < 0:
        raise ValueError("the square root of a negative number")
    root = np.sqrt(np.float32(scale_of(tensor)))
    scale = Multiplier.of(1.0 / float(np.float32(root * np.float32(scale_of(y)))))
    finer = Multiplier(scale.mantissa, scale.exponent - _EXTRA)
    highest = limits(y)[1] - zero_of(y)
    found = {
        step: highest if step == 0 else int(finer(np.asarray(_inverse_root(step), np.int64)))
        for step in map(int, np.unique(steps))
    }
    return finish(np.vectorize(found.__getitem__, otypes=[np.int64])(steps), y)


def l2_normalization(call: Call) -> NDArray[Any]:
    """Along the last axis; the output has the scale 1/128 and no zero point."""
    x, tensor, y = call.array(0), call.tensor(0), call.output
    steps = x.astype(np.int64) - zero_of(tensor)
    pairs = [root_mantissa(int(total)) for total in (steps * steps).sum(axis=-1).reshape(-1)]
    shape = (*steps.shape[:-1], 1)
    mantissa, exponent = (
        np.array(part, np.int64).reshape(shape) for part in zip(*pairs, strict=True)
    )
    return finish(Multiplier(mantissa, _NORM_BITS - exponent)(steps), y)


@lru_cache(maxsize=4096)
def _inverse_root(value: int) -> int:
    """``2**20 / √value`` in integers."""
    mantissa, exponent = root_mantissa(value)
    unit = Multiplier(np.asarray(mantissa, np.int64), np.asarray(_EXTRA - exponent, np.int64))
    return int(unit(np.asarray(1, np.int64)))


@lru_cache(maxsize=4096)
def root_mantissa(value: int) -> tuple[int, int]:
    """1 / √value as mantissa · 2**(−31 − exponent)."""
    if value <= 1:
        return (1 << 31) - 1, 0
    exponent = 11
    while value >= 1 << 29:
        value //= 4
        exponent += 1
    pairs = (32 - value.bit_length() - 1) // 2 - 1
    exponent -= pairs
    value <<= 2 * pairs
    whole = value >> 1
    half = int(shift_right(np.asarray(whole, np.int64), np.asarray(1, np.int64)))
    x = _ONE
    for _ in range(5):
        cube = _saturated(_product(_product(x, x), x) << 6)
        x = _saturated((_product(_HALF_THREE, x) - _product(half, cube)) << 3)
    x = _product(x, _HALF_ROOT_2)
    return (x << -exponent, 0) if exponent < 0 else (x, exponent)


def _product(a: int, b: int) -> int:
    """`doubling_high_product` of numbers: arrays of one element take thirty times as long."""
    nudged = a * b + (1 << 30 if a * b >= 0 else 1 - (1 << 30))
    return nudged >> 31 if nudged >= 0 else -(-nudged >> 31)


def _saturated(x: int) -> int:
    return max(-(1 << 31), min((1 << 31) - 1, x))
