"""Lower bounds on the arena."""

from __future__ import annotations

from edgec.profiles.memory.problem import Problem


def lower_bound(problem: Problem) -> int:
    """Bytes live together at the worst moment, allowed overlaps used to the full.

    No plan needs less. It is reached in nearly all networks, but not always: offsets of buffers
    with long lives can be in each other's way (and alignment can leave holes).
    """
    return max(
        max(problem.section_totals, default=0),
        max((item.size for item in problem.items), default=0),
    )


def raise_to_unit(problem: Problem, peak: int) -> int:
    """The least multiple of the problem's unit that is not under `peak`."""
    return -(-peak // problem.unit) * problem.unit
