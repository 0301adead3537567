"""Least quadratic error on a grid: against all grid points, and what each step gains."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgec.export.quantize.quadratic import descend, nearest_on_grid, spread_errors

Array = np.ndarray


def problem(seed: int, groups: int, outputs: int, depth: int) -> tuple[Array, Array, Array]:
    """Weights, correlated second moments, and scales by the largest weight."""
    rng = np.random.default_rng(seed)
    mixing = np.eye(depth) + rng.standard_normal((groups, depth, depth))
    inputs = np.maximum(rng.standard_normal((groups, 8 * depth, depth)) @ mixing, 0)
    squares = np.swapaxes(inputs, 1, 2) @ inputs / inputs.shape[1] + 0.01 * np.eye(depth)
    rows = rng.standard_normal((groups, outputs, depth))
    return rows, squares, np.abs(rows).max(axis=2) / 7


def error(rows: Array, grid: Array, squares: Array) -> Array:
    """(groups, outputs)"""
    return np.einsum("gmk,gkl,gml->gm", grid - rows, squares, grid - rows)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 3), st.integers(1, 4), st.integers(1, 20))
def test_results_are_grids(seed: int, groups: int, outputs: int, depth: int) -> None:
    rows, squares, scales = problem(seed, groups, outputs, depth)
    kept = nearest_on_grid(rows, squares, scales, 7, free=False)
    free = nearest_on_grid(rows, squares, scales, 7)
    for found in (kept, free):
        assert np.abs(found.integers).max() <= 7
        np.testing.assert_array_equal(found.integers, np.rint(found.integers))
    np.testing.assert_array_equal(kept.scales, scales)
    assert (free.scales > 0).all()


def test_what_each_step_gains() -> None:
    gained = []
    for seed in range(20):
        rows, squares, scales = problem(seed, 2, 4, 24)
        nearest = np.rint(rows / scales[:, :, None]) * scales[:, :, None]
        kept = nearest_on_grid(rows, squares, scales, 7, free=False)
        free = nearest_on_grid(rows, squares, scales, 7)
        grids = [nearest, *(q.integers * q.scales[:, :, None] for q in (kept, free))]
        gained.append([error(rows, grid, squares).sum() for grid in grids])
    plain, fixed, searched = np.mean(gained, axis=0)
    assert fixed < 0.8 * plain
    assert searched < 0.95 * fixed


def test_descent_never_climbs() -> None:
    rows, squares, scales = problem(0, 2, 5, 16)
    columns = np.swapaxes(rows, 1, 2)
    start = np.clip(np.rint(columns / scales[:, None]), -7, 7)
    for free in (False, True):
        found, moved = descend(start, columns, squares, scales, 7, free=free)
        before = error(rows, np.swapaxes(start * scales[:, None], 1, 2), squares)
        after = error(rows, np.swapaxes(found * moved[:, None], 1, 2), squares)
        assert (after <= before + 1e-12).all()
        assert after.sum() < 0.9 * before.sum()


def test_close_to_the_best_of_all_grid_points() -> None:
    """Three levels, five weights: all 243 points are tried."""
    found, best, plain = [], [], []
    grid = np.array(list(product((-1, 0, 1), repeat=5)))[None, :, :]
    for seed in range(20):
        rows, squares, _ = problem(seed, 1, 1, 5)
        scales = np.array([[0.8]])
        result = nearest_on_grid(rows, squares, scales, 1, free=False)
        found.append(error(rows, result.integers * 0.8, squares)[0, 0])
        best.append(error(np.broadcast_to(rows, grid.shape), grid * 0.8, squares).min())
        nearest = np.clip(np.rint(rows / 0.8), -1, 1) * 0.8
        plain.append(error(rows, nearest, squares)[0, 0])
    assert all(f >= b - 1e-12 for f, b in zip(found, best, strict=True))
    assert sum(found) < 1.1 * sum(best)
    assert sum(plain) > 1.3 * sum(best)


def test_without_correlations_it_is_rounding_to_nearest() -> None:
    rows, _, scales = problem(0, 2, 3, 8)
    squares = np.broadcast_to(np.diag(np.linspace(1, 2, 8)), (2, 8, 8)).copy()
    nearest = np.rint(rows / scales[:, :, None])
    found = nearest_on_grid(rows, squares, scales, 7, free=False)
    np.testing.assert_array_equal(found.integers, nearest)
    upper = np.sqrt(np.linalg.inv(squares))
    spread = spread_errors(np.swapaxes(rows, 1, 2), upper, scales, 7)
    np.testing.assert_array_equal(np.swapaxes(spread, 1, 2), nearest)


def test_a_row_of_zeros() -> None:
    _, squares, _ = problem(0, 1, 1, 4)
    found = nearest_on_grid(np.zeros((1, 1, 4)), squares, np.ones((1, 1)), 7)
    assert not found.integers.any()
    assert found.scales == pytest.approx(np.ones((1, 1)), rel=0.5)
