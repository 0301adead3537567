"""The Pareto front against all assignments."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgec.export.quantize.mixed.front import pareto_front

option = st.tuples(st.integers(0, 30), st.integers(0, 30))


def brute_force(costs, losses) -> list[tuple[int, int]]:
    found = [
        (sum(c[i] for c, i in zip(costs, way, strict=True)),
         sum(x[i] for x, i in zip(losses, way, strict=True)))
        for way in itertools.product(*(range(len(c)) for c in costs))
    ]  # fmt: skip
    best = {p for p in found if not any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in found)}
    return sorted(best)


@given(st.lists(st.lists(option, min_size=1, max_size=3), min_size=1, max_size=5))
@settings(max_examples=80, deadline=None)
def test_front_is_that_of_all_assignments(blocks):
    costs = [[c for c, _ in block] for block in blocks]
    losses = [[x for _, x in block] for block in blocks]
    front = pareto_front(costs, losses)
    assert [(c.cost, c.loss) for c in front] == brute_force(costs, losses)
    for choice in front:
        picked = list(zip(blocks, choice.options, strict=True))
        assert choice.cost == sum(block[i][0] for block, i in picked)
        assert choice.loss == sum(block[i][1] for block, i in picked)


def test_a_bounded_front_keeps_its_ends_and_most_of_its_quality():
    rng = np.random.default_rng(0)
    costs = [[4.0 * size, size] for size in rng.integers(1, 1000, 16)]
    losses = [[0.0, loss] for loss in rng.random(16)]
    exact, bounded = pareto_front(costs, losses), pareto_front(costs, losses, limit=64)
    assert len(bounded) <= 64 < len(exact)
    assert (bounded[0].cost, bounded[-1].loss) == (exact[0].cost, exact[-1].loss)
    for budget in np.linspace(exact[0].cost, exact[-1].cost, 20):
        least, near = (min(c.loss for c in front if c.cost <= budget) for front in (exact, bounded))
        assert least <= near <= least + 0.05 * exact[0].loss


def test_no_blocks_leave_one_empty_assignment():
    (only,) = pareto_front([], [])
    assert (only.cost, only.loss, only.options) == (0, 0, ())


def test_blocks_and_options_must_match():
    with pytest.raises(ValueError, match="zip"):
        pareto_front([[1, 2]], [[1]])
