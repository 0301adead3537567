"""Second moments of a layer's input, of the float network and of the rounded one together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgec.export.quantize.products import Product
from edgec.export.quantize.stepwise import Stepwise

PER_NUMBER = 32
"""Patches per number in a patch that the moments are taken from, over all samples."""
PER_SAMPLE = 128
"""And at least so many of each sample, where it has them."""

Moments = NDArray[np.float64]


@dataclass(frozen=True)
class Comoments:
    """Moments of the patches x of the float network and y of the rounded one, by group.

    Attributes:
        squares: E[y·yᵀ], (groups, depth, depth).
        more: E[x·yᵀ] − E[y·yᵀ].
        wanted, found: E[x] and E[y] over all patches, (groups, depth).
        wanted_drawn, found_drawn: over the patches that the second moments are taken from.
        spread: E‖S − squares‖² / samples of the S of single samples, (groups,): how far `squares`
            may be from that of all images.
    """

    squares: Moments
    more: Moments
    wanted: Moments
    found: Moments
    wanted_drawn: Moments
    found_drawn: Moments
    spread: Moments

    def shrunk(self, *, centred: bool) -> tuple[Moments, Moments]:
        """`squares` and `more`, pulled towards their diagonals.

        By as much as makes the expected error of `squares` least (Ledoit & Wolf, "A
        well-conditioned estimator for large-dimensional covariance matrices", 2004,
        doi 10.1016/S0047-259X(03)00096-4, with the diagonal as target). Behind a global pool every
        sample gives one patch: fewer than there are channels.

        Args:
            centred: without the means.
        """
        squares, more = self.squares, self.more
        if centred:
            means = self.found_drawn[:, None, :]
            squares = squares - self.found_drawn[:, :, None] * means
            more = more - (self.wanted_drawn - self.found_drawn)[:, :, None] * means
        beside = 1.0 - np.eye(squares.shape[-1])
        away = np.square(squares * beside).sum(axis=(1, 2))
        pull = np.minimum(1.0, self.spread / np.maximum(away, 1e-300))
        factor = 1.0 - pull[:, None, None] * beside
        return squares * factor, more * factor


def collect(product: Product, before: Stepwise, after: Stepwise, samples: int) -> Comoments:
    """The moments of one layer's input.

    Args:
        product: the layer.
        before, after: walks through the float network and the rounded one.
        samples: of both.
    """
    name = str(product.node.name)
    count = max(PER_SAMPLE, -(-PER_NUMBER * product.depth // samples))
    shape = (product.groups, product.depth)
    squares, mixed = np.zeros((2, *shape, product.depth))
    sums, singles, total = np.zeros((4, *shape)), np.zeros(product.groups), 0
    pairs = zip(before.input_of(name), after.input_of(name), strict=True)
    for number, inputs in enumerate(pairs):
        # the same places of both
        drawn = [product.patches(v, count, np.random.default_rng(number)) for v in inputs]
        patches = drawn[1].shape[1]
        here = (np.swapaxes(drawn[1], 1, 2) @ drawn[1]).astype(np.float64)
        squares += here
        singles += np.square(here / patches).sum(axis=(1, 2))
        mixed += np.swapaxes(drawn[0], 1, 2) @ drawn[1]
        total += patches
        for row, found in enumerate(drawn):
            sums[row] += found.sum(axis=1, dtype=np.float64)
            sums[2 + row] += product.mean_patch(inputs[row])
    squares, mixed = squares / total, mixed / total
    spread = (singles / samples - np.square(squares).sum(axis=(1, 2))) / samples
    drawn_means, means = sums[:2] / total, sums[2:] / samples
    return Comoments(
        squares, mixed - squares, means[0], means[1], drawn_means[0], drawn_means[1], spread
    )


def level(squares: Moments) -> Moments:
    """Mean square per group, (groups, 1); never zero: groups may read nothing but zeros."""
    found = np.trace(squares, axis1=1, axis2=2) / squares.shape[-1]
    least = 1e-9 * max(float(found.max()), 1e-30)
    above: Moments = np.maximum(found, least)[:, None]
    return above
