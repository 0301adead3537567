"""Executes a program in its planned arena, byte by byte, to see that the plan is safe.

Every buffer is poisoned when it is born, each byte remembers which buffer wrote it last, and
whatever a kernel changes outside its outputs is found. Kernels are Python functions that must read
and write in the order of the C kernels, because overlaps are safe for that order only.

Nothing here is shared with the planner: offsets come from the plan, the rest from the program.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgec.export.errors import InternalError
from edgec.profiles.memory.plan import Plan
from edgec.profiles.memory.program import Parameter, Program, Step

Bytes = NDArray[np.uint8]

GUARD = 64
POISONS = (0xA5, 0x5A)
_NOBODY = -1


@dataclass(frozen=True)
class Call:
    """What a kernel is given.

    Attributes:
        inputs: bytes of each input; read-only, and they may overlap the outputs.
        outputs, scratch: bytes to write.
        parameters: of the step.
        rows: first row and end of the output rows to compute; None for all.
    """

    inputs: tuple[Bytes, ...]
    outputs: tuple[Bytes, ...]
    scratch: tuple[Bytes, ...]
    parameters: Mapping[str, Parameter]
    rows: tuple[int, int] | None


Kernel = Callable[[Call], None]


def run(
    plan: Plan,
    kernels: Mapping[str, Kernel],
    inputs: Mapping[str, Bytes],
    constants: Mapping[str, Bytes] | None = None,
    *,
    poison: int = POISONS[0],
) -> dict[str, Bytes]:
    """Execute a plan once.

    Args:
        plan: a program with offsets; buffers without a place (inputs and outputs of the caller) get
            memory of their own.
        kernels: by the names that the steps use.
        inputs: bytes of each input buffer.
        constants: bytes of each constant buffer.
        poison: what memory holds that nothing has written.

    Returns:
        Bytes of each output buffer.

    Raises:
        InternalError: a step needs bytes that another buffer has overwritten, or a kernel wrote
            outside its outputs.
        KeyError: an input, constant or kernel is missing.
    """
    memory = _Memory(plan, poison)
    for b in plan.program.buffers:
        if b.kind == "constant" and b.parent is None:
            memory.load(b.id, (constants or {})[b.id])
        elif b.kind == "input" and b.parent is None and memory.has(b.id):
            memory.load(b.id, inputs[b.id])
    for number, (step, counter) in enumerate(plan.program.calls()):
        memory.call(number, step, counter, kernels[step.kernel])
    return {b.id: memory.read(b.id) for b in plan.program.buffers if b.kind == "output"}


def check(
    plan: Plan,
    kernels: Mapping[str, Kernel],
    inputs: Mapping[str, Bytes],
    constants: Mapping[str, Bytes] | None = None,
    expected: Mapping[str, Bytes] | None = None,
) -> dict[str, Bytes]:
    """Execute a plan with two poisons; whoever reads what nothing has written is found out.

    Args:
        plan, kernels, inputs, constants: as for `run`.
        expected: bytes of outputs that have to come out.

    Raises:
        InternalError: as `run`, or when outputs depend on the poison or are not as expected.
    """
    first, second = (run(plan, kernels, inputs, constants, poison=p) for p in POISONS)
    for id, value in first.items():
        if not np.array_equal(value, second[id]):
            raise _failed(plan.program, f"output {id!r}", "it depends on bytes that nothing wrote")
        if expected is not None and id in expected and not np.array_equal(value, expected[id]):
            wrong = int(np.flatnonzero(value != expected[id])[0])
            raise _failed(plan.program, f"output {id!r}", f"byte {wrong} is not as expected")
    return first


class _Memory:
    """All regions in one array, with guards around each."""

    def __init__(self, plan: Plan, poison: int) -> None:
        self.program = plan.program
        self.poison = poison
        self.sizes = {b.id: b.size for b in plan.program.buffers}
        self.roots = plan.program.roots()
        self.starts = plan.program.starts()
        self.index = {b.id: n for n, b in enumerate(plan.program.buffers)}
        self.fixed = {b.id for b in plan.program.buffers if b.kind in ("constant", "input")}
        self.at: dict[str, int] = {}
        end = GUARD
        bases: dict[str, int] = {}
        for region in plan.regions:
            bases[region.name] = end
            end += region.peak + GUARD
        for placed in (*plan.buffers, *plan.constants):
            if placed.region in bases:
                self.at[placed.id] = bases[placed.region] + placed.offset
        used = {
            self.roots[id]
            for step, _ in plan.program.steps()
            for id in (*step.inputs, *step.outputs, *step.scratch)
        }
        for b in plan.program.buffers:
            if b.parent is None and b.id not in self.at and b.id in used:
                self.at[b.id] = end
                end += b.size + GUARD
        self.bytes: Bytes = np.full(end, poison, np.uint8)
        self.owner = np.full(end, _NOBODY, np.int64)

    def has(self, id: str) -> bool:
        return self.roots[id] in self.at

    def span(self, id: str) -> slice:
        begin = self.at[self.roots[id]] + self.starts[id]
        return slice(begin, begin + self.sizes[id])

    def load(self, id: str, value: Bytes) -> None:
        if not self.has(id):
            return
        flat = np.ascontiguousarray(value).view(np.uint8).reshape(-1)
        if flat.size != self.sizes[id]:
            raise ValueError(f"{id!r} has {self.sizes[id]} bytes, not {flat.size}")
        self.bytes[self.span(id)] = flat
        self.owner[self.span(id)] = self.index[self.roots[id]]

    def read(self, id: str) -> Bytes:
        self._check_owned(id, "the end")
        return self.bytes[self.span(id)].copy()

    def call(self, number: int, step: Step, counter: int, kernel: Kernel) -> None:
        where = f"call {number}, {step.name or step.kernel}"
        for id in step.inputs:
            self._check_owned(id, where)
        written = (*step.outputs, *step.scratch)
        for id in written:
            self._claim(id, step)
        before = self.bytes.copy()
        kernel(
            Call(
                tuple(self._view(id, False) for id in step.inputs),
                tuple(self._view(id, True) for id in step.outputs),
                tuple(self._view(id, True) for id in step.scratch),
                step.parameters,
                None if step.rows is None else (step.rows[0].at(counter), step.rows[1].at(counter)),
            )
        )
        changed = before != self.bytes
        for id in written:
            changed[self.span(id)] = False
            self.owner[self.span(id)] = self.index[self.roots[id]]
        if changed.any():
            byte = int(np.flatnonzero(changed)[0])
            raise _failed(self.program, where, f"it wrote byte {byte}, which is not its output")

    def _claim(self, id: str, step: Step) -> None:
        """Poison what an output takes over, except bytes that the step still has to read."""
        span = self.span(id)
        owner = self.owner[span]
        keep = owner == self.index[self.roots[id]]
        for source in step.inputs:
            keep |= owner == self.index[self.roots[source]]
        self.bytes[span][~keep] = self.poison

    def _check_owned(self, id: str, where: str) -> None:
        owner = self.owner[self.span(id)]
        strange = (owner != self.index[self.roots[id]]) & (owner != _NOBODY)
        if strange.any():
            byte = int(np.flatnonzero(strange)[0])
            other = self.program.buffers[int(owner[byte])].id
            raise _failed(self.program, where, f"byte {byte} of {id!r} belongs to {other!r} by now")

    def _view(self, id: str, writable: bool) -> Bytes:
        view = self.bytes[self.span(id)]
        view.flags.writeable = writable
        return view


def _failed(program: Program, where: str, why: str) -> InternalError:
    return InternalError(
        "EC151",
        f"executing the plan of {program.name!r} went wrong",
        where=where,
        why=why,
        fix="please report this with the model and the command",
    )
