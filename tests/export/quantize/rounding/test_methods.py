"""AdaRound and FlexRound on one layer, against definitions, exhaustive search and rounding."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from edgec.export.quantize.rounding.adaround import AdaRound
from edgec.export.quantize.rounding.flexround import FlexRound
from edgec.export.quantize.rounding.pair import dequantized
from edgec.export.quantize.rounding.target import RoundingTarget
from edgec.export.quantize.weights import is_pair_safe, quantize_weight

METHODS = [AdaRound(), FlexRound()]


def target(weight, axis=0, *, limit=7, pair_safe=False, least=0.0) -> RoundingTarget:
    weight = np.asarray(weight, np.float32)
    integers, scales = quantize_weight(weight, axis, limit=limit, pair_safe=pair_safe)
    return RoundingTarget(
        weight, axis, integers, scales, np.full(scales.shape, least), limit, pair_safe
    )


def random_weight(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def train(method, goal: RoundingTarget, x: np.ndarray, steps: int = 1500):
    """Least squares of the layer's output, as reconstruction does it."""
    weight = method(goal)
    scale = output_error(goal, goal.nearest(), x)
    inputs = torch.from_numpy(x)
    expected = inputs @ torch.from_numpy(goal.weight).T
    optimizer = torch.optim.Adam(weight.parameters(), lr=method.learning_rate)
    for step in range(steps):
        loss = ((inputs @ weight.soft().T - expected) ** 2).mean() / scale
        if step > steps // 5:
            loss = loss + 0.5 * weight.penalty(2 + 18 * (1 - step / steps))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return weight


def output_error(goal: RoundingTarget, weight: torch.Tensor, x: np.ndarray) -> float:
    difference = weight.detach().numpy() - goal.weight
    return float(((x @ difference.T) ** 2).mean())


@pytest.mark.parametrize("axis", [0, 1, None])
def test_adaround_starts_at_the_float_weight(axis):
    goal = target(random_weight(4, 6), axis)
    torch.testing.assert_close(
        AdaRound()(goal).soft().detach(), torch.from_numpy(goal.weight), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
@pytest.mark.parametrize("axis", [0, 1, None])
def test_untrained_is_rounding_to_nearest(method, axis):
    goal = target(random_weight(4, 6), axis)
    hard = method(goal).hard()
    np.testing.assert_array_equal(hard.integers, goal.integers)
    np.testing.assert_array_equal(hard.scales, goal.scales)
    torch.testing.assert_close(dequantized(hard, goal), goal.nearest(), rtol=0, atol=0)


def test_adaround_penalty_is_that_of_the_paper():
    goal = target([[0.3, 0.5, 7.0]], limit=7)
    weight = AdaRound()(goal)
    h = np.array([0.3, 0.5, 0.0])
    for sharpness in (20.0, 2.0):
        expected = np.mean(1 - np.abs(2 * h - 1) ** sharpness)
        assert weight.penalty(sharpness).item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_correlated_inputs_are_where_nearest_is_not_best(method):
    """On average: a single draw ends where the order of float additions sends the last steps."""
    goal = target(random_weight(6, 16), limit=7)
    ratios = []
    for seed in range(1, 7):
        rng = np.random.default_rng(seed)
        mix = rng.standard_normal((16, 16)) * 0.3 + 1.0
        x = (rng.standard_normal((256, 16)) @ mix).astype(np.float32)
        hard = train(method, goal, x).hard()
        learned = output_error(goal, dequantized(hard, goal), x)
        ratios.append(learned / output_error(goal, goal.nearest(), x))
        assert (np.abs(hard.integers) <= 7).all()
    assert np.exp(np.mean(np.log(ratios))) < 0.7


def test_adaround_finds_nearly_the_best_of_all_roundings():
    """All 2^8 ways to round each of six rows, by brute force."""
    rng = np.random.default_rng(2)
    goal = target(random_weight(6, 8), limit=7)
    x = (rng.standard_normal((64, 8)) + 2 * rng.standard_normal((64, 1))).astype(np.float32)
    floor = np.floor(goal.weight / goal.scales[:, None])
    best = np.full(6, np.inf)
    for up in itertools.product((0, 1), repeat=8):
        rounded = np.clip(floor + np.array(up), -7, 7) * goal.scales[:, None]
        best = np.minimum(best, ((x @ (rounded - goal.weight).T) ** 2).mean(axis=0))
    learned = output_error(goal, dequantized(train(AdaRound(), goal, x).hard(), goal), x)
    nearest = output_error(goal, goal.nearest(), x)
    assert best.mean() <= learned * (1 + 1e-5)
    assert learned - best.mean() < 0.65 * (nearest - best.mean())


def test_adaround_moves_by_one_step_at_most_and_keeps_scales():
    goal = target(random_weight(6, 16), limit=7)
    x = np.random.default_rng(3).standard_normal((64, 16)).astype(np.float32) + 3
    hard = train(AdaRound(), goal, x).hard()
    steps = goal.weight / goal.scales[:, None]
    assert (np.abs(hard.integers - steps) < 1 + 1e-5).all()
    np.testing.assert_array_equal(hard.scales, goal.scales)


def test_flexround_is_the_formula():
    goal = target(random_weight(3, 5), limit=7)
    weight = FlexRound()(goal)
    grid, factors, channels = weight.parameters()
    with torch.no_grad():
        grid += torch.tensor([0.1, -0.2, 0.0])
        factors += torch.from_numpy(0.3 * random_weight(3, 5))
        channels += torch.tensor([0.0, 0.4, -0.1])
    s1 = goal.scales * np.exp(grid.detach().numpy())
    division = s1 * np.exp(channels.detach().numpy())
    steps = goal.weight / (division[:, None] * np.exp(factors.detach().numpy()))
    expected = np.clip(np.rint(steps), -7, 7)
    hard = weight.hard()
    np.testing.assert_array_equal(hard.integers, expected)
    np.testing.assert_allclose(hard.scales, s1, rtol=1e-6)
    assert (np.abs(expected - goal.weight / s1[:, None]) > 1).any()


def test_flexround_gradient_is_straight_through():
    goal = target([[0.5, 2.6]], limit=7)
    weight = FlexRound()(goal)
    weight.soft().sum().backward()
    # d/dlog S2 of s1·W/(s1·S2) at S2 = 1 is −W
    np.testing.assert_allclose(weight.parameters()[1].grad, [[-0.5, -2.6]], rtol=1e-5)


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
@pytest.mark.parametrize("axis", [0, 1, None])
def test_learned_weights_stay_pair_safe(method, axis):
    goal = target(random_weight(4, 12), axis, limit=127, pair_safe=True)
    weight = method(goal)
    with torch.no_grad():
        for parameter in weight.parameters():
            parameter += 3 if method.name == "adaround" else -0.3
    rows = weight.hard().integers
    rows = rows.reshape(1, -1) if axis is None else np.moveaxis(rows, axis, 0)
    assert is_pair_safe(rows)


def test_flexround_scales_leave_room_for_the_bias():
    goal = target(random_weight(2, 4), least=10.0)
    assert (FlexRound()(goal).hard().scales == 10.0).all()
