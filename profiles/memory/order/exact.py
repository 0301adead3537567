"""Exact order search: dynamic programming over the sets of operations that have run.

Liberis & Lane 2019 and SERENITY (Ahn et al., MLSys 2020): all orders of a set leave the same live
bytes, so for each set only the lowest peak is kept. Sets over a budget are dropped, and the budget
rises to what it has to be ("adaptive soft budgeting"). An operation that fits in the budget and
leaves no more bytes than it found is run at once, which loses nothing: every later moment of any
order then has at most as many live bytes.
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
                live = graph.run(done, live, m)[1]
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
    layer: dict[int, tuple[int, list[int]]] = {0: (segment.live, [])}
    exceeded = 1 << 62
    goal = segment.todo
    while layer:
        following: dict[int, tuple[int, list[int]]] = {}
        for ran, (live, order) in layer.items():
            ran, live, order = _run_free(graph, segment, ran, live, order, budget)
            if ran == goal:
                return order, budget
            done = segment.done | ran
            for n in bits(goal & ~ran):
                if graph.operations[n].needs & ~done or ran | 1 << n in following:
                    continue
                need, then = graph.run(done, live, n)
                if need > budget:
                    exceeded = min(exceeded, need)
                else:
                    following[ran | 1 << n] = (then, [*order, n])
        if len(following) > most_sets or time.monotonic() > deadline:
            raise TooLarge
        layer = following
    return None, exceeded


def _run_free(
    graph: OrderGraph, segment: Segment, ran: int, live: int, order: list[int], budget: int
) -> tuple[int, int, list[int]]:
    """Run what costs nothing: it fits, and leaves no more bytes than before."""
    found = True
    while found:
        found = False
        done = segment.done | ran
        bytes_ = graph.bytes_of(live)
        for n in bits(segment.todo & ~ran):
            if graph.operations[n].needs & ~done:
                continue
            need, then = graph.run(done, live, n)
            if need <= budget and graph.bytes_of(then) <= bytes_:
                ran, live, order = ran | 1 << n, then, [*order, n]
                found = True
                break
    return ran, live, order
