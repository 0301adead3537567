"""Exact order search over the sets of operations that have run.

Liberis & Lane 2019 and SERENITY (Ahn et al., MLSys 2020): all orders of a set leave the same live
bytes, so that it does not matter how a set was reached. Sets over a budget are dropped. An
operation that fits in the budget and leaves no more bytes than it found is run at once, which loses
nothing: every later moment of any order then has at most as many live bytes.

Unlike there, sets are visited depth first, those with the fewest live bytes before others: with a
budget that allows many orders one of them is found without all sets of a size, with one that allows
none both ways see the same sets.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from edgec.profiles.memory.order.graph import OrderGraph, bits


@dataclass(frozen=True)
class Segment:
    """Operations between two cuts: they run after `done` with `live` tensors.

    Attributes:
        done: mask of the operations before.
        todo: mask of the operations inside.
        live: mask of the tensors at the start.
    """

    done: int
    todo: int
    live: int


class TooLarge(Exception):
    """More sets than allowed, or out of time."""


def segments(graph: OrderGraph) -> list[Segment]:
    """Cut at operations that every other operation has to run before or after."""
    count = len(graph.operations)
    before = [0] * count
    for n, op in enumerate(graph.operations):
        for m in bits(op.needs):
            before[n] |= before[m] | 1 << m
    after = [0] * count
    for n in range(count - 1, -1, -1):
        for m in bits(graph.operations[n].needs):
            after[m] |= after[n] | 1 << n
    everything = (1 << count) - 1
    found = []
    done, live = 0, graph.first
    for n in range(count):
        if before[n] | after[n] | 1 << n == everything:
            end = before[n] | 1 << n
            found.append(Segment(done, end & ~done, live))
            for m in bits(end & ~done):
                live = graph.run(done, live, 0, m)[1]
                done |= 1 << m
    if done != everything:
        found.append(Segment(done, everything & ~done, live))
    return found


def search(
    graph: OrderGraph, segment: Segment, budget: int, *, most_sets: int, deadline: float
) -> tuple[list[int] | None, int]:
    """An order of a segment's operations whose peak is at most `budget`.

    Returns:
        The order, or None when there is none; then the least budget that could do.

    Raises:
        TooLarge: the search was given up.
    """
    exceeded = 1 << 62
    seen: set[int] = set()
    start = (0, segment.live, graph.bytes_of(segment.live))
    # sets to visit, each with the chain of operations that led to it
    waiting: list[tuple[tuple[int, int, int], _Path | None]] = [(start, None)]
    while waiting:
        state, path = waiting.pop()
        if state[0] in seen:
            continue
        seen.add(state[0])
        (ran, live, bytes_), path = _run_free(graph, segment, state, path, budget)
        if ran == segment.todo:
            return _order(path), budget
        if ran != state[0] and ran in seen:
            continue
        seen.add(ran)
        if len(seen) > most_sets or time.monotonic() > deadline:
            raise TooLarge
        done = segment.done | ran
        following = []
        for n in bits(segment.todo & ~ran):
            after = ran | 1 << n
            if graph.operations[n].needs & ~done or after in seen:
                continue
            need, then, left = graph.run(done, live, bytes_, n)
            if need > budget:
                exceeded = min(exceeded, need)
            else:
                following.append((left, need, n, after, then))
        following.sort(reverse=True)
        waiting += [((after, then, left), (path, n)) for left, _, n, after, then in following]
    return None, exceeded


_Path = tuple["_Path | None", int]
"""The last operation, and the ones before it."""


def _order(path: _Path | None) -> list[int]:
    found = []
    while path is not None:
        path, n = path
        found.append(n)
    return found[::-1]


def _run_free(
    graph: OrderGraph,
    segment: Segment,
    state: tuple[int, int, int],
    path: _Path | None,
    budget: int,
) -> tuple[tuple[int, int, int], _Path | None]:
    """Run what costs nothing: it fits, and leaves no more bytes than before."""
    ran, live, bytes_ = state
    found = True
    while found:
        found = False
        for n in bits(segment.todo & ~ran):
            done = segment.done | ran
            if graph.operations[n].needs & ~done:
                continue
            need, then, left = graph.run(done, live, bytes_, n)
            if need <= budget and left <= bytes_:
                ran, live, bytes_, path = ran | 1 << n, then, left, (path, n)
                found = True
    return (ran, live, bytes_), path
