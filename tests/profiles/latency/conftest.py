"""A small world in which the truth is known: networks, boards, and the fit that matches them."""

from __future__ import annotations

import numpy as np
import pytest

from edgec.profiles.latency.constants import CoreClass, Fit, Hull
from edgec.profiles.latency.features import matrix
from edgec.profiles.layers import Layer

FEATURES = ("conv", "pointwise", "memory", "kernels", "matmul")
MERGE = {
    "winograd": "conv",
    "stem": "conv",
    "unpacked": "conv",
    "pointwise_io": "memory",
    "window_io": "memory",
}
MEAN = np.log(np.array([0.5, 0.3, 2.0, 3000.0, 0.4]))


@pytest.fixture
def layers() -> list[Layer]:
    """A network of 3x3 and 1x1 convolutions."""
    return [
        Layer("a", "Conv", "3x3", "m.a", 4_000_000, 1000, 1000, 4000, 9000, 18000, 36000, 72000,
              3, 2, 16, 32, 900),
        Layer("b", "Conv", "1x1", "m.b", 9_000_000, 5000, 5000, 20000, 18000, 36000, 72000,
              144000, 1, 1, 32, 64, 900),
    ]  # fmt: skip


@pytest.fixture
def fit(layers: list[Layer]) -> Fit:
    """Boards that differ by a factor and a little in each constant."""
    covariance = 0.2**2 * np.ones((5, 5)) + 0.05**2 * np.eye(5)
    work = matrix(layers, FEATURES, MERGE)
    size = float(np.log(work.sum(0) @ np.exp(MEAN)))
    return Fit(
        id="test",
        runtime="ncnn",
        precision="fp32",
        threads="any",
        features=FEATURES,
        merge=MERGE,
        classes=(CoreClass("Cortex-A72", 1, 1000.0, MEAN, covariance, 3),),
        population=CoreClass("", 0, 1000.0, MEAN, covariance, 9),
        tau=0.1,
        sigma=0.05,
        scale=1.3,
        calibrated_scale=1.3,
        hull=Hull({"conv": 0.6, "pointwise": 0.7, "memory": 0.3, "kernels": 0.5}, (size, size)),
        residuals={},
        networks={},
        provenance={"boards": 9},
    )
