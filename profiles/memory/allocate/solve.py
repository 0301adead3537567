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
    if best.peak > max(floor, goal):
        run = _Run(problem, best, floor, goal, deadline, exact)
        run.quick()
        run.long()
        floor = run.lower
    return Allocation(tuple(best.offsets), best.peak, min(floor, best.peak), best.solver, 0.0)


class _Run:
    """Searches under changing capacities, until the bound is met or the time is over."""

    def __init__(
        self,
        problem: Problem,
        best: _Incumbent,
        lower: int,
        goal: int,
        deadline: float,
        exact: bool | None,
    ) -> None:
        self.problem = problem
        self.best = best
        self.lower = lower
        self.goal = goal
        self.deadline = deadline
        self.exact = exact
        self.fixed = static_strategies(problem)
        self.first = self.fixed + restarts(problem, seed=0, count=FIRST_RESTARTS)
        self.attempts = 0

    @property
    def aim(self) -> int:
        return max(self.lower, self.goal)

    def open(self) -> bool:
        return self.best.peak > self.aim and self.left() > 0

    def left(self) -> float:
        return self.deadline - time.monotonic()

    def quick(self) -> None:
        """Short searches of one thread: enough for networks, and the same in every run."""
        if not self.attempt(self.lower, FIRST_SLICE, alone=True) and self.goal > self.lower:
            return
        self.bisect(FIRST_STEP, alone=True)

    def long(self) -> None:
        """What is asked for gets most of the time, the rest goes to smaller steps towards it."""
        step = FIRST_STEP
        while self.open():
            if not self.attempt(self.aim, LONG_SHARE * self.left()):
                step *= 8
                self.bisect(step)

    def bisect(self, seconds: float, *, alone: bool = False) -> None:
        """Halve the way to the incumbent; capacities without an answer are left behind."""
        hopeless = self.aim
        while self.open() and hopeless < self.best.peak:
            unit = self.problem.unit
            capacity = max(hopeless, (hopeless + self.best.peak) // 2 // unit * unit)
            if self.attempt(capacity, seconds, alone=alone):
                hopeless = max(hopeless, self.aim)
            else:
                hopeless = capacity + unit

    def attempt(self, capacity: int, seconds: float, *, alone: bool = False) -> bool:
        """Search under a capacity; False when the search ended without an answer."""
        seconds = min(seconds, self.left())
        if seconds <= 0:
            return False
        found, solver = self.alone(capacity, seconds) if alone else self.race(capacity, seconds)
        if found.status == "found":
            assert found.offsets is not None
            self.best.offer(found.offsets, solver)
        elif found.status == "infeasible":
            self.lower = max(self.lower, capacity + self.problem.unit)
        return found.status != "limit"

    def alone(self, capacity: int, seconds: float) -> tuple[Outcome, str]:
        """One thread, always the same strategies."""
        search = core.search if core.available() else python_search.search
        name = "search" if core.available() else "search (Python)"
        return search(self.problem, capacity, self.first, seconds=seconds), name

    def race(self, capacity: int, seconds: float) -> tuple[Outcome, str]:
        """Several threads with restarts of their own, and CP-SAT; the first answer counts."""
        self.attempts += 1
        if not core.available():
            ways = self.fixed + restarts(self.problem, seed=self.attempts)
            found = python_search.search(self.problem, capacity, ways, seconds=seconds)
            return found, "search (Python)"
        stop = core.StopFlag()
        answers: list[tuple[Outcome, str]] = []

        def run(worker: int) -> None:
            ways = restarts(self.problem, seed=self.attempts * WORKERS + worker)
            ways = ways if worker else self.fixed + ways
            answer = core.search(self.problem, capacity, ways, seconds=seconds, stop=stop)
            if answer.status != "limit":
                answers.append((answer, "search"))
                stop.set()

        def run_cpsat() -> None:
            answer = cpsat.search(self.problem, capacity, seconds=seconds, stop=stop)
            if answer.status != "limit":
                answers.append((answer, "cp-sat"))
                stop.set()

        threads = [threading.Thread(target=run, args=(worker,)) for worker in range(WORKERS)]
        if cpsat.available() if self.exact is None else self.exact:
            threads.append(threading.Thread(target=run_cpsat))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return answers[0] if answers else (Outcome("limit", None, 0), "search")


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
