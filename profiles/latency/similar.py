"""What work terms leave unexplained, learned from networks whose work is composed alike.

A Gaussian process over the logarithms of the work amounts: networks of one family share what the
terms miss. Only sets of hundreds of networks carry it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

AMPLITUDE, NOISE, LENGTH = 0.4, 0.1, 1.6
FLOOR = 1e-3
"""Share of the median that stands for no work of a kind."""


@dataclass(frozen=True)
class Similar:
    """A fitted process.

    Attributes:
        centre, spread: of the log amounts, shape (K,).
        floor: added to the amounts before the logarithm, shape (K,).
        points: standardised log amounts of the fitted networks, shape (N, K).
        weights: shape (N,).
    """

    centre: Array
    spread: Array
    floor: Array
    points: Array
    weights: Array

    def correction(self, work: Array) -> Array:
        """Log time beyond the work terms, shape (M,), for amounts of shape (M, K)."""
        return np.asarray(_kernel(self._place(work), self.points) @ self.weights)

    def _place(self, work: Array) -> Array:
        return np.asarray((np.log(work + self.floor) - self.centre) / self.spread)

    @classmethod
    def fit(cls, work: Array, residual: Array) -> Similar:
        """Fit to what the terms left of N networks: amounts (N, K), residuals (N,)."""
        floor = FLOOR * np.median(work, axis=0) + 1e-9
        logs = np.log(work + floor)
        spread = np.maximum(logs.std(axis=0), 1e-6)
        points = (logs - logs.mean(axis=0)) / spread
        covariance = _kernel(points, points) + NOISE**2 * np.eye(len(points))
        weights = np.asarray(np.linalg.solve(covariance, residual), np.float64)
        return cls(logs.mean(axis=0), spread, floor, points, weights)


def _kernel(a: Array, b: Array) -> Array:
    apart = (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T
    return np.asarray(AMPLITUDE**2 * np.exp(-np.maximum(apart, 0) / (2 * LENGTH**2)))
