"""Feasibility search for buffer offsets in Python: the reference of ``core.c``, and its stand-in.

Only canonical solutions are visited (Moffitt, MiniMalloc, ASPLOS 2023): every buffer lies at
address 0 or rests on another one, and buffers are placed in order of address. Each node takes a
buffer that can lie lowest and either places it there or refuses the place. A refused buffer has to
rest on one that is not placed yet; this raises its lowest address, often that of a whole section of
time, and a section whose buffers no longer fit over their lowest addresses ends the branch.

Where no unplaced buffer crosses a moment, both sides are searched apart. There refusals are
dropped (they only avoid searching twice), so that a failure is one of that part alone: it stays
while the placements under the part stay, and the search jumps back to the last of them. States
that failed are remembered by a fingerprint.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Protocol

from edgec.profiles.memory.allocate.orders import Strategy
from edgec.profiles.memory.allocate.outcome import Outcome
from edgec.profiles.memory.problem import Problem, Share

_FAR = 1 << 62


class Stop(Protocol):
    """Says whether a search should end."""

    def is_set(self) -> bool: ...


class _LimitReached(Exception):
    """Nodes of this round, or all time, are spent."""


def search(
    problem: Problem,
    capacity: int,
    strategies: Sequence[Strategy],
    *,
    seconds: float,
    stop: Stop | None = None,
) -> Outcome:
    """Offsets with a peak of at most `capacity`, by searches in turn over several strategies.

    Each round over the strategies has twice the node limit of the one before. Returns
    ``"infeasible"`` only when a search has ended without a limit.
    """
    deadline = time.monotonic() + seconds
    run = _Search(problem, capacity, deadline, stop)
    factor = 1
    before = sys.getrecursionlimit()
    # two frames for each buffer that is placed
    sys.setrecursionlimit(max(before, 4 * len(problem.items) + 1000))
    try:
        while True:
            for strategy in strategies:
                found = run.round(strategy, strategy.limit * factor)
                if found is None and run.out_of_time:
                    return Outcome("limit", None, run.nodes)
                if found is True:
                    return Outcome("found", list(run.offset), run.nodes)
                if found is False:
                    return Outcome("infeasible", None, run.nodes)
            factor *= 2
    finally:
        sys.setrecursionlimit(before)


class _Search:
    def __init__(self, problem: Problem, capacity: int, deadline: float, stop: Stop | None) -> None:
        self.items = problem.items
        self.spans = problem.sections.spans
        self.sections = problem.sections.count
        self.capacity = capacity
        self.deadline = deadline
        self.stop = stop
        self.nodes = 0
        self.out_of_time = False
        # other, least distance of the other over this, and of this over the other
        self.near: list[list[tuple[int, int, int]]] = [[] for _ in self.items]
        for p in problem.pairs:
            self.near[p.first].append((p.second, p.over, p.under))
            self.near[p.second].append((p.first, p.under, p.over))
        self.shares: list[list[Share]] = [[] for _ in range(self.sections)]
        for share in problem.shares:
            self.shares[share.section].append(share)
        self.members: list[list[int]] = [[] for _ in range(self.sections)]
        for i, (first, last) in enumerate(self.spans):
            for section in range(first, last):
                self.members[section].append(i)
        self.failures: set[frozenset[tuple[int, int, int]]] = set()

    def round(self, strategy: Strategy, limit: int) -> bool | None:
        """Search once: found, infeasible, or None when the limit was reached."""
        count = len(self.items)
        self.by_crowd = strategy.by_crowd
        self.left = limit
        self.offset = [-1] * count
        self.base = [0] * count
        self.stamp = [0] * count
        self.low = [0] * count
        self.refused = [0] * count
        self.total = [sum(self.items[i].size for i in members) for members in self.members]
        self.crossing = [0] * self.sections
        for first, last in self.spans:
            for section in range(first, last - 1):
                self.crossing[section] += 1
        self.depth = 0
        self.jump = 0
        self.trail: list[tuple[list[int] | None, int, int]] = []
        if not self._fits(0, self.sections):
            return False
        try:
            return self._descend(list(strategy.order), 0, self.sections)
        except _LimitReached:
            return None

    def _descend(self, items: list[int], first: int, last: int) -> bool:
        """Search the unplaced items, part by part where no unplaced item crosses."""
        if all(self.crossing[s] > 0 for s in range(first, last - 1)):
            return self._search(items, first, last, fresh=False)
        begin = first
        for section in range(first, last):
            if section + 1 < last and self.crossing[section] > 0:
                continue
            part = [
                i
                for i in items
                if self.offset[i] < 0
                and self.spans[i][0] >= begin
                and self.spans[i][1] <= section + 1
            ]
            if part and not self._search(part, begin, section + 1, fresh=True):
                return False
            begin = section + 1
        return True

    def _search(self, items: list[int], first: int, last: int, *, fresh: bool) -> bool:
        start = len(self.trail)
        newest = self.depth
        if fresh:
            newest = 0
            for i in items:
                self._set(self.refused, i, 0)
                self._set(self.low, i, self.base[i])
                newest = max(newest, self.stamp[i])
        state = frozenset((i, self.low[i], self.refused[i]) for i in items if self.offset[i] < 0)
        if state in self.failures:
            self._undo(start)
            self.jump = newest
            return False
        while True:
            self._count()
            i = self._choose(items)
            if i == -1:
                return True
            if i == -2:
                break
            mark = len(self.trail)
            mine = self.depth + 1
            if self._place(i):
                if self._descend(items, first, last):
                    return True
                if self.jump < mine:
                    newest = min(newest, self.jump)
                    break
            self._undo(mark)
            if not self._refuse(i):
                break
        self._undo(start)
        self.failures.add(state)
        self.jump = newest
        return False

    def _count(self) -> None:
        self.nodes += 1
        self.left -= 1
        if self.left < 0:
            raise _LimitReached
        stopped = self.stop is not None and self.stop.is_set()
        if self.nodes % 64 == 0 and (stopped or time.monotonic() > self.deadline):
            self.out_of_time = True
            raise _LimitReached

    def _choose(self, items: list[int]) -> int:
        """The item to decide next, -1 when all are placed, -2 when one no longer can be."""
        while True:
            free = [i for i in items if self.offset[i] < 0]
            if not free:
                return -1
            level = min(self.low[i] for i in free)
            candidates = [i for i in free if self.low[i] == level and not self.refused[i]]
            raised = False
            for i in free:
                if self.refused[i]:
                    address = self._rest_on_unplaced(i)
                    if address > self.low[i]:
                        self._set(self.low, i, address)
                        if not self._room(i) or not self._fits(*self.spans[i]):
                            return -2
                        raised = True
            if not raised:
                if not candidates:
                    return -2
                if self.by_crowd:
                    return max(candidates, key=lambda i: max(self.total[slice(*self.spans[i])]))
                return candidates[0]

    def _place(self, i: int) -> bool:
        at = self.low[i]
        first, last = self.spans[i]
        self.trail.append((None, i, 0))
        self.offset[i] = at
        self.depth += 1
        for section in range(first, last):
            self.total[section] -= self.items[i].size
        for section in range(first, last - 1):
            self.crossing[section] -= 1
        fits = self._room(i)
        for j, over, _ in self.near[i]:
            if self.offset[j] >= 0:
                continue
            floor = _aligned(at + over, self.items[j].alignment)
            if floor > self.base[j]:
                self._set(self.base, j, floor)
                self._set(self.stamp, j, self.depth)
            if floor >= self.low[j]:
                self._set(self.refused, j, 0)
                if floor > self.low[j]:
                    self._set(self.low, j, floor)
                    fits = fits and self._room(j)
                    first = min(first, self.spans[j][0])
                    last = max(last, self.spans[j][1])
        return fits and self._fits(first, last)

    def _unplace(self, i: int) -> None:
        self.offset[i] = -1
        self.depth -= 1
        first, last = self.spans[i]
        for section in range(first, last):
            self.total[section] += self.items[i].size
        for section in range(first, last - 1):
            self.crossing[section] += 1

    def _refuse(self, i: int) -> bool:
        self._set(self.refused, i, 1)
        address = self._rest_on_unplaced(i)
        if address <= self.low[i]:
            return True
        self._set(self.low, i, address)
        return self._room(i) and self._fits(*self.spans[i])

    def _rest_on_unplaced(self, i: int) -> int:
        best = min(
            (self.low[j] + under for j, _, under in self.near[i] if self.offset[j] < 0),
            default=_FAR,
        )
        return _FAR if best >= _FAR else _aligned(best, self.items[i].alignment)

    def _room(self, i: int) -> bool:
        return self.low[i] + self.items[i].size <= self.capacity

    def _fits(self, first: int, last: int) -> bool:
        """Whether what is unplaced in each section still fits over its lowest addresses.

        The buffers that lie at or over an address are stacked from there: the bound of one machine
        with release dates.
        """
        for section in range(first, last):
            free = [i for i in self.members[section] if self.offset[i] < 0]
            # shared bytes are not told apart by buffer: all are allowed at every address
            room = self.capacity + self._saved(section)
            stacked = 0
            for i in sorted(free, key=lambda i: -self.low[i]):
                stacked += self.items[i].size
                if self.low[i] + stacked > room:
                    return False
        return True

    def _saved(self, section: int) -> int:
        """Most bytes that overlaps can save among what is not placed in a section."""
        groups: dict[int, tuple[int, int]] = {}
        for share in self.shares[section]:
            if self.offset[share.below] < 0 and self.offset[share.above] < 0:
                groups[share.below] = groups.get(share.below, (0, 0))[0] + share.shared, share.cap
        return sum(min(total, cap) for total, cap in groups.values())

    def _set(self, values: list[int], i: int, new: int) -> None:
        if values[i] != new:
            self.trail.append((values, i, values[i]))
            values[i] = new

    def _undo(self, mark: int) -> None:
        while len(self.trail) > mark:
            values, i, old = self.trail.pop()
            if values is None:
                self._unplace(i)
            else:
                values[i] = old


def _aligned(address: int, alignment: int) -> int:
    return -(-address // alignment) * alignment
