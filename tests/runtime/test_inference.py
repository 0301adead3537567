"""Classes from raw outputs."""

from __future__ import annotations

import numpy as np

from edgec.runtime.inference import classify


def test_logits_become_probabilities_in_order() -> None:
    found = classify({"y": np.array([[0.0, np.log(3.0), 0.0]])}, ("a", "b", "c"), 2)
    assert found is not None
    assert [(c.index, c.name, round(c.probability, 6)) for c in found] == [
        (1, "b", 0.6),
        (0, "a", 0.2),
    ]


def test_probabilities_stay_what_they_are() -> None:
    found = classify({"y": np.array([[0.1, 0.7, 0.2]], np.float32)}, None, 3)
    assert found is not None
    assert [round(c.probability, 5) for c in found] == [0.7, 0.2, 0.1]
    assert found[0].name is None


def test_large_logits_do_not_overflow() -> None:
    found = classify({"y": np.array([[1e4, -1e4]], np.float32)}, None, 1)
    assert found is not None
    assert found[0].probability == 1.0


def test_labels_of_another_length_are_not_used() -> None:
    found = classify({"y": np.array([[0.0, 1.0]])}, ("only one",), 1)
    assert found is not None
    assert found[0].name is None


def test_other_outputs_are_no_classes() -> None:
    assert classify({"y": np.zeros((1, 4, 4))}, None, 1) is None
    assert classify({"y": np.zeros((2, 4))}, None, 1) is None
    assert classify({"a": np.zeros((1, 4)), "b": np.zeros((1, 4))}, None, 1) is None
