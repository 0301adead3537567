"""The memories that a network works in: one arena, or one in each of several."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edgec.export.emit.c.text import identifier
from edgec.profiles.memory.plan import Plan


@dataclass(frozen=True)
class Arena:
    """Working memory in one memory of the device.

    Attributes:
        name: a C identifier; the only arena of a network is called ``arena``.
        region: name of the memory in the target.
        bytes: what the plan needs there.
        capacity: what the memory has, where that is known.
        base: address of the memory, where that is known.
    """

    name: str
    region: str
    bytes: int
    capacity: int | None = None
    base: int | None = None

    @property
    def upper(self) -> str:
        """Its name in macros."""
        return self.name.upper()


def arenas_of(plan: Plan, bases: Mapping[str, int] | None = None) -> tuple[Arena, ...]:
    """The RAM regions that a plan uses, in its order.

    Args:
        bases: addresses by region.
    """
    used = [r for r in plan.regions if r.kind == "ram" and r.peak > 0]
    if len(used) <= 1:
        name, capacity = (used[0].name, used[0].capacity) if used else ("ram", None)
        return (Arena("arena", name, plan.peak, capacity, (bases or {}).get(name)),)
    found: list[Arena] = []
    for region in used:
        name = base = identifier(region.name, "ram")
        number = 1
        while name in {other.name for other in found}:
            number += 1
            name = f"{base}_{number}"
        place = (bases or {}).get(region.name)
        found.append(Arena(name, region.name, region.peak, region.capacity, place))
    return tuple(found)
