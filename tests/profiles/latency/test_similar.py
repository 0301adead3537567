"""What similar networks leave unexplained."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgec.profiles.latency.constants import Fit
from edgec.profiles.latency.features import matrix
from edgec.profiles.latency.predict import Anchor, any_board, calibrate, class_constants, predict
from edgec.profiles.latency.similar import Similar
from edgec.profiles.layers import Layer


def test_a_smooth_rest_is_learned_and_fades_far_away() -> None:
    rng = np.random.default_rng(0)
    work = rng.lognormal(0, 1, (300, 3))
    share = work[:, 0] / work.sum(1)
    rest = 0.3 * np.sin(4 * share)
    found = Similar.fit(work[:250], rest[:250], np.ones(3))
    error = found.correction(work[250:]) - rest[250:]
    assert np.sqrt(np.mean(error**2)) < 0.3 * rest.std()
    assert abs(found.correction(np.full((1, 3), 1e30))[0]) < 1e-3


def test_predictions_and_anchors_use_it(fit: Fit, layers: list[Layer]) -> None:
    work = matrix(layers, fit.features, fit.merge)
    amounts = np.repeat(work.sum(0)[None], 40, axis=0)
    amounts = amounts * np.random.default_rng(0).lognormal(0, 0.2, amounts.shape)
    slow = replace(fit, similar=Similar.fit(amounts, np.full(40, 0.3), np.exp(fit.population.mean)))
    constants = class_constants(fit.classes[0], 1000.0)
    plain = predict(fit, constants, layers, "").latency_ms
    corrected = predict(slow, constants, layers, "").latency_ms
    assert plain is not None
    assert corrected == pytest.approx(plain * np.exp(0.3), rel=0.05)
    # anchors of the same kind are as slow: the constants themselves do not move
    anchors = [Anchor(f"n{i}", work, corrected) for i in range(3)]
    calibrated = calibrate(slow, any_board(slow), anchors)
    assert predict(slow, calibrated, layers, "").latency_ms == pytest.approx(corrected, rel=0.02)
