"""Stored orders of axes: ``stored = value.transpose(perm)``, and what moving between two costs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations, pairwise, permutations
from math import prod

from edgec.export.emit.tflite.graph import Shape
from edgec.export.rewrite.layout import View

Perm = tuple[int, ...]

CHANNELS_LAST: Perm = (0, 2, 3, 1)

# Nanoseconds on one core, roughly; what counts is the order between forms.
_RESHAPE = (400.0, 0.2)
_TRANSPOSE = (2500.0, 4.0)


def identity(rank: int) -> Perm:
    """The order of ONNX."""
    return tuple(range(rank))


def stored_shape(shape: Sequence[int], perm: Perm) -> Shape:
    """Shape of a value of `shape` as it is stored."""
    return tuple(shape[p] for p in perm)


def inverse(perm: Perm) -> Perm:
    """The permutation that undoes `perm`; also: axis of the value → axis of the stored tensor."""
    result = [0] * len(perm)
    for position, axis in enumerate(perm):
        result[axis] = position
    return tuple(result)


def with_last(perm: Perm, *axes: int) -> Perm:
    """`perm` with `axes` moved to the end, keeping the order otherwise."""
    return (*(p for p in perm if p not in axes), *(p for p in perm if p in axes))


def order(shape: Sequence[int], perm: Perm) -> Perm:
    """The axes that hold data (longer than one) in stored order."""
    return tuple(p for p in perm if shape[p] != 1)


def same_data(shape: Sequence[int], one: Perm, other: Perm) -> bool:
    """Whether a RESHAPE leads from one order to the other."""
    return order(shape, one) == order(shape, other)


def move_cost(shape: Shape, source: Perm, target: Perm) -> float:
    """Cost of a copy of a value in another order."""
    if source == target:
        return 0.0
    fixed, rate = _RESHAPE if same_data(shape, source, target) else _TRANSPOSE
    return fixed + rate * prod(shape)


@dataclass(frozen=True)
class Move:
    """RESHAPE to `before`, TRANSPOSE by `perm`, RESHAPE to `after`; None where not needed."""

    before: Shape | None
    perm: Perm | None
    after: Shape | None

    @property
    def steps(self) -> int:
        """Number of operators."""
        return sum(part is not None for part in (self.before, self.perm, self.after))

    def cost(self, elements: int) -> float:
        """Like `move_cost`."""
        result = 0.0
        for part, (fixed, rate) in (
            (self.before, _RESHAPE),
            (self.perm, _TRANSPOSE),
            (self.after, _RESHAPE),
        ):
            result += 0.0 if part is None else fixed + rate * elements
        return result

    @property
    def rank(self) -> int:
        """Dimensions of the TRANSPOSE."""
        return 0 if self.perm is None else len(self.perm)


@lru_cache(maxsize=65536)
def stored_move(view: View, source: Perm, target: Perm) -> Move:
    """The operators for `view` from its input stored as `source` to its output as `target`."""
    return _move(_between(view, source, target))


def stored_moves(view: View, source: Perm, target: Perm, max_rank: int) -> tuple[Move, ...]:
    """Like `stored_move`, in several if one TRANSPOSE would need more than `max_rank` axes.

    Two, the cheapest, or where that is not enough one for each block of axes that moves.

    Args:
        max_rank: at least 4.
    """
    whole = _between(view, source, target)
    if len(whole.sizes) <= max_rank:
        return (_within(whole, max_rank),)
    count, found = len(whole.sizes), []
    for cuts in combinations(range(1, count), max_rank - 1):
        runs = [range(a, b) for a, b in pairwise((0, *cuts, count))]
        for perm in permutations(range(max_rank)):
            moved = tuple(i for p in perm for i in runs[p])
            first = View(whole.in_shape, whole.sizes, moved, ()).simplified()
            middle = tuple(first.sizes[i] for i in first.order)
            first = View(whole.in_shape, first.sizes, first.order, middle)
            rest = first.inverse().then(whole)
            if rest is None or len(rest.simplified().sizes) > max_rank or first.is_reshape:
                continue
            found.append(tuple(_within(half, max_rank) for half in (first, rest.simplified())))
    elements = prod(view.in_shape)
    if not found:
        return tuple(_by_blocks(whole))
    return min(found, key=lambda two: sum(m.cost(elements) + m.rank for m in two))


def _within(view: View, max_rank: int) -> Move:
    """`_move`, without the ones of its shapes where they would be too many axes."""
    move = _move(view)
    return move if move.rank <= max_rank else _by_factors(view)


def _by_blocks(view: View) -> Iterator[Move]:
    """Moves of four axes: what is in place, what makes way, the block that comes, the rest."""
    now = list(range(len(view.sizes)))
    moves: list[tuple[Shape, Perm]] = []
    for place, wanted in enumerate(view.order):
        at = now.index(wanted)
        if at == place:
            continue
        end = at + 1
        while end < len(now) and now[end] == view.order[place + end - at]:
            end += 1
        parts = (now[:place], now[place:at], now[at:end], now[end:])
        sizes = tuple(prod(view.sizes[i] for i in part) for part in parts)
        moves.append((sizes, (0, 2, 1, 3)))
        now = [*parts[0], *parts[2], *parts[1], *parts[3]]
    for number, (before, perm) in enumerate(moves):
        yield Move(before, perm, view.out_shape if number == len(moves) - 1 else None)


def _between(view: View, source: Perm, target: Perm) -> View:
    """`view` from stored order to stored order."""
    stored = stored_shape(view.in_shape, source)
    whole = View.identity(stored).transpose(inverse(source)).then(view)
    assert whole is not None  # a view read from permuted factors is a permutation of factors
    return whole.transpose(target).simplified()


def _move(view: View) -> Move:
    shape, result = view.in_shape, view.out_shape
    if view.is_reshape:
        return Move(None, None, None if shape == result else result)
    dims = tuple(d for d in shape if d != 1)
    moved = tuple(view.sizes[i] for i in view.order)
    if dims == view.sizes and len(shape) == len(result):
        perm = _full_rank(shape, result, view.order)
        if tuple(shape[p] for p in perm) == result:
            return Move(None, perm, None)
    if dims == view.sizes and moved != result:
        perm = _full_rank(shape, shape, view.order)
        after = tuple(shape[p] for p in perm)
        return Move(None, perm, None if after == result else result)
    if shape != view.sizes and tuple(d for d in result if d != 1) == moved:
        # the RESHAPE in front can bring the ones where the result has them
        before = _units_like(view, result)
        perm = _full_rank(before, result, view.order)
        if tuple(before[p] for p in perm) == result:
            return Move(before, perm, None)
    return _by_factors(view)


def _by_factors(view: View) -> Move:
    """RESHAPE to the factors, TRANSPOSE, RESHAPE to the result."""
    moved = tuple(view.sizes[i] for i in view.order)
    return Move(
        None if view.sizes == view.in_shape else view.sizes,
        view.order,
        None if view.out_shape == moved else view.out_shape,
    )


def _units_like(view: View, result: Shape) -> Shape:
    units = [1] * (len(result) - len(view.sizes))
    return (*units, *view.sizes)


def _full_rank(shape: Shape, like: Shape, moved: Perm) -> Perm:
    """`moved`, which permutes the dimensions longer than one, with the ones placed as in `like`."""
    data = [i for i, d in enumerate(shape) if d != 1]
    units = [i for i, d in enumerate(shape) if d == 1]
    queue = [data[i] for i in moved]
    perm = []
    for dim in like:
        if dim == 1 and units:
            perm.append(units.pop(0))
        elif queue:
            perm.append(queue.pop(0))
    return (*perm, *units, *queue)


@lru_cache(maxsize=65536)
def plain_targets(view: View, source: Perm) -> Perm:
    """The order of the output's axes in which `view` moves least data from `source`.

    If the axes can be ordered so that no data moves, they are; ones stay where ONNX has them.
    """
    stored = stored_shape(view.in_shape, source)
    whole = View.identity(stored).transpose(inverse(source)).then(view)
    assert whole is not None
    groups = whole.groups()
    data = sorted((group[0], axis) for axis, group in enumerate(groups) if group)
    queue = [axis for _, axis in data]
    return tuple(axis if not group else queue.pop(0) for axis, group in enumerate(groups))


def distinct(perms: Iterable[Perm]) -> tuple[Perm, ...]:
    """Without repetition, in order."""
    return tuple(dict.fromkeys(perms))
