"""Transfer between boards where the truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from edgec.profiles.latency.transfer import Mixture


@pytest.fixture
def mixture() -> Mixture:
    """Two kinds of boards: for one of them the last two networks are slow."""
    means = np.array([[0.0, 0.0, 0.0, 0.0], [-0.5, -0.5, 0.5, 0.5]])
    covariance = 0.01**2 * np.eye(4)
    return Mixture(
        ("a", "b", "c", "d"), np.array([0.5, 0.5]), means, np.array([covariance, covariance])
    )


def test_the_kind_of_board_is_recognised(mixture: Mixture) -> None:
    found = mixture.predict({"a": 10.0, "c": 10.0})
    assert np.exp(found["d"][0]) == pytest.approx(10.0, rel=0.02)
    found = mixture.predict({"a": 10.0, "c": 10.0 * np.e})
    assert np.exp(found["d"][0]) == pytest.approx(10.0 * np.e, rel=0.02)
    assert np.exp(found["b"][0]) == pytest.approx(10.0, rel=0.02)


def test_one_network_leaves_the_kind_open(mixture: Mixture) -> None:
    sure = mixture.predict({"a": 10.0, "c": 10.0})["d"][1]
    unsure = mixture.predict({"a": 10.0})["d"][1]
    assert unsure > 5 * sure


def test_anchors_are_chosen_where_boards_differ(mixture: Mixture) -> None:
    chosen = mixture.best_anchors(2)
    assert {"a", "b"} & set(chosen)
    assert {"c", "d"} & set(chosen)
    assert set(mixture.best_anchors(9, ["a", "d"])) == {"a", "d"}
