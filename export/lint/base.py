"""What a rule is, what it sees, and what it finds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import onnx.defs
import onnx_ir as ir
from numpy.typing import NDArray

from edgec.export.emit.tflite.flavour import flavour_for, scheme_of
from edgec.export.emit.tflite.lower import Lowered, lower
from edgec.export.errors import UnsupportedError
from edgec.export.rewrite.graph import constant, module_of
from edgec.targets.operators.table import DEFAULT_DOMAINS, OperatorTable
from edgec.targets.schema import Target

Severity = Literal["error", "warning", "hint"]
SEVERITIES: dict[str, Severity] = {"E": "error", "W": "warning", "I": "hint"}

QUANTIZE = "QuantizeLinear"
DEQUANTIZE = "DequantizeLinear"
WEIGHTED = ("Conv", "ConvTranspose", "MatMul", "Gemm")
"""Operators with an integer kernel whose second input is usually a constant."""


@dataclass(frozen=True)
class Finding:
    """One place where a graph breaks a rule.

    Attributes:
        code: of the rule, e.g. ``"E101"``.
        message: what is wrong there, with the names and numbers concerned.
        fix: what to do about it.
        node: name of the node (of its first output, if it has none), or of a graph input or
            output; None for the graph as a whole.
        op_type: operator, None where `node` is none.
        module: path of the module in the source network, where it is known.
    """

    code: str
    message: str
    fix: str
    node: str | None = None
    op_type: str | None = None
    module: str | None = None

    @property
    def severity(self) -> Severity:
        """``error``, ``warning`` or ``hint``, from the code's letter."""
        return SEVERITIES[self.code[0]]

    @property
    def where(self) -> str:
        """Node, operator and module in one phrase; ``graph`` for the whole graph."""
        text = self.node or "graph"
        if self.op_type is not None:
            text += f" ({self.op_type})"
        return text + (f", module {self.module}" if self.module else "")

    def to_json(self) -> dict[str, Any]:
        """All fields and the severity, JSON-ready."""
        return {"severity": self.severity, **asdict(self)}


@dataclass(frozen=True)
class Hit:
    """What a rule's function yields; the engine adds the rule's code and the location."""

    place: ir.Node | ir.Value | None
    message: str
    fix: str


class Context:
    """A graph, the target it is checked against, and questions that several rules ask.

    Args:
        model: functions inlined, types and shapes inferred as far as possible.
        target: the device.
        table: operators of its runtime.
    """

    def __init__(self, model: ir.Model, target: Target, table: OperatorTable) -> None:
        self.model = model
        self.target = target
        self.table = table
        self.nodes = tuple(model.graph.all_nodes())
        self.opset = next(
            (model.opset_imports[d] for d in DEFAULT_DOMAINS if d in model.opset_imports), 0
        )

    @property
    def runtime(self) -> str:
        """Name and version for messages, e.g. ``TensorRT 8.2``."""
        names = {
            "tensorrt": "TensorRT",
            "onnxruntime": "ONNX Runtime",
            "litert": "LiteRT",
            "tflite-runtime": "TensorFlow Lite",
            "tflm": "TensorFlow Lite Micro",
            "edgec-c": "edgec's C kernels",
        }
        runtime = self.target.runtime
        return f"{names.get(runtime.name, runtime.name)} {runtime.version}"

    @cached_property
    def values(self) -> tuple[ir.Value, ...]:
        """Graph inputs (initializers listed as inputs left out) and all node outputs."""
        inputs = [v for v in self.model.graph.inputs if v.name not in self.model.graph.initializers]
        return (*inputs, *(v for node in self.nodes for v in node.outputs))

    @cached_property
    def lowered(self) -> Lowered | None:
        """The graph as TFLite operators in the forms for the target; None if it cannot be."""
        scheme = scheme_of(self.target.int8_scheme)
        try:
            return lower(
                self.model.clone(),
                flavour_for(scheme, self.target.runtime.name, self.target.delegates),
            )
        except UnsupportedError:
            return None

    def of_type(self, *op_types: str) -> Iterator[ir.Node]:
        """Nodes of these standard operators, in graph order."""
        for node in self.nodes:
            if node.op_type in op_types and node.domain in DEFAULT_DOMAINS:
                yield node

    def version_of(self, node: ir.Node) -> int:
        """Version of the operator's definition that the graph's opset means."""
        if node.domain not in DEFAULT_DOMAINS:
            return self.model.opset_imports.get(node.domain, 1)
        try:
            return onnx.defs.get_schema(node.op_type, self.opset, "").since_version
        except onnx.defs.SchemaError:
            return self.opset

    def input_named(self, node: ir.Node, name: str) -> ir.Value | None:
        """The input that ONNX's definition of the operator calls `name`."""
        try:
            schema = onnx.defs.get_schema(node.op_type, self.opset, "")
        except onnx.defs.SchemaError:
            return None
        names = [formal.name for formal in schema.inputs]
        return input_at(node, names.index(name)) if name in names else None

    def is_constant(self, value: ir.Value | None) -> bool:
        """Whether `value` is an initializer, a Constant, or computed from such alone."""
        if value is None or value.is_graph_input():
            return False
        if value.const_value is not None:
            return True
        return value.producer() in self._constant_nodes

    @cached_property
    def _constant_nodes(self) -> frozenset[ir.Node]:
        found: set[ir.Node] = set()
        for node in self.nodes:
            if node.op_type == "Constant" or (
                node.inputs
                and all(
                    v is None
                    or (v.const_value is not None and not v.is_graph_input())
                    or v.producer() in found
                    for v in node.inputs
                )
                and not any(
                    a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
                    for a in node.attributes.values()
                )
            ):
                found.add(node)
        return frozenset(found)


def input_at(node: ir.Node, index: int) -> ir.Value | None:
    """Input `index`, None where it is left out."""
    return node.inputs[index] if index < len(node.inputs) else None


def is_standard(node: ir.Node | None, *op_types: str) -> bool:
    """Whether `node` is one of these operators of the standard domain."""
    return node is not None and node.op_type in op_types and node.domain in DEFAULT_DOMAINS


def producer(value: ir.Value | None) -> ir.Node | None:
    """The node that computes `value`."""
    return None if value is None else value.producer()


def readers(value: ir.Value) -> list[tuple[ir.Node, int]]:
    """(node, input index) of every use of `value`."""
    return [(use.node, use.idx) for use in value.uses()]


def array_of(value: ir.Value | None) -> NDArray[Any] | None:
    """The array of an initializer or Constant, else None; float types as float32 or wider."""
    array = constant(value)
    if array is None:
        return None
    return array if array.dtype.kind in "iufb" else array.astype(np.float32)


def finding(code: str, hit: Hit) -> Finding:
    """The finding of a rule's hit."""
    node = hit.place if isinstance(hit.place, ir.Node) else None
    return Finding(
        code=code,
        message=hit.message,
        fix=hit.fix,
        node=None if hit.place is None else hit.place.name,
        op_type=None if node is None else node.op_type,
        module=module_of(node),
    )


@dataclass(frozen=True)
class Rule:
    """A check with its code.

    Attributes:
        code: letter of the severity (E error, W warning, I hint) and a number.
        check: yields one `Hit` per place.
        runtimes: names of the runtimes it is about.
    """

    code: str
    check: Callable[[Context], Iterator[Hit]]
    runtimes: tuple[str, ...] = ("tensorrt", "onnxruntime")
