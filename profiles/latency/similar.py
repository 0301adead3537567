"""What work terms leave unexplained, learned from networks whose time is composed alike.

A Gaussian process over the size of a network and the shares of its time that each work term takes:
networks of one family share what the terms miss. Only sets of hundreds of networks carry it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

AMPLITUDE, NOISE, LENGTH = 0.4, 0.1, 6.0
"""Log time that the terms miss, that of runs, and how far networks resemble each other, in standard
deviations of all inputs together: near the largest marginal likelihood."""


@dataclass(frozen=True)
class Similar:
    """A fitted process.

    Attributes:
        costs: time of each work term, shape (K,).
        centre, spread: of log time and the roots of the shares, shape (K + 1,).
        points: the same of the fitted networks, standardised, shape (N, K + 1).
        weights: shape (N,).
    """

    costs: Array
    centre: Array
    spread: Array
    points: Array
    weights: Array

    def correction(self, work: Array) -> Array:
        """Log time beyond the work terms, shape (M,), for amounts of shape (M, K)."""
        place = (_composition(work, self.costs) - self.centre) / self.spread
        return np.asarray(_kernel(place, self.points) @ self.weights)

    @classmethod
    def fit(cls, work: Array, residual: Array, costs: Array) -> Similar:
        """Fit to what the terms left of N networks: amounts (N, K), residuals (N,), costs (K,)."""
        places = _composition(work, costs)
        centre, spread = places.mean(axis=0), np.maximum(places.std(axis=0), 1e-6)
        points = (places - centre) / spread
        covariance = _kernel(points, points) + NOISE**2 * np.eye(len(points))
        weights = np.asarray(np.linalg.solve(covariance, residual), np.float64)
        return cls(costs, centre, spread, points, weights)


def _composition(work: Array, costs: Array) -> Array:
    """Log time and the roots of its shares, which tell a little from nothing."""
    times = work * costs + 1e-12
    total = times.sum(axis=1, keepdims=True)
    return np.concatenate([np.log(total), np.sqrt(times / total)], axis=1)


def _kernel(a: Array, b: Array) -> Array:
    """Matérn's of order 3/2: families differ abruptly, not smoothly."""
    apart = (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T
    far = np.sqrt(3 * np.maximum(apart, 0)) / LENGTH
    return np.asarray(AMPLITUDE**2 * (1 + far) * np.exp(-far))
