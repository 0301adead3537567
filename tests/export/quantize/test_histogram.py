from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgec.export.quantize.histogram import HALF_BINS, Histogram

arrays = hnp.arrays(
    np.float32,
    st.integers(1, 60),
    elements=st.floats(-1e6, 1e6, width=32, allow_subnormal=False),
)


def filled(*parts: np.ndarray) -> Histogram:
    histogram = Histogram()
    for part in parts:
        histogram.update(part)
    return histogram


@given(st.lists(arrays, min_size=1, max_size=5), st.randoms())
@settings(max_examples=60, deadline=None)
def test_order_and_batching_do_not_matter(parts, random):
    whole = filled(np.concatenate(parts))
    random.shuffle(parts)
    streamed = filled(*parts)
    assert streamed.radius == whole.radius
    assert streamed.zeros == whole.zeros
    assert (streamed.minimum, streamed.maximum) == (whole.minimum, whole.maximum)
    np.testing.assert_array_equal(streamed.counts, whole.counts)


@given(arrays)
@settings(max_examples=60, deadline=None)
def test_equals_numpy_histogram(values):
    histogram = filled(values)
    assert histogram.counts.sum() + histogram.zeros == values.size == histogram.total
    if histogram.radius == 0.0:
        assert not values.any()
        return
    nonzero = values[values != 0].astype(np.float64)
    expected, _ = np.histogram(nonzero, bins=histogram.edges())
    np.testing.assert_array_equal(histogram.counts, expected)
    assert np.log2(histogram.radius) == round(np.log2(histogram.radius))


def test_growth_keeps_bins_exact():
    rng = np.random.default_rng(0)
    parts = [rng.standard_normal(1000).astype(np.float32) * 4.0**k for k in range(5)]
    grown, direct = filled(*parts), filled(np.concatenate(parts))
    np.testing.assert_array_equal(grown.counts, direct.counts)
    assert len(grown.counts) == 2 * HALF_BINS


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_values_are_refused_and_nothing_is_added(bad):
    histogram = filled(np.ones(3, np.float32))
    with pytest.raises(ValueError, match="not finite"):
        histogram.update(np.array([1.0, bad], np.float32))
    assert histogram.total == 3


def test_tiny_and_empty_values():
    histogram = filled(np.zeros(0, np.float32), np.full(4, 1e-40, np.float32))
    assert histogram.total == 4
    assert histogram.counts.sum() == 4
