"""The program of a network on a small device: buffers, and steps that read and write them.

The planner gives the buffers offsets, the interpreter executes the steps byte by byte, and the C
emitter prints them, so the three never disagree about what runs.

Partial execution needs no other structure. A `Loop` repeats steps; a step inside it computes only
`rows` of its output, whose bounds are affine in the loop's counter; a line buffer is a buffer with
`ring` rows, and row r of the tensor lies in row ``r % ring`` of it. Row-wise attention is such a
loop over query rows; a token that is overwritten in place is an overlap of distance zero.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["input", "output", "activation", "scratch", "constant"]
KINDS: tuple[Kind, ...] = ("input", "output", "activation", "scratch", "constant")

Parameter = int | float | str | bool | tuple[int, ...] | tuple[float, ...]


@dataclass(frozen=True)
class Buffer:
    """Bytes that steps read or write.

    Attributes:
        id: unique in the program.
        size: bytes.
        alignment: the offset is a multiple of it.
        kind: constants live in flash for ever; the others live as long as steps need them.
        region: memory region that it has to lie in; None leaves the choice to the planner.
        parent: buffer that this one is a part of (a reshaped tensor, an input of a concatenation
            that is written in place); parts are not placed, their parents are.
        start: byte of the parent that the part begins at.
        ring: rows that a line buffer keeps; None for a whole tensor.
        module: path of the module of the network that writes it.
    """

    id: str
    size: int
    alignment: int = 1
    kind: Kind = "activation"
    region: str | None = None
    parent: str | None = None
    start: int = 0
    ring: int | None = None
    module: str = ""


@dataclass(frozen=True)
class Overlap:
    """An input and an output of one step that may share bytes.

    Attributes:
        below, above: ids of the buffers; one is an input of the step that nothing reads later, the
            other an output.
        distance: ``address(above) - address(below) >= distance`` is safe, in bytes; disjoint
            buffers would need the size of `below`.
        exact: only equal addresses are safe (and `distance` is 0): the kernel works in place.
    """

    below: str
    above: str
    distance: int
    exact: bool = False


@dataclass(frozen=True)
class Affine:
    """``start + stride * i``, cut to [low, high], for the counter i of the enclosing loop."""

    start: int
    stride: int = 0
    low: int = 0
    high: int = (1 << 31) - 1

    def at(self, counter: int) -> int:
        return min(max(self.start + self.stride * counter, self.low), self.high)


@dataclass(frozen=True)
class Step:
    """One call of a kernel.

    Attributes:
        kernel: name of the function.
        inputs, outputs, scratch: ids of buffers, in the kernel's order.
        parameters: what the kernel needs beside buffers (shapes, strides, zero points).
        rows: first row and end of the rows of the output that the call computes; None for all.
        overlaps: input/output pairs of this step that may share bytes.
        name, module: for reports.
    """

    kernel: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    scratch: tuple[str, ...] = ()
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    rows: tuple[Affine, Affine] | None = None
    overlaps: tuple[Overlap, ...] = ()
    name: str = ""
    module: str = ""


@dataclass(frozen=True)
class Loop:
    """Steps that are repeated `count` times; loops do not nest."""

    count: int
    body: tuple[Step, ...]
    name: str = ""


@dataclass(frozen=True)
class Program:
    """Buffers and what happens to them, in order.

    `edgec.profiles.memory.validate.validate` says whether all of it makes sense.
    """

    name: str
    buffers: tuple[Buffer, ...]
    body: tuple[Step | Loop, ...]

    def buffer(self, id: str) -> Buffer:
        """The buffer of that id.

        Raises:
            KeyError: there is none.
        """
        found = next((b for b in self.buffers if b.id == id), None)
        if found is None:
            raise KeyError(id)
        return found

    def root(self, id: str) -> str:
        """The buffer that `id` is a part of, itself when it is whole."""
        return self.roots()[id]

    def roots(self) -> dict[str, str]:
        """For each buffer the whole one that it lies in."""
        parents = {b.id: b.parent for b in self.buffers}
        found = {}
        for id in parents:
            root = id
            while (parent := parents[root]) is not None:
                root = parent
            found[id] = root
        return found

    def starts(self) -> dict[str, int]:
        """For each buffer the byte of its root that it begins at."""
        by_id = {b.id: b for b in self.buffers}
        found = {}
        for b in self.buffers:
            start, at = 0, b
            while at.parent is not None:
                start += at.start
                at = by_id[at.parent]
            found[b.id] = start
        return found

    def steps(self) -> Iterator[tuple[Step, Loop | None]]:
        """All steps in order, with the loop they are in."""
        for entry in self.body:
            if isinstance(entry, Loop):
                for step in entry.body:
                    yield step, entry
            else:
                yield entry, None

    def calls(self) -> Iterator[tuple[Step, int]]:
        """All calls as they are executed: the step and the counter of its loop (0 outside)."""
        for entry in self.body:
            if isinstance(entry, Loop):
                for counter in range(entry.count):
                    for step in entry.body:
                        yield step, counter
            else:
                yield entry, 0
