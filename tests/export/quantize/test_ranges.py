from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgec.export.errors import UsageError
from edgec.export.quantize.histogram import Histogram
from edgec.export.quantize.ranges import METHODS, Range, choose_range


def histogram_of(values: np.ndarray) -> Histogram:
    histogram = Histogram()
    histogram.update(values.astype(np.float32))
    return histogram


def fake_quantize(values: np.ndarray, interval: Range, levels: int) -> np.ndarray:
    step = (interval.high - interval.low) / (levels - 1)
    zero = np.rint(-interval.low / step)
    return (np.clip(np.rint(values / step) + zero, 0, levels - 1) - zero) * step


@given(
    hnp.arrays(np.float32, st.integers(1, 80), elements=st.floats(-1000, 1000, width=32)),
    st.sampled_from(METHODS),
    st.booleans(),
)
@settings(max_examples=80, deadline=None)
def test_ranges_hold_zero_and_stay_inside_the_values(values, method, symmetric):
    chosen = choose_range(histogram_of(values), method, levels=255, symmetric=symmetric)
    low, high = min(values.min(), 0.0), max(values.max(), 0.0)
    bound = max(-low, high)
    assert chosen.low <= 0.0 <= chosen.high
    if symmetric:
        assert chosen.high == -chosen.low <= bound
    else:
        assert low <= chosen.low <= chosen.high <= high


@pytest.mark.parametrize("share", [99.0, 99.9])
@pytest.mark.parametrize("symmetric", [False, True])
def test_percentile_matches_sorting_all_values(share, symmetric):
    values = np.random.default_rng(0).laplace(0.3, 1.0, 200_000).astype(np.float32)
    chosen = choose_range(histogram_of(values), "percentile", percentile=share, symmetric=symmetric)
    if symmetric:
        expected_high = np.quantile(np.abs(values), share / 100)
        expected_low = -expected_high
    else:
        tail = (1 - share / 100) / 2
        expected_low, expected_high = np.quantile(values, [tail, 1 - tail])
    width = histogram_of(values).radius / 2048
    assert abs(chosen.high - expected_high) <= 2 * width
    assert abs(chosen.low - expected_low) <= 2 * width


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(
    "draw",
    [
        lambda r: r.standard_normal(50_000),
        lambda r: np.maximum(r.standard_normal(50_000), 0),
        lambda r: np.concatenate([r.standard_normal(50_000), [60.0]]),
        lambda r: r.laplace(0.5, 1.0, 50_000),
    ],
    ids=["normal", "relu", "outlier", "laplace"],
)
def test_mse_range_is_nearly_optimal_by_brute_force(draw, symmetric):
    values = draw(np.random.default_rng(3))
    levels = 15  # few levels, so that clipping pays
    chosen = choose_range(histogram_of(values), "mse", levels=levels, symmetric=symmetric)
    full = Range.including_zero(values.min(), values.max())
    full = full.symmetric() if symmetric else full

    def error(interval: Range) -> float:
        return float(np.mean((fake_quantize(values, interval, levels) - values) ** 2))

    if symmetric:
        grid = [Range(-b, b) for b in np.linspace(0.05, 1.0, 60) * full.high]
    else:
        grid = [
            Range(a * full.low, b * full.high)
            for a in np.linspace(0.05, 1.0, 25)
            for b in np.linspace(0.05, 1.0, 25)
        ]
    best = min(error(interval) for interval in grid)
    assert error(chosen) <= 1.1 * best
    assert error(chosen) <= error(full)


def slow_divergence(histogram: Histogram, interval: Range, levels: int) -> float:
    """KL divergence of clipped and quantized counts, bin by bin."""
    width = histogram.radius / 2048
    centres = histogram.centres()
    first = next(i for i in range(4096) if (i + 1 - 2048) * width > interval.low)
    last = next(i for i in reversed(range(4096)) if (i - 2048) * width < interval.high) + 1
    assert centres[first] < centres[last - 1]
    if last - first < levels:
        return np.inf
    counts = [float(c) for c in histogram.counts]
    p = counts[first:last]
    q = [0.0] * len(p)
    for level in range(levels):
        bins = [i for i in range(len(p)) if i * levels // len(p) == level]
        full = [i for i in bins if p[i] > 0]
        for i in full:
            q[i] = sum(p[j] for j in bins) / len(full)
    p[0] += sum(counts[:first])
    p[-1] += sum(counts[last:])
    p = [v / sum(p) for v in p]
    q = [v / sum(q) for v in q]
    q = [1e-6 / len(p) if a > 0 and b == 0 else b for a, b in zip(p, q, strict=True)]
    q = [v / sum(q) for v in q]
    return sum(a * np.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("seed", [0, 1])
def test_entropy_matches_a_slow_search(seed, symmetric):
    values = np.random.default_rng(seed).laplace(0.2, 1.0, 20_000)
    histogram = histogram_of(values)
    levels = 31
    chosen = choose_range(histogram, "entropy", levels=levels, symmetric=symmetric)
    full = Range.including_zero(float(np.float32(values.min())), float(np.float32(values.max())))
    full = full.symmetric() if symmetric else full
    candidates = [Range(s * full.low, s * full.high) for s in np.linspace(0.05, 1.0, 96)[::4]]
    best = min(slow_divergence(histogram, c, levels) for c in candidates)
    assert slow_divergence(histogram, chosen, levels) <= best + 1e-9


def test_constant_and_zero_tensors():
    for method in METHODS:
        zero = choose_range(histogram_of(np.zeros(10)), method)
        assert (zero.low, zero.high) == (0.0, 0.0)
        five = choose_range(histogram_of(np.full(10, 5.0)), method)
        assert five.low == 0.0
        assert 0.0 < five.high <= 5.0


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"method": "max"}, "EC260"),
        ({"method": "percentile", "percentile": 0.999}, "EC261"),
        ({"method": "percentile", "percentile": 101.0}, "EC261"),
    ],
)
def test_bad_method(arguments, code):
    with pytest.raises(UsageError) as caught:
        choose_range(histogram_of(np.ones(3)), **arguments)
    assert caught.value.code == code


@pytest.mark.parametrize("bounds", [(0.5, 1.0), (-2.0, -1.0), (0.0, np.inf), (np.nan, 1.0)])
def test_impossible_ranges(bounds):
    with pytest.raises(ValueError, match="range"):
        Range(*bounds)
