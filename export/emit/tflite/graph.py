"""What the lowering works on: operators of ONNX's meaning, with integers where TFLite has them.

QuantizeLinear and DequantizeLinear are gone: a `Value` is float or carries its quantization. Biases
and activations are part of the operator that executes them, chains of views are one ``View``, and
shape-like operands (pads, axes, …) are attributes. Shapes and axes are still those of ONNX; where
each value is stored is the layout's business.

Operators that ONNX has not: ``Linear`` (x · Wᵀ + b over the last axis, or the last but one with
`attrs["axis"]` = -2), ``View`` (`attrs["view"]`), ``Rsqrt``, ``Quantize`` and ``Dequantize``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgec.export.errors import UnsupportedError
from edgec.export.tflite.model import Quantization

if TYPE_CHECKING:
    from edgec.export.emit.tflite.layouts import Config

Shape = tuple[int, ...]
Array = NDArray[Any]


@dataclass(eq=False)
class Value:
    """A tensor.

    Attributes:
        name: of the ONNX value; parts of it are module paths.
        shape: static, in ONNX's order of axes.
        dtype: of what is stored: float32, or integers if `quantization` is set.
        const: the stored content of constants.
        quantization: how stored integers are meant; None for floats and plain integers.
        order: in which order the file stored it that the graph was read from, see `tflite.marks`.
        integers: of a float constant that comes from integers: these, with their grid.
    """

    name: str
    shape: Shape
    dtype: np.dtype[Any]
    const: Array | None = None
    quantization: Quantization | None = None
    order: tuple[int, ...] | None = None
    integers: Value | None = None

    @property
    def quantized(self) -> bool:
        """Whether its integers stand for real numbers."""
        return self.quantization is not None

    @property
    def elements(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    def real(self) -> Array:
        """The real numbers that a constant stands for."""
        assert self.const is not None
        if self.quantization is None:
            return self.const
        scale, zero = self.quantization.scale, self.quantization.zero_point
        if self.quantization.per_channel:
            along = [1] * self.const.ndim
            along[self.quantization.axis] = -1
            scale, zero = scale.reshape(along), zero.reshape(along)
        return ((self.const.astype(np.int64) - zero) * scale).astype(np.float32)


@dataclass(eq=False)
class Node:
    """One operator.

    Attributes:
        op: ONNX's name, or one of the module's own.
        inputs: operands; None for optional ones left out.
        attrs: attributes and static operands by ONNX's names.
        module: path of the source module, where it is known.
        activation: what is applied to the output: ``NONE``, ``RELU``, ``RELU6``, ``RELU_N1_TO_1``.
        position: of the operator in the file that the graph was read from.
    """

    op: str
    name: str
    inputs: list[Value | None]
    outputs: list[Value]
    attrs: dict[str, Any] = field(default_factory=dict)
    module: str | None = None
    activation: str = "NONE"
    position: int | None = None

    @property
    def operands(self) -> list[Value]:
        """Inputs that are there."""
        return [value for value in self.inputs if value is not None]

    @property
    def integer(self) -> bool:
        """Whether it computes on integers that stand for real numbers."""
        return self.outputs[0].quantized

    @property
    def where(self) -> str:
        """For messages: node, operator and module."""
        text = f"{self.op} {self.name}"
        return text + (f" (module {self.module})" if self.module else "")

    def refuse(self, why: str, fix: str = "") -> UnsupportedError:
        """The error for a form that TFLite cannot express."""
        return UnsupportedError(
            "EC390",
            f"{self.op} cannot be written as TFLite operators",
            where=self.where,
            why=why,
            fix=fix or "change the module, or export ONNX for this network (--format onnx)",
        )


@dataclass(eq=False)
class Graph:
    """Nodes in the order of execution.

    Attributes:
        output_names: the network's names of `outputs`.
        requantizations: Quantize nodes from integers to integers, put in because an operator of
            TFLite writes with its input's parameters and the Q/DQ graph wants others.
        layout: where a file has settled it, see `stored`.
    """

    nodes: list[Node]
    inputs: list[Value]
    outputs: list[Value]
    output_names: list[str]
    name: str = ""
    requantizations: int = 0
    layout: dict[Node, Config] | None = None

    def readers(self) -> dict[Value, list[Node]]:
        """Nodes that read each value, in order, once per operand."""
        found: dict[Value, list[Node]] = {}
        for node in self.nodes:
            for value in node.operands:
                found.setdefault(value, []).append(node)
        return found
