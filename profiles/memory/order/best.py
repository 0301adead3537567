"""The best order that can be found in a given time; the given order is what has to be beaten."""

from __future__ import annotations

import time
from dataclasses import dataclass

from edgec.profiles.memory.order import beam, windows
from edgec.profiles.memory.order.exact import Segment, TooLarge, search, segments
from edgec.profiles.memory.order.graph import OrderGraph, bits

MOST_SETS = 20_000
"""Of one budget."""
WIDTHS = (30, 300, 1000)


@dataclass(frozen=True)
class Order:
    """A valid order of all operations.

    Attributes:
        order: indices of operations.
        peak: most live bytes.
        given_peak: the same for the order that was given.
        lower_bound: no order needs fewer; proved.
    """

    order: tuple[int, ...]
    peak: int
    given_peak: int
    lower_bound: int

    @property
    def proved(self) -> bool:
        """Whether no order has a lower peak."""
        return self.peak == self.lower_bound


def best_order(graph: OrderGraph, *, time_limit: float = 10.0) -> Order:
    """Search segment by segment, those with the highest peaks first.

    Raises:
        ValueError: the given order is not valid.
    """
    deadline = time.monotonic() + time_limit
    given = graph.peak(range(len(graph.operations)))
    parts = segments(graph)
    orders = [bits(part.todo) for part in parts]
    peaks = [
        graph.peak(order, part.done, part.live) for part, order in zip(parts, orders, strict=True)
    ]
    bounds = [_bound(graph, part) for part in parts]
    for n in sorted(range(len(parts)), key=lambda n: (-peaks[n], n)):
        floor = max(bounds)
        if peaks[n] > floor:
            orders[n], peaks[n], bounds[n] = _best(
                graph, parts[n], orders[n], peaks[n], bounds[n], floor, deadline
            )
    order = tuple(i for part in orders for i in part)
    peak = max(peaks, default=0)
    if peak >= given:
        order, peak = tuple(range(len(graph.operations))), given
    return Order(order, peak, given, min(max(bounds, default=0), peak))


def _bound(graph: OrderGraph, part: Segment) -> int:
    """Every operation needs its own inputs and outputs, with nothing else alive."""
    worst = 0
    for n in bits(part.todo):
        op = graph.operations[n]
        need = graph.bytes_of(op.inputs | op.outputs) + op.scratch
        worst = max(worst, need - max((saved for _, saved in op.shared), default=0))
    return max(worst, graph.bytes_of(part.live))


def _best(
    graph: OrderGraph,
    part: Segment,
    order: list[int],
    peak: int,
    bound: int,
    floor: int,
    deadline: float,
) -> tuple[list[int], int, int]:
    """Close in on the least budget that an order fits; peaks under `floor` are of no use.

    Windows come first. Then a budget far from the least one is decided soon, be it too small or
    large enough; so budgets are tried from below, from above and in between until none of them is
    decided any more.
    """
    bound = max(bound, floor)
    order, peak = windows.improve(graph, part, order, bound, deadline)
    undecided: set[int] = set()
    while bound < peak:
        budgets = (bound, peak - 1, (bound + peak) // 2, (bound + 7 * peak) // 8)
        budget = next((b for b in budgets if b not in undecided), None)
        if budget is None:
            break
        try:
            found, needed = search(graph, part, budget, most_sets=MOST_SETS, deadline=deadline)
        except TooLarge:
            if time.monotonic() > deadline:
                break
            undecided.add(budget)
            continue
        if found is not None:
            order, peak = found, graph.peak(found, part.done, part.live)
        else:
            # no order has a peak between the budget and what was needed to go on
            bound = min(needed, peak)
    if bound < peak:
        order, peak = _by_beam(graph, part, order, peak, deadline)
    return order, peak, min(bound, peak)


def _by_beam(
    graph: OrderGraph, part: Segment, order: list[int], peak: int, deadline: float
) -> tuple[list[int], int]:
    for width in WIDTHS:
        found = beam.search(graph, part, peak, width=width, deadline=deadline)
        if found is not None:
            order, peak = found, graph.peak(found, part.done, part.live)
    return order, peak
