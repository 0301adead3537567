"""Strategies of the search: in which order buffers are tried when several can lie lowest.

No order is good for all instances, and a search that starts wrongly may never recover; so several
are run in turn with growing limits. The static orders are those of MiniMalloc (Moffitt, ASPLOS
2023) with width, area and total bytes beside a buffer as keys; perturbed ones follow as restarts in
the sense of Gomes, Selman & Kautz (AAAI 1998).
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from edgec.profiles.memory.problem import Problem

STATIC = ("WAT", "AWT", "TWA", "CAT", "TAW")
RESTARTS = 150
_SPREADS = (0.02, 0.05, 0.1, 0.3, 0.6)


@dataclass(frozen=True)
class Strategy:
    """One way through the search tree.

    Attributes:
        order: a permutation of the items; earlier ones are placed first at equal address.
        by_crowd: prefer the buffer with most bytes still to place beside it, then the order.
        limit: nodes of the first round; doubled in each further round.
    """

    order: tuple[int, ...]
    by_crowd: bool
    limit: int


def static_strategies(problem: Problem) -> list[Strategy]:
    """Orders by fixed keys, with both ways to break ties."""
    items = problem.items
    spans = problem.sections.spans
    width = [i.upper - i.lower for i in items]
    keys = {
        "W": width,
        "A": [w * i.size for w, i in zip(width, items, strict=True)],
        "C": [b - a for a, b in spans],
        "T": [max(problem.section_totals[a:b], default=0) for a, b in spans],
    }
    orders = [
        tuple(sorted(range(len(items)), key=lambda i: tuple(-keys[k][i] for k in name)))
        for name in STATIC
    ]
    return [Strategy(o, crowd, 4 * len(items)) for o in orders for crowd in (False, True)]


def restarts(problem: Problem, *, seed: int, count: int = RESTARTS) -> list[Strategy]:
    """Perturbed orders with limits after Luby, Sinclair & Zuckerman 1993; equal for equal seeds.

    Keys are the width of life times a power of the size, times noise. A search that succeeds mostly
    does so within a few nodes for each buffer, so many short ones beat a few long ones.
    """
    items = problem.items
    # no security hangs on these
    draw = random.Random(seed)  # noqa: S311
    found = []
    for number in range(count):
        exponent = draw.random() ** 2
        spread = draw.choice(_SPREADS)
        score = [
            math.log(i.upper - i.lower) + exponent * math.log(i.size) + draw.gauss(0, spread)
            for i in items
        ]
        order = tuple(sorted(range(len(items)), key=lambda i: (-score[i], i)))
        limit = 8 * len(items) * _luby(number + 1)
        found.append(Strategy(order, draw.random() < 0.5, limit))
    return found


def _luby(n: int) -> int:
    """1 1 2 1 1 2 4 1 1 2 1 1 2 4 8 ..."""
    while True:
        bits = n.bit_length()
        if n == (1 << bits) - 1:
            return 1 << (bits - 1)
        n -= (1 << (bits - 1)) - 1
