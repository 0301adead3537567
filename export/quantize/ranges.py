"""Clipping ranges of activations from their histograms.

Each rule maps a `Histogram` to a `Range` that holds zero:

- ``minmax``: the extreme values.
- ``percentile``: a share of the values, split over both tails, is clipped.
- ``entropy``: least Kullback-Leibler divergence between the values and their quantized image
  (Migacz, "8-bit inference with TensorRT", GTC 2017), here also for asymmetric ranges.
- ``mse``: least expected squared error, clipping plus rounding noise (step² / 12).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from edgec.export.errors import UsageError
from edgec.export.quantize.histogram import HALF_BINS, Histogram

Method = Literal["minmax", "percentile", "entropy", "mse"]
METHODS: tuple[Method, ...] = get_args(Method)

# Candidate ranges per side, as shares of the observed extreme. Below 1/20 of it, clipping
# always costs more than the finer step gains in the distributions of trained networks.
_CANDIDATES = np.linspace(0.05, 1.0, 96)


@dataclass(frozen=True)
class Range:
    """A closed interval [low, high] with low <= 0 <= high, in units of the tensor's values.

    Raises:
        ValueError: a bound is not finite or zero lies outside.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high)):
            raise ValueError(f"range [{self.low}, {self.high}] is not finite")
        if self.low > 0.0 or self.high < 0.0:
            raise ValueError(f"range [{self.low}, {self.high}] does not hold zero")

    @classmethod
    def including_zero(cls, low: float, high: float) -> Range:
        """The smallest range that holds [low, high] and zero."""
        return cls(min(low, 0.0), max(high, 0.0))

    def symmetric(self) -> Range:
        """The smallest range symmetric about zero that holds this one."""
        bound = max(-self.low, self.high)
        return Range(-bound, bound)

    def intersect(self, low: float, high: float) -> Range:
        """This range cut to [low, high], which must hold zero."""
        return Range(max(self.low, low), min(self.high, high))


def choose_range(
    histogram: Histogram,
    method: Method,
    *,
    levels: int = 256,
    symmetric: bool = False,
    percentile: float = 99.99,
) -> Range:
    """The clipping range of one tensor.

    Args:
        histogram: values seen in calibration.
        method: one of `METHODS`.
        levels: number of values of the integer grid (256 for 8 bits, 255 if symmetric).
        symmetric: the grid is symmetric about zero; the result then is, too.
        percentile: share of values inside the range in percent, 50 < percentile <= 100; used
            by ``"percentile"`` only.

    Raises:
        UsageError: EC260 unknown method, EC261 percentile out of range.
    """
    check_method(method, percentile)
    full = Range.including_zero(histogram.minimum, histogram.maximum)
    if method == "minmax" or histogram.radius == 0.0:
        chosen = full
    elif method == "percentile":
        chosen = _percentile(histogram, full, percentile, symmetric)
    elif method == "entropy":
        chosen = _entropy(histogram, full, levels, symmetric)
    else:
        chosen = _mse(histogram, full, levels, symmetric)
    return chosen.symmetric() if symmetric else chosen


def check_method(method: str, percentile: float) -> None:
    """Raise UsageError (EC260, EC261) unless both are legal."""
    if method not in METHODS:
        raise UsageError(
            "EC260",
            f"unknown calibration method {method!r}",
            fix=f"choose one of {', '.join(METHODS)}",
        )
    if not 50.0 < percentile <= 100.0:
        raise UsageError(
            "EC261",
            f"percentile {percentile} is outside (50, 100]",
            why="it is the share of values, in percent, that the range keeps",
            fix="use a value such as 99.99",
        )


def _percentile(histogram: Histogram, full: Range, percentile: float, symmetric: bool) -> Range:
    clipped = 1.0 - percentile / 100.0
    if symmetric:
        folded = histogram.counts[HALF_BINS:] + histogram.counts[:HALF_BINS][::-1]
        bound = _upper_quantile(folded, histogram.radius, clipped * histogram.total)
        widest = full.symmetric()
        return Range(-bound, bound).intersect(widest.low, widest.high)
    tail = 0.5 * clipped * histogram.total
    high = _upper_quantile(histogram.counts[HALF_BINS:], histogram.radius, tail)
    low = -_upper_quantile(histogram.counts[:HALF_BINS][::-1], histogram.radius, tail)
    return Range.including_zero(max(low, histogram.minimum), min(high, histogram.maximum))


def _upper_quantile(counts: NDArray[Any], radius: float, tail: float) -> float:
    """Value above which `tail` of the counts lie; counts cover [0, radius] evenly."""
    above = np.concatenate([np.cumsum(counts[::-1])[::-1], [0]]).astype(np.float64)
    if above[0] <= tail:
        return 0.0
    # above falls along the axis; interpolate inside the bin where it passes the tail mass
    first = int(np.searchsorted(-above, -tail, side="left"))
    if above[first] == tail or first == 0:
        position = float(first)
    else:
        position = first - 1 + (above[first - 1] - tail) / (above[first - 1] - above[first])
    return position * radius / len(counts)


def _candidates(full: Range, symmetric: bool) -> NDArray[np.float64]:
    """Candidate (low, high) pairs, shape (n, 2); the last one is the full range."""
    if symmetric:
        bound = _CANDIDATES * max(-full.low, full.high)
        return np.stack([-bound, bound], axis=1)
    lows = _CANDIDATES * full.low if full.low < 0.0 else np.zeros(1)
    highs = _CANDIDATES * full.high if full.high > 0.0 else np.zeros(1)
    low, high = np.meshgrid(lows, highs, indexing="ij")
    return np.stack([low.ravel(), high.ravel()], axis=1)


def _mse(histogram: Histogram, full: Range, levels: int, symmetric: bool) -> Range:
    pairs = _candidates(full, symmetric)
    centres, counts = histogram.centres(), histogram.counts.astype(np.float64)
    # moments of the values beyond an edge give the clipping error in closed form
    moments = [np.concatenate([[0.0], np.cumsum(counts * centres**k)]) for k in range(3)]
    width = histogram.radius / HALF_BINS
    low_edge = np.clip(np.floor(pairs[:, 0] / width).astype(int) + HALF_BINS, 0, 2 * HALF_BINS)
    high_edge = np.clip(np.ceil(pairs[:, 1] / width).astype(int) + HALF_BINS, 0, 2 * HALF_BINS)

    below = [m[low_edge] for m in moments]
    above = [m[-1] - m[high_edge] for m in moments]
    error = np.zeros(len(pairs))
    for bound, (n, s, q) in ((pairs[:, 0], below), (pairs[:, 1], above)):
        error += q - 2.0 * bound * s + bound**2 * n
    steps = levels - 1
    inside = counts.sum() - below[0] - above[0]
    error += inside * ((pairs[:, 1] - pairs[:, 0]) / steps) ** 2 / 12.0
    # of equal errors the widest range: later candidates are wider
    best = len(pairs) - 1 - int(np.argmin(error[::-1]))
    return Range.including_zero(float(pairs[best, 0]), float(pairs[best, 1]))


def _entropy(histogram: Histogram, full: Range, levels: int, symmetric: bool) -> Range:
    best, best_divergence = full, math.inf
    shares = _CANDIDATES[::-1]
    for share in shares:
        candidate = Range(share * full.low, share * full.high)
        if symmetric:
            candidate = candidate.symmetric()
        divergence = _divergence(histogram, candidate, levels)
        if divergence < best_divergence:
            best, best_divergence = candidate, divergence
    return best


def _divergence(histogram: Histogram, candidate: Range, levels: int) -> float:
    """KL(P || Q): P the clipped values, Q the same after spreading each level over its bins."""
    width = histogram.radius / HALF_BINS
    first = max(math.floor(candidate.low / width) + HALF_BINS, 0)
    last = min(math.ceil(candidate.high / width) + HALF_BINS, 2 * HALF_BINS)
    if last - first < levels:
        return math.inf  # fewer bins than levels: the histogram cannot tell
    inside = histogram.counts[first:last].astype(np.float64)
    reference = inside.copy()
    reference[0] += histogram.counts[:first].sum()
    reference[-1] += histogram.counts[last:].sum()
    level = np.arange(last - first) * levels // (last - first)
    occupied = inside > 0
    mass = np.bincount(level, weights=inside, minlength=levels)
    places = np.bincount(level, weights=occupied, minlength=levels)
    mean = np.divide(mass, places, out=np.zeros(levels), where=places > 0)
    quantized = np.where(occupied, mean[level], 0.0)
    if quantized.sum() == 0.0:
        return math.inf
    p, q = reference / reference.sum(), quantized / quantized.sum()
    # clipped mass can land in an empty edge bin; Q gets a little there, as in Migacz' smoothing
    q = np.where((p > 0) & (q == 0), 1e-6 / p.size, q)
    q /= q.sum()
    positive = p > 0
    return float(np.sum(p[positive] * np.log(p[positive] / q[positive])))
