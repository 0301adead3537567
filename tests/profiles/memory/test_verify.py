"""The checker: finds what is wrong, by a way of its own."""

from __future__ import annotations

from typing import Any

import pytest

from edgec.export.errors import InternalError
from edgec.profiles.memory.allocate.solve import allocate
from edgec.profiles.memory.verify import Block, Permission, check_plan, violations


def test_good_plans_pass() -> None:
    blocks = [Block("a", 0, 2, 10, 0), Block("b", 1, 3, 5, 10), Block("c", 2, 4, 10, 0)]
    assert violations(blocks) == []
    check_plan(blocks, capacities={"": 15})


@pytest.mark.parametrize(
    ("block", "word"),
    [
        (Block("b", 1, 3, 5, 9), "a and b share bytes 9..10 during 1..2"),
        (Block("b", 1, 3, 5, -1), "lies at -1"),
        (Block("b", 2, 3, 5, 3, alignment=4), "no multiple of 4"),
        (Block("b", 2, 3, 5, 16), "ends at 21"),
    ],
)
def test_bad_plans_are_found(block: Block, word: str) -> None:
    blocks = [Block("a", 0, 2, 10, 0), block]
    assert any(word in v for v in violations(blocks, capacities={"": 20}))
    with pytest.raises(InternalError, match="EC150"):
        check_plan(blocks, capacities={"": 20})


def test_regions_are_apart() -> None:
    assert not violations(
        [Block("a", 0, 2, 10, 0, region="x"), Block("b", 0, 2, 10, 0, region="y")]
    )


def test_permissions_have_a_direction_and_a_distance() -> None:
    def bad(at: int, *permissions: Permission) -> bool:
        blocks = [Block("out", 1, 3, 10, 20), Block("in", 0, 2, 10, at)]
        return bool(violations(blocks, permissions))

    near = Permission("out", "in", 4)
    assert not bad(24, near)
    assert bad(23, near)
    assert bad(16, near)
    assert bad(24, Permission("in", "out", 4))
    same = Permission("out", "in", 0, exact=True)
    assert not bad(20, same)
    assert bad(21, same)


def test_it_agrees_with_looking_at_every_pair(random_problem: Any, broken: Any) -> None:
    seen = set()
    for seed in range(80):
        problem = random_problem(seed, 6, overlaps=True)
        offsets = list(allocate(problem).offsets)
        if seed % 2:
            offsets[seed % 6] = max(offsets[seed % 6] - 4, 0)
        blocks = [
            Block(i.id, i.lower, i.upper, i.size, o, i.alignment)
            for i, o in zip(problem.items, offsets, strict=True)
        ]
        permissions = [
            Permission(problem.items[a.below].id, problem.items[a.above].id, a.distance)
            for a in problem.allowed
        ]
        verdict = bool(violations(blocks, permissions))
        assert verdict == bool(broken(problem, offsets))
        seen.add(verdict)
    assert seen == {False, True}
