"""How many TRANSPOSE operators of a network are left-overs of another layout."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgec.export.tflite.model import Model, Operator

SPATIAL = frozenset(
    "CONV_2D DEPTHWISE_CONV_2D TRANSPOSE_CONV MAX_POOL_2D AVERAGE_POOL_2D RESIZE_BILINEAR "
    "RESIZE_NEAREST_NEIGHBOR".split()
)
_MIXING = frozenset(
    "FULLY_CONNECTED BATCH_MATMUL RESHAPE SOFTMAX MEAN SUM L2_NORMALIZATION".split()
)
"""Operators across which an order of axes means something: behind them it is another tensor."""
_TOKENS = frozenset({"RESHAPE", "BATCH_MATMUL"})
Steps = Callable[[Operator], Sequence[Operator]]


@dataclass(frozen=True)
class LayoutCopies:
    """Counts of TRANSPOSE operators.

    Attributes:
        total: all of them.
        between_spatial: those with nothing but element-wise operators between two operators that
            work on images: a channels-last network needs none.
        beside_tokens: further ones there whose element-wise neighbours matrix products read as
            tokens as well, which want another order than convolutions.
    """

    total: int
    between_spatial: int
    beside_tokens: int


def layout_copies(model: Model) -> LayoutCopies:
    """Count the transposes of the main subgraph."""
    operators = model.main.operators
    producer = {o: op for op in operators for o in op.outputs}
    readers: dict[int, list[Operator]] = {}
    for op in operators:
        for i in op.inputs:
            readers.setdefault(i, []).append(op)

    def before(op: Operator) -> list[Operator]:
        return [producer[i] for i in op.inputs if i in producer]

    def behind(op: Operator) -> list[Operator]:
        return [user for o in op.outputs for user in readers.get(o, [])]

    def reaches(op: Operator, onward: Steps, *, past_tokens: bool) -> bool:
        waiting, seen = list(onward(op)), set()
        while waiting:
            found = waiting.pop()
            if id(found) in seen or found.code in _MIXING:
                continue
            seen.add(id(found))
            if found.code in SPATIAL:
                return True
            if past_tokens or not any(user.code in _TOKENS for user in behind(found)):
                waiting += onward(found)
        return False

    def count(*, past_tokens: bool) -> int:
        return sum(
            all(reaches(op, onward, past_tokens=past_tokens) for onward in (before, behind))
            for op in operators
            if op.code == "TRANSPOSE"
        )

    total = sum(op.code == "TRANSPOSE" for op in operators)
    between = count(past_tokens=False)
    return LayoutCopies(total, between, count(past_tokens=True) - between)
