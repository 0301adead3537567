"""Which memory of a device each buffer goes to.

Regions are filled in the order of the target: the first one holds as much as fits, and what
touches memory least for its size moves on to the next one. Constants go to the first flash that has
room for them, largest first.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from edgec.profiles.memory.liveness import Life, lifetimes
from edgec.profiles.memory.program import Program
from edgec.targets.schema import Memory


@dataclass(frozen=True)
class Region:
    """A memory of the device.

    Attributes:
        name: as in the target file.
        kind: ``"ram"`` or ``"flash"``.
        bytes: its size; None for unlimited.
    """

    name: str
    kind: Literal["ram", "flash"]
    bytes: int | None

    @classmethod
    def of(cls, memory: Memory) -> Region:
        """That of a target's memory."""
        return cls(memory.name, "flash" if memory.kind == "flash" else "ram", memory.bytes)


ANY_RAM = Region("ram", "ram", None)
ANY_FLASH = Region("flash", "flash", None)


def place_constants(program: Program, regions: Sequence[Region]) -> dict[str, str]:
    """Region of each whole constant; what fits nowhere is put into the last flash."""
    flash = [r for r in regions if r.kind == "flash"] or [ANY_FLASH]
    constants = [b for b in program.buffers if b.kind == "constant" and b.parent is None]
    left = {r.name: r.bytes for r in flash}
    found: dict[str, str] = {}
    for b in sorted(constants, key=lambda b: (-b.size, b.id)):
        name = b.region or flash[-1].name
        if b.region is None:
            for region in flash:
                room = left[region.name]
                if room is None or room >= b.size + b.alignment:
                    name = region.name
                    break
        found[b.id] = name
        room = left.get(name)
        if room is not None:
            left[name] = room - b.size
    return found


def traffic(program: Program) -> dict[str, int]:
    """Calls that touch each whole buffer: what being in slow memory would cost."""
    roots = program.roots()
    found: dict[str, int] = {}
    for step, loop in program.steps():
        for id in (*step.inputs, *step.outputs, *step.scratch):
            found[roots[id]] = found.get(roots[id], 0) + (loop.count if loop else 1)
    return found


def crowded_out(
    program: Program,
    ids: Collection[str],
    capacity: int,
    lives: Mapping[str, Life] | None = None,
    *,
    most: int | None = None,
    smallest: bool = False,
) -> str | None:
    """The buffer to move out of a region of `capacity` bytes next; None when the rest may fit.

    Taken is, at the worst moment, the buffer whose bytes times life are largest for its traffic.

    Args:
        most: bytes of the largest buffer that has another place; None for any.
        smallest: take the smallest buffer that makes enough room instead, or the largest there is.
    """
    lives = lives or lifetimes(program)
    sizes = {b.id: b.size for b in program.buffers}
    fixed = {b.id for b in program.buffers if b.region is not None}
    uses = traffic(program)
    times = sorted({lives[id].lower for id in ids})
    worst = max(times, key=lambda t: sum(sizes[i] for i in ids if _at(lives[i], t)), default=None)
    if worst is None:
        return None
    live = [i for i in ids if _at(lives[i], worst)]
    excess = sum(sizes[i] for i in live) - capacity
    if excess <= 0:
        return None
    movable = [i for i in live if i not in fixed and (most is None or sizes[i] <= most)]
    if not movable:
        return None
    if smallest:
        enough = [i for i in movable if sizes[i] >= excess]
        return min(enough, key=lambda i: (sizes[i], i)) if enough else max(movable, key=sizes.get)  # type: ignore[arg-type]
    return max(
        movable, key=lambda i: (sizes[i] * (lives[i].upper - lives[i].lower) / uses.get(i, 1), i)
    )


def _at(life: Life, time: int) -> bool:
    return life.lower <= time < life.upper
