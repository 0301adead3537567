"""Fits the mixture that few-shot transfer uses to a table of boards x networks with gaps."""

from __future__ import annotations

import numpy as np
from hierarchy import Array

from edgec.profiles.latency.transfer import NOISE, Mixture, condition

COMPONENTS = 12
SHRINK = 8.0


def fit_mixture(networks: list[str], log_ms: Array, *, components: int = COMPONENTS) -> Mixture:
    """Mixture by expectation-maximisation after the gaps were filled by one normal distribution.

    Args:
        networks: names of the M columns.
        log_ms: shape (B, M), NaN where nothing was measured.
    """
    mean, covariance = _one_normal(log_ms)
    filled = np.array([_fill(row, mean, covariance) for row in log_ms])
    centred = filled - filled.mean(1, keepdims=True)
    count, width = centred.shape
    project = np.eye(width) - 1 / width
    prior = 0.3 * project @ covariance @ project
    means = _spread_out(centred, components)
    components = len(means)
    covariances = np.repeat((prior / 0.3 + 0.01 * np.eye(width))[None], components, axis=0)
    weights = np.full(components, 1 / components)
    overall = centred.mean(0)
    for _ in range(30):
        share = _responsibility(centred, weights, means, covariances)
        for k in range(components):
            size = share[:, k].sum()
            means[k] = (share[:, k] @ centred + overall) / (size + 1)
            away = centred - means[k]
            scatter = (away * share[:, k, None]).T @ away
            covariances[k] = (scatter + SHRINK * prior) / (size + SHRINK)
        weights = (share.sum(0) + 1) / (count + components)
    return Mixture(tuple(networks), weights, means, covariances)


def _one_normal(log_ms: Array) -> tuple[Array, Array]:
    """Mean and covariance with gaps, by expectation-maximisation."""
    seen = np.isfinite(log_ms)
    offset = np.nanmean(log_ms - np.nanmean(log_ms, 0), 1, keepdims=True)
    mean = np.nanmean(log_ms - offset, 0)
    width = len(mean)
    covariance = 0.05 * np.eye(width) + 1.0
    for _ in range(15):
        total = np.zeros((width, width))
        expected = np.zeros_like(log_ms)
        for b, row in enumerate(log_ms):
            known = np.flatnonzero(seen[b])
            block = covariance[np.ix_(known, known)] + 0.03**2 * np.eye(len(known))
            gain = np.linalg.solve(block, covariance[known]).T
            expected[b] = gain @ (row[known] - mean[known])
            total += covariance - gain @ covariance[known]
        shift = expected.mean(0)
        mean, expected = mean + shift, expected - shift
        guess = 5 * 0.02 * np.eye(width)
        covariance = (expected.T @ expected + total + guess) / (len(log_ms) + 5)
    return mean, covariance


def _fill(row: Array, mean: Array, covariance: Array) -> Array:
    known = np.flatnonzero(np.isfinite(row))
    filled, _, _ = condition(mean, covariance, list(known), row[known])
    return np.where(np.isfinite(row), row, filled)


def _spread_out(points: Array, count: int) -> Array:
    """Start of the means: points far from each other, the one nearest to the middle first."""
    chosen = [int(np.argmin(((points - points.mean(0)) ** 2).sum(1)))]
    while len(chosen) < min(count, len(points)):
        gaps = np.min([((points - points[i]) ** 2).sum(1) for i in chosen], axis=0)
        # not the farthest: that would be one odd board for each component
        chosen.append(int(np.argsort(gaps)[int(0.9 * (len(gaps) - 1))]))
    return points[chosen].copy()


def _responsibility(points: Array, weights: Array, means: Array, covariances: Array) -> Array:
    noise = NOISE**2 * np.eye(points.shape[1])
    columns = []
    for weight, mean, covariance in zip(weights, means, covariances, strict=True):
        away = points - mean
        inverse = np.linalg.inv(covariance + noise)
        size = np.linalg.slogdet(covariance + noise)[1]
        columns.append(np.log(weight) - 0.5 * (size + ((away @ inverse) * away).sum(1)))
    score = np.array(columns).T
    share = np.exp(score - score.max(1, keepdims=True))
    return np.asarray(share / share.sum(1, keepdims=True))
