"""Order search in windows: a part of an order at a time is searched exactly.

For segments that the exact search cannot decide as a whole (large neighbourhood search, Shaw 1998).
What is live before and after a window does not depend on the order within, so that any better order
of a window can be put in its place.
"""

from __future__ import annotations

import time

from edgec.profiles.memory.order.exact import Segment, TooLarge, search
from edgec.profiles.memory.order.graph import OrderGraph

HALVES = (8, 16, 32, 64, 128)
"""Operations on either side of the one with the peak."""
MOST_SETS = 2000
"""Of one window."""


def improve(
    graph: OrderGraph, segment: Segment, order: list[int], floor: int, deadline: float
) -> tuple[list[int], int]:
    """Lower the highest peak until no window around it helps, or it is no higher than `floor`.

    Returns:
        The order, no worse than the given one, and its peak.
    """
    while True:
        needs, states = _walk(graph, segment, order)
        peak = max(needs, default=0)
        if peak <= floor:
            return order, peak
        at = needs.index(peak)
        for half in HALVES:
            first, end = max(at - half, 0), min(at + half + 1, len(order))
            if time.monotonic() > deadline:
                return order, peak
            done, live = states[first]
            window = Segment(done, sum(1 << n for n in order[first:end]), live)
            try:
                found, _ = search(graph, window, peak - 1, most_sets=MOST_SETS, deadline=deadline)
            except TooLarge:
                continue
            if found is not None:
                order = [*order[:first], *found, *order[end:]]
                break
            if end - first == len(order):
                return order, peak  # no order at all is better
        else:
            return order, peak


def _walk(
    graph: OrderGraph, segment: Segment, order: list[int]
) -> tuple[list[int], list[tuple[int, int]]]:
    """Bytes that each operation needs; what has run and what is live before it."""
    done, live, bytes_ = segment.done, segment.live, graph.bytes_of(segment.live)
    needs, states = [], []
    for n in order:
        states.append((done, live))
        need, live, bytes_ = graph.run(done, live, bytes_, n)
        done |= 1 << n
        needs.append(need)
    return needs, states
