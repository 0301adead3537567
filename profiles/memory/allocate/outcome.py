"""What a search for offsets under a capacity says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Outcome:
    """Answer of a feasibility search.

    Attributes:
        status: ``"infeasible"`` is a proof; ``"limit"`` says nothing about feasibility.
        offsets: of all items, when found.
        nodes: decisions taken.
    """

    status: Literal["found", "infeasible", "limit"]
    offsets: list[int] | None
    nodes: int
