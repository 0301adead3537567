"""Strategies of the search: in which order buffers are tried when several can lie lowest.

No order is good for all instances, and a search that starts wrongly may never recover; so several
are run in turn with growing limits. The static orders are those of MiniMalloc (Moffitt, ASPLOS
2023) with width, area and total bytes beside a buffer as keys; the perturbed ones are restarts in
the sense of Gomes, Selman & Kautz (AAAI 1998).
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from edgec.profiles.memory.problem import Problem

STATIC = ("WAT", "AWT", "TWA", "CAT", "TAW")
PERTURBED = 12
_SPREAD = 0.6


@dataclass(frozen=True)
class Strategy:
    """One way through the search tree.

    Attributes:
        order: a permutation of the items; earlier ones are placed first at equal address.
        by_crowd: prefer the buffer with most bytes still to place beside it, then the order.
        first_limit: nodes of the first round; doubled in each further round.
    """

    order: tuple[int, ...]
    by_crowd: bool
    first_limit: int


def strategies(problem: Problem, *, seed: int = 0) -> list[Strategy]:
    """All strategies, the most promising ones first; equal seeds give equal lists."""
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
    limit = 4 * len(items)
    found = [Strategy(o, by_crowd, limit) for o in orders for by_crowd in (False, True)]
    # no security hangs on these
    draw = random.Random(seed)  # noqa: S311
    for number in range(PERTURBED):
        exponent = draw.random() ** 2
        score = [
            math.log(w) + exponent * math.log(i.size) + draw.gauss(0, _SPREAD)
            for w, i in zip(width, items, strict=True)
        ]
        order = tuple(sorted(range(len(items)), key=lambda i: (-score[i], i)))
        found.append(Strategy(order, number % 2 == 1, limit))
    return found
