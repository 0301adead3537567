"""Rows of weights on grids, with the least error of the layer's output.

With H the second moments of a layer's inputs, rounding a row w to q costs (q − w)·H·(q − w)ᵀ:
errors of one weight can be made up for by others whose inputs go along. Finding the best q is a
lattice problem; three steps come near it. Columns are rounded one after another and each error is
spread over those to come (Frantar, Ashkboos, Hoefler, Alistarh, "GPTQ", ICLR 2023,
arXiv 2210.17323; Frantar & Alistarh, "Optimal brain compression", NeurIPS 2022, arXiv 2208.11580,
for convolutions). Then single weights move to where the error is least, given all others (Behdin et
al., "QuantEase", 2023, arXiv 2309.01885), in turn with the scales, which are a least-squares fit
given the integers. Where levels are few, it is tried from several scales.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
SWEEPS = 3
"""Over all weights; more change next to nothing."""
SHARES = tuple(np.linspace(1.25, 0.65, 13))
"""Of the first scales, to be tried."""
DEEP = 128
"""Numbers in a row beyond which fewer shares are tried: errors spread well there at any scale."""


@dataclass(frozen=True)
class OnGrid:
    """Rows ≈ integers · scales.

    Attributes:
        integers: whole numbers, (groups, outputs, depth).
        scales: (groups, outputs), or what was given where one scale serves all.
    """

    integers: Array
    scales: Array


def nearest_on_grid(
    rows: Array, squares: Array, scales: Array, limit: int, *, free: bool = True
) -> OnGrid:
    """Integers and scales with little error.

    Args:
        rows: weights, (groups, outputs, depth).
        squares: positive definite second moments of the inputs, (groups, depth, depth).
        scales: to start from, (groups, outputs), positive.
        limit: largest magnitude of an integer.
        free: look for scales, too; worth it where levels are few.
    """
    order = np.argsort(-np.diagonal(squares, axis1=1, axis2=2), axis=1, kind="stable")
    squares = np.take_along_axis(squares, order[:, :, None], axis=1)
    squares = np.take_along_axis(squares, order[:, None, :], axis=2)
    # numbers of a row along the second axis: what changes together is contiguous
    columns = np.take_along_axis(np.swapaxes(rows, 1, 2), order[:, :, None], axis=1)
    upper = _upper(squares)
    found = spread_errors(columns, upper, scales, limit)
    if free:
        best = _error(columns, found * scales[:, None], squares)
        start = scales
        for share in SHARES if rows.shape[2] <= DEEP else SHARES[::4]:
            tried = spread_errors(columns, upper, share * start, limit)
            error = _error(columns, tried * (share * start)[:, None], squares)
            better = error < best
            best = np.where(better, error, best)
            scales = np.where(better, share * start, scales)
            found = np.where(better[:, None], tried, found)
    found, scales = descend(found, columns, squares, scales, limit, free=free)
    back = np.argsort(order, axis=1)
    return OnGrid(np.swapaxes(np.take_along_axis(found, back[:, :, None], axis=1), 1, 2), scales)


def spread_errors(columns: Array, upper: Array, scales: Array, limit: int) -> Array:
    """GPTQ: round number by number, the error of each taken out by those to come.

    Args:
        columns: weights, (groups, depth, outputs).
        upper: Cholesky factor U of the inverse second moments, UᵀU = H⁻¹, (groups, depth, depth).
        scales, limit: as for `nearest_on_grid`.

    Returns:
        Integers, shape of `columns`.
    """
    left, found = columns.copy(), np.empty_like(columns)
    for place in range(columns.shape[1]):
        now = left[:, place]
        found[:, place] = np.clip(np.rint(now / scales), -limit, limit)
        error = (now - found[:, place] * scales) / upper[:, place, place, None]
        left[:, place + 1 :] -= upper[:, place, place + 1 :, None] * error[:, None]
    return found


def descend(
    integers: Array, columns: Array, squares: Array, scales: Array, limit: int, *, free: bool
) -> tuple[Array, Array]:
    """QuantEase: integers and scales, each given all others, `SWEEPS` times; never worse.

    Args:
        integers: to start from, (groups, depth, outputs).
        columns, squares, scales, limit, free: as above.
    """
    found = integers.copy()
    curvature = np.diagonal(squares, axis1=1, axis2=2)
    wanted = squares @ columns
    for _ in range(SWEEPS):
        reached = squares @ found
        if free:
            fit, power = (found * wanted).sum(axis=1), (found * reached).sum(axis=1)
            fits = (fit > 0) & (power > 0)
            scales = np.where(fits, fit / np.where(fits, power, 1.0), scales)
        slope = wanted - reached * scales[:, None]
        for place in range(found.shape[1]):
            step = slope[:, place] / (curvature[:, place, None] * scales)
            best = np.clip(np.rint(found[:, place] + step), -limit, limit)
            moved = (best - found[:, place]) * scales
            slope -= squares[:, place, :, None] * moved[:, None]
            found[:, place] = best
    return found, scales


def _upper(squares: Array) -> Array:
    inverse = np.linalg.inv(squares)
    return np.swapaxes(np.linalg.cholesky((inverse + np.swapaxes(inverse, 1, 2)) / 2), 1, 2)


def _error(columns: Array, grid: Array, squares: Array) -> Array:
    """Per row, (groups, outputs)."""
    missed = grid - columns
    found: Array = (missed * (squares @ missed)).sum(axis=1)
    return found
