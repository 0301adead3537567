"""Checks plans. Nothing here is shared with what makes them.

A plan is correct when every buffer lies inside its region at a multiple of its alignment, and no
two buffers of a region that live at the same moment share a byte, except where a step says how far
apart its input and output have to be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgec.export.errors import InternalError


@dataclass(frozen=True)
class Block:
    """A placed buffer: bytes [offset, offset + size) of a region during [lower, upper)."""

    id: str
    lower: int
    upper: int
    size: int
    offset: int
    alignment: int = 1
    region: str = ""


@dataclass(frozen=True)
class Permission:
    """Two blocks may share bytes if the offset of `above` is at least `distance` over `below`'s.

    With `exact` only equal offsets are safe.
    """

    below: str
    above: str
    distance: int
    exact: bool = False

    def covers(self, below: int, above: int) -> bool:
        """Whether these offsets are safe."""
        return above == below if self.exact else above - below >= self.distance


def violations(
    blocks: Sequence[Block],
    permissions: Sequence[Permission] = (),
    capacities: Mapping[str, int] | None = None,
) -> list[str]:
    """What is wrong with a plan, one sentence each; empty for a correct plan.

    Args:
        blocks: all placed buffers.
        permissions: overlaps that are safe.
        capacities: bytes of each region; regions not named are unlimited.
    """
    found = []
    by_pair: dict[tuple[str, str], list[Permission]] = {}
    for permission in permissions:
        by_pair.setdefault((permission.below, permission.above), []).append(permission)
    for block in blocks:
        if block.offset < 0:
            found.append(f"{block.id} lies at {block.offset}")
        if block.offset % block.alignment:
            found.append(f"{block.id} lies at {block.offset}, no multiple of {block.alignment}")
        end = block.offset + block.size
        limit = (capacities or {}).get(block.region)
        if limit is not None and end > limit:
            found.append(f"{block.id} ends at {end}, {block.region or 'the arena'} at {limit}")
    for a, b in _sharing(blocks):
        safe = any(p.covers(a.offset, b.offset) for p in by_pair.get((a.id, b.id), ())) or any(
            p.covers(b.offset, a.offset) for p in by_pair.get((b.id, a.id), ())
        )
        if not safe:
            found.append(
                f"{a.id} and {b.id} share bytes "
                f"{max(a.offset, b.offset)}..{min(a.offset + a.size, b.offset + b.size)} "
                f"during {max(a.lower, b.lower)}..{min(a.upper, b.upper)}"
            )
    return found


def _sharing(blocks: Sequence[Block]) -> list[tuple[Block, Block]]:
    """Pairs that have a byte and a moment in common: a sweep over time."""
    events = sorted(
        [(block.lower, 1, n) for n, block in enumerate(blocks)]
        + [(block.upper, 0, n) for n, block in enumerate(blocks)]
    )
    live: set[int] = set()
    pairs = []
    for _, born, n in events:
        if not born:
            live.discard(n)
            continue
        block = blocks[n]
        for m in sorted(live):
            other = blocks[m]
            if (
                other.region == block.region
                and other.offset < block.offset + block.size
                and block.offset < other.offset + other.size
            ):
                pairs.append((other, block))
        live.add(n)
    return pairs


def check_plan(
    blocks: Sequence[Block],
    permissions: Sequence[Permission] = (),
    capacities: Mapping[str, int] | None = None,
) -> None:
    """Raise unless the plan is correct.

    Raises:
        InternalError: with the first violations; a planner that makes such a plan has a bug.
    """
    found = violations(blocks, permissions, capacities)
    if found:
        raise InternalError(
            "EC150",
            "a memory plan failed its check",
            why="; ".join(found[:3]) + (f"; and {len(found) - 3} more" if len(found) > 3 else ""),
            fix="please report this with the model and the command",
        )
