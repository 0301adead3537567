"""Offsets for a problem: greedy, then exact feasibility searches between bound and incumbent.

Feasibility at the lower bound comes first, since real networks nearly always reach it. After that
the capacity is bisected. Only a proof of infeasibility raises the lower bound; a search that ran
out of time does not.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgec.profiles.memory.allocate import core, cpsat
from edgec.profiles.memory.allocate import search as python_search
from edgec.profiles.memory.allocate.bound import lower_bound, raise_to_unit
from edgec.profiles.memory.allocate.decompose import split
from edgec.profiles.memory.allocate.greedy import greedy
from edgec.profiles.memory.allocate.orders import restarts, static_strategies
from edgec.profiles.memory.allocate.outcome import Outcome
from edgec.profiles.memory.problem import Problem

FIRST_SLICE = 0.5
FIRST_RESTARTS = 20
LONG_SHARE = 0.6
FIRST_STEP = 0.25
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
    attempts = 0

    def attempt(capacity: int, seconds: float) -> bool:
        """Search under a capacity; False when the search ended without an answer."""
        nonlocal lower, attempts
        found, solver = _feasible(problem, capacity, seconds, exact, attempts)
        attempts += 1
        if found.status == "found":
            assert found.offsets is not None
            best.offer(found.offsets, solver)
        elif found.status == "infeasible":
            lower = max(lower, capacity + problem.unit)
        return found.status != "limit"

    def left() -> float:
        return deadline - time.monotonic()

    def open_() -> bool:
        return best.peak > max(lower, goal) and left() > 0

    # the bound itself is nearly always feasible; each proof that it is not raises it by a unit
    while open_() and attempt(lower, min(FIRST_SLICE, left())):
        pass
    step = FIRST_STEP
    if goal <= lower and open_():
        _bisect(lambda: lower, best, problem.unit, attempt, left, step)
    while open_():
        # what is asked for gets most of the time, the rest goes to smaller steps towards it
        if attempt(max(lower, goal), LONG_SHARE * left()):
            continue
        step *= 8
        _bisect(lambda: max(lower, goal), best, problem.unit, attempt, left, step)
    return Allocation(tuple(best.offsets), best.peak, min(lower, best.peak), best.solver, 0.0)


def _bisect(
    aim: Callable[[], int],
    best: _Incumbent,
    unit: int,
    attempt: Callable[[int, float], bool],
    left: Callable[[], float],
    step: float,
) -> None:
    """Halve the way from `aim` to the incumbent; capacities without an answer are left behind."""
    hopeless = aim() + unit
    while left() > 0 and aim() < hopeless < best.peak:
        capacity = max(hopeless, (hopeless + best.peak) // 2 // unit * unit)
        if attempt(capacity, min(step, left())):
            hopeless = max(hopeless, aim() + unit)
        else:
            hopeless = capacity + unit


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
    problem: Problem, capacity: int, seconds: float, exact: bool | None, attempt: int
) -> tuple[Outcome, str]:
    """Search for a plan within `capacity`: first by one thread, later by a portfolio of them."""
    fixed = static_strategies(problem)
    if not core.available():
        ways = fixed + restarts(problem, seed=attempt)
        return python_search.search(problem, capacity, ways, seconds=seconds), "search (Python)"
    if attempt == 0:
        ways = fixed + restarts(problem, seed=0, count=FIRST_RESTARTS)
        return core.search(problem, capacity, ways, seconds=seconds), "search"
    stop = core.StopFlag()
    answers: list[tuple[Outcome, str]] = []

    def run(worker: int) -> None:
        # every attempt draws restarts of its own
        mine = restarts(problem, seed=attempt * WORKERS + worker)
        mine = mine if worker else fixed + mine
        answer = core.search(problem, capacity, mine, seconds=seconds, stop=stop)
        if answer.status != "limit":
            answers.append((answer, "search"))
            stop.set()

    def run_cpsat() -> None:
        answer = cpsat.search(problem, capacity, seconds=seconds, stop=stop)
        if answer.status != "limit":
            answers.append((answer, "cp-sat"))
            stop.set()

    threads = [threading.Thread(target=run, args=(worker,)) for worker in range(WORKERS)]
    if cpsat.available() if exact is None else exact:
        threads.append(threading.Thread(target=run_cpsat))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers[0] if answers else (Outcome("limit", None, 0), "search")
