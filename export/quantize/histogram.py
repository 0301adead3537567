"""Streaming histogram of a tensor's values with a fixed number of bins.

The axis is symmetric about zero, and its radius is a power of two that doubles when a larger
value arrives. Doubling merges neighbouring pairs of bins exactly, so the result does not depend
on the order of the batches: it equals the histogram that the final radius would have given from
the start. Memory per tensor is constant, whatever the number of images.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

HALF_BINS = 2048
# 2**-100 keeps the bin width and its reciprocal normal float32 numbers.
_MIN_EXPONENT = -100

Counts = NDArray[np.int64] | NDArray[np.float64]


@dataclass
class Histogram:
    """Counts of values in ``2 * HALF_BINS`` equal bins over [-radius, radius].

    Exact zeros are counted apart: every quantization grid here represents zero without error,
    and after a ReLU they would drown everything else.

    Attributes:
        counts: int64, bin i covers [i - HALF_BINS, i + 1 - HALF_BINS) · radius / HALF_BINS; sums of
            weights (float64) in a weighted histogram.
        radius: a power of two, 0.0 as long as only zeros were seen.
        zeros: number of exact zeros.
        minimum, maximum: extreme values seen (0.0 before the first update).
        total: number of values seen, zeros included.
    """

    counts: Counts = field(default_factory=lambda: np.zeros(2 * HALF_BINS, dtype=np.int64))
    radius: float = 0.0
    zeros: int = 0
    minimum: float = 0.0
    maximum: float = 0.0
    total: int = 0

    @classmethod
    def weighted(cls) -> Histogram:
        """An empty histogram whose values carry weights."""
        return cls(counts=np.zeros(2 * HALF_BINS))

    def update(
        self, values: NDArray[np.float32], weights: NDArray[np.float32] | None = None
    ) -> None:
        """Add the values of one array of any shape.

        Args:
            values: what to add.
            weights: one per value, for a weighted histogram; `zeros`, `total` and the extremes
                count values all the same.

        Raises:
            ValueError: the array holds NaN or infinity; nothing was added.
        """
        if values.size == 0:
            return
        low, high = float(values.min()), float(values.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ValueError("values are not finite")
        self.minimum = low if self.total == 0 else min(self.minimum, low)
        self.maximum = high if self.total == 0 else max(self.maximum, high)
        self.total += values.size
        peak = max(-low, high)
        if peak == 0.0:
            self.zeros += values.size
            return
        self._grow(peak)
        flat = values.reshape(-1).astype(np.float32, copy=False)
        zeros = flat.size - int(np.count_nonzero(flat))
        scaled = flat * np.float32(HALF_BINS / self.radius)
        index = np.floor(scaled, out=scaled).astype(np.int32)
        index += HALF_BINS
        # only x == radius falls on the far edge; it belongs to the last bin
        np.minimum(index, 2 * HALF_BINS - 1, out=index)
        self.zeros += zeros
        if weights is None:
            self.counts += np.bincount(index, minlength=2 * HALF_BINS)
            self.counts[HALF_BINS] -= zeros
        else:
            heavy = np.where(flat == 0, 0, weights.reshape(-1))
            self.counts += np.bincount(index, weights=heavy, minlength=2 * HALF_BINS)

    def edges(self) -> NDArray[np.float64]:
        """The ``2 * HALF_BINS + 1`` bin edges."""
        return np.arange(-HALF_BINS, HALF_BINS + 1, dtype=np.float64) * (self.radius / HALF_BINS)

    def centres(self) -> NDArray[np.float64]:
        """The middle of every bin."""
        left = np.arange(-HALF_BINS, HALF_BINS, dtype=np.float64)
        return (left + 0.5) * (self.radius / HALF_BINS)

    def _grow(self, peak: float) -> None:
        exponent = max(math.frexp(peak)[1], _MIN_EXPONENT)
        radius = math.ldexp(1.0, exponent)
        if self.radius == 0.0:
            self.radius = radius
        while self.radius < radius:
            negative, positive = self.counts[:HALF_BINS], self.counts[HALF_BINS:]
            merged = np.zeros_like(self.counts)
            merged[HALF_BINS // 2 : HALF_BINS] = negative.reshape(-1, 2).sum(axis=1)
            merged[HALF_BINS : HALF_BINS + HALF_BINS // 2] = positive.reshape(-1, 2).sum(axis=1)
            self.counts = merged
            self.radius *= 2.0
