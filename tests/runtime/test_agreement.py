"""Comparison of two versions of a network, against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgec.runtime.agreement import compare

Array = np.ndarray


def table(rows: list[list[float]]):
    """A "network" that returns row `i` for the input ``{"i": i}``."""
    return lambda feed: {"y": np.array([rows[int(feed["i"])]], dtype=np.float32)}


def feeds(count: int, labels: list[int | None] | None = None):
    return [({"i": np.array(i)}, labels[i] if labels else None) for i in range(count)]


def test_equal_networks_agree_fully() -> None:
    found = compare(table([[1, 2], [4, 3]]), table([[1, 2], [4, 3]]), feeds(2))
    assert (found.top1, found.max_abs, found.sqnr_db, found.drop) == (100.0, 0.0, None, 0.0)
    assert found.cosine == pytest.approx(1)


def test_numbers_by_hand() -> None:
    found = compare(table([[3, 4], [0, 1]]), table([[3, 5], [2, 1]]), feeds(2))
    assert found.samples == 2
    assert found.top1 == 50.0
    assert found.drop == 50.0
    assert found.max_abs == 2.0
    # signal 9 + 16 + 1, noise 1 + 4
    assert found.sqnr_db == pytest.approx(10 * math.log10(26 / 5))
    assert found.cosine == pytest.approx(1 / math.sqrt(5))


def test_labels_turn_agreement_into_accuracy() -> None:
    reference = table([[1, 0], [1, 0], [0, 1], [0, 1]])
    other = table([[1, 0], [0, 1], [0, 1], [1, 0]])
    found = compare(reference, other, feeds(4, [0, 0, 1, 0]))
    assert found.correct_reference == 75.0
    assert found.correct == 75.0
    assert found.drop == 0.0, "one right answer lost, one won"
    assert found.top1 == 50.0


def test_networks_that_are_no_classifiers_have_no_top1() -> None:
    both = lambda feed: {"map": np.ones((1, 2, 4, 4), np.float32)}  # noqa: E731
    found = compare(both, both, feeds(3))
    assert found.top1 is None
    assert found.drop is None
    two = lambda feed: {"a": np.ones((1, 3)), "b": np.ones((1, 3))}  # noqa: E731
    assert compare(two, two, feeds(1)).top1 is None


def test_outputs_that_are_not_finite_are_counted_apart() -> None:
    found = compare(table([[1, 2], [1, 2]]), table([[1, 2], [np.nan, 2]]), feeds(2))
    assert found.not_finite == 1
    assert found.top1 == 50.0
    assert found.sqnr_db is None


def test_nothing_to_compare_is_no_agreement() -> None:
    found = compare(table([]), table([]), [])
    assert found.samples == 0
    assert found.top1 is None
