"""Feasibility by CP-SAT (the ``exact`` extra), which complements the own search on tight packings.

With a fixed capacity and no objective; minimising instead does far worse on hard instances.
"""

from __future__ import annotations

import importlib.util
import threading
from functools import cache
from typing import Any, Protocol

from edgec.profiles.memory.allocate.outcome import Outcome
from edgec.profiles.memory.problem import Problem

WORKERS = 2


class Stop(Protocol):
    """Says whether a search should end."""

    def is_set(self) -> bool: ...


@cache
def available() -> bool:
    """Whether ortools is installed."""
    return importlib.util.find_spec("ortools") is not None


def search(problem: Problem, capacity: int, *, seconds: float, stop: Stop | None = None) -> Outcome:
    """Offsets with a peak of at most `capacity`, or a proof that there are none.

    Raises:
        ModuleNotFoundError: ortools is not installed.
    """
    from ortools.sat.python import cp_model

    unit = problem.unit
    model = cp_model.CpModel()
    room = capacity // unit
    offsets: list[Any] = []
    for n, item in enumerate(problem.items):
        steps = max(item.alignment // unit, 1)
        top = (room - item.size // unit) // steps
        if top < 0:
            return Outcome("infeasible", None, 0)
        place = model.new_int_var(0, top, f"p{n}")
        offsets.append(place * steps)
    if not problem.allowed:
        times = [
            model.new_fixed_size_interval_var(i.lower, i.upper - i.lower, f"t{n}")
            for n, i in enumerate(problem.items)
        ]
        places = [
            model.new_fixed_size_interval_var(offset, i.size // unit, f"a{n}")
            for n, (i, offset) in enumerate(zip(problem.items, offsets, strict=True))
        ]
        model.add_no_overlap_2d(times, places)
        model.add_cumulative(times, [i.size // unit for i in problem.items], room)
    else:
        for n, pair in enumerate(problem.pairs):
            above = model.new_bool_var(f"o{n}")
            first, second = offsets[pair.first], offsets[pair.second]
            model.add(second >= first + pair.over // unit).only_enforce_if(above)
            model.add(first >= second + pair.under // unit).only_enforce_if(~above)
    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = seconds
    solver.parameters.num_workers = WORKERS
    done = threading.Event()
    if stop is not None:
        threading.Thread(target=_watch, args=(stop, done, solver), daemon=True).start()
    try:
        status = solver.solve(model)
    finally:
        done.set()
    if status in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return Outcome("found", [int(solver.value(o)) * unit for o in offsets], 0)
    if status == cp_model.INFEASIBLE:
        return Outcome("infeasible", None, 0)
    return Outcome("limit", None, 0)


def _watch(stop: Stop, done: threading.Event, solver: Any) -> None:
    """End the search soon after it was told to stop."""
    while not done.wait(0.05):
        if stop.is_set():
            solver.stop_search()
            return
