"""What a lowering sees of an operator: its tensors and their constants."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgec.export.emit.c.call import Table
from edgec.export.errors import EdgecError, UnsupportedError
from edgec.export.tflite.model import ABSENT, Operator, Subgraph, Tensor
from edgec.export.tflite.reference.fixed_point import finish, scale_of, zero_of


@dataclass(frozen=True)
class Frame:
    """An operator in its subgraph.

    Attributes:
        roots: for each tensor the one whose bytes it shares (a reshaped tensor's source).
    """

    graph: Subgraph
    operator: Operator
    position: int
    roots: dict[int, int]

    @property
    def output_index(self) -> int:
        """Index of the tensor that holds the output's bytes."""
        return self.roots[self.operator.outputs[0]]

    @property
    def output(self) -> Tensor:
        """The first output, as the operator sees it."""
        return self.graph.tensors[self.operator.outputs[0]]

    def index(self, number: int) -> int:
        """Index of the tensor that holds an input's bytes."""
        return self.roots[self.operator.inputs[number]]

    def tensor(self, number: int) -> Tensor:
        """An input, as the operator sees it."""
        return self.graph.tensors[self.operator.inputs[number]]

    def is_constant(self, number: int) -> bool:
        """Whether the file holds an input's content."""
        return self.tensor(number).data is not None

    def constant(self, number: int) -> NDArray[Any]:
        """Content of an input that has to be a constant."""
        data = self.tensor(number).data
        if data is None:
            raise unsupported(self, self.operator, f"its input {number} is computed")
        return data

    def operand(self, number: int) -> int | Table:
        """An input as an argument of a call: where its bytes are, or a constant."""
        data = self.tensor(number).data
        return self.index(number) if data is None else Table(data)

    def optional(self, number: int) -> NDArray[Any] | None:
        """Content of a constant input that may be left out."""
        inputs = self.operator.inputs
        if number >= len(inputs) or inputs[number] == ABSENT:
            return None
        return self.constant(number)


def unsupported(frame: Frame, op: Operator, why: str) -> EdgecError:
    """An operator, or a form of it, without a kernel in C."""
    return UnsupportedError(
        "EC330",
        f"{op.code} has no kernel in C in this form",
        where=f"operator {frame.position}, which writes {frame.output.name!r}",
        why=why,
        fix="report the network; --format tflite works without the C kernels",
    )


def width(tensor: Tensor) -> int:
    """Bytes of an element."""
    return tensor.numpy_dtype.itemsize


def suffix(tensor: Tensor) -> str:
    """How the names of the kernels end that write a tensor of this type."""
    return {"INT8": "s8", "INT16": "s16", "FLOAT32": "f32"}[tensor.dtype]


def bytes_of(tensor: Tensor) -> int:
    """Bytes of all elements."""
    return tensor.elements * width(tensor)


def grid(tensor: Tensor) -> tuple[float, int]:
    """Scale and zero point."""
    return float(scale_of(tensor)), zero_of(tensor)


def range_of(tensor: Tensor, activation: str) -> tuple[int, int]:
    """Smallest and largest integer that an output may have, with its fused activation."""
    ends = finish(np.array([-(1 << 20), 1 << 20], np.int64), tensor, activation)
    return int(ends[0]), int(ends[1])


def same_padding(size: int, out: int, kernel: int, stride: int, dilation: int) -> int:
    """Rows or columns of padding before the first one, where the file says SAME."""
    reach = (kernel - 1) * dilation + 1
    return max((out - 1) * stride + reach - size, 0) // 2


def broadcast_loops(
    a: tuple[int, ...], b: tuple[int, ...], y: tuple[int, ...], *, axes: int, least: int
) -> list[tuple[int, int, int]]:
    """Size and the operands' steps of the loops over the first `axes` axes of `y`, innermost last.

    A step of 0 repeats the operand. Loops that continue one another are one; there are at least
    `least`.
    """
    sides = [(1,) * (len(y) - len(shape)) + shape for shape in (a, b)]
    found: list[tuple[int, int, int]] = []
    for axis in range(axes):
        if y[axis] == 1:
            continue
        steps = [0 if s[axis] == 1 else prod(s[axis + 1 :]) for s in sides]
        if found and all(
            outer == y[axis] * own for outer, own in zip(found[-1][1:], steps, strict=True)
        ):
            found[-1] = (found[-1][0] * y[axis], steps[0], steps[1])
        else:
            found.append((y[axis], steps[0], steps[1]))
    return [(1, 0, 0)] * (least - len(found)) + found
