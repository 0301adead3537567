"""Small questions about a graph that calibration and quantization both ask."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common_passes
from numpy.typing import NDArray

from edgec.export.errors import UnsupportedError
from edgec.export.rewrite.graph import MODULE_KEY


@dataclass(frozen=True)
class TensorSpec:
    """Name, shape and dtype of a network input; None in the shape is a free dimension."""

    name: str
    shape: tuple[int | None, ...]
    dtype: np.dtype[Any]

    def mismatch(self, array: NDArray[Any]) -> str | None:
        """Why `array` cannot be fed to this input, or None if it can."""
        if array.dtype != self.dtype:
            return f"dtype is {array.dtype}, the network takes {self.dtype}"
        fits = len(array.shape) == len(self.shape) and all(
            want is None or have == want for have, want in zip(array.shape, self.shape, strict=True)
        )
        if not fits:
            wanted = "×".join("?" if d is None else str(d) for d in self.shape)
            return f"shape is {'×'.join(map(str, array.shape))}, the network takes {wanted}"
        return None


def input_specs(model: ir.Model) -> dict[str, TensorSpec]:
    """The inputs that must be fed, in graph order (initializers listed as inputs are not).

    Raises:
        UnsupportedError: EC361, an input has no name, type or shape.
    """
    specs = {}
    for value in model.graph.inputs:
        if value.name is None or value.dtype is None or value.shape is None:
            raise UnsupportedError(
                "EC361",
                f"input {value.name!r} has no declared type or shape",
                fix="run shape inference, or fix the input shape at export",
            )
        if value.name in model.graph.initializers:
            continue
        shape = tuple(d if isinstance(d, int) else None for d in value.shape)
        specs[value.name] = TensorSpec(value.name, shape, np.dtype(value.dtype.numpy()))
    return specs


def prepared_copy(model: ir.Model) -> ir.Model:
    """A copy to transform: constants are initializers, nodes and values have unique names.

    Shape inference fills missing types, because every stage asks for the dtype of values.
    """
    copy = in_memory(model)
    common_passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(copy)
    common_passes.NameFixPass()(copy)
    if any(v.dtype is None or v.shape is None for n in copy.graph for v in n.outputs if v.name):
        common_passes.ShapeInferencePass()(copy)
    return copy


def in_memory(model: ir.Model) -> ir.Model:
    """A copy that shares weight arrays, with external data read into memory."""
    return ir.external_data.load_to_model(model.clone())


def give_constant(
    model: ir.Model, node: ir.Node, index: int, number: NDArray[np.float32], name: str
) -> None:
    """Let an input of `node` read an initializer of its own."""
    value = ir.Value(
        name=name,
        type=ir.TensorType(ir.DataType.FLOAT),
        shape=ir.Shape(number.shape),
        const_value=ir.tensor(number, name=name),
    )
    model.graph.register_initializer(value)
    node.replace_input_with(index, value)


def drop_unused_constants(model: ir.Model) -> None:
    """Remove initializers that nothing reads."""
    for name, value in list(model.graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del model.graph.initializers[name]


def opset_of(model: ir.Model) -> int:
    """Version of the default operator set."""
    return model.graph.opset_imports.get("", 0)


def constant_of(value: ir.Value | None) -> NDArray[Any] | None:
    """The numpy value of an initializer or Constant output, else None."""
    if value is None or value.is_graph_input():
        return None
    tensor = ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


def elements(value: ir.Value) -> int:
    """How many numbers a value holds; a free dimension, or an unknown shape, counts as one."""
    shape = () if value.shape is None else value.shape
    return prod(d for d in shape if isinstance(d, int))


def module_of(model: ir.Model, tensor: str) -> str:
    """The source module (else the node) that produces a tensor, for messages."""
    for node in model.graph:
        if any(v.name == tensor for v in node.outputs):
            path = node.metadata_props.get(MODULE_KEY)
            return f"module {path}" if path else f"node {node.name or node.op_type}"
    return f"input {tensor}"


def consumers(value: ir.Value, order: dict[ir.Node, int]) -> Iterator[tuple[ir.Node, int]]:
    """Uses of a value as (node, input index), in graph order."""
    uses = [(use.node, use.idx) for use in value.uses()]
    yield from sorted(uses, key=lambda use: (order[use[0]], use[1]))


def is_excluded(node: ir.Node, exclude: Collection[str]) -> bool:
    """Whether `exclude` names this node, or its module or one of the module's parents."""
    if not exclude:
        return False
    if node.name in exclude or node.op_type in exclude:
        return True
    path = node.metadata_props.get(MODULE_KEY, "")
    return any(path == entry or path.startswith(entry + ".") for entry in exclude)


def require_float32(model: ir.Model) -> None:
    """Raise UnsupportedError EC360 if the graph computes in another float type."""
    for node in model.graph:
        for value in node.outputs:
            if value.dtype in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE):
                raise UnsupportedError(
                    "EC360",
                    f"the graph computes in {value.dtype.name.lower()}",
                    where=f"{node.op_type} {node.name}",
                    why="quantization and conversion to float16 start from float32",
                    fix="export the network in float32",
                )
