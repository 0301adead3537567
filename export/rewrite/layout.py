"""Algebra of views: a chain of Reshape, Transpose, Squeeze, … is one permutation of factors.

A `View` cuts the input, read row-major, into factors and puts the factors in another order. Chains
compose exactly, whatever ranks they pass through; the composed view then drops factors of size
one, merges factors that stay neighbours, and `plan` prints it again with the cheapest operators of
limited rank. That is how the rank-6 window partitions of vision transformers come down to two
Transposes that move whole runs or one axis, or to SpaceToDepth and one Transpose. Two Transposes
are always of different shapes, with a Reshape between: runtimes join neighbours to the one
scattering Transpose that the two avoid.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Shape = tuple[int, ...]


class Step(NamedTuple):
    """One operator of a printed view.

    Attributes:
        op: ``Reshape``, ``Transpose``, ``SpaceToDepth`` or ``DepthToSpace`` (mode DCR).
        argument: target shape, permutation, or ``(blocksize,)``.
        shape: shape of the result.
    """

    op: str
    argument: Shape
    shape: Shape


@dataclass(frozen=True)
class View:
    """`in_shape` read as factors `sizes` (row-major), which `order` arranges into `out_shape`."""

    in_shape: Shape
    sizes: Shape
    order: Shape
    out_shape: Shape

    @staticmethod
    def identity(shape: Sequence[int]) -> View:
        """The view that changes nothing."""
        sizes = tuple(d for d in shape if d != 1)
        return View(tuple(shape), sizes, tuple(range(len(sizes))), tuple(shape))

    def reshape(self, shape: Sequence[int]) -> View | None:
        """This view, then Reshape; None if the new boundaries cut a factor unevenly.

        Such a cut (e.g. (4, 6) read as (6, 4)) cannot be expressed as a permutation of factors.
        """
        shape = tuple(shape)
        if math.prod(shape) != math.prod(self.out_shape) or 0 in shape:
            return None
        queue = [(i, self.sizes[i]) for i in self.order]
        pieces: dict[int, list[int]] = {i: [] for i in range(len(self.sizes))}
        order: list[tuple[int, int]] = []  # (factor, piece of it)
        at = 0
        for dim in shape:
            rest = dim
            while rest > 1:
                factor, size = queue[at]
                if rest % size == 0:
                    take, at = size, at + 1
                elif size % rest == 0:
                    take = rest
                    queue[at] = (factor, size // rest)
                else:
                    return None
                rest //= take
                order.append((factor, len(pieces[factor])))
                pieces[factor].append(take)
        first: dict[int, int] = {}
        sizes: list[int] = []
        for factor in range(len(self.sizes)):
            first[factor] = len(sizes)
            sizes += pieces[factor]
        flat = tuple(first[factor] + piece for factor, piece in order)
        return View(self.in_shape, tuple(sizes), flat, shape)

    def groups(self) -> list[list[int]]:
        """For each output dimension, the factors it consists of (empty for size one)."""
        result, at = [], 0
        for dim in self.out_shape:
            group, size = [], 1
            while size < dim:
                group.append(self.order[at])
                size *= self.sizes[self.order[at]]
                at += 1
            result.append(group)
        return result

    def transpose(self, perm: Sequence[int]) -> View:
        """This view, then Transpose."""
        groups = self.groups()
        order = tuple(i for p in perm for i in groups[p])
        return View(self.in_shape, self.sizes, order, tuple(self.out_shape[p] for p in perm))

    def space_to_depth(self, block: int) -> View | None:
        """This view, then SpaceToDepth (the block offset is the slowest part of the depth)."""
        if len(self.out_shape) != 4:
            return None
        n, c, h, w = self.out_shape
        if h % block or w % block:
            return None
        cut = self.reshape((n, c, h // block, block, w // block, block))
        if cut is None:
            return None
        return cut.transpose((0, 3, 5, 1, 2, 4)).reshape(
            (n, c * block * block, h // block, w // block)
        )

    def depth_to_space(self, block: int, mode: str = "DCR") -> View | None:
        """This view, then DepthToSpace (ONNX modes DCR and CRD)."""
        if len(self.out_shape) != 4 or self.out_shape[1] % (block * block):
            return None
        n, c, h, w = self.out_shape
        c //= block * block
        if mode == "DCR":
            cut, perm = self.reshape((n, block, block, c, h, w)), (0, 3, 4, 1, 5, 2)
        else:
            cut, perm = self.reshape((n, c, block, block, h, w)), (0, 1, 4, 2, 5, 3)
        return None if cut is None else cut.transpose(perm).reshape((n, c, h * block, w * block))

    def then(self, other: View) -> View | None:
        """This view, then `other`, whose input shape is this view's output shape."""
        cut = self.reshape(other.sizes)
        return None if cut is None else cut.transpose(other.order).reshape(other.out_shape)

    def inverse(self) -> View:
        """The view that undoes this one."""
        sizes = tuple(self.sizes[i] for i in self.order)
        order = tuple(int(i) for i in np.argsort(self.order)) if self.order else ()
        return View(self.out_shape, sizes, order, self.in_shape)

    def simplified(self) -> View:
        """The same view with neighbouring factors that stay neighbours merged."""
        runs: list[list[int]] = []
        for i in self.order:
            if runs and i == runs[-1][-1] + 1:
                runs[-1].append(i)
            else:
                runs.append([i])
        by_input = sorted(runs)
        sizes = tuple(math.prod(self.sizes[i] for i in run) for run in by_input)
        order = tuple(by_input.index(run) for run in runs)
        return View(self.in_shape, sizes, order, self.out_shape)

    @property
    def is_reshape(self) -> bool:
        """Whether no data moves."""
        return self.order == tuple(range(len(self.order)))

    def apply(self, array: NDArray[Any]) -> NDArray[Any]:
        """The view of a concrete array of shape `in_shape`."""
        return array.reshape(self.sizes).transpose(self.order).reshape(self.out_shape)


@lru_cache(maxsize=4096)
def plan(view: View, max_rank: int = 5) -> tuple[Step, ...]:
    """Cheapest operators for `view`; ranks above `max_rank` only if nothing else works."""
    view = view.simplified()
    if view.is_reshape:
        return _plain(view, max_rank)
    candidates = list(_with_block_moves(view, max_rank))
    if len(view.sizes) <= max_rank:
        candidates.append(_plain(view, max_rank))
    for rank in range(3, max_rank + 1):
        candidates += _two_transposes(view, rank)
    if not candidates:
        return _plain(view, len(view.sizes))
    return min(candidates, key=lambda steps: cost(steps, view.in_shape))


def _plain(view: View, max_rank: int) -> tuple[Step, ...]:
    """At most one Transpose, with the Reshapes it needs; `view` is simplified."""
    if view.is_reshape:
        return () if view.in_shape == view.out_shape else (_reshape(view.out_shape),)
    return min(_one_transpose(view, max_rank), key=lambda steps: cost(steps, view.in_shape))


NODE_NS = 40e3
"""What a node costs beyond the data it moves: dispatch, and work for every tool that follows."""


def cost(steps: Sequence[Step], shape: Shape) -> tuple[float, int]:
    """(estimated nanoseconds, sum of ranks) of `steps` on a float32 tensor of `shape`.

    Rates measured in ONNX Runtime's CPU kernels on one core of a server; what counts is the order
    between forms. Moving one axis and moving whole runs is cheap there, and in every other
    runtime looked at; scattering single elements costs fifteen times as much. Transposes with no
    Reshape between them are priced as the one Transpose that graph optimizers make of them.
    """
    total = 0.0
    size = math.prod(shape)
    perm: Shape | None = None  # of the Transposes just before, joined
    start = shape
    for step in steps:
        total += NODE_NS
        if step.op == "Transpose":
            if perm is None:
                perm, start = step.argument, shape
            else:
                total -= size * _transpose_rate(start, perm)
                perm = tuple(perm[p] for p in step.argument)
            total += size * _transpose_rate(start, perm)
        else:
            perm = None
            total += size * _BLOCK_RATES.get(step.op, 0.0)
        shape = step.shape
    return total, sum(len(step.shape) for step in steps)


_BLOCK_RATES = {"SpaceToDepth": 1.0, "DepthToSpace": 2.0}
"""Nanoseconds per element."""


def _transpose_rate(shape: Shape, perm: Shape) -> float:
    """Nanoseconds per element."""
    axes = [p for p in perm if shape[p] > 1]
    kept = sorted(axes)
    shape, perm = tuple(shape[p] for p in kept), tuple(kept.index(p) for p in axes)
    fixed = 0
    while fixed < len(perm) and perm[-1 - fixed] == len(perm) - 1 - fixed:
        fixed += 1
    run = math.prod(shape[len(shape) - fixed :])
    one_axis = any(
        [p for p in perm if p != axis] == [p for p in range(len(perm)) if p != axis]
        for axis in range(len(perm))
    )
    if run > 1:
        return min(_SCATTER, 0.15 + (22 if one_axis else 11) / run)
    return 0.5 if one_axis else _SCATTER


_SCATTER = 7.0


def _reshape(shape: Sequence[int]) -> Step:
    return Step("Reshape", tuple(shape), tuple(shape))


def _transpose(shape: Sequence[int], perm: Sequence[int]) -> Step:
    return Step("Transpose", tuple(perm), tuple(shape[p] for p in perm))


def _one_transpose(view: View, max_rank: int) -> Iterator[tuple[Step, ...]]:
    """Transpose of the factors, of the input's own dimensions, or to the output's own."""
    middle = _transpose(view.sizes, view.order)
    steps = [] if view.in_shape == view.sizes else [_reshape(view.sizes)]
    steps.append(middle)
    if middle.shape != view.out_shape:
        steps.append(_reshape(view.out_shape))
    yield tuple(steps)
    limit = max(max_rank, len(view.sizes))
    if len(view.in_shape) <= limit:
        perm = _own_dimensions(view)
        if perm is not None:
            step = _transpose(view.in_shape, perm)
            yield (step,) if step.shape == view.out_shape else (step, _reshape(view.out_shape))
    if len(view.out_shape) <= limit:
        back = _own_dimensions(view.inverse())
        if back is not None:
            before = tuple(view.out_shape[p] for p in back)
            step = _transpose(before, [int(p) for p in np.argsort(back)])
            yield (step,) if before == view.in_shape else (_reshape(before), step)


def _own_dimensions(view: View) -> list[int] | None:
    """Permutation of `in_shape` itself that orders its elements like `view`, or None.

    Possible if no input dimension holds parts of two factors. Dimensions of size one go where the
    output has them, as far as that is possible; others lead, so that (1, C, H, W) becomes
    (1, H, W, C), the layout that runtimes read and write convolutions in without a Transpose.
    """
    members: list[list[int]] = [[] for _ in view.sizes]
    factor, size = 0, 1
    units = []
    for i, dim in enumerate(view.in_shape):
        if dim == 1:
            units.append(i)
            continue
        size *= dim
        members[factor].append(i)
        if size == view.sizes[factor]:
            factor, size = factor + 1, 1
        elif view.sizes[factor] % size:
            return None
    moved = [i for f in view.order for i in members[f]]
    perm: list[int] = []
    for dim in view.out_shape:
        if dim == 1 and units:
            perm.append(units.pop(0))
        elif moved:
            perm.append(moved.pop(0))
    return units + perm + moved


def _with_block_moves(view: View, max_rank: int) -> Iterator[tuple[Step, ...]]:
    """SpaceToDepth or DepthToSpace as first or last operator, the rest at low rank."""
    for shape, first in ((view.in_shape, True), (view.out_shape, False)):
        if len(shape) != 4:
            continue
        _, c, h, w = shape
        for block in range(2, min(h, w) + 1):
            if h % block == 0 and w % block == 0:
                yield from _block_move(view, "SpaceToDepth", block, first, max_rank)
        for block in range(2, math.isqrt(c) + 1):
            if c % (block * block) == 0:
                yield from _block_move(view, "DepthToSpace", block, first, max_rank)


def _block_move(
    view: View, op: str, block: int, first: bool, max_rank: int
) -> Iterator[tuple[Step, ...]]:
    """`op` first, or (its inverse applied to the output) last."""
    start = View.identity(view.in_shape if first else view.out_shape)
    move = start.space_to_depth(block) if op == "SpaceToDepth" else start.depth_to_space(block)
    if move is None:
        return
    rest = move.inverse().then(view) if first else view.then(move)
    if rest is None or len(rest.simplified().sizes) > max_rank:
        return
    others = _plain(rest.simplified(), max_rank)
    if first:
        yield (Step(op, (block,), move.out_shape), *others)
    else:
        inverse = "DepthToSpace" if op == "SpaceToDepth" else "SpaceToDepth"
        yield (*others, Step(inverse, (block,), view.out_shape))


def _two_transposes(view: View, max_rank: int) -> Iterator[tuple[Step, ...]]:
    """Reshape, Transpose, Reshape, Transpose, Reshape, each of at most `max_rank` dimensions."""
    n = len(view.sizes)
    if n < 3 or n > 7:  # more factors mean thousands of candidates for views nobody writes
        return
    for cuts in itertools.combinations(range(1, n), max_rank - 1):
        bounds = (0, *cuts, n)
        runs = [range(a, b) for a, b in itertools.pairwise(bounds)]
        for perm in itertools.permutations(range(max_rank)):
            order = tuple(i for p in perm for i in runs[p])
            shape = tuple(view.sizes[i] for i in order)
            first = View(view.in_shape, view.sizes, order, shape)
            rest = None if first.is_reshape else first.inverse().then(view)
            if rest is None or len(rest.simplified().sizes) > max_rank:
                continue
            second = rest.simplified()
            if second.is_reshape:
                continue
            head = _plain(first.simplified(), max_rank)
            if head[-1].op == "Reshape":  # the second half starts from any shape
                head = head[:-1]
            flat = (math.prod(second.sizes),)  # no dimensions of its own: starts with a Reshape
            tail = _plain(View(flat, second.sizes, second.order, view.out_shape), max_rank)
            if head[-1].shape in (second.sizes, tail[0].shape):
                continue  # what optimizers join to one Transpose is one
            yield (*head, *tail)
