"""Cuts a problem into parts that can be solved apart: where nothing is live, nothing is shared."""

from __future__ import annotations

from dataclasses import dataclass

from edgec.profiles.memory.problem import Allowed, Problem


@dataclass(frozen=True)
class Part:
    """Items of a problem that share no moment with the others.

    Attributes:
        problem: of these items alone.
        indices: where they are in the whole problem.
    """

    problem: Problem
    indices: tuple[int, ...]


def split(problem: Problem) -> list[Part]:
    """Parts in order of time; their items cover the problem's."""
    order = sorted(range(len(problem.items)), key=lambda i: (problem.items[i].lower, i))
    groups: list[list[int]] = []
    end = None
    for i in order:
        item = problem.items[i]
        if end is None or item.lower >= end:
            groups.append([])
        groups[-1].append(i)
        end = item.upper if end is None else max(end, item.upper)
    return [_part(problem, sorted(group)) for group in groups]


def _part(problem: Problem, group: list[int]) -> Part:
    place = {i: n for n, i in enumerate(group)}
    allowed = tuple(
        Allowed(place[a.below], place[a.above], a.distance)
        for a in problem.allowed
        if a.below in place
    )
    return Part(Problem(tuple(problem.items[i] for i in group), allowed), tuple(group))
