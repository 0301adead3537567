"""Small problems and programs, and slow references to compare with."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence

import pytest

from edgec.profiles.memory.problem import Allowed, Item, Problem, together


def _optimum(problem: Problem) -> int:
    """The smallest arena, by trying every order of first-fit placement without pruning.

    Some order places the buffers of an optimal plan by rising address, each as low as it goes.
    """
    best = 1 << 60
    closer = {(a.below, a.above): a.distance for a in problem.allowed}
    items = problem.items
    for order in itertools.permutations(range(len(items))):
        offsets: dict[int, int] = {}
        for i in order:
            at = 0
            for j, where in offsets.items():
                if together(items[i], items[j]):
                    at = max(at, where + closer.get((j, i), items[j].size))
            offsets[i] = -(-at // items[i].alignment) * items[i].alignment
        best = min(best, max(offsets[i] + items[i].size for i in order))
    return best


def _random_problem(seed: int, count: int, *, overlaps: bool = False) -> Problem:
    draw = random.Random(seed)
    items = []
    for n in range(count):
        lower = draw.randrange(6)
        upper = lower + draw.randrange(1, 5)
        alignment = draw.choice([1, 1, 1, 4]) if overlaps else 1
        items.append(Item(str(n), lower, upper, draw.randrange(1, 12), alignment))
    allowed: dict[tuple[int, int], Allowed] = {}
    pairs = [p for p in itertools.permutations(range(count), 2) if together(*(items[i] for i in p))]
    for below, above in draw.sample(pairs, min(len(pairs), 2)) if overlaps else ():
        if (above, below) not in allowed:
            distance = draw.choice([0, draw.randrange(items[below].size + 1)])
            allowed[below, above] = Allowed(below, above, distance)
    return Problem(tuple(items), tuple(allowed.values()))


def _guillotine(seed: int, count: int, span: int, height: int) -> Problem:
    """A rectangle cut into buffers: the optimum is `height`, without slack anywhere."""
    draw = random.Random(seed)
    blocks = [(0, span, 0, height)]
    while len(blocks) < count:
        a, b, c, d = blocks.pop(draw.randrange(len(blocks)))
        if draw.random() < 0.5 and b - a > 1:
            cut = draw.randrange(a + 1, b)
            blocks += [(a, cut, c, d), (cut, b, c, d)]
        elif d - c > 1:
            cut = draw.randrange(c + 1, d)
            blocks += [(a, b, c, cut), (a, b, cut, d)]
        else:
            blocks.append((a, b, c, d))
    draw.shuffle(blocks)
    return Problem(tuple(Item(str(n), a, b, d - c) for n, (a, b, c, d) in enumerate(blocks)))


def _broken(problem: Problem, offsets: Sequence[int]) -> list[str]:
    """What is wrong with offsets, looking at every pair."""
    found = []
    closer = {(a.below, a.above): a.distance for a in problem.allowed}
    for i, item in enumerate(problem.items):
        if offsets[i] < 0 or offsets[i] % item.alignment:
            found.append(f"{item} at {offsets[i]}")
    for i, j in itertools.combinations(range(len(problem.items)), 2):
        a, b = problem.items[i], problem.items[j]
        if together(a, b):
            apart = offsets[j] - offsets[i]
            if apart < closer.get((i, j), a.size) and -apart < closer.get((j, i), b.size):
                found.append(f"{a} at {offsets[i]}, {b} at {offsets[j]}")
    return found


@pytest.fixture(scope="session")
def optimum() -> Callable[[Problem], int]:
    return _optimum


@pytest.fixture(scope="session")
def random_problem() -> Callable[..., Problem]:
    return _random_problem


@pytest.fixture(scope="session")
def guillotine() -> Callable[[int, int, int, int], Problem]:
    return _guillotine


@pytest.fixture(scope="session")
def broken() -> Callable[[Problem, Sequence[int]], list[str]]:
    return _broken
