"""The view algebra against numpy, and the plans that it prints."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgec.export.rewrite.layout import Step, View, cost, plan


def execute(steps: tuple[Step, ...], x: NDArray[Any]) -> NDArray[Any]:
    """The steps by their definition in the ONNX operator documentation."""
    for step in steps:
        if step.op == "Reshape":
            x = x.reshape(step.argument)
        elif step.op == "Transpose":
            x = x.transpose(step.argument)
        else:
            (n, c, h, w), (b,) = x.shape, step.argument
            if step.op == "SpaceToDepth":
                x = x.reshape(n, c, h // b, b, w // b, b).transpose(0, 3, 5, 1, 2, 4)
                x = x.reshape(n, c * b * b, h // b, w // b)
            else:
                c //= b * b
                x = x.reshape(n, b, b, c, h, w).transpose(0, 3, 4, 1, 5, 2)
                x = x.reshape(n, c, h * b, w * b)
        assert x.shape == step.shape
    return x


def numbered(shape: tuple[int, ...]) -> NDArray[Any]:
    return np.arange(math.prod(shape)).reshape(shape)


@st.composite
def chains(draw: st.DrawFn) -> tuple[tuple[int, ...], list[tuple[str, tuple[int, ...]]]]:
    """A random shape and a random chain of views that is legal on it."""
    shape = tuple(draw(st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=1, max_size=4)))
    first, steps = shape, []
    for _ in range(draw(st.integers(1, 5))):
        if draw(st.booleans()):
            perm = tuple(draw(st.permutations(range(len(shape)))))
            steps.append(("Transpose", perm))
            shape = tuple(shape[p] for p in perm)
        else:
            primes = [p for d in shape for p in ([2, 2] if d == 4 else [2, 3] if d == 6 else [d])]
            merged: list[int] = []
            for p in primes:
                if merged and draw(st.booleans()):
                    merged[-1] *= p
                else:
                    merged.append(p)
            shape = tuple(merged)
            steps.append(("Reshape", shape))
    return first, steps


@settings(max_examples=150, deadline=None)
@given(chains(), st.sampled_from([4, 5]))
def test_composed_chain_equals_numpy(
    chain: tuple[tuple[int, ...], list[tuple[str, tuple[int, ...]]]], max_rank: int
) -> None:
    shape, steps = chain
    x = want = numbered(shape)
    view: View | None = View.identity(shape)
    for op, argument in steps:
        want = want.reshape(argument) if op == "Reshape" else want.transpose(argument)
        view = view.reshape(argument) if op == "Reshape" else view.transpose(argument)
        if view is None:
            return  # a boundary inside a factor: rightly not expressible
    np.testing.assert_array_equal(view.apply(x), want)
    np.testing.assert_array_equal(view.simplified().apply(x), want)
    np.testing.assert_array_equal(execute(plan(view, max_rank), x), want)
    np.testing.assert_array_equal(view.inverse().apply(want), x)


def test_uneven_cut_is_refused() -> None:
    view = View.identity((4, 6)).transpose((1, 0))
    assert view.reshape((6, 4)) is not None
    assert view.reshape((4, 6)) is None


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_to_space_modes_follow_onnx(mode: str) -> None:
    x = numbered((1, 8, 2, 3))
    view = View.identity(x.shape).depth_to_space(2, mode)
    assert view is not None
    if mode == "DCR":
        want = x.reshape(1, 2, 2, 2, 2, 3).transpose(0, 3, 4, 1, 5, 2)
    else:
        want = x.reshape(1, 2, 2, 2, 2, 3).transpose(0, 1, 4, 2, 5, 3)
    np.testing.assert_array_equal(view.apply(x), want.reshape(1, 2, 4, 6))


def test_cancelling_transposes_need_nothing() -> None:
    view = View.identity((1, 8, 4, 4)).transpose((0, 2, 3, 1)).transpose((0, 3, 1, 2))
    assert plan(view) == ()


def test_views_without_movement_are_one_reshape() -> None:
    view = View.identity((1, 8, 4, 4)).reshape((8, 16))
    assert view is not None
    assert [step.op for step in plan(view)] == ["Reshape"]


@pytest.mark.parametrize("remote", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("max_rank", [4, 5])
def test_window_partition_of_rank_six_stays_within_the_limit(
    remote: bool, transposed: bool, max_rank: int
) -> None:
    cut = (1, 160, 7, 2, 7, 2) if remote else (1, 160, 2, 7, 2, 7)
    perm = (0, 3, 5, 1, 2, 4) if remote else (0, 2, 4, 1, 3, 5)
    view = View.identity((1, 160, 14, 14)).reshape(cut)
    assert view is not None
    view = view.transpose(perm).reshape((4, 5, 32, 49))
    assert view is not None
    if transposed:
        view = view.transpose((0, 1, 3, 2))
    for direction in (view, view.inverse()):
        steps = plan(direction, max_rank)
        assert max(len(step.shape) for step in steps) <= max_rank
        x = numbered(direction.in_shape)
        np.testing.assert_array_equal(execute(steps, x), direction.apply(x))


def test_cost_prefers_runs_over_scattered_elements() -> None:
    shape = (5, 128, 14, 14)
    runs = (Step("Transpose", (1, 0, 2, 3), (128, 5, 14, 14)),)
    scattered = (Step("Transpose", (3, 1, 2, 0), (14, 128, 14, 5)),)
    assert cost(runs, shape) < cost(scattered, shape)
