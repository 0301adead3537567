"""Executes kernel calls in their planned arena, byte by byte, before any C is compiled.

What a step reads and writes is taken from the plan; what it computes, from the constants of its
call, by numpy kernels (`int_kernels`, `int16_kernels`, `float_kernels`). They walk over memory on
their own, so that equal results vouch for the lowering (folded biases, strides, tables) as well as
for the plan.
Like the C kernels they read rows when these are computed, after the rows before have been written,
so that an input that was overwritten too early gives wrong results. (How C kernels walk over a row
is what `edgec.profiles.memory.overlap` and its tests are about.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgec.export.emit.c import float_kernels, int16_kernels, int_kernels
from edgec.export.emit.c.call import Call, Fields, Scales, Table, Word
from edgec.export.emit.c.lower import Lowered
from edgec.export.emit.c.walk import Kernel
from edgec.export.tflite.model import Model
from edgec.export.tflite.names import input_names, output_names
from edgec.export.tflite.reference.fixed_point import Multiplier
from edgec.profiles.memory import interpret
from edgec.profiles.memory.plan import Plan

KERNELS: Final[Mapping[str, Kernel]] = (
    int_kernels.KERNELS | int16_kernels.KERNELS | float_kernels.KERNELS
)
Golden = Sequence[tuple[Mapping[str, NDArray[Any]], Mapping[str, NDArray[Any]]]]


def executable(lowered: Lowered) -> bool:
    """Whether every kernel has its bits here; powers, sines and cosines have those of a libm."""
    return all(call.kernel in KERNELS for call in lowered.calls)


def check(model: Model, lowered: Lowered, plan: Plan, golden: Golden) -> None:
    """Execute `plan` on golden inputs; every byte of the outputs has to be as expected.

    Args:
        model: what `lowered` was made from; names of its inputs and outputs.
        golden: pairs of inputs and outputs by name, as the C takes and gives them.

    Raises:
        InternalError: EC151, a step reads bytes that another buffer has overwritten, writes
            outside its output, or the outputs differ.
    """
    # steps are calls: each has constants of its own
    steps = tuple(
        replace(step, kernel=str(number))
        for number, (step, _) in enumerate(lowered.program.steps())
    )
    program = replace(lowered.program, body=steps)
    planned = replace(plan, program=program)
    kernels = {str(number): _bound(call) for number, call in enumerate(lowered.calls)}
    for feeds, wanted in golden:
        inputs = {
            f"t{root}": _flat(feeds[name])
            for root, name in zip(lowered.inputs, input_names(model), strict=True)
        }
        expected = {
            f"t{root}": _flat(wanted[name])
            for root, name in zip(lowered.outputs, output_names(model), strict=True)
        }
        interpret.check(planned, kernels, inputs, expected=expected)


def _flat(array: NDArray[Any]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(array).view(np.uint8).reshape(-1)


def _bound(call: Call) -> interpret.Kernel:
    """The call as a step's kernel: its operands are constants, or inputs of the step."""
    values = {name: _value(parameter) for name, parameter in call.parameters.items()}
    kernel = KERNELS[call.kernel]

    def run(step: interpret.Call) -> None:
        reads = dict(zip(call.reads, step.inputs, strict=True))
        operands = [
            np.asarray(operand.data).view(np.int8).reshape(-1)
            if isinstance(operand, Table)
            else reads[operand].view(np.int8)
            for operand in call.inputs
        ]
        kernel(values, operands, step.outputs[0].view(np.int8))

    return run


def _value(parameter: Any) -> Any:
    match parameter:
        case Table(data=data):
            return data
        case Fields(fields=fields):
            return {name: _value(field) for name, field in fields.items()}
        case Word(value=number):
            return number
        case Scales(mantissa=mantissa, exponent=exponent):
            return Multiplier(mantissa.astype(np.int64), exponent.astype(np.int64))
        case _:
            return parameter
