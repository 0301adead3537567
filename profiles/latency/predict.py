"""Predicted latency with an 80 % interval and a basis, or the reason why there is none.

log t = log Σ_k x_k exp(θ_k) with the amounts of work x of the network and log constants θ that are
normally distributed: around the mean of the core's class before any measurement (hierarchical
shrinkage), closer after calibration by anchors. The variance of a prediction is that of θ carried
through the derivative, plus what work terms leave unexplained between networks and between runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgec.profiles.latency.constants import CoreClass, Fit, Vector
from edgec.profiles.latency.features import matrix
from edgec.profiles.layers import Layer

SHARE_MARGIN = 0.15
"""How far the share of a work term may lie above the largest one that was fitted."""

WORK_MARGIN = np.log(3.0)
"""How far the size of a network may lie outside the fitted ones (log)."""

UNKNOWN_SPEED = 4.0
"""Variance of the log speed of a board that nothing is known of."""

PRIOR_SHARE = 0.2
"""Largest share of the time for which constants may be assumed rather than fitted."""


@dataclass(frozen=True)
class Anchor:
    """A measurement on the user's own board: amounts of work (L, K), and milliseconds."""

    name: str
    work: NDArray[np.float64]
    latency_ms: float


@dataclass(frozen=True)
class Prediction:
    """A predicted latency, or the reason for refusing one.

    Attributes:
        latency_ms: median; None where `refused` says why.
        low_ms, high_ms: 80 % interval.
        basis: what it rests on, one sentence.
        refused: why there is no number.
        layer_ms: the share of each layer, in their order; empty where refused.
    """

    basis: str
    latency_ms: float | None = None
    low_ms: float | None = None
    high_ms: float | None = None
    refused: str | None = None
    layer_ms: tuple[float, ...] = ()

    def line(self) -> str:
        """One line for reports."""
        if self.latency_ms is None:
            return f"no prediction: {self.refused} ({self.basis})"
        return (
            f"{_ms(self.latency_ms)} ms predicted, 80 % interval {_ms(self.low_ms)} to "
            f"{_ms(self.high_ms)} ms ({self.basis})"
        )

    def to_json(self) -> dict[str, Any]:
        """All fields, JSON-ready."""
        return asdict(self)


@dataclass(frozen=True)
class Constants:
    """Distribution of the log constants of one board with a number of threads: mean (K,),
    covariance (K, K)."""

    mean: Vector
    covariance: Vector
    threads: int = 1


def class_constants(known: CoreClass, clock_mhz: float) -> Constants:
    """Constants of a board that is known by its core; time goes with one over the clock."""
    mean = known.mean + np.log(known.clock_mhz / clock_mhz)
    return Constants(mean, known.covariance, known.threads)


def any_board(fit: Fit, threads: int = 1) -> Constants:
    """Constants of a board of which nothing is known: anchors have to say how fast it is."""
    found = fit.population
    width = len(found.mean)
    wide = found.covariance + UNKNOWN_SPEED * np.ones((width, width))
    return Constants(found.mean, wide, threads)


def calibrate(fit: Fit, prior: Constants, anchors: Sequence[Anchor]) -> Constants:
    """Constants after measurements on the board: the posterior, by Gauss-Newton steps.

    The prior's covariance is that between boards, so a few anchors move constants together as they
    move together between boards. A measurement far off counts less (Huber).
    """
    work = np.array([anchor.work.sum(axis=0) for anchor in anchors])
    times = np.array([anchor.latency_ms for anchor in anchors])
    known = np.array([fit.residuals.get(anchor.name) is not None for anchor in anchors])
    shift = np.array(
        [
            fit.residuals.get(anchor.name) or fit.unexplained(anchor.work.sum(axis=0))
            for anchor in anchors
        ]
    )
    noise = np.where(known, fit.sigma**2, fit.sigma**2 + fit.tau**2)
    mean = prior.mean.copy()
    precision = np.linalg.inv(prior.covariance)
    posterior = prior.covariance
    for _ in range(20):
        jacobian, total = _derivative(work, mean)
        error = np.log(times) - shift - np.log(total)
        weight = 1 / (noise * np.maximum(1, np.abs(error) / (2 * np.sqrt(noise))))
        posterior = np.linalg.inv((jacobian * weight[:, None]).T @ jacobian + precision)
        gradient = jacobian.T @ (weight * error) - precision @ (mean - prior.mean)
        mean = mean + np.clip(posterior @ gradient, -1, 1)
    return Constants(mean, posterior, prior.threads)


def predict(
    fit: Fit,
    constants: Constants,
    layers: Sequence[Layer],
    basis: str,
    *,
    scale: float | None = None,
) -> Prediction:
    """Predict a network, or refuse.

    Args:
        fit: work terms and hull.
        constants: of the board.
        layers: the network.
        basis: the sentence to give with it.
        scale: standard deviations of the interval; by default those of an uncalibrated board.
    """
    work = matrix(layers, fit.features, fit.merge, constants.threads)
    refused = outside(fit, constants, work)
    if refused is not None:
        return Prediction(basis, refused=refused)
    times = work @ np.exp(constants.mean + fit.unexplained(work.sum(axis=0)))
    jacobian, _ = _derivative(work.sum(axis=0)[None], constants.mean)
    variance = float((jacobian @ constants.covariance @ jacobian.T)[0, 0])
    variance += fit.sigma**2 + fit.tau**2
    spread = float(np.exp((fit.scale if scale is None else scale) * np.sqrt(variance)))
    total = float(times.sum())
    return Prediction(
        basis,
        total,
        total / spread,
        total * spread,
        layer_ms=tuple(float(t) for t in times),
    )


def outside(fit: Fit, constants: Constants, work: NDArray[np.float64]) -> str | None:
    """Why a network lies outside of what the constants were fitted to; None if it does not."""
    amounts = work.sum(axis=0)
    if not amounts.any():
        return "the network has no layer that takes time"
    shares = _derivative(amounts[None], constants.mean)[0][0]
    for name, share, seen in zip(fit.features, shares, _seen(fit, constants), strict=True):
        limit = PRIOR_SHARE if seen == 0 else min(seen + SHARE_MARGIN, 1.0)
        if share > limit:
            return (
                f"{100 * share:.0f} % of its time would be {name.replace('_', ' ')} work, at most "
                f"{100 * seen:.0f} % in the networks that the constants were fitted to"
            )
    size = float(np.log(amounts @ np.exp(fit.population.mean)))
    low, high = fit.hull.work
    if not low - WORK_MARGIN <= size <= high + WORK_MARGIN:
        side = "smaller" if size < low else "larger"
        return f"it is much {side} than every network that the constants were fitted to"
    return None


def _seen(fit: Fit, constants: Constants) -> Vector:
    """Largest share of each term in a fitted network: on this board where the networks are known,
    since what is dear there takes more of every network."""
    seen = np.array([fit.hull.share.get(name, 0.0) for name in fit.features])
    known = fit.known(constants.threads)
    if not known:
        return seen
    here, _ = _derivative(np.array(list(known.values())), constants.mean)
    return np.where(seen > 0, here.max(axis=0), 0.0)


def _derivative(work: NDArray[np.float64], mean: Vector) -> tuple[NDArray[np.float64], Vector]:
    """d log t / d θ, shape (N, K), and t, shape (N,)."""
    parts = work * np.exp(mean)
    total = parts.sum(axis=1)
    return parts / total[:, None], total


def _ms(value: float | None) -> str:
    assert value is not None
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"
