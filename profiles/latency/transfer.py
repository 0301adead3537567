"""Few-shot transfer between boards: networks that other boards ran, from a few that yours ran.

Log latencies of the known networks on one board, up to a factor, are drawn from a mixture of
normal distributions: boards of one kind resemble each other. Conditioning on the measured networks
gives all others. What ships are the means and covariances, fitted by ``benchmarks/latency``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

NOISE = 0.05
"""Standard deviation of a measurement's logarithm."""

FREE_FACTOR = 1.0
"""Variance of the factor between boards, in squared log: wide, so that anchors decide it."""


@dataclass(frozen=True)
class Mixture:
    """What boards look like.

    Attributes:
        networks: names, in the order of the vectors.
        weights: of the components, shape (C,).
        means: centred log latencies, shape (C, M).
        covariances: shape (C, M, M).
        scale: standard deviations that make the 80 % interval, from cross-validation.
    """

    networks: tuple[str, ...]
    weights: Array
    means: Array
    covariances: Array
    scale: float = 1.2816

    def predict(self, measured: Mapping[str, float]) -> dict[str, tuple[float, float]]:
        """Log milliseconds and their standard deviation for every network.

        Args:
            measured: milliseconds of networks on the board, at least one known here.
        """
        known = [i for i, name in enumerate(self.networks) if name in measured]
        times = np.log([measured[self.networks[i]] for i in known])
        parts = [
            condition(mean + (times - mean[known]).mean(), covariance + FREE_FACTOR, known, times)
            for mean, covariance in zip(self.means, self.covariances, strict=True)
        ]
        score = np.array([part[2] for part in parts]) + np.log(self.weights)
        share = np.exp(score - score.max())
        share /= share.sum()
        mean = share @ np.array([part[0] for part in parts])
        spread = np.array([part[1] + (part[0] - mean) ** 2 for part in parts])
        deviation = np.sqrt(share @ spread + NOISE**2)
        return {
            name: (float(m), float(d))
            for name, m, d in zip(self.networks, mean, deviation, strict=True)
        }

    def best_anchors(self, count: int, among: Sequence[str] | None = None) -> list[str]:
        """Networks worth measuring first: those that leave the least uncertainty about the rest."""
        covariance = np.einsum("c,cij->ij", self.weights, self.covariances)
        away = self.means - self.weights @ self.means
        covariance = covariance + (away * self.weights[:, None]).T @ away + FREE_FACTOR
        allowed = [i for i, name in enumerate(self.networks) if among is None or name in among]
        chosen: list[int] = []
        while len(chosen) < min(count, len(allowed)):
            rest = [i for i in allowed if i not in chosen]
            chosen.append(min(rest, key=lambda i: _left(covariance, [*chosen, i])))
        return [self.networks[i] for i in chosen]


def condition(
    mean: Array, covariance: Array, known: Sequence[int], values: Array
) -> tuple[Array, Array, float]:
    """Mean and variance given some values with noise, and the log density of these values."""
    block = covariance[np.ix_(known, known)] + NOISE**2 * np.eye(len(known))
    gain = np.linalg.solve(block, covariance[known]).T
    error = values - mean[known]
    density = -0.5 * (np.linalg.slogdet(block)[1] + error @ np.linalg.solve(block, error))
    variance = np.diag(covariance - gain @ covariance[known])
    return mean + gain @ error, np.maximum(variance, 0.0), float(density)


def _left(covariance: Array, chosen: list[int]) -> float:
    """Standard deviations that remain, summed over the networks."""
    _, variance, _ = condition(np.zeros(len(covariance)), covariance, chosen, np.zeros(len(chosen)))
    variance = variance.copy()
    variance[chosen] = 0.0
    return float(np.sqrt(variance).sum())
