"""Bounds of weighted sums against a sum term by term."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgec.export.rewrite.channels.interval import SUM_GUARD, Interval, weighted_sum

BOUNDS = st.sampled_from(
    [(-math.inf, math.inf), (0.0, math.inf), (-0.25, math.inf), (-math.inf, 1.5), (0.0, 6.0),
     (-1.0, 2.0), (0.0, 0.0), (0.75, 0.75), (-3.0, -3.0)]
)  # fmt: skip


def one_sum(weight: np.ndarray, x: list[tuple[float, float]], bias: float) -> tuple[float, float]:
    """Bounds of one output; `weight` is (inputs, taps)."""
    low = high = bias
    size_low = size_high = abs(bias)
    certain = True
    for taps, (least, most) in zip(weight, x, strict=True):
        for w in taps.astype(float):
            if w == 0:
                continue
            certain = certain and least == most
            bottom, top = (w * least, w * most) if w > 0 else (w * most, w * least)
            low, high = low + bottom, high + top
            size_low, size_high = size_low + abs(bottom), size_high + abs(top)
    if certain:
        return low, high
    return low - SUM_GUARD * size_low, high + SUM_GUARD * size_high


@given(
    st.integers(0, 2**32 - 1),
    st.tuples(*(st.integers(1, 4) for _ in range(4))),
    st.sampled_from([0.0, 0.5, 1.0]),
    st.sampled_from([-1, 0, 1]),
    st.data(),
)
@settings(max_examples=150, deadline=None)
def test_weighted_sum(
    seed: int, shape: tuple[int, int, int, int], zeros: float, sign: int, data: st.DataObject
) -> None:
    rng = np.random.default_rng(seed)
    groups, outputs, inputs, _ = shape
    weight = rng.standard_normal(shape).astype(np.float32)
    weight[rng.random(shape) < zeros] = 0.0
    if sign:
        weight = np.abs(weight) * np.float32(sign)
    x = data.draw(st.lists(BOUNDS, min_size=groups * inputs, max_size=groups * inputs))
    bias = rng.standard_normal((groups, outputs))
    got = weighted_sum(weight, Interval(*(np.array(side) for side in zip(*x, strict=True))), bias)
    want = [
        one_sum(weight[g, o], x[g * inputs : (g + 1) * inputs], float(bias[g, o]))
        for g in range(groups)
        for o in range(outputs)
    ]
    np.testing.assert_allclose(got.low, [low for low, _ in want], rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(got.high, [high for _, high in want], rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(got.fixed, [math.isfinite(a) and a == b for a, b in want])


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_weights_that_are_no_numbers_make_nothing_certain(value: float) -> None:
    weight = np.full((1, 1, 2, 1), value, np.float32)
    got = weighted_sum(weight, Interval(np.zeros(2), np.array([0.0, 1.0])), np.zeros((1, 1)))
    assert not got.fixed.any()
