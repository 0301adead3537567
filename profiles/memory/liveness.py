"""When buffers live, and the allocation problem that follows.

Time is counted in steps: step n spans [n, n + 1). What a loop touches lives through the whole loop,
because its next round may need it, unless every round writes all of it anew before reading it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from edgec.profiles.memory.problem import Allowed, Item, Problem
from edgec.profiles.memory.program import Buffer, Loop, Program, Step


@dataclass(frozen=True)
class Life:
    """A whole buffer is needed in steps [lower, upper)."""

    lower: int
    upper: int


@dataclass(frozen=True)
class Arena:
    """The allocation problem of some buffers of a program.

    Attributes:
        problem: the items.
        members: for each item the ids of the whole buffers in it; several where a kernel works in
            place, which then lie at the same address.
    """

    problem: Problem
    members: tuple[tuple[str, ...], ...]


def lifetimes(program: Program) -> dict[str, Life]:
    """Life of each whole buffer that is not a constant; buffers without use are left out.

    Inputs live from the start, also those that nothing reads: they are written all the same.
    Outputs live to the end.
    """
    roots = program.roots()
    entries_of: dict[str, set[int]] = {}
    for n, (_, _, body) in enumerate(_entries(program)):
        for step in body:
            for id in _touched(step):
                entries_of.setdefault(roots[id], set()).add(n)
    kinds = {b.id: b for b in program.buffers}
    lives: dict[str, Life] = {}

    def need(root: str, lower: int, upper: int) -> None:
        if kinds[root].kind != "constant":
            old = lives.get(root, Life(lower, upper))
            lives[root] = Life(min(old.lower, lower), max(old.upper, upper))

    end = 0
    for begin, end, body in _entries(program):
        local = _local(body, roots, kinds, entries_of) if len(body) > 1 else set()
        for time, step in enumerate(body, start=begin):
            for id in _touched(step):
                root = roots[id]
                if root in local:
                    need(root, time, time + 1)
                else:
                    need(root, begin, end)
    for b in program.buffers:
        root = roots[b.id]
        if b.kind == "input" and end:
            need(root, 0, 1)
        if root in lives and b.kind == "output":
            need(root, end - 1, end)
    return lives


def arena(program: Program, ids: Collection[str], *, overlaps: bool = True) -> Arena:
    """The allocation problem of the whole buffers `ids`, with the overlaps that the steps allow.

    Args:
        program: a valid program.
        ids: whole buffers that share one region.
        overlaps: False keeps input and output of every step apart.
    """
    lives = lifetimes(program)
    by_id = {b.id: b for b in program.buffers}
    chosen = [b.id for b in program.buffers if b.id in ids and b.id in lives]
    found = list(_usable(program, lives, by_id, set(chosen))) if overlaps else []
    group = {id: id for id in chosen}
    for below, above, _, exact in found:
        if exact and by_id[below].size == by_id[above].size:
            keep, drop = sorted((group[below], group[above]), key=chosen.index)
            group = {id: keep if g == drop else g for id, g in group.items()}
    heads = [id for id in chosen if group[id] == id]
    members = tuple(tuple(i for i in chosen if group[i] == head) for head in heads)
    items = tuple(
        Item(
            head,
            min(lives[i].lower for i in ids_),
            max(lives[i].upper for i in ids_),
            by_id[head].size,
            max(by_id[i].alignment for i in ids_),
        )
        for head, ids_ in zip(heads, members, strict=True)
    )
    index = {id: heads.index(group[id]) for id in chosen}
    closest: dict[tuple[int, int], int] = {}
    for below, above, distance, exact in found:
        pair = index[below], index[above]
        # merged buffers overlap others for longer than the step whose kernel allows it
        alone = len(members[pair[0]]) == len(members[pair[1]]) == 1
        if not exact and pair[0] != pair[1] and alone:
            closest[pair] = max(closest.get(pair, 0), distance)
    allowed = tuple(Allowed(b, a, d) for (b, a), d in closest.items() if d < items[b].size)
    return Arena(Problem(items, allowed), members)


def _usable(
    program: Program, lives: dict[str, Life], by_id: dict[str, Buffer], chosen: set[str]
) -> Iterator[tuple[str, str, int, bool]]:
    """Overlaps between whole buffers of which one dies where the other is born."""
    roots = program.roots()
    for begin, end, body in _entries(program):
        for step in body:
            for overlap in step.overlaps:
                below, above = roots[overlap.below], roots[overlap.above]
                into = above if overlap.above in step.inputs else below
                out = below if into == above else above
                whole = all(
                    by_id[part].size == by_id[root].size
                    for part, root in ((overlap.below, below), (overlap.above, above))
                )
                if (
                    whole
                    and below != above
                    and {below, above} <= chosen
                    and lives[into].upper == end
                    and lives[out].lower == begin
                ):
                    yield below, above, overlap.distance, overlap.exact


def _entries(program: Program) -> Iterator[tuple[int, int, tuple[Step, ...]]]:
    """First step, end and steps of each entry of the body."""
    time = 0
    for entry in program.body:
        body = entry.body if isinstance(entry, Loop) else (entry,)
        yield time, time + len(body), body
        time += len(body)


def _touched(step: Step) -> tuple[str, ...]:
    return (*step.inputs, *step.outputs, *step.scratch)


def _local(
    body: tuple[Step, ...],
    roots: dict[str, str],
    by_id: dict[str, Buffer],
    entries_of: dict[str, set[int]],
) -> set[str]:
    """Whole buffers of a loop that no round hands on to the next one."""
    written: set[str] = set()
    local: set[str] = set()
    for step in body:
        for id in (*step.outputs, *step.scratch):
            root = roots[id]
            if (
                root not in written
                and (step.rows is None or id in step.scratch)
                and by_id[id].size == by_id[root].size
                and by_id[root].ring is None
                and by_id[root].kind in ("activation", "scratch")
                and len(entries_of[root]) == 1
            ):
                local.add(root)
            written.add(root)
        for id in step.inputs:
            if roots[id] not in written:
                # what an earlier round left there
                written.add(roots[id])
    return local
