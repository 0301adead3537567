"""From a TFLite model to kernel calls and the program that the memory planner places."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from edgec.export.emit.c import floats, int16, moves, norm, pointwise, products
from edgec.export.emit.c.call import Call
from edgec.export.emit.c.constant_channels import without_constant_channels
from edgec.export.emit.c.float_reference import FROM_LIBRARY
from edgec.export.emit.c.frame import Frame, bytes_of, unsupported
from edgec.export.emit.c.fuse import NORMS, fuse
from edgec.export.emit.c.lookup import lookup
from edgec.export.emit.c.pads import with_folded_pads
from edgec.export.emit.c.regions import region_from
from edgec.export.errors import UnsupportedError
from edgec.export.tflite.model import ABSENT, Model, Operator, Subgraph
from edgec.profiles.memory.program import Buffer, Overlap, Program, Step

LOWERINGS: Final[Mapping[str, Callable[[Frame, Operator], list[Call]]]] = {
    "CONV_2D": products.conv_2d,
    "DEPTHWISE_CONV_2D": products.conv_2d,
    "FULLY_CONNECTED": products.fully_connected,
    "BATCH_MATMUL": products.batch_matmul,
    "ADD": pointwise.binary,
    "SUB": pointwise.binary,
    "MUL": pointwise.binary,
    "SQUARED_DIFFERENCE": pointwise.binary,
    "AVERAGE_POOL_2D": pointwise.pool,
    "MAX_POOL_2D": pointwise.pool,
    "MEAN": pointwise.mean,
    "SOFTMAX": pointwise.softmax,
    "RESIZE_BILINEAR": moves.resize_bilinear,
    "SUM": pointwise.mean,
    "REDUCE_MAX": pointwise.extreme,
    "REDUCE_MIN": pointwise.extreme,
    "MAXIMUM": pointwise.binary,
    "MINIMUM": pointwise.binary,
    "L2_NORMALIZATION": norm.l2_norm,
    "QUANTIZE": int16.converted,
    "DEQUANTIZE": floats.conversion,
    **dict.fromkeys(sorted(NORMS), norm.norm),
    **moves.LOWERINGS,
}
"""Operators whose data are int8."""
TABLES: Final = {
    "INT8": LOWERINGS,
    "INT16": int16.LOWERINGS,
    "FLOAT32": floats.LOWERINGS,
}
"""By the type of the data that is computed."""
ALIASES = frozenset({"RESHAPE", "SQUEEZE", "EXPAND_DIMS"})
"""Operators that change the shape and move nothing."""


@dataclass(frozen=True)
class Lowered:
    """What runs.

    Attributes:
        calls: in order.
        program: the same for the planner; buffers are called ``t`` + tensor index.
        inputs, outputs: tensor indices whose bytes the caller writes and reads.
        graph: whose tensors these are.
    """

    calls: tuple[Call, ...]
    program: Program
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    graph: Subgraph

    def by(self, calls: Sequence[Call]) -> Lowered:
        """The same network by other calls."""
        program = _program(self.graph, calls, self.inputs, self.outputs, self.program.name)
        return replace(self, calls=tuple(calls), program=program)


def lower(model: Model, *, name: str = "model") -> Lowered:
    """Kernel calls of the main subgraph.

    Raises:
        UnsupportedError: an operator, a type or a form of it that no kernel computes.
    """
    graph = without_constant_channels(with_folded_pads(fuse(model).main))
    _check_ends(graph)
    roots = _roots(graph)
    consumers: dict[int, list[int]] = {}
    for position, op in enumerate(graph.operators):
        for index in op.inputs:
            if index != ABSENT:
                consumers.setdefault(index, []).append(position)
    calls: list[Call] = []
    done: set[int] = set()
    for position, op in enumerate(graph.operators):
        if position in done or op.code in ALIASES:
            continue
        region = region_from(graph, position, consumers)
        if region:
            done.update(region)
            found = [lookup(graph, region, roots)]
        else:
            found = _lower(Frame(graph, op, position, roots), op)
        label = f"{op.code} {graph.tensors[op.outputs[0]].name}"
        calls += [replace(call, name=label) for call in found]
    inputs = tuple(roots[i] for i in graph.inputs)
    outputs = tuple(roots[i] for i in graph.outputs)
    program = _program(graph, calls, inputs, outputs, name)
    return Lowered(tuple(calls), program, inputs, outputs, graph)


def scratch_id(call: int) -> str:
    """Name of the buffer that a call works in."""
    return f"scratch{call}"


def _lower(frame: Frame, op: Operator) -> list[Call]:
    code = op.custom_code if op.code == "CUSTOM" and op.custom_code else op.code
    given = (frame.graph.tensors[i] for i in (*op.inputs, *op.outputs) if i != ABSENT)
    computed = [tensor for tensor in given if tensor.data is None]
    found = TABLES.get(computed[0].dtype, {})
    if code not in found:
        why = f"it is not among the kernels of {computed[0].dtype}"
        raise unsupported(frame, op, why)
    if code in FROM_LIBRARY and any(
        t.dtype in ("INT8", "INT16") and t.data is None for t in frame.graph.tensors
    ):
        raise unsupported(frame, op, "its last bits are the C library's, and integers follow")
    converts = code in ("QUANTIZE", "DEQUANTIZE")
    other = next((t for t in computed if t.dtype != computed[0].dtype and not converts), None)
    if other is not None:
        raise unsupported(frame, op, f"{other.name!r} is {other.dtype}, not {computed[0].dtype}")
    return found[code](frame, op)


def _check_ends(graph: Subgraph) -> None:
    """The header's helpers quantize to one type of integers."""
    ends = {graph.tensors[index].dtype for index in (*graph.inputs, *graph.outputs)}
    if ends >= {"INT8", "INT16"}:
        raise UnsupportedError(
            "EC330",
            "some inputs and outputs of the network are int8, others int16",
            fix="end with a QUANTIZE to one of them",
        )


def _roots(graph: Subgraph) -> dict[int, int]:
    """For each tensor the one whose bytes it shares."""
    roots = {index: index for index in range(len(graph.tensors))}
    for op in graph.operators:
        if op.code in ALIASES:
            roots[op.outputs[0]] = roots[op.inputs[0]]
    for index in graph.outputs:
        if roots[index] in graph.inputs:
            raise UnsupportedError(
                "EC330",
                "an output of the network is an input of it",
                where=graph.tensors[index].name,
                fix="leave that output out",
            )
    return roots


def _program(
    graph: Subgraph,
    calls: Sequence[Call],
    inputs: tuple[int, ...],
    outputs: tuple[int, ...],
    name: str,
) -> Program:
    last_use = {index: n for n, call in enumerate(calls) for index in call.reads}
    writes = [call.output for call in calls]
    used = {index for call in calls for index in (*call.reads, call.output)} | set(inputs)
    buffers = []
    for index in sorted(used):
        kind = "input" if index in inputs else "output" if index in outputs else "activation"
        tensor = graph.tensors[index]
        buffers.append(Buffer(f"t{index}", bytes_of(tensor), 4, kind, module=tensor.name))  # type: ignore[arg-type]
    steps = []
    for n, call in enumerate(calls):
        if call.scratch:
            buffers.append(Buffer(scratch_id(n), call.scratch, 4, "scratch", module=call.name))
        overlaps = []
        for share in call.shares:
            above = call.inputs[share.input]
            assert isinstance(above, int)
            alone = call.inputs.count(above) == 1 and writes.count(call.output) == 1
            useful = share.distance < bytes_of(graph.tensors[call.output])
            if alone and useful and last_use.get(above) == n and above not in outputs:
                overlaps.append(Overlap(f"t{call.output}", f"t{above}", share.distance))
        steps.append(
            Step(
                call.kernel,
                tuple(f"t{index}" for index in call.reads),
                (f"t{call.output}",),
                (scratch_id(n),) if call.scratch else (),
                overlaps=tuple(overlaps),
                name=call.name,
            )
        )
    return Program(name, tuple(buffers), tuple(steps))
