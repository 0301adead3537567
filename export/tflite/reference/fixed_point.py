"""Scales as integers: multiplication by a real number in 32-bit fixed point."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgec.export.tflite.model import Quantization, Tensor
from edgec.export.tflite.schema import DTYPES

Integers = NDArray[np.int64]
_LOW_HALF = (1 << 15) - 1


@dataclass(frozen=True)
class Multiplier:
    """``mantissa · 2**(exponent − 31)``, elementwise where a channel has its own.

    Attributes:
        mantissa: in [2**30, 2**31), or 0.
        exponent: positive to the left.
    """

    mantissa: Integers
    exponent: Integers

    @staticmethod
    def of(real: Any) -> Multiplier:
        """The nearest multiplier of positive real numbers (double precision)."""
        values = np.atleast_1d(np.asarray(real, np.float64))
        pairs = [_split(float(value)) for value in values]
        mantissa = np.array([p[0] for p in pairs], np.int64)
        exponent = np.array([p[1] for p in pairs], np.int64)
        shape = np.shape(real)
        return Multiplier(mantissa.reshape(shape), exponent.reshape(shape))

    def once(self, x: Integers) -> Integers:
        """Multiply integers and round once, halves upwards, as the kernels of matrices do.

        The mantissa is taken in two parts, so that sums of 46 bits fit.

        Raises:
            ValueError: the factor is 2**15 or more.
        """
        right = 31 - self.exponent
        if np.min(right, initial=31) < 16:
            raise ValueError("a scale of 2**15 or more")
        low = x * (self.mantissa & _LOW_HALF) + (np.int64(1) << (right - 1))
        found: Integers = (x * (self.mantissa >> 15) + (low >> 15)) >> (right - 15)
        return found

    @property
    def short(self) -> Multiplier:
        """With a mantissa of 15 bits: kernels on int16 multiply sums of 64 bits by it, once."""
        mantissa = np.minimum((self.mantissa + (1 << 15)) >> 16, _LOW_HALF) << 16
        return Multiplier(mantissa, self.exponent)

    def __call__(self, x: Integers) -> Integers:
        """Multiply integers and round twice; channels run along the last axis."""
        left = np.maximum(self.exponent, 0)
        right = np.maximum(-self.exponent, 0)
        return shift_right(doubling_high_product(x << left, self.mantissa), right)


def _split(real: float) -> tuple[int, int]:
    if real == 0:
        return 0, 0
    fraction, exponent = math.frexp(real)
    mantissa = math.floor(fraction * (1 << 31) + 0.5)
    if mantissa == 1 << 31:
        mantissa, exponent = mantissa // 2, exponent + 1
    return (0, 0) if exponent < -31 else (mantissa, exponent)


def doubling_high_product(a: Integers, b: Integers | np.int64) -> Integers:
    """The upper half of ``2·a·b``, rounded to nearest, halves upwards."""
    product = a * b
    nudged = product + np.where(product >= 0, 1 << 30, 1 - (1 << 30))
    # C's division rounds towards zero
    return np.where(nudged >= 0, nudged >> 31, -(-nudged >> 31))


def shift_right(x: Integers, amount: Integers) -> Integers:
    """``x / 2**amount``, rounded to nearest, halves away from zero."""
    mask = (np.int64(1) << amount) - 1
    threshold = (mask >> 1) + (x < 0)
    return (x >> amount) + ((x & mask) > threshold)


def scale_of(tensor: Tensor) -> NDArray[np.float32]:
    """Scale or scales of a quantized tensor; a scalar array where there is one."""
    quantization = parameters(tensor)
    return quantization.scale if quantization.per_channel else quantization.scale[0]


def zero_of(tensor: Tensor) -> int:
    """Zero point of a tensor with one scale."""
    return int(parameters(tensor).zero_point[0])


def parameters(tensor: Tensor) -> Quantization:
    """The quantization of a tensor that has one."""
    if tensor.quantization is None:
        raise ValueError(f"{tensor.name} is not quantized")
    return tensor.quantization


def limits(tensor: Tensor) -> tuple[int, int]:
    """Smallest and largest integer of a tensor's type."""
    info = np.iinfo(DTYPES[tensor.dtype])
    return int(info.min), int(info.max)


def rounded(x: NDArray[Any]) -> NDArray[Any]:
    """Round to nearest, halves away from zero, as C's round."""
    whole: NDArray[Any] = np.trunc(x + np.copysign(np.asarray(0.5, x.dtype), x))
    return whole


def finish(x: Integers, tensor: Tensor, activation: str = "NONE") -> NDArray[Any]:
    """Add the zero point, and clamp to the type and to a fused activation."""
    low, high = limits(tensor)
    zero, scale = zero_of(tensor), np.float32(scale_of(tensor))

    def integer(real: float) -> int:
        return zero + int(rounded(np.asarray(np.float32(real) / scale)))

    if activation in ("RELU", "RELU6"):
        low = max(low, integer(0.0))
    if activation == "RELU6":
        high = min(high, integer(6.0))
    elif activation == "RELU_N1_TO_1":
        low, high = max(low, integer(-1.0)), min(high, integer(1.0))
    elif activation not in ("NONE", "RELU"):
        raise ValueError(f"activation {activation}")
    return np.clip(x + zero, low, high).astype(DTYPES[tensor.dtype])
