"""The Pareto front of a multiple-choice knapsack.

One option is chosen per block; costs and losses add up. All assignments that no other one beats in
both are found by dynamic programming over blocks, dropping dominated partial sums, which is exact
(Nemhauser, Ullmann, "Discrete dynamic programming and capital allocation", 1969); it is the integer
programme of HAWQ-v3 (Yao et al., arXiv 2011.10680) solved for all budgets at once. Only if a front
has more than `limit` points are points of nearly equal cost merged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Choice:
    """An assignment: option number per block, with summed cost and loss."""

    cost: float
    loss: float
    options: tuple[int, ...]


def pareto_front(
    costs: Sequence[Sequence[float]], losses: Sequence[Sequence[float]], *, limit: int = 4096
) -> tuple[Choice, ...]:
    """All undominated assignments, cheapest first; losses fall strictly along the front.

    Args:
        costs: per block, the cost of each option.
        losses: per block, the loss of each option; same lengths.
        limit: most points kept after each block.
    """
    front: list[Choice] = [Choice(0.0, 0.0, ())]
    for block_costs, block_losses in zip(costs, losses, strict=True):
        grown = [
            Choice(choice.cost + cost, choice.loss + loss, (*choice.options, option))
            for choice in front
            for option, (cost, loss) in enumerate(zip(block_costs, block_losses, strict=True))
        ]
        front = _thinned(_undominated(grown), limit)
    return tuple(front)


def _undominated(choices: Sequence[Choice]) -> list[Choice]:
    result: list[Choice] = []
    for choice in sorted(choices, key=lambda c: (c.cost, c.loss, c.options)):
        if not result or choice.loss < result[-1].loss:
            result.append(choice)
    return result


def _thinned(front: list[Choice], limit: int) -> list[Choice]:
    """Of points in the same of `limit` equal cost intervals keep the one with the least loss."""
    if len(front) <= limit:
        return front
    low, high = front[0].cost, front[-1].cost
    kept: dict[int, Choice] = {}
    for choice in front[1:]:
        kept[min(limit - 2, int((choice.cost - low) / (high - low) * (limit - 1)))] = choice
    return [front[0], *kept.values()]
