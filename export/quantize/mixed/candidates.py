"""Assignments of precisions that a search may measure: which are affordable, and which to try."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

import numpy as np

from edgec.export.errors import BudgetError
from edgec.export.quantize.mixed.choice import Assignment, Cost


@dataclass(frozen=True)
class Candidate:
    """An assignment, what it costs, and the divergence that its blocks alone add up to, in nats."""

    assignment: Assignment
    cost: Cost
    predicted: float


def within_bytes(candidates: Sequence[Candidate], most: int) -> list[Candidate]:
    """Those with at most so many bytes of weights.

    Raises:
        BudgetError: EC582, none.
    """
    found = [c for c in candidates if c.cost.bytes <= most]
    least = min(c.cost.bytes for c in candidates)
    return found or _none(f"has at most {most} bytes of weights", f"the smallest has {least}")


def within_time(candidates: Sequence[Candidate], most: float) -> list[Candidate]:
    """Those that are predicted to take at most so many milliseconds.

    Raises:
        BudgetError: EC582, none.
    """
    found = [c for c in candidates if c.cost.milliseconds <= most]
    least = min(c.cost.milliseconds for c in candidates)
    why = f"the fastest is predicted to take {least:.3g} ms"
    return found or _none(f"is predicted to take at most {most:g} ms", why)


def _none(what: str, why: str) -> NoReturn:
    raise BudgetError(
        "EC582",
        f"no assignment of precisions {what}",
        why=why,
        fix="allow more bytes or time, or export a smaller network",
    )


def spread(candidates: Sequence[Candidate], points: int) -> list[Candidate]:
    """At most `points`, evenly spaced along the logarithm of the predicted loss, ends included.

    Accuracy depends on orders of magnitude of the divergence; most of a front's points crowd at its
    precise end.
    """
    if len(candidates) <= points:
        return list(candidates)
    floor = min(c.predicted for c in candidates if c.predicted > 0) if len(candidates) > 1 else 1.0
    position = [math.log(max(c.predicted, floor)) for c in candidates]
    wanted = np.linspace(position[0], position[-1], max(points - 1, 2))
    nearest = {int(np.argmin(np.abs(np.array(position) - w))) for w in wanted}
    return [candidates[i] for i in sorted(nearest | {0, len(candidates) - 1})]
