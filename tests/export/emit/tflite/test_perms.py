"""Stored orders: the planned RESHAPEs and TRANSPOSEs compute the view they stand for."""

from __future__ import annotations

from math import prod

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from edgec.export.emit.tflite.perms import (
    Move,
    identity,
    inverse,
    order,
    plain_targets,
    same_data,
    stored_move,
    stored_moves,
    with_last,
)
from edgec.export.rewrite.layout import View


@st.composite
def views(draw: st.DrawFn) -> tuple[View, tuple[int, ...], tuple[int, ...]]:
    """A view of Reshapes and a Transpose, and orders of its input and output."""
    sizes = tuple(draw(st.lists(st.sampled_from([1, 2, 3]), min_size=2, max_size=6)))
    view: View | None = View.identity(sizes)
    assert view is not None
    cut = draw(st.integers(1, len(sizes) - 1))
    merged = (*sizes[: cut - 1], sizes[cut - 1] * sizes[cut], *sizes[cut + 1 :])
    if draw(st.booleans()):
        view = view.transpose(draw(st.permutations(range(len(sizes)))))
    elif draw(st.booleans()):
        view = view.reshape(merged)
    assert view is not None
    source = tuple(draw(st.permutations(range(len(view.in_shape)))))
    target = tuple(draw(st.permutations(range(len(view.out_shape)))))
    return view, source, target


def carried_out(moves: tuple[Move, ...], array: np.ndarray) -> np.ndarray:
    for move in moves:
        for shape, perm in ((move.before, None), (None, move.perm), (move.after, None)):
            if shape is not None:
                array = array.reshape(shape)
            if perm is not None:
                array = array.transpose(perm)
    return array


@given(views())
@settings(max_examples=300, deadline=None)
def test_moves_compute_their_view(case: tuple[View, tuple[int, ...], tuple[int, ...]]) -> None:
    view, source, target = case
    logical = view.apply(np.arange(prod(view.in_shape)).reshape(view.in_shape))
    stored = np.arange(prod(view.in_shape)).reshape(view.in_shape).transpose(source)
    want = logical.transpose(target)
    few = stored_moves(view, source, target, 4)
    assert max(move.rank for move in few) <= 4
    for moves in ((stored_move(view, source, target),), few):
        got = carried_out(moves, stored)
        assert got.shape == want.shape
        np.testing.assert_array_equal(got, want)


def test_windows_of_an_image_in_two_transposes() -> None:
    window = View.identity((1, 8, 6, 4)).reshape((2, 4, 3, 2, 2, 2))
    assert window is not None
    window = window.transpose((2, 4, 0, 3, 5, 1))
    moves = stored_moves(window, (0, 1, 2, 3), tuple(range(6)), 4)
    assert len(moves) == 2
    assert max(move.rank for move in moves) <= 4
    array = np.arange(192).reshape(1, 8, 6, 4)
    np.testing.assert_array_equal(carried_out(moves, array), window.apply(array))


def test_axes_that_two_transposes_do_not_bring_home() -> None:
    """The four inner ones of six, backwards: the only case."""
    view = View.identity((2, 3, 4, 2, 3, 2)).transpose((0, 4, 3, 2, 1, 5))
    moves = stored_moves(view, tuple(range(6)), tuple(range(6)), 4)
    assert len(moves) > 2
    assert max(move.rank for move in moves) <= 4
    array = np.arange(288).reshape(2, 3, 4, 2, 3, 2)
    np.testing.assert_array_equal(carried_out(moves, array), array.transpose(0, 4, 3, 2, 1, 5))


@given(views())
@settings(max_examples=200, deadline=None)
def test_plain_targets_move_no_data_where_that_is_possible(
    case: tuple[View, tuple[int, ...], tuple[int, ...]],
) -> None:
    view, source, target = case
    plain = plain_targets(view, source)
    assert sorted(plain) == list(range(len(view.out_shape)))
    if stored_move(view, source, target).perm is None:
        assert stored_move(view, source, plain).perm is None


def test_orders() -> None:
    assert inverse((0, 2, 3, 1)) == (0, 3, 1, 2)
    assert with_last((0, 1, 2, 3), 1) == (0, 2, 3, 1)
    assert order((1, 8, 1, 1), (0, 2, 3, 1)) == (1,)
    assert same_data((1, 8, 1, 1), identity(4), (0, 2, 3, 1))
    assert not same_data((1, 8, 2, 1), identity(4), (0, 2, 3, 1))
