from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgec.export.errors import InputError
from edgec.export.quantize.ranges import Range
from edgec.export.quantize.reference import Grid, dequantize_linear, quantize_linear
from edgec.export.quantize.weights import (
    activation_parameters,
    quantize_bias,
    quantize_weight,
    scale_floor,
)

LIMITS = {"uint8": (0, 255), "int8": (-128, 127), "symmetric": (-127, 127)}
finite = st.floats(-1e4, 1e4, width=32, allow_subnormal=False)


@example(0.0, 1e-30, "uint8")
@given(finite, finite, st.sampled_from(sorted(LIMITS)))
@settings(max_examples=200, deadline=None)
def test_grid_holds_zero_exactly_and_covers_the_range(a, b, kind):
    interval = Range.including_zero(min(a, b), max(a, b))
    low, high = LIMITS[kind]
    scale, zero = activation_parameters(interval, (low, high), symmetric=kind == "symmetric")
    assert scale > 0
    assert low <= zero <= high
    assert (zero == 0) or kind != "symmetric"
    grid = Grid(scale, zero, low, high)
    zeros = dequantize_linear(quantize_linear(np.zeros(1, np.float32), grid), grid)
    assert zeros[0] == 0.0
    ends = np.array([interval.low, interval.high], np.float32)
    back = dequantize_linear(quantize_linear(ends, grid), grid)
    # half a step of rounding, and half a step by which the zero point moves the grid
    np.testing.assert_allclose(back, ends, atol=1.001 * float(scale))


@pytest.mark.parametrize("high", [6.0, 1.0, 0.3, 1e-3, 7.123456])
def test_grid_of_a_clipped_range_never_exceeds_the_clip(high):
    scale, zero = activation_parameters(Range(0.0, high), (0, 255), symmetric=False)
    assert zero == 0
    assert np.float32(scale) * np.float32(255) <= np.float32(high)


@given(
    hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=4, max_side=5), elements=finite),
    st.integers(0, 3),
    st.booleans(),
    st.sampled_from(["absmax", "mse"]),
)
@settings(max_examples=150, deadline=None)
def test_weight_error_is_at_most_half_a_step(weight, axis, pair_safe, rule):
    axis = axis % weight.ndim
    integers, scales = quantize_weight(weight, axis, rule=rule, pair_safe=pair_safe)
    assert integers.dtype == np.int8
    assert integers.shape == weight.shape
    assert scales.shape == (weight.shape[axis],)
    assert (np.abs(integers.astype(int)) <= 127).all()
    shape = [1] * weight.ndim
    shape[axis] = -1
    error = np.abs(integers * scales.reshape(shape).astype(np.float64) - weight)
    if rule == "absmax":
        assert (error <= 0.5001 * scales.reshape(shape) + 1e-30).all()


@given(hnp.arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 12)), elements=finite))
@settings(max_examples=150, deadline=None)
def test_pair_safe_weights_never_overflow_16_bits(weight):
    integers, _ = quantize_weight(weight, 0, pair_safe=True)
    for row in integers.astype(int):
        for a, b in itertools.combinations(row, 2):
            assert -32768 <= 255 * (max(a, 0) + max(b, 0)) <= 32767
            assert -32768 <= 255 * (min(a, 0) + min(b, 0)) <= 32767


def test_pair_safety_costs_less_than_a_bit_and_nothing_without_large_neighbours():
    weight = np.array([[1.0, 1.0, -0.2], [1.0, 0.0, -1.0]], np.float32)
    integers, _ = quantize_weight(weight, 0, pair_safe=True)
    assert integers[0].tolist() == [64, 64, -13]
    assert integers[1].tolist() == [127, 0, -127]


def test_mse_rule_is_never_worse_than_absmax():
    rng = np.random.default_rng(0)
    weight = rng.standard_t(2, (16, 200)).astype(np.float32)

    def error(rule):
        q, s = quantize_weight(weight, 0, rule=rule)
        return ((q * s[:, None] - weight) ** 2).sum(axis=1)

    assert (error("mse") <= error("absmax") * (1 + 1e-6)).all()
    assert error("mse").sum() < error("absmax").sum()


def test_per_tensor_weights_have_a_scalar_scale():
    weight = np.array([[1.0, -2.0], [0.5, 0.25]], np.float32)
    integers, scale = quantize_weight(weight, None)
    assert scale.shape == ()
    assert integers.tolist() == [[64, -127], [32, 16]]


def test_bias_of_a_dead_or_tiny_channel_does_not_overflow():
    weight = np.zeros((3, 4), np.float32)
    weight[1] = 1e-30
    weight[2] = 1.0
    bias = np.array([5.0, -7.0, 2.0], np.float32)
    activation_scale = np.float32(1e-3)
    integers, scales = quantize_weight(weight, 0, floor=scale_floor(bias, float(activation_scale)))
    quantized, bias_scales = quantize_bias(bias, activation_scale, scales)
    assert (np.abs(quantized.astype(np.int64)) <= 2**30 + 1).all()
    np.testing.assert_allclose(quantized * bias_scales.astype(np.float64), bias, rtol=1e-4)
    assert integers[:2].tolist() == [[0] * 4] * 2


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_non_finite_weights(bad):
    with pytest.raises(InputError, match="EC764"):
        quantize_weight(np.array([[1.0, bad]], np.float32), 0)


def test_scales_by_the_weight_of_each_error() -> None:
    """A large weight that matters gets its share of the grid; one that does not is clipped."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((2, 64)).astype(np.float32)
    weight[:, 0] = 6.0
    importance = np.ones(weight.shape)
    importance[0, 0], importance[1, 0] = 100.0, 0.0
    _, scales = quantize_weight(weight, 0, rule="mse", limit=7, importance=importance)
    _, plain = quantize_weight(weight, 0, rule="mse", limit=7)
    assert scales[0] > plain[0] > scales[1]
