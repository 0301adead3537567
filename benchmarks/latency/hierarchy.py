"""Hierarchical fit of log constants: population, boards, and what networks leave unexplained.

    log t_bm = log Σ_k x_mk exp(μ_k + δ_bk) + u_m + e_bm,   δ_b ~ N(0, S),  u_m ~ N(0, τ²)

Boards are many and networks few, so an error of the work terms for one network shows on every
board; u keeps it from passing for evidence about μ. μ has a weak prior in relative cost, known from
how such kernels work; it decides only where the fitted networks have no such work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

CPU_PRIOR = {
    "winograd": -0.7,
    "conv": 0.3,
    "stem": 0.7,
    "unpacked": 1.0,
    "pointwise": 0.0,
    "depthwise": 0.7,
    "matmul": 0.3,
    "linear": 2.0,
    "weights": 0.5,
    "window_io": 2.3,
    "pointwise_io": 2.3,
    "depthwise_io": 2.3,
    "memory": 2.0,
    "transcendental": 3.5,
    "local_norm": 5.0,
    "normalization": 3.0,
    "kernels": 10.0,
    "functions": 2.3,
    "transposed": 2.5,
    "group_kernels": 9.0,
    "large_depthwise": 0.7,
    "far": 1.0,
    "gemm": 0.0,
    "joined": 2.0,
    "joins": 10.0,
    "concatenated": 2.3,
    "reductions": 10.0,
}
"""Log cost of a unit of work in pointwise MACs."""

SPREAD = 0.45
WIDE = {
    **dict.fromkeys(("transcendental", "local_norm", "normalization", "kernels", "far"), 1.0),
    **dict.fromkeys(("joins", "reductions"), 1.0),
    "functions": 0.7,
}
"""Standard deviations of these guesses."""

HEXAGON_PRIOR = {
    "conv": 0.0,
    "depthwise": 2.3,
    "matmul": 1.1,
    "weights": 4.6,
    "memory": 3.0,
    "kernels": 16.0,
    "normalization": 5.0,
    "launch": 20.7,
}
"""The same for the NPU of a phone, in MACs of a convolution: some TMAC/s, tens of GB/s for weights,
more on the chip, microseconds a kernel, half a millisecond a launch."""

NEURAL_ART_PRIOR = {
    "conv": 0.0,
    "depthwise": 2.3,
    "large_depthwise": 2.3,
    "weights": 6.5,
    "memory": 4.5,
    "far": 4.0,
    "kernels": 15.0,
    "launch": 18.5,
    "gates": 8.0,
    "matmul": 6.0,
    "transposed": 7.5,
    "unaligned": 7.5,
    "normalization": 8.5,
}
"""The same for the NPU of an STM32N6, which reads weights from serial flash. What it cannot execute
falls to a Cortex-M55, some thousand times slower than its convolutions."""

NPU_SPREAD = 1.0
"""Standard deviation of the guesses for NPUs."""

PRIORS = {"cpu": CPU_PRIOR, "hexagon": HEXAGON_PRIOR, "neural-art": NEURAL_ART_PRIOR}

OFFSET = 3.0
HUBER = 2.0


@dataclass
class Hierarchy:
    """A fit.

    Attributes:
        mean: μ, shape (K,).
        covariance: S, shape (K, K).
        boards: δ, shape (B, K), and their posterior covariance (B, K, K).
        residual: u, shape (M,).
        tau, sigma: standard deviations of u and e.
    """

    mean: Array
    covariance: Array
    boards: Array
    board_covariance: Array
    residual: Array
    tau: float
    sigma: float


def prior_of(features: Sequence[str], processor: str = "cpu") -> tuple[Array, Array]:
    """Mean and standard deviation of the prior of μ, up to a common offset.

    Args:
        features: names of the amounts.
        processor: one of `PRIORS`.
    """
    mean = np.array([PRIORS[processor][name] for name in features])
    if processor != "cpu":
        return mean, np.full(len(features), NPU_SPREAD)
    return mean, np.array([WIDE.get(name, SPREAD) for name in features])


def fit(
    work: Array,
    log_ms: Array,
    features: Sequence[str],
    *,
    rounds: int = 12,
    shrink: int = 10,
    processor: str = "cpu",
) -> Hierarchy:
    """Fit boards that ran networks.

    Args:
        work: amounts, shape (M, K), or (B, M, K) where they differ between boards.
        log_ms: log milliseconds, shape (B, M); NaN where not measured.
        features: names of the K amounts.
        rounds: of alternating between boards and population.
        shrink: weight of the guess of S, in boards.
        processor: what the boards executed with, one of `PRIORS`.
    """
    count, width = len(log_ms), work.shape[-1]
    work = np.broadcast_to(work, (count, *work.shape[-2:])) + 1e-9
    seen = np.isfinite(log_ms).astype(float)
    data = np.where(seen > 0, log_ms, 0.0)
    prior_mean, prior_sd = prior_of(features, processor)
    prior_precision = np.linalg.inv(np.diag(prior_sd**2) + OFFSET**2 * np.ones((width, width)))
    guess = np.eye(width) * 0.3**2
    covariance = guess + np.ones((width, width))
    offset = (seen * (data - np.log(work @ np.exp(prior_mean)))).sum(1) / seen.sum(1)
    prior_mean = prior_mean + np.median(offset)
    mean = prior_mean.copy()
    boards = np.repeat((offset - np.median(offset))[:, None], width, axis=1)
    residual = np.zeros(work.shape[1])
    sigma, tau2 = 0.08, 0.15**2
    posterior = np.repeat(covariance[None], count, axis=0)
    measured = seen.sum(0) > 0
    for _ in range(rounds):
        precision = np.linalg.inv(covariance)
        for _ in range(3):
            jacobian, total = _derivative(work, mean + boards)
            error = seen * (data - residual - np.log(total))
            weight = seen / np.maximum(1, np.abs(error) / (HUBER * sigma))
            scaled = jacobian * (weight / sigma**2)[:, :, None]
            normal = np.einsum("bmk,bml->bkl", scaled, jacobian) + precision
            gradient = np.einsum("bmk,bm->bk", scaled, error) - boards @ precision
            step = np.linalg.solve(normal, gradient[..., None])[..., 0]
            boards = boards + np.clip(step, -1, 1)
        posterior = np.linalg.inv(normal)
        jacobian, total = _derivative(work, mean + boards)
        error = seen * (data - np.log(total))
        times = np.maximum(seen.sum(0), 1)
        average = error.sum(0) / times
        slope = (seen[:, :, None] * jacobian).sum(0) / times[:, None]
        # the boards' common deviation belongs to the mean
        common = boards.mean(0)
        mean, boards = mean + common, boards - common
        evidence = slope[measured].T @ slope[measured] / tau2
        normal_mean = evidence + prior_precision
        step = np.linalg.solve(
            normal_mean,
            slope[measured].T @ average[measured] / tau2 - prior_precision @ (mean - prior_mean),
        )
        mean = mean + np.clip(step, -0.5, 0.5)
        residual = np.where(measured, average - slope @ step, 0.0)
        free = max(measured.sum() - 0.7 * np.trace(np.linalg.solve(normal_mean, evidence)), 3)
        tau2 = float(np.clip((residual[measured] ** 2).sum() / free, 0.05**2, 0.5**2))
        covariance = (boards.T @ boards + posterior.sum(0) + shrink * guess) / (count + shrink)
        left = seen * (error - residual)
        sigma = float(np.sqrt(max((weight * left**2).sum() / seen.sum(), 0.03**2)))
    return Hierarchy(mean, covariance, boards, posterior, residual, float(np.sqrt(tau2)), sigma)


def _derivative(work: Array, constants: Array) -> tuple[Array, Array]:
    """d log t / d θ, shape (B, M, K), and t, shape (B, M)."""
    cost = np.exp(np.clip(constants, -30, 30))
    total = np.einsum("bmk,bk->bm", work, cost)
    return work * cost[:, None, :] / total[:, :, None], total
