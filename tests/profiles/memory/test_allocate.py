"""Offsets: exact on small problems, valid always, the same from C and Python."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from edgec.profiles.memory.allocate import core, cpsat, greedy
from edgec.profiles.memory.allocate import search as python_search
from edgec.profiles.memory.allocate.bound import lower_bound
from edgec.profiles.memory.allocate.decompose import split
from edgec.profiles.memory.allocate.orders import Strategy, restarts, static_strategies
from edgec.profiles.memory.allocate.solve import allocate
from edgec.profiles.memory.problem import Allowed, Item, Problem

SEEDS = range(60)


def strategies(problem: Problem, seed: int = 0) -> list[Strategy]:
    return static_strategies(problem) + restarts(problem, seed=seed, count=9)


@pytest.mark.parametrize("overlaps", [False, True])
def test_small_problems_are_solved_to_the_optimum(
    overlaps: bool, random_problem: Any, optimum: Any, broken: Any
) -> None:
    tight = 0
    for seed in SEEDS:
        problem = random_problem(seed, 6, overlaps=overlaps)
        found = allocate(problem, time_limit=20)
        assert not broken(problem, found.offsets)
        assert problem.peak(found.offsets) == found.peak
        assert found.peak == optimum(problem), seed
        assert found.proved
        assert lower_bound(problem) <= found.lower_bound
        tight += found.peak > lower_bound(problem)
    if overlaps:
        assert tight, "some need more than what is live at once, or nothing was searched"


@pytest.mark.parametrize("overlaps", [False, True])
def test_the_core_answers_as_the_python_search_does(
    overlaps: bool, random_problem: Any, optimum: Any, broken: Any
) -> None:
    if not core.available():
        pytest.skip("no C compiler here")
    for seed in SEEDS:
        problem = random_problem(seed, 7 if seed % 8 == 0 else 5, overlaps=overlaps)
        best = optimum(problem)
        ways = strategies(problem, seed=seed)
        for capacity in (best - 1, best, best + 2):
            answers = [s.search(problem, capacity, ways, seconds=20) for s in (core, python_search)]
            assert answers[0] == answers[1]
            if capacity < best:
                assert answers[0].status == "infeasible"
            else:
                assert answers[0].status == "found"
                offsets = answers[0].offsets
                assert offsets is not None
                assert not broken(problem, offsets)
                assert problem.peak(offsets) <= capacity


def test_packings_without_slack_are_found(guillotine: Any, broken: Any) -> None:
    for seed in range(4):
        problem = guillotine(seed, 60, 200, 512)
        found = allocate(problem, time_limit=30)
        assert not broken(problem, found.offsets)
        assert (found.peak, found.lower_bound) == (512, 512)


def test_the_core_and_python_take_the_same_decisions_on_larger_problems(guillotine: Any) -> None:
    if not core.available():
        pytest.skip("no C compiler here")
    problem = guillotine(7, 40, 120, 256)
    ways = strategies(problem)
    first, second = (s.search(problem, 256, ways, seconds=60) for s in (core, python_search))
    assert first == second
    assert first.status == "found"


def test_greedy_is_never_worse_than_tflm(guillotine: Any, broken: Any) -> None:
    for seed in range(20):
        problem = guillotine(seed, 30, 80, 128)
        offsets, _ = greedy.greedy(problem)
        assert not broken(problem, offsets)
        assert problem.peak(offsets) <= problem.peak(greedy.tflm(problem))


def test_tflm_places_largest_first_at_the_lowest_gap() -> None:
    problem = Problem((Item("a", 0, 2, 10), Item("b", 1, 3, 20), Item("c", 2, 4, 10)))
    assert greedy.tflm(problem) == [20, 0, 20]


def test_best_fit_takes_the_smallest_gap() -> None:
    fixed = (Item("a", 0, 1, 10), Item("b", 0, 9, 5), Item("c", 0, 1, 4), Item("d", 0, 9, 5))
    problem = Problem((*fixed, Item("e", 5, 6, 3)))
    order = [0, 1, 2, 3, 4]
    assert greedy.place(problem, order, "first")[4] == 0
    # gaps 0..10 and 15..19 are free by then
    assert greedy.place(problem, order, "best")[4] == 15


def test_parts_that_share_no_moment_are_solved_apart(random_problem: Any) -> None:
    a = random_problem(1, 5)
    b = tuple(Item(f"b{i.id}", i.lower + 100, i.upper + 100, i.size) for i in a.items)
    both = Problem((*a.items, *b), (Allowed(5, 6, 0),) if _meet(b[0], b[1]) else ())
    parts = split(both)
    assert sorted(i for p in parts for i in p.indices) == list(range(10))
    assert all(p.problem.items == tuple(both.items[i] for i in p.indices) for p in parts)
    assert allocate(both).peak == allocate(a).peak


def _meet(a: Item, b: Item) -> bool:
    return a.lower < b.upper and b.lower < a.upper


def test_time_out_gives_a_plan_without_a_proof(guillotine: Any, broken: Any) -> None:
    problem = guillotine(3, 300, 900, 1024)
    found = allocate(problem, time_limit=0.01)
    assert not broken(problem, found.offsets)
    assert found.lower_bound == 1024
    assert found.peak > 1024
    assert not found.proved
    assert found.gap == found.peak / 1024 - 1


def test_enough_is_enough(guillotine: Any) -> None:
    problem = guillotine(3, 80, 240, 1024)
    found = allocate(problem, enough=1 << 20)
    assert found.solver.startswith("greedy")


def test_a_search_stops_when_told(guillotine: Any) -> None:
    if not core.available():
        pytest.skip("no C compiler here")
    problem = guillotine(5, 400, 1200, 1024)
    stop = core.StopFlag()
    threading.Timer(0.2, stop.set).start()
    answer = core.search(problem, 1023, strategies(problem), seconds=60, stop=stop)
    assert answer.status in ("limit", "infeasible")


def test_the_library_is_compiled_once_and_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, random_problem: Any
) -> None:
    if not core.available():
        pytest.skip("no C compiler here")
    monkeypatch.setenv("EDGEC_CACHE_DIR", str(tmp_path))
    core._library.cache_clear()
    threads = [threading.Thread(target=core._library) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert core.available()
    assert [p.suffix for p in (tmp_path / "native").iterdir()] == [".so"]
    core._library.cache_clear()


@pytest.mark.parametrize(("name", "value"), [("EDGEC_NO_COMPILER", "1"), ("CC", "/bin/false")])
def test_without_a_compiler_the_answers_are_the_same(
    name: str,
    value: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    random_problem: Any,
) -> None:
    problems = [random_problem(seed, 7, overlaps=True) for seed in range(10)]
    expected = [allocate(p) for p in problems]
    monkeypatch.setenv("EDGEC_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv(name, value)
    core._library.cache_clear()
    try:
        assert not core.available()
        found = [allocate(p) for p in problems]
    finally:
        monkeypatch.undo()
        core._library.cache_clear()
    assert [(f.offsets, f.lower_bound) for f in found] == [
        (e.offsets, e.lower_bound) for e in expected
    ]


def test_cpsat_agrees(random_problem: Any, optimum: Any, broken: Any) -> None:
    if not cpsat.available():
        pytest.skip("ortools is not installed")
    for overlaps in (False, True):
        for seed in range(8):
            problem = random_problem(seed, 5, overlaps=overlaps)
            best = optimum(problem)
            found = cpsat.search(problem, best, seconds=20)
            assert found.offsets is not None
            assert not broken(problem, found.offsets)
            assert cpsat.search(problem, best - 1, seconds=20).status == "infeasible"


def test_problems_that_make_no_sense_are_refused() -> None:
    a, b = Item("a", 0, 1, 4), Item("b", 5, 6, 4)
    for items, allowed in (
        ((Item("a", 1, 1, 4),), ()),
        ((Item("a", 0, 1, 0),), ()),
        ((a, b), (Allowed(0, 1, 0),)),
        ((a, a), (Allowed(0, 1, 5),)),
        ((a,), (Allowed(0, 3, 0),)),
    ):
        with pytest.raises(ValueError):
            Problem(items, allowed)


def test_nothing_needs_nothing() -> None:
    found = allocate(Problem(()))
    assert (found.peak, found.offsets, found.proved) == (0, (), True)
