"""Single precision as the C kernels compute it: ``edgec_math_f32.h`` in numpy, to the last bit.

numpy rounds each addition, multiplication and division of float32 arrays to float32, as C does, so
equal orders of operations give equal bits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

_EXP: Final = (
    1.98412698e-4, 1.38888889e-3, 8.33333333e-3, 4.16666667e-2, 1.66666667e-1, 0.5, 1.0, 1.0,
)  # fmt: skip
_LOG: Final = (1.11111111e-1, 1.42857143e-1, 0.2, 3.33333333e-1)
_TANH: Final = (2.18694885e-2, -5.39682540e-2, 1.33333333e-1, -3.33333333e-1)
_ERF: Final = (
    1.48071928e-8, -1.63658447e-7, 1.64621144e-6, -1.49256504e-5, 1.20553330e-4, -8.54832702e-4,
    5.22397763e-3, -2.68661706e-2, 1.12837917e-1, -3.76126389e-1, 1.12837917,
)  # fmt: skip
_FAR_ERF: Final = (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592)


def dot(a: Floats, b: Floats, start: Floats) -> Floats:
    """``start`` plus the products along the last axis, one after the other."""
    total = np.array(np.broadcast_to(start, np.broadcast_shapes(a.shape, b.shape)[:-1]), np.float32)
    for i in range(a.shape[-1]):
        total += a[..., i] * b[..., i]
    return total


def total(x: Floats) -> Floats:
    """The sum along the last axis, one element after the other."""
    # the sum begins at zero: minus zero is no sum
    found: Floats = np.cumsum(x, axis=-1, dtype=np.float32)[..., -1] + np.float32(0)
    return found


def largest(x: Floats) -> Floats:
    """Along the last axis, the first one of those that are equal (0 and -0 are)."""
    found = x[..., 0]
    for i in range(1, x.shape[-1]):
        found = np.where(x[..., i] > found, x[..., i], found)
    return found


def smallest(x: Floats) -> Floats:
    """Along the last axis, the first one of those that are equal."""
    return -largest(-x)


def clamped(x: Floats, low: float, high: float) -> Floats:
    """Between two numbers."""
    found: Floats = np.where(x > np.float32(high), np.float32(high), x)
    return np.where(x < np.float32(low), np.float32(low), found)


def _polynomial(x: Floats, coefficients: tuple[float, ...]) -> Floats:
    found = np.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        found = found * x + np.float32(coefficient)
    return found


def _scaled(x: Floats, n: NDArray[np.int32]) -> Floats:
    """``x · 2**n`` in two steps."""
    first = np.trunc(n / 2).astype(np.int32)
    one, two = (
        ((part + 127) << 23).astype(np.uint32).view(np.float32) for part in (first, n - first)
    )
    found: Floats = x * one * two
    return found


def exp(x: Floats) -> Floats:
    """``edgec_exp``."""
    # what the series is not for gets its value afterwards
    inside = np.where((x > -87) & (x <= np.float32(88.72)), x, np.float32(0))
    half = np.where(inside < 0, np.float32(-0.5), np.float32(0.5))
    n = (inside * np.float32(1.44269504) + half).astype(np.int32)
    whole = n.astype(np.float32)
    r = (inside - whole * np.float32(0.693359375)) + whole * np.float32(2.12194440e-4)
    found = _scaled(_polynomial(r, _EXP), n)
    found = np.where(x > np.float32(88.72), np.float32(np.inf), found)
    found = np.where(x <= -87, np.float32(0), found)
    result: Floats = np.where(np.isnan(x), x, found)
    return result


def log(x: Floats) -> Floats:
    """``edgec_log``."""
    least, most = np.float32(1.17549435e-38), np.float32(3.40282347e38)
    inside = np.where((x >= least) & (x <= most), x, np.float32(1))
    n = ((inside.view(np.uint32) + 0x00400000) >> 23).astype(np.int32) - 127
    m = _scaled(inside, -n)
    s = (m - np.float32(1)) / (m + np.float32(1))
    square = s * s
    part = np.float32(2) * s + np.float32(2) * s * square * _polynomial(square, _LOG)
    whole = n.astype(np.float32)
    found = whole * np.float32(0.693359375) + (part - whole * np.float32(2.12194440e-4))
    found = np.where(x > most, x, found)
    found = np.where(x < least, np.float32(-np.inf), found)
    result: Floats = np.where((x < 0) | np.isnan(x), np.float32(np.nan), found)
    return result


def sigmoid(x: Floats) -> Floats:
    """``edgec_sigmoid``."""
    found: Floats = np.float32(1) / (np.float32(1) + exp(-x))
    return found


def tanh(x: Floats) -> Floats:
    """``edgec_tanh``."""
    square = x * x
    near = x + x * square * _polynomial(square, _TANH)
    far = np.float32(1) - np.float32(2) / (exp(np.float32(2) * np.abs(x)) + np.float32(1))
    found: Floats = np.where(np.abs(x) < np.float32(0.25), near, np.where(x < 0, -far, far))
    return found


def erf(x: Floats) -> Floats:
    """``edgec_erf``."""
    square = x * x
    t = np.float32(1) / (np.float32(1) + np.float32(0.3275911) * np.abs(x))
    far = np.float32(1) - _polynomial(t, _FAR_ERF) * t * exp(-square)
    near = x * _polynomial(square, _ERF)
    found: Floats = np.where(np.abs(x) < 1, near, np.where(x < 0, -far, far))
    return found


def gelu(x: Floats) -> Floats:
    """With the error function."""
    found: Floats = np.float32(0.5) * x * (np.float32(1) + erf(x * np.float32(0.70710678)))
    return found


def gelu_tanh(x: Floats) -> Floats:
    """With the hyperbolic tangent."""
    inner = np.float32(0.79788456) * (x + np.float32(0.044715) * x * x * x)
    found: Floats = np.float32(0.5) * x * (np.float32(1) + tanh(inner))
    return found


def hard_swish(x: Floats) -> Floats:
    """x · min(max(x + 3, 0), 6) / 6."""
    found: Floats = x * clamped(x + np.float32(3), 0, 6) / np.float32(6)
    return found


def rsqrt(x: Floats) -> Floats:
    """1 / √x."""
    root: Floats = np.sqrt(x)
    found: Floats = np.float32(1) / root
    return found


def softmax(x: Floats, beta: float) -> Floats:
    """Along the last axis."""
    powers = exp((x - largest(x)[..., None]) * np.float32(beta))
    found: Floats = powers / total(powers)[..., None]
    return found


def log_softmax(x: Floats) -> Floats:
    """Along the last axis."""
    most = largest(x)
    offset = most + log(total(exp(x - most[..., None])))
    found: Floats = x - offset[..., None]
    return found


def l2_norm(x: Floats) -> Floats:
    """Along the last axis; the smallest norm is TFLite's."""
    norm: Floats = np.sqrt(total(x * x))[..., None]
    least = np.full_like(norm, 1e-6)
    divisor: Floats = np.where(norm > least, norm, least)
    found: Floats = x / divisor
    return found


def layer_norm(x: Floats, epsilon: float) -> Floats:
    """Along the last axis, without gain and offset."""
    count = np.float32(x.shape[-1])
    centred = x - (total(x) / count)[..., None]
    variance = total(centred * centred) / count
    found: Floats = centred * rsqrt(variance + np.float32(epsilon))[..., None]
    return found


def quantized(x: Floats, scale: float, zero: int, dtype: str = "int8") -> NDArray[Any]:
    """``edgec_quantize_f32`` and ``edgec_quantize_s16_f32``."""
    limits = np.iinfo(dtype)
    far = 4 * (int(limits.max) + 1)
    steps = x / np.float32(scale)
    cut = clamped(np.where(np.isnan(steps), np.float32(-far), steps), -far, far)
    half = np.where(cut < 0, np.float32(-0.5), np.float32(0.5))
    found = np.clip((cut + half).astype(np.int32) + zero, limits.min, limits.max)
    return np.asarray(found, dtype)


def dequantized(x: NDArray[Any], scale: float, zero: int) -> Floats:
    """``edgec_dequantize_f32`` and ``edgec_dequantize_s16_f32``."""
    found: Floats = (x.astype(np.int32) - zero).astype(np.float32) * np.float32(scale)
    return found


UNARY: Final[Mapping[str, Callable[[Floats], Floats]]] = {
    "abs": np.abs,
    "neg": np.negative,
    "exp": exp,
    "log": log,
    "sqrt": np.sqrt,
    "rsqrt": rsqrt,
    "floor": np.floor,
    "ceil": np.ceil,
    "sigmoid": sigmoid,
    "tanh": tanh,
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "hard_swish": hard_swish,
    "relu": lambda x: np.where(x > 0, x, np.float32(0)),
    "relu6": lambda x: clamped(x, 0, 6),
    "elu": lambda x: np.where(x > 0, x, exp(x) - np.float32(1)),
}
"""Functions of one element by the name of their kernel, without prefix and type."""
BINARY: Final[Mapping[str, Callable[[Floats, Floats], Floats]]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "maximum": lambda a, b: np.where(a > b, a, b),
    "minimum": lambda a, b: np.where(a < b, a, b),
    "squared_difference": lambda a, b: (a - b) * (a - b),
    "prelu": lambda a, b: np.where(a > 0, a, a * b),
}
"""The same of two."""
