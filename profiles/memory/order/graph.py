"""What an order of steps may be, and what it costs.

Sets of operations and of tensors are bit masks. Bytes that are live after a set of operations has
run depend on the set alone, not on the order within; that is what makes the search exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from edgec.profiles.memory.program import Buffer, Loop, Program, Step


@dataclass(frozen=True)
class Operation:
    """One entry of a program's body.

    Attributes:
        needs: mask of the operations that have to run before.
        inputs, outputs: masks of tensors that it reads or writes.
        scratch: bytes needed while it runs.
        shared: for tensors that it may overlap with an output, the bytes saved if they die here.
    """

    needs: int
    inputs: int
    outputs: int
    scratch: int
    shared: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class OrderGraph:
    """Operations in their given order, which is a valid one.

    Attributes:
        operations: what runs.
        sizes: bytes of each tensor.
        first: mask of tensors that live from the start (inputs of the network).
        kept: mask of tensors that live to the end (outputs).
    """

    operations: tuple[Operation, ...]
    sizes: tuple[int, ...]
    first: int
    kept: int

    @cached_property
    def users(self) -> tuple[int, ...]:
        """For each tensor the mask of operations that touch it."""
        users = [0] * len(self.sizes)
        for n, op in enumerate(self.operations):
            for tensor in bits(op.inputs | op.outputs):
                users[tensor] |= 1 << n
        return tuple(users)

    def bytes_of(self, tensors: int) -> int:
        """Sum of the sizes of a mask of tensors."""
        return sum(self.sizes[t] for t in bits(tensors))

    @cached_property
    def touched(self) -> tuple[tuple[tuple[int, int, int], ...], ...]:
        """For each operation its tensors: mask, size, users; none for those that are kept."""
        return tuple(
            tuple(
                (1 << t, self.sizes[t], 0 if self.kept >> t & 1 else self.users[t])
                for t in bits(op.inputs | op.outputs)
            )
            for op in self.operations
        )

    def run(self, done: int, live: int, bytes_: int, n: int) -> tuple[int, int, int]:
        """Run operation `n` after the set `done` with the tensors `live`, of `bytes_` together.

        Returns:
            Bytes needed while it runs, the tensors that are live afterwards, and their bytes.
        """
        op = self.operations[n]
        remaining = ~(done | 1 << n)
        dead = freed = 0
        for tensor, size, users in self.touched[n]:
            if not live & tensor:
                live |= tensor
                bytes_ += size
            if users and not users & remaining:
                dead |= tensor
                freed += size
        need = bytes_ + op.scratch
        if op.shared:
            # one output can lie over one dying input
            need -= max((saved for t, saved in op.shared if dead >> t & 1), default=0)
        return need, live & ~dead, bytes_ - freed

    def peak(self, order: Sequence[int], done: int = 0, live: int | None = None) -> int:
        """Most bytes that are live in an order of operations.

        Raises:
            ValueError: an operation runs before what it needs.
        """
        live = self.first if live is None else live
        bytes_ = self.bytes_of(live)
        worst = 0
        for n in order:
            if self.operations[n].needs & ~done:
                raise ValueError(f"operation {n} runs too early")
            need, live, bytes_ = self.run(done, live, bytes_, n)
            worst = max(worst, need)
            done |= 1 << n
        return worst


def bits(mask: int) -> list[int]:
    """Positions of the ones of a mask, lowest first."""
    found = []
    while mask:
        low = mask & -mask
        found.append(low.bit_length() - 1)
        mask ^= low
    return found


def order_graph(program: Program, *, overlaps: bool = True) -> OrderGraph:
    """The entries of a program's body as operations.

    Two entries keep their order when both touch a buffer and one writes it, unless they write
    different parts of it.
    """
    roots = program.roots()
    starts = program.starts()
    by_id = {b.id: b for b in program.buffers}
    tensors = [b.id for b in program.buffers if b.kind != "constant" and b.parent is None]
    index = {id: n for n, id in enumerate(tensors)}
    accesses: dict[str, list[tuple[int, int, int, bool]]] = {}
    operations = []
    for n, entry in enumerate(program.body):
        steps = entry.body if isinstance(entry, Loop) else (entry,)
        needs = inputs = outputs = scratch = 0
        mine: list[tuple[str, tuple[int, int, int, bool]]] = []
        for id, writes in _accesses(steps):
            root = roots[id]
            b = by_id[id]
            if b.kind == "constant":
                continue
            if by_id[root].kind == "scratch":
                scratch += 0 if root in {i for i, _ in mine} else by_id[root].size
                mine.append((root, (n, 0, 0, False)))
                continue
            start, end = starts[id], starts[id] + b.size
            for other, first, last, wrote in accesses.get(root, ()):
                if (writes or wrote) and first < end and start < last:
                    needs |= 1 << other
            mine.append((root, (n, start, end, writes)))
            if writes:
                outputs |= 1 << index[root]
            else:
                inputs |= 1 << index[root]
        for root, access in mine:
            accesses.setdefault(root, []).append(access)
        shared = _shared(steps, roots, by_id, index) if overlaps else ()
        operations.append(Operation(needs & ~(1 << n), inputs, outputs, scratch, shared))
    first = sum(1 << index[i] for i in tensors if by_id[i].kind == "input")
    kept = sum(1 << n for n, i in enumerate(tensors) if _is_output(program, roots, i))
    sizes = tuple(by_id[i].size for i in tensors)
    return OrderGraph(tuple(operations), sizes, first, kept)


def reorder(program: Program, order: Sequence[int]) -> Program:
    """The program with the entries of its body in another order."""
    return Program(program.name, program.buffers, tuple(program.body[n] for n in order))


def _accesses(steps: Sequence[Step]) -> list[tuple[str, bool]]:
    found = []
    for step in steps:
        found += [(id, False) for id in step.inputs]
        found += [(id, True) for id in (*step.outputs, *step.scratch)]
    return found


def _shared(
    steps: Sequence[Step], roots: dict[str, str], by_id: dict[str, Buffer], index: dict[str, int]
) -> tuple[tuple[int, int], ...]:
    found: dict[int, int] = {}
    for step in steps:
        for overlap in step.overlaps:
            below, above = by_id[overlap.below], by_id[overlap.above]
            into = overlap.above if overlap.above in step.inputs else overlap.below
            saved = min(below.size - overlap.distance, above.size)
            tensor = index[roots[into]]
            if roots[into] == into:
                found[tensor] = max(found.get(tensor, 0), saved)
    return tuple(sorted(found.items()))


def _is_output(program: Program, roots: dict[str, str], root: str) -> bool:
    return any(b.kind == "output" and roots[b.id] == root for b in program.buffers)
