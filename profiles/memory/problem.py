"""The allocation problem: rectangles fixed in time, free in address.

Offset allocation of buffers with known life times (dynamic storage allocation in the offline case;
NP-hard, Garey & Johnson 1979, problem SR2). Times are integers, a buffer lives in [lower, upper).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Item:
    """One buffer: lives in [lower, upper), takes `size` bytes at a multiple of `alignment`."""

    id: str
    lower: int
    upper: int
    size: int
    alignment: int = 1


@dataclass(frozen=True)
class Allowed:
    """Two items that may share bytes although they live together.

    Attributes:
        below, above: indices of items.
        distance: ``offset[above] - offset[below] >= distance`` is enough, where disjoint items
            would need the size of `below`; from 0 to that size, in bytes.
    """

    below: int
    above: int
    distance: int


@dataclass(frozen=True)
class Pair:
    """Two items that live together, and how far apart they have to be.

    Attributes:
        over: least ``offset[second] - offset[first]`` with the second one above.
        under: least ``offset[first] - offset[second]`` with the first one above.
    """

    first: int
    second: int
    over: int
    under: int


@dataclass(frozen=True)
class Share:
    """Bytes that two items may have in common in one section.

    Attributes:
        section: where both live.
        below, above: the items of an allowed overlap.
        shared: most bytes that both can occupy together.
        cap: most bytes that `below` can share with all others of the section together.
    """

    section: int
    below: int
    above: int
    shared: int
    cap: int


@dataclass(frozen=True)
class Problem:
    """Items and the overlaps that are allowed between them.

    Raises:
        ValueError: an item that lives for no time or has no bytes, an alignment under 1, or an
            allowed overlap of items that do not exist or never live together.
    """

    items: tuple[Item, ...]
    allowed: tuple[Allowed, ...] = ()

    def __post_init__(self) -> None:
        for item in self.items:
            if item.upper <= item.lower or item.size <= 0 or item.alignment < 1:
                raise ValueError(f"not a buffer: {item}")
        for entry in self.allowed:
            if not (0 <= entry.below < len(self.items) and 0 <= entry.above < len(self.items)):
                raise ValueError(f"unknown item in {entry}")
            if not together(self.items[entry.below], self.items[entry.above]):
                raise ValueError(f"items of {entry} never live together")
            if entry.below == entry.above or not (
                0 <= entry.distance <= self.items[entry.below].size
            ):
                raise ValueError(f"distance out of range in {entry}")

    @cached_property
    def pairs(self) -> tuple[Pair, ...]:
        """All items that live together, by the order of their births."""
        closer = {(entry.below, entry.above): entry.distance for entry in self.allowed}
        order = sorted(range(len(self.items)), key=lambda i: self.items[i].lower)
        live: list[int] = []
        pairs = []
        for j in order:
            live = [i for i in live if self.items[i].upper > self.items[j].lower]
            pairs += [self._pair(min(i, j), max(i, j), closer) for i in live]
            live.append(j)
        return tuple(sorted(pairs, key=lambda p: (p.first, p.second)))

    def _pair(self, i: int, j: int, closer: dict[tuple[int, int], int]) -> Pair:
        a, b = self.items[i].size, self.items[j].size
        over, under = closer.get((i, j), a), closer.get((j, i), b)
        return Pair(i, j, over, under)

    @cached_property
    def sections(self) -> Sections:
        """The time axis cut down to where it matters."""
        return _sections(self.items)

    @cached_property
    def section_totals(self) -> list[int]:
        """Bytes that are live together in each section, with all allowed overlaps used."""
        found = self.sections
        totals = [0] * found.count
        for item, (lower, upper) in zip(self.items, found.spans, strict=True):
            for section in range(lower, upper):
                totals[section] += item.size
        for section, saved in enumerate(self.saved(lambda item: True)):
            totals[section] -= saved
        return totals

    def saved(self, counts: Callable[[int], bool]) -> list[int]:
        """For each section the most bytes that overlaps can save among the items that count."""
        found = [0] * self.sections.count
        groups: dict[tuple[int, int], tuple[int, int]] = {}
        for share in self.shares:
            if counts(share.below) and counts(share.above):
                key = share.section, share.below
                groups[key] = groups.get(key, (0, 0))[0] + share.shared, share.cap
        for (section, _), (total, cap) in groups.items():
            found[section] += min(total, cap)
        return found

    @cached_property
    def shares(self) -> tuple[Share, ...]:
        """What the allowed overlaps can save, by section and lower item.

        Items that lie over `below` do not overlap each other, so together they share at most what
        is left of it over the smallest distance.
        """
        spans = self.sections.spans
        caps: dict[int, int] = {}
        for a in self.allowed:
            room = self.items[a.below].size - a.distance
            caps[a.below] = max(caps.get(a.below, 0), room)
        found = []
        for a in self.allowed:
            shared = min(self.items[a.below].size - a.distance, self.items[a.above].size)
            one, other = spans[a.below], spans[a.above]
            if shared:
                found += [
                    Share(section, a.below, a.above, shared, caps[a.below])
                    for section in range(max(one[0], other[0]), min(one[1], other[1]))
                ]
        return tuple(sorted(found, key=lambda s: (s.section, s.below, s.above)))

    @cached_property
    def unit(self) -> int:
        """Every useful offset and every peak is a multiple of this."""
        sizes = [item.size for item in self.items]
        steps = [item.alignment for item in self.items if item.alignment > 1]
        return math.gcd(*sizes, *steps, *(entry.distance for entry in self.allowed)) or 1

    def peak(self, offsets: Sequence[int]) -> int:
        """Bytes of the arena that these offsets need."""
        return max((o + i.size for o, i in zip(offsets, self.items, strict=True)), default=0)


@dataclass(frozen=True)
class Sections:
    """Moments at which the set of live items is not contained in that of another moment.

    Attributes:
        count: how many there are.
        times: a moment of each.
        spans: for each item the sections [first, last) that it lives in.
    """

    count: int
    times: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]


def together(a: Item, b: Item) -> bool:
    """Whether both live at some moment."""
    return a.lower < b.upper and b.lower < a.upper


def _sections(items: tuple[Item, ...]) -> Sections:
    # a maximal set of live items: a birth that is followed by a death (deaths come first at a time)
    events = sorted([(i.upper, 0) for i in items] + [(i.lower, 1) for i in items])
    times = [
        birth[0] for birth, death in itertools.pairwise(events) if birth[1] == 1 and death[1] == 0
    ]
    index = {time: n for n, time in enumerate(times)}
    at = {}
    n = 0
    for time in sorted({t for t, _ in events}):
        at[time] = n
        if time in index:
            n += 1
    # the section of time t counts for an item born at t and not for one that died at t
    spans = tuple((at[i.lower], at[i.upper]) for i in items)
    return Sections(len(times), tuple(times), spans)
