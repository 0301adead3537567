"""Offsets for a problem: greedy, then exact feasibility searches between bound and incumbent.

Feasibility at the lower bound comes first, since real networks nearly always reach it. After that
the capacity is bisected. Only a proof of infeasibility raises the lower bound; a search that ran
out of time does not.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from edgec.profiles.memory.allocate import core, cpsat
from edgec.profiles.memory.allocate import search as python_search
from edgec.profiles.memory.allocate.bound import lower_bound, raise_to_unit
from edgec.profiles.memory.allocate.decompose import split
from edgec.profiles.memory.allocate.greedy import greedy
from edgec.profiles.memory.allocate.orders import Strategy, strategies
from edgec.profiles.memory.allocate.outcome import Outcome
from edgec.profiles.memory.problem import Problem

FIRST_SLICE = 0.5
GOAL_SHARE = 0.8
WORKERS = 2


@dataclass(frozen=True)
class Allocation:
    """A plan for a problem, and how good it is.

    Attributes:
        offsets: bytes from the start of the arena, for each item.
        peak: bytes of the arena.
        lower_bound: no plan needs fewer bytes; proved.
        solver: what found the plan.
        seconds: time spent.
    """

    offsets: tuple[int, ...]
    peak: int
    lower_bound: int
    solver: str
    seconds: float

    @property
    def proved(self) -> bool:
        """Whether no smaller arena exists."""
        return self.peak == self.lower_bound

    @property
    def gap(self) -> float:
        """How far the peak may be from the optimum, relative to the lower bound."""
        return self.peak / self.lower_bound - 1 if self.lower_bound else 0.0


def allocate(
    problem: Problem,
    *,
    time_limit: float = 10.0,
    enough: int | None = None,
    exact: bool | None = None,
) -> Allocation:
    """The smallest arena that can be found in the time given.

    Problems that the first slice of the search solves (real networks) get the same plan in every
    run; harder ones are searched by several threads, and whichever is first wins.

    Args:
        problem: items and allowed overlaps.
        time_limit: seconds; a plan is returned in any case.
        enough: stop at a plan that needs at most this many bytes.
        exact: use CP-SAT beside the own search; by default if ortools is installed.
    """
    start = time.monotonic()
    deadline = start + time_limit
    if not problem.items:
        return Allocation((), 0, 0, "empty", 0.0)
    parts = split(problem)
    bound = max(raise_to_unit(p.problem, lower_bound(p.problem)) for p in parts)
    offsets = [0] * len(problem.items)
    solver, peak = "greedy", 0
    for part in parts:
        goal = max(bound, enough or 0)
        found = _solve(part.problem, bound, goal, deadline, exact)
        for i, offset in zip(part.indices, found.offsets, strict=True):
            offsets[i] = offset
        bound = max(bound, found.lower_bound)
        if found.peak > peak:
            peak, solver = found.peak, found.solver
    return Allocation(tuple(offsets), peak, bound, solver, time.monotonic() - start)


def _solve(
    problem: Problem, floor: int, goal: int, deadline: float, exact: bool | None
) -> Allocation:
    """Solve a part; there is no use in going under `floor`, nor under `goal` once it is reached."""
    offsets, order = greedy(problem)
    best = _Incumbent(problem, offsets, f"greedy ({order})")
    lower = floor
    first = True
    slice_ = FIRST_SLICE

    def attempt(capacity: int, seconds: float) -> bool:
        """Search under a capacity; False when the search ended without an answer."""
        nonlocal lower, first
        seconds = min(seconds, deadline - time.monotonic())
        if seconds <= 0:
            return False
        found, solver = _feasible(problem, capacity, seconds, exact, alone=first)
        first = False
        if found.status == "found":
            assert found.offsets is not None
            best.offer(found.offsets, solver)
        elif found.status == "infeasible":
            lower = max(lower, capacity + problem.unit)
        return found.status != "limit"

    while best.peak > max(lower, goal) and time.monotonic() < deadline:
        # capacities under this one took longer than a slice, or are infeasible
        hopeless = lower
        while best.peak > max(lower, goal) and hopeless < best.peak:
            if time.monotonic() >= deadline:
                break
            if hopeless == lower:
                capacity, seconds = lower, slice_
            elif hopeless <= goal < best.peak:
                capacity, seconds = goal, GOAL_SHARE * (deadline - time.monotonic())
            else:
                middle = (hopeless + best.peak) // 2 // problem.unit * problem.unit
                capacity, seconds = max(hopeless, middle), slice_
            if attempt(capacity, seconds):
                hopeless = max(hopeless, lower)
            else:
                hopeless = capacity + problem.unit
        slice_ *= 4
    return Allocation(tuple(best.offsets), best.peak, min(lower, best.peak), best.solver, 0.0)


class _Incumbent:
    def __init__(self, problem: Problem, offsets: Sequence[int], solver: str) -> None:
        self.problem = problem
        self.offsets = offsets
        self.peak = problem.peak(offsets)
        self.solver = solver

    def offer(self, offsets: Sequence[int], solver: str) -> None:
        peak = self.problem.peak(offsets)
        if peak < self.peak:
            self.offsets, self.peak, self.solver = offsets, peak, solver


def _feasible(
    problem: Problem, capacity: int, seconds: float, exact: bool | None, *, alone: bool
) -> tuple[Outcome, str]:
    """Search for a plan within `capacity`: by one thread, or by a portfolio of them."""
    ways = strategies(problem)
    if not core.available():
        return python_search.search(problem, capacity, ways, seconds=seconds), "search (Python)"
    if alone:
        return core.search(problem, capacity, ways, seconds=seconds), "search"
    stop = core.StopFlag()
    answers: list[tuple[Outcome, str]] = []

    def run(mine: list[Strategy]) -> None:
        answer = core.search(problem, capacity, mine, seconds=seconds, stop=stop)
        if answer.status != "limit":
            answers.append((answer, "search"))
            stop.set()

    def run_cpsat() -> None:
        answer = cpsat.search(problem, capacity, seconds=seconds, stop=stop)
        if answer.status != "limit":
            answers.append((answer, "cp-sat"))
            stop.set()

    threads = [threading.Thread(target=run, args=(ways[n::WORKERS],)) for n in range(WORKERS)]
    if cpsat.available() if exact is None else exact:
        threads.append(threading.Thread(target=run_cpsat))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers[0] if answers else (Outcome("limit", None, 0), "search")
