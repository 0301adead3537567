"""Interval arithmetic on channels: what every element of a channel is known to lie between.

Bounds are real numbers in double precision. Runtimes compute in float32, so wherever a bound would
decide something, it is widened first: sums by `SUM_GUARD`, quantizers by `STEP_GUARD`. A channel
whose two bounds are equal holds one number at every position, whatever the input.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

SUM_GUARD = 1e-5
"""Rounding of a float32 sum as a fraction of the sum of its magnitudes: eps · sqrt(5000), twice."""

STEP_GUARD = 1e-3
"""A quantizer's result counts as certain this far (in steps) from the middle between two steps."""


@dataclass(frozen=True)
class Interval:
    """Bounds, one pair per channel, or a single pair for all elements of a tensor."""

    low: Floats
    high: Floats

    @property
    def fixed(self) -> NDArray[np.bool_]:
        """Channels that hold one known number."""
        return np.asarray((self.low == self.high) & np.isfinite(self.low))

    def hull(self) -> Interval:
        """One pair that holds for all channels."""
        return Interval(self.low.min(keepdims=True), self.high.max(keepdims=True))

    def with_value(self, value: float) -> Interval:
        """Bounds of a tensor that also has elements of this value (padding)."""
        return Interval(np.minimum(self.low, value), np.maximum(self.high, value))


ANY = Interval(np.array([-np.inf]), np.array([np.inf]))


def product(a: Floats, b: Floats) -> Floats:
    """a·b with 0·inf = 0: what a zero weight makes of an unbounded input."""
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where((a == 0) | (b == 0), 0.0, a * b))


def weighted_sum(weight: NDArray[Any], x: Interval, bias: Floats) -> Interval:
    """Bounds of Σ w·x + b.

    Args:
        weight: (groups, outputs, inputs, taps).
        x: bounds per input channel, in order of (groups, inputs).
        bias: (groups, outputs).
    """
    groups, outputs, inputs, _ = weight.shape
    low, high = (
        np.broadcast_to(v, groups * inputs).reshape(groups, inputs) for v in (x.low, x.high)
    )
    bottom, top = np.full((groups, outputs), -np.inf), np.full((groups, outputs), np.inf)
    rows = ~_unbounded(weight, low, high)
    if groups > 1:
        if rows.any():
            bottom, top = _weighted_sum(weight, low, high, bias)
    elif rows.any():
        some = rows[0]
        bottom[:, some], top[:, some] = _weighted_sum(weight[:, some], low, high, bias[:, some])
    return Interval(bottom.reshape(-1), top.reshape(-1))


def _unbounded(weight: NDArray[Any], low: Floats, high: Floats) -> NDArray[np.bool_]:
    """(groups, outputs): sums that are surely unbounded on both sides.

    Most channels of a network without saturating activations are, and the signs of their weights
    tell without a sum.
    """
    unlimited = np.isinf(low).all(), np.isinf(high).all()
    if not any(unlimited):
        return np.zeros(weight.shape[:2], bool)
    positive, negative = weight.max(axis=(2, 3)) > 0, weight.min(axis=(2, 3)) < 0
    return np.asarray(positive | negative if all(unlimited) else positive & negative)


def _weighted_sum(
    weight: NDArray[Any], low: Floats, high: Floats, bias: Floats
) -> tuple[Floats, Floats]:
    """Bounds (groups, outputs); arguments as for `weighted_sum`, bounds as (groups, inputs)."""
    positive = np.maximum(weight, 0).sum(axis=-1, dtype=np.float64)
    negative = np.minimum(weight, 0).sum(axis=-1, dtype=np.float64)
    infinite = np.isinf(low), np.isinf(high)
    least, most = np.where(infinite[0], 0.0, low), np.where(infinite[1], 0.0, high)
    columns = (least, most, np.abs(least), np.abs(most), *infinite, low != high)
    with np.errstate(invalid="ignore"):  # infinite weights: nothing is certain then
        up = positive @ np.stack(columns, axis=-1, dtype=np.float64)
        down = negative @ np.stack(columns, axis=-1, dtype=np.float64)
    bottom = up[..., 0] + down[..., 1] + bias
    top = up[..., 1] + down[..., 0] + bias
    # A sum of constants is certain. Elsewhere rounding can move the sum past its bound; what counts
    # are the magnitudes at the bound, since an input short of its bound takes more off the sum
    # than it adds to the error.
    certain = up[..., 6] == down[..., 6]
    guard = SUM_GUARD * (up[..., 2] - down[..., 3] + np.abs(bias))
    bottom = np.where(certain, bottom, bottom - guard)
    guard = SUM_GUARD * (up[..., 3] - down[..., 2] + np.abs(bias))
    top = np.where(certain, bottom, top + guard)
    # a weight of zero makes nothing of an unbounded input, any other one an unbounded sum
    bottom[up[..., 4] > down[..., 5]] = -np.inf
    top[up[..., 5] > down[..., 4]] = np.inf
    return bottom, top


def quantized(x: Interval, scale: float, zero_point: int, low: int, high: int) -> Interval:
    """Bounds after QuantizeLinear, in integers."""

    def step(bound: Floats, guard: float) -> Floats:
        return np.asarray(np.clip(np.rint(bound / scale + guard) + zero_point, low, high))

    return Interval(step(x.low, -STEP_GUARD), step(x.high, STEP_GUARD))


def combine(op_type: str, a: Interval, b: Interval) -> Interval:
    """Bounds of an element-wise operator on two operands."""
    corners = [(p, q) for p in (a.low, a.high) for q in (b.low, b.high)]
    with np.errstate(invalid="ignore", divide="ignore"):
        if op_type == "Add":
            return Interval(a.low + b.low, a.high + b.high)
        if op_type == "Sub":
            return Interval(a.low - b.high, a.high - b.low)
        if op_type == "Max":
            return Interval(np.maximum(a.low, b.low), np.maximum(a.high, b.high))
        if op_type == "Min":
            return Interval(np.minimum(a.low, b.low), np.minimum(a.high, b.high))
        if op_type == "Mul":
            values = np.stack([product(p, q) for p, q in corners])
            return Interval(values.min(axis=0), values.max(axis=0))
        if op_type == "Div" and np.all((b.low > 0) | (b.high < 0)):
            values = np.stack([p / q for p, q in corners])
            if not np.isnan(values).any():
                return Interval(values.min(axis=0), values.max(axis=0))
    shape = np.broadcast_shapes(a.low.shape, b.low.shape)
    return Interval(np.full(shape, -np.inf), np.full(shape, np.inf))


def apply(op_type: str, x: Interval, attributes: Mapping[str, Any]) -> Interval:
    """Bounds of an activation function; `attributes` as the operator has them, with defaults."""
    function = _MONOTONE.get(op_type)
    if function is not None:
        return Interval(function(x.low, attributes), function(x.high, attributes))
    function, least = _BOUNDED_BELOW[op_type]
    fixed = x.fixed
    safe = np.where(fixed, x.low, 0.0)
    value = function(safe, attributes)
    return Interval(np.where(fixed, value, least), np.where(fixed, value, np.maximum(x.high, 0.0)))


Function = Callable[[Floats, Mapping[str, Any]], Floats]


def _clip(x: Floats, a: Mapping[str, Any]) -> Floats:
    return np.asarray(np.minimum(np.maximum(x, a["min"]), a["max"]))


def _hard_sigmoid(x: Floats, a: Mapping[str, Any]) -> Floats:
    return np.asarray(np.clip(x * a["alpha"] + a["beta"], 0.0, 1.0))


def _sigmoid(x: Floats, _: Mapping[str, Any]) -> Floats:
    with np.errstate(over="ignore"):
        return np.asarray(1.0 / (1.0 + np.exp(-x)))


def _erf(x: Floats) -> Floats:
    return np.asarray(np.vectorize(math.erf, otypes=[float])(x))


def _gelu(x: Floats, a: Mapping[str, Any]) -> Floats:
    if a["approximate"] == "tanh":
        inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
        return np.asarray(0.5 * x * (1 + np.tanh(inner)))
    return np.asarray(0.5 * x * (1 + _erf(x / math.sqrt(2))))


_MONOTONE: dict[str, Function] = {
    "Relu": lambda x, a: np.asarray(np.maximum(x, 0.0)),
    "Clip": _clip,
    "Sigmoid": _sigmoid,
    "Tanh": lambda x, a: np.asarray(np.tanh(x)),
    "HardSigmoid": _hard_sigmoid,
    "Identity": lambda x, a: x,
    "Erf": lambda x, a: _erf(x),
    "Softplus": lambda x, a: np.asarray(np.logaddexp(0.0, x)),
}
# Not monotone: a dip below zero, then the identity at most.
_BOUNDED_BELOW: dict[str, tuple[Function, float]] = {
    "HardSwish": (
        lambda x, a: np.asarray(x * np.clip(x / 6 + 0.5, 0, 1)),
        -0.375 - 1e-6,
    ),
    "Gelu": (_gelu, -0.1701),
}
ACTIVATIONS = frozenset({*_MONOTONE, *_BOUNDED_BELOW})
"""Operators that `apply` bounds."""
