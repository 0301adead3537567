"""From a program to offsets in the memories of a device, checked."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from edgec.export.errors import InputError
from edgec.profiles.memory.allocate.bound import lower_bound
from edgec.profiles.memory.allocate.solve import Allocation, allocate
from edgec.profiles.memory.liveness import Arena, Life, arena, lifetimes
from edgec.profiles.memory.program import Program
from edgec.profiles.memory.regions import (
    ANY_RAM,
    Region,
    crowded_out,
    place_constants,
)
from edgec.profiles.memory.validate import validate
from edgec.profiles.memory.verify import Block, Permission, check_plan


@dataclass(frozen=True)
class Placed:
    """A whole buffer with its place: what DESIGN calls a row of ``buffers``."""

    id: str
    offset: int
    size: int
    lower: int
    upper: int
    region: str
    kind: str = "activation"
    module: str = ""

    def to_json(self) -> dict[str, Any]:
        """The fields, JSON-ready."""
        return {
            "id": self.id,
            "offset": self.offset,
            "size": self.size,
            "lower": self.lower,
            "upper": self.upper,
            "region": self.region,
            "kind": self.kind,
            "module": self.module,
        }


@dataclass(frozen=True)
class RegionUse:
    """What one memory is used for: `peak` bytes, of which `lower_bound` cannot be avoided."""

    name: str
    kind: str
    capacity: int | None
    peak: int
    lower_bound: int

    @property
    def fits(self) -> bool:
        return self.capacity is None or self.peak <= self.capacity


@dataclass(frozen=True)
class Plan:
    """Offsets of all buffers of a program.

    Attributes:
        program: what was planned; its steps are in the order of execution.
        buffers: whole buffers that live in RAM, in the program's order.
        constants: whole constants and the flash region each one goes to.
        regions: use of every region, in the target's order.
        peak, lower_bound: summed over RAM regions.
        proved: no plan for this order of steps needs less.
        solver, seconds: of the allocation that took longest.
    """

    program: Program
    buffers: tuple[Placed, ...]
    constants: tuple[Placed, ...]
    regions: tuple[RegionUse, ...]
    solver: str
    seconds: float
    permissions: tuple[Permission, ...] = field(default=(), repr=False)

    @property
    def peak(self) -> int:
        return sum(r.peak for r in self.regions if r.kind == "ram")

    @property
    def lower_bound(self) -> int:
        return sum(r.lower_bound for r in self.regions if r.kind == "ram")

    @property
    def proved(self) -> bool:
        return self.peak == self.lower_bound

    @property
    def gap(self) -> float:
        return self.peak / self.lower_bound - 1 if self.lower_bound else 0.0

    @property
    def fits(self) -> bool:
        return all(r.fits for r in self.regions)

    def offset(self, id: str) -> tuple[str, int]:
        """Region and byte offset of a buffer, parts included.

        Raises:
            KeyError: it is never used, so it has no place.
        """
        root = self.program.root(id)
        for placed in (*self.buffers, *self.constants):
            if placed.id == root:
                return placed.region, placed.offset + self.program.starts()[id]
        raise KeyError(id)

    def live(self, time: int) -> list[Placed]:
        """Buffers that are needed in step `time`, largest first."""
        found = [b for b in self.buffers if b.lower <= time < b.upper]
        return sorted(found, key=lambda b: (-b.size, b.id))

    def peak_step(self) -> int:
        """The step at which most bytes of RAM are live."""
        steps = range(max((b.upper for b in self.buffers), default=1))
        return max(steps, key=lambda t: (sum(b.size for b in self.live(t)), -t), default=0)

    def to_json(self) -> dict[str, Any]:
        """What ``edgec plan --json`` prints about it."""
        return {
            "peak": self.peak,
            "lower_bound": self.lower_bound,
            "gap": self.gap,
            "proved": self.proved,
            "solver": self.solver,
            "seconds": round(self.seconds, 3),
            "peak_step": self.peak_step(),
            "regions": [
                {
                    "name": r.name,
                    "kind": r.kind,
                    "bytes": r.capacity,
                    "peak": r.peak,
                    "lower_bound": r.lower_bound,
                    "fits": r.fits,
                }
                for r in self.regions
            ],
            "buffers": [b.to_json() for b in self.buffers],
        }


def plan(
    program: Program,
    regions: Sequence[Region] = (ANY_RAM,),
    *,
    overlaps: bool = True,
    io_outside: bool = False,
    time_limit: float = 10.0,
) -> Plan:
    """Plan a program for the memories of a device and check the result.

    Args:
        program: what runs.
        regions: memories, the preferred ones first.
        overlaps: let inputs and outputs of a step share bytes where its kernel allows it.
        io_outside: inputs and outputs of the network are the caller's and get no place.
        time_limit: seconds for all regions together.

    Raises:
        InputError: the program makes no sense.
        InternalError: the plan failed its check.
    """
    validate(program)
    names = {r.name for r in regions}
    for b in program.buffers:
        if b.region is not None and b.region not in names:
            raise InputError(
                "EC751",
                f"the program {program.name!r} makes no sense",
                where=b.id,
                why=f"it has to lie in {b.region!r}, the memories are {', '.join(sorted(names))}",
                fix="name a memory of the target",
            )
    kinds = {b.id: b.kind for b in program.buffers}
    ids = [i for i in lifetimes(program) if not (io_outside and kinds[i] in ("input", "output"))]
    ram = [r for r in regions if r.kind == "ram"] or [ANY_RAM]
    deadline = time.monotonic() + time_limit
    filled = _fill_all(program, ids, ram, overlaps, deadline)
    if len(ram) > 1 and not all(u.fits for u in filled.uses):
        # what costs least in slow memory was too large for it
        again = max(deadline, time.monotonic() + 1)
        other = _fill_all(program, ids, ram, overlaps, again, smallest=True)
        filled = other if all(u.fits for u in other.uses) else filled
    fixed = any(b.region is not None for b in program.buffers)
    if len(ram) > 1 and not fixed and not all(u.fits for u in filled.uses):
        # one arena says better what is missing than an overflow of the last memory
        alone = _fill_all(program, ids, ram[:1], overlaps, max(deadline, time.monotonic() + 1))
        empty = [RegionUse(r.name, "ram", r.bytes, 0, 0) for r in ram[1:]]
        filled = replace(alone, uses=[*alone.uses, *empty])
    constants, flash = _constants(program, regions)
    result = Plan(
        program,
        tuple(filled.placed[b.id] for b in program.buffers if b.id in filled.placed),
        constants,
        (*filled.uses, *flash),
        filled.solver,
        filled.seconds,
        tuple(filled.permissions),
    )
    alignments = {b.id: b.alignment for b in program.buffers}
    check_plan(
        [
            Block(p.id, p.lower, p.upper, p.size, p.offset, alignments[p.id], p.region)
            for p in result.buffers
        ],
        result.permissions,
    )
    return result


@dataclass(frozen=True)
class _Filled:
    """Buffers in RAM regions, and what it took to place them."""

    placed: dict[str, Placed]
    uses: list[RegionUse]
    permissions: list[Permission]
    solver: str
    seconds: float


@dataclass(frozen=True)
class _Moves:
    """How buffers leave a region.

    Attributes:
        last: there is no other region; everything stays.
        most: bytes of the largest of the other ones, None where one has no limit.
        smallest: as for `crowded_out`.
    """

    last: bool
    most: int | None
    smallest: bool


def _fill_all(
    program: Program,
    ids: Sequence[str],
    ram: Sequence[Region],
    overlaps: bool,
    deadline: float,
    *,
    smallest: bool = False,
) -> _Filled:
    """Fill one region after the other; the last one takes all that is left."""
    lives = lifetimes(program)
    by_id = {b.id: b for b in program.buffers}
    left = list(ids)
    placed: dict[str, Placed] = {}
    uses: list[RegionUse] = []
    permissions: list[Permission] = []
    solver, seconds = "empty", 0.0
    for number, region in enumerate(ram):
        last = number + 1 == len(ram)
        rooms = [r.bytes for r in ram[number + 1 :]]
        sizes = [size for size in rooms if size is not None]
        most = max(sizes) if sizes and len(sizes) == len(rooms) else None
        moves = _Moves(last, most, smallest)
        mine, found, allocation = _fill(program, lives, left, region, moves, overlaps, deadline)
        for members, offset in zip(found.members, allocation.offsets, strict=True):
            for id in members:
                life, b = lives[id], by_id[id]
                placed[id] = Placed(
                    id, offset, b.size, life.lower, life.upper, region.name, b.kind, b.module
                )
        permissions += _permissions(found)
        left = [id for id in left if id not in mine]
        uses.append(
            RegionUse(region.name, "ram", region.bytes, allocation.peak, allocation.lower_bound)
        )
        if allocation.seconds >= seconds:
            solver, seconds = allocation.solver, allocation.seconds
    return _Filled(placed, uses, permissions, solver, seconds)


def _fill(
    program: Program,
    lives: dict[str, Life],
    left: list[str],
    region: Region,
    moves: _Moves,
    overlaps: bool,
    deadline: float,
) -> tuple[set[str], Arena, Allocation]:
    """As much as fits into a region; all of it into the last one."""
    by_id = {b.id: b for b in program.buffers}
    mine = {id for id in left if by_id[id].region in (None, region.name)}
    limit = None if moves.last else region.bytes
    while True:
        found = arena(program, mine, overlaps=overlaps)
        if not limit or lower_bound(found.problem) <= limit:
            spare = max(deadline - time.monotonic(), 0.1)
            allocation = allocate(found.problem, time_limit=spare)
            if not limit or region.bytes is None or allocation.peak <= region.bytes:
                return mine, found, allocation
            # the sum fits, the offsets do not: make room
            limit = limit * 15 // 16
        victim = crowded_out(program, mine, limit, lives, most=moves.most, smallest=moves.smallest)
        if victim is not None:
            mine.discard(victim)
        elif lower_bound(found.problem) > limit:
            # what is left has to lie here
            limit = None


def _permissions(found: Arena) -> list[Permission]:
    items = found.problem.items
    permissions = [
        Permission(items[a.below].id, items[a.above].id, a.distance) for a in found.problem.allowed
    ]
    for ids in found.members:
        permissions += [Permission(a, b, 0, True) for a in ids for b in ids if a != b]
    return permissions


def _constants(
    program: Program, regions: Sequence[Region]
) -> tuple[tuple[Placed, ...], list[RegionUse]]:
    names = place_constants(program, regions)
    flash = [r for r in regions if r.kind == "flash"]
    used = {r.name: 0 for r in flash}
    placed = []
    for b in program.buffers:
        if b.id not in names:
            continue
        region = names[b.id]
        start = -(-used.get(region, 0) // b.alignment) * b.alignment
        used[region] = start + b.size
        placed.append(Placed(b.id, start, b.size, 0, 0, region, b.kind, b.module))
    return tuple(placed), [
        RegionUse(r.name, "flash", r.bytes, used[r.name], used[r.name]) for r in flash
    ]
