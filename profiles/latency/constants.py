"""Fitted constants as they ship: means and covariances of log milliseconds per amount of work.

``constants.json`` is written by ``benchmarks/latency/fit.py``. It holds no measurements, only what
was fitted to them, with the hash of the data, the number of rows, and the error found in
cross-validation.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgec.profiles.latency.similar import Similar
from edgec.profiles.latency.transfer import Mixture

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Hull:
    """What the fitted networks looked like; outside of it nothing is predicted.

    Attributes:
        share: largest share of the predicted time that each work term had in a fitted network.
        work: smallest and largest predicted time of the fitted networks under the mean constants,
            as log of the work they stand for.
    """

    share: Mapping[str, float]
    work: tuple[float, float]


@dataclass(frozen=True)
class CoreClass:
    """Constants of one kind of core with a number of threads.

    Attributes:
        core: e.g. ``"Cortex-A72"``; ``""`` for the population of all.
        threads: of the runtime; 0 for the population.
        clock_mhz: that the constants are for.
        mean: log constants, shape (K,).
        covariance: how boards of this class differ, shape (K, K).
        boards: how many different chips it was fitted to.
    """

    core: str
    threads: int
    clock_mhz: float
    mean: Vector
    covariance: Vector
    boards: int


@dataclass(frozen=True)
class Fit:
    """Constants of one runtime and precision.

    Attributes:
        id: e.g. ``"ncnn-fp32"``.
        runtime, precision: what executed the networks; for the basis of a prediction.
        threads: ``"one"``, ``"several"``, or ``"any"`` where that was not told apart.
        features: names of work terms, in the order of the vectors.
        merge: work terms that share the constant of another.
        classes: by core and threads.
        population: of all boards, where calibration of an unknown one starts.
        tau: standard deviation of log latency between networks that the terms do not explain.
        sigma: the same between repetitions and boards of one class.
        scale: standard deviations that make the 80 % interval, from cross-validation, where only
            the core of the board is known.
        calibrated_scale: the same after measurements on the board.
        hull: of the fitted networks.
        residuals: log latency over the terms' prediction, by network that was fitted.
        networks: amounts of work of these networks, so that they can serve as anchors by name;
            by number of threads.
        mixture: of boards, for transfer between these networks; None for too few boards.
        similar: what networks of like composition leave unexplained; None for small sets.
        provenance: data hash, number of rows, networks and boards, error in cross-validation.
    """

    id: str
    runtime: str
    precision: str
    threads: str
    features: tuple[str, ...]
    merge: Mapping[str, str]
    classes: tuple[CoreClass, ...]
    population: CoreClass
    tau: float
    sigma: float
    scale: float
    calibrated_scale: float
    hull: Hull
    residuals: Mapping[str, float]
    networks: Mapping[int, Mapping[str, Vector]]
    provenance: Mapping[str, Any]
    mixture: Mixture | None = None
    similar: Similar | None = None

    def known(self, threads: int) -> Mapping[str, Vector]:
        """Amounts of work of the fitted networks with so many threads, or the nearest number."""
        if not self.networks:
            return {}
        return self.networks[min(self.networks, key=lambda count: abs(count - threads))]

    def unexplained(self, work: Vector) -> float:
        """Log time beyond the work terms that networks of like composition showed; work (K,)."""
        return 0.0 if self.similar is None else float(self.similar.correction(work[None])[0])

    def core_class(self, core: str, threads: int) -> CoreClass | None:
        """The class of a core with so many threads."""
        for found in self.classes:
            if found.core == core and found.threads == threads:
                return found
        return None

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Fit:
        """Read one entry of the file."""
        return cls(
            id=data["id"],
            runtime=data["runtime"],
            precision=data["precision"],
            threads=data["threads"],
            features=tuple(data["features"]),
            merge=data["merge"],
            classes=tuple(_core_class(entry) for entry in data["classes"]),
            population=_core_class(data["population"]),
            tau=data["tau"],
            sigma=data["sigma"],
            scale=data["scale"],
            calibrated_scale=data["calibrated_scale"],
            hull=Hull(data["hull"]["share"], (data["hull"]["work"][0], data["hull"]["work"][1])),
            residuals=data["residuals"],
            networks={
                int(threads): {name: np.array(work) for name, work in known.items()}
                for threads, known in data["networks"].items()
            },
            provenance=data["provenance"],
            mixture=_mixture(data["mixture"]),
            similar=_similar(data["similar"]),
        )


def _core_class(data: Mapping[str, Any]) -> CoreClass:
    mean = np.array(data["mean"])
    covariance = _symmetric(data["covariance"], mean.size)
    return CoreClass(
        data["core"], data["threads"], data["clock_mhz"], mean, covariance, data["boards"]
    )


def _mixture(data: Mapping[str, Any] | None) -> Mixture | None:
    if data is None:
        return None
    names = tuple(data["networks"])
    return Mixture(
        names,
        np.array(data["weights"]),
        np.array(data["means"]),
        np.array([_symmetric(entry, len(names)) for entry in data["covariances"]]),
        data["scale"],
    )


def _similar(data: Mapping[str, Any] | None) -> Similar | None:
    if data is None:
        return None
    fields = ("costs", "centre", "spread", "points", "weights")
    return Similar(*(np.array(data[name]) for name in fields))


def _symmetric(lower: Sequence[float], width: int) -> Vector:
    """A matrix from its lower triangle by rows."""
    matrix = np.zeros((width, width))
    matrix[np.tril_indices(width)] = lower
    return np.asarray(matrix + np.tril(matrix, -1).T)


@cache
def shipped_fits() -> tuple[Fit, ...]:
    """All entries of ``constants.json``."""
    file = resources.files("edgec.profiles.latency").joinpath("constants.json")
    return tuple(Fit.from_json(entry) for entry in json.loads(file.read_text("utf-8"))["fits"])
