"""Greedy placement: buffers in some order, each at the first or at the tightest gap that fits."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edgec.profiles.memory.problem import Item, Problem

Key = Callable[[Item], tuple[int, ...]]

ORDERS: dict[str, Key] = {
    # what tflite-micro's GreedyMemoryPlanner does: largest first, earliest first among equals
    "size": lambda i: (-i.size, i.lower),
    "area": lambda i: (-i.size * (i.upper - i.lower), -i.size),
    "width": lambda i: (i.lower - i.upper, -i.size),
    "start": lambda i: (i.lower, -i.size),
    "end": lambda i: (-i.upper, -i.size),
    "size, width": lambda i: (-i.size, i.lower - i.upper),
}


def greedy(problem: Problem) -> tuple[list[int], str]:
    """The best of all orders, with first fit and best fit each: offsets, and which one it was.

    Ties go to the order that is listed first, so the result is deterministic.
    """
    best: tuple[int, list[int], str] | None = None
    for name, order in candidate_orders(problem).items():
        for fit in ("first", "best"):
            offsets = place(problem, order, fit)
            peak = problem.peak(offsets)
            if best is None or peak < best[0]:
                best = peak, offsets, f"{name}, {fit} fit"
    assert best is not None
    return best[1], best[2]


def tflm(problem: Problem) -> list[int]:
    """Offsets of tflite-micro's GreedyMemoryPlanner, for comparison."""
    return place(problem, _sorted(problem, ORDERS["size"]), "first")


def candidate_orders(problem: Problem) -> dict[str, list[int]]:
    """Permutations of the items by name."""
    orders = {name: _sorted(problem, key) for name, key in ORDERS.items()}
    crowd = [
        max(problem.section_totals[slice(*span)], default=0) for span in problem.sections.spans
    ]
    items = problem.items
    orders["crowd"] = sorted(range(len(items)), key=lambda i: (-crowd[i], -items[i].size, i))
    orders["crowd, width"] = sorted(
        range(len(items)), key=lambda i: (-crowd[i], items[i].lower - items[i].upper, i)
    )
    return orders


def _sorted(problem: Problem, key: Key) -> list[int]:
    return sorted(range(len(problem.items)), key=lambda i: (*key(problem.items[i]), i))


def place(problem: Problem, order: Sequence[int], fit: str = "first") -> list[int]:
    """Place the items in the given order.

    Args:
        problem: what is placed.
        order: a permutation of the items.
        fit: ``"first"`` takes the lowest gap, ``"best"`` the smallest one that is large enough.

    Returns:
        An offset for each item.
    """
    items = problem.items
    near: list[list[tuple[int, int, int]]] = [[] for _ in items]
    for pair in problem.pairs:
        near[pair.first].append((pair.second, pair.over, pair.under))
        near[pair.second].append((pair.first, pair.under, pair.over))
    offsets = [-1] * len(items)
    for i in order:
        # offsets that another item forbids: the open interval (low, high)
        taken = sorted(
            (offsets[j] - over, offsets[j] + under) for j, over, under in near[i] if offsets[j] >= 0
        )
        offsets[i] = _gap(taken, items[i], fit)
    return offsets


def _gap(taken: list[tuple[int, int]], item: Item, fit: str) -> int:
    at = 0
    best: tuple[int, int] | None = None
    for low, high in taken:
        if at <= low:
            if fit == "first":
                return at
            if best is None or low - at < best[0]:
                best = low - at, at
        at = max(at, -(-high // item.alignment) * item.alignment)
    return at if best is None else best[1]
