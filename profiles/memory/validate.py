"""Says what is wrong with a program before anything relies on it."""

from __future__ import annotations

from edgec.export.errors import InputError
from edgec.profiles.memory.program import KINDS, Buffer, Program, Step


def validate(program: Program) -> None:
    """Check a program.

    Raises:
        InputError: ids that are not unique or not known, sizes, alignments and parts that make no
            sense, a read before the first write, a constant or input that is written, or an overlap
            that its step has no use for.
    """
    buffers: dict[str, Buffer] = {}
    for buffer in program.buffers:
        if buffer.id in buffers:
            raise _wrong(program, buffer.id, "the id stands twice")
        buffers[buffer.id] = buffer
    for buffer in program.buffers:
        _check_buffer(program, buffer, buffers)
    roots = program.roots()
    written = {b.id for b in program.buffers if b.kind in ("constant", "input")}
    for number, (step, loop) in enumerate(program.steps()):
        where = f"step {number} {step.name or step.kernel!r}"
        if loop is not None and loop.count < 1:
            raise _wrong(program, where, f"its loop runs {loop.count} times")
        if step.rows is not None and loop is None and (step.rows[0].stride or step.rows[1].stride):
            raise _wrong(program, where, "rows depend on a loop that is not there")
        for id in (*step.inputs, *step.outputs, *step.scratch):
            if id not in buffers:
                raise _wrong(program, where, f"unknown buffer {id!r}")
        for id in step.inputs:
            if roots[id] not in written and buffers[roots[id]].kind != "scratch":
                raise _wrong(program, where, f"{id!r} is read before it is written")
        for id in (*step.outputs, *step.scratch):
            if buffers[roots[id]].kind in ("constant", "input"):
                raise _wrong(program, where, f"{id!r} is a {buffers[roots[id]].kind} and written")
            written.add(roots[id])
        _check_overlaps(program, step, where, buffers)
    for buffer in program.buffers:
        if buffer.kind == "output" and roots[buffer.id] not in written:
            raise _wrong(program, buffer.id, "an output that nothing writes")


def _check_buffer(program: Program, buffer: Buffer, buffers: dict[str, Buffer]) -> None:
    if not buffer.id:
        raise _wrong(program, "a buffer", "its id is empty")
    if buffer.size <= 0:
        raise _wrong(program, buffer.id, f"{buffer.size} bytes")
    if buffer.alignment < 1 or buffer.alignment & (buffer.alignment - 1):
        raise _wrong(program, buffer.id, f"alignment {buffer.alignment} is no power of two")
    if buffer.kind not in KINDS:
        raise _wrong(program, buffer.id, f"unknown kind {buffer.kind!r}")
    if buffer.ring is not None and buffer.ring < 1:
        raise _wrong(program, buffer.id, f"a ring of {buffer.ring} rows")
    seen = {buffer.id}
    at = buffer
    while at.parent is not None:
        if at.parent not in buffers:
            raise _wrong(program, at.id, f"unknown parent {at.parent!r}")
        if at.parent in seen:
            raise _wrong(program, buffer.id, "it is a part of itself")
        parent = buffers[at.parent]
        if at.start < 0 or at.start + at.size > parent.size:
            raise _wrong(program, at.id, f"it does not lie inside {parent.id!r}")
        if (at.kind == "constant") != (parent.kind == "constant"):
            raise _wrong(program, at.id, f"it and its parent {parent.id!r} are of different kinds")
        seen.add(at.parent)
        at = parent


def _check_overlaps(program: Program, step: Step, where: str, buffers: dict[str, Buffer]) -> None:
    for overlap in step.overlaps:
        pair = {overlap.below, overlap.above}
        if len(pair & set(step.inputs)) != 1 or len(pair & set(step.outputs)) != 1:
            raise _wrong(program, where, f"{overlap} is not of an input and an output")
        if not 0 <= overlap.distance <= buffers[overlap.below].size or (
            overlap.exact and overlap.distance
        ):
            raise _wrong(program, where, f"distance {overlap.distance} of an overlap")


def _wrong(program: Program, where: str, why: str) -> InputError:
    return InputError(
        "EC751",
        f"the program {program.name!r} makes no sense",
        where=where,
        why=why,
        fix="correct what writes the program; edgec's own programs never do this",
    )
