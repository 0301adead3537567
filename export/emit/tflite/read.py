"""From an ONNX graph to the `Graph` that is lowered: quantization becomes a property of values.

A QuantizeLinear/DequantizeLinear pair says on which grid a value lies. An operator between a
DequantizeLinear and a QuantizeLinear is one integer operator (TFLite 8-bit quantization
specification); where the operator has no integer kernel, or a side is float, the conversion becomes
a node of its own. Operators that only move data keep their input's grid, as their kernels do, and
those whose output grid TFLite prescribes get it; if the Q/DQ graph wants another grid behind them,
a Quantize node brings it there by the same formula. Integers are int8 or int16; an operator between
both computes in float, a composite one on int16.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from edgec.export.emit.tflite.flavour import Flavour
from edgec.export.emit.tflite.graph import Array, Graph, Node, Value
from edgec.export.emit.tflite.grids import (
    FIXED,
    ROUNDING,
    SAME_GRID,
    computes_on_integers,
    fixed_grid,
    same_grid,
    widened,
)
from edgec.export.errors import UnsupportedError
from edgec.export.rewrite.graph import MODULE_KEY, constant, shape_of, sole_user
from edgec.export.tflite.marks import name_of, order_of, position_of
from edgec.export.tflite.model import Quantization

STATIC: Mapping[str, tuple[str, ...]] = {
    "Reshape": ("", "shape"),
    "Expand": ("", "shape"),
    "Tile": ("", "repeats"),
    "Squeeze": ("", "axes"),
    "Unsqueeze": ("", "axes"),
    "Slice": ("", "starts", "ends", "axes", "steps"),
    "Split": ("", "split"),
    "Pad": ("", "pads", "value", "axes"),
    "Resize": ("", "roi", "scales", "sizes"),
    "Clip": ("", "min", "max"),
    "CumSum": ("", "axis"),
    "Col2Im": ("", "image_shape", "block_shape"),
    **{
        f"Reduce{kind}": ("", "axes")
        for kind in "L1 L2 LogSum LogSumExp Max Mean Min Prod Sum SumSquare".split()
    },
}
"""Operator → names of operands that have to be constants; they become attributes."""

_FUSABLE = frozenset(
    {"Conv", "MatMul", "Gemm", "Add", "Sub", "Mul", "Div", "AveragePool", "MaxPool"}
)
_LIMITS = {(0.0, np.inf): "RELU", (0.0, 6.0): "RELU6", (-1.0, 1.0): "RELU_N1_TO_1"}


def read_graph(model: ir.Model, flavour: Flavour) -> Graph:
    """Fold quantization, biases and activations of `model` into a `Graph`.

    Args:
        model: static shapes; float32, or Q/DQ with integer types of TFLite. Not modified.
        flavour: which operators compute on integers.

    Raises:
        UnsupportedError: EC391 control flow, open shapes or operand types that TFLite lacks.
    """
    return _Reader(model, flavour).graph()


class _Reader:
    def __init__(self, model: ir.Model, flavour: Flavour) -> None:
        self.model = model
        self.flavour = flavour
        self.values: dict[ir.Value, Value] = {}
        # float ONNX value → the integers it stands for
        self.twins: dict[ir.Value, Value] = {}
        self.floats: dict[Value | ir.Value, Value] = {}
        self.nodes: list[Node] = []
        self.requantizations = 0

    def graph(self) -> Graph:
        inputs = [
            self._value(v)
            for v in self.model.graph.inputs
            if v.name not in self.model.graph.initializers
        ]
        done: set[ir.Node] = set()
        for node in self.model.graph:
            if node in done or node.op_type == "Constant":
                continue
            if node.domain not in ("", "ai.onnx"):
                raise UnsupportedError(
                    "EC391",
                    f"{node.domain}::{node.op_type} is no operator of the ONNX standard",
                    where=f"{node.op_type} {node.name}",
                    fix="export the network without custom operators",
                )
            if node.op_type == "QuantizeLinear":
                self._quantize(node)
            elif node.op_type == "DequantizeLinear":
                self._dequantize(node)
            elif node.op_type in ("Identity", "Dropout"):
                self._alias(node)
            else:
                done |= self._operator(node)
        outputs = [self._float(v) for v in self.model.graph.outputs]
        names = [str(v.name) for v in self.model.graph.outputs]
        name = self.model.graph.name or ""
        return Graph(self.nodes, inputs, outputs, names, name, self.requantizations)

    # --- values ------------------------------------------------------------------------------

    def _value(self, value: ir.Value) -> Value:
        if value not in self.values:
            shape = shape_of(value)
            array = constant(value)
            if array is not None:
                shape = array.shape
            if shape is None or value.dtype is None:
                raise UnsupportedError(
                    "EC391",
                    f"{value.name!r} has no static shape",
                    why="the operators of a .tflite file are written for one shape",
                    fix="fix the shapes of the inputs: --shape NAME=1,3,224,224",
                )
            dtype = np.dtype(value.dtype.numpy())
            self.values[value] = Value(
                name_of(value), tuple(shape), dtype, array, order=order_of(value)
            )
        return self.values[value]

    def _float(self, value: ir.Value) -> Value:
        """The value itself, dequantized where only its integers are computed."""
        if value in self.values or value not in self.twins:
            return self._value(value)
        twin = self.twins[value]
        # a file may convert the same integers more than once
        key = twin if position_of(value) is None else value
        if key not in self.floats:
            name = name_of(value) if twin.const is None else twin.name
            made = Value(name, twin.shape, np.dtype(np.float32), order=order_of(value))
            if twin.const is not None:
                made.order = twin.order
                made.const, made.integers = twin.real(), twin
            else:
                module = self._module(value.producer())
                node = Node("Dequantize", f"{twin.name}/dequantize", [twin], [made], module=module)
                node.position = position_of(value)
                self.nodes.append(node)
            self.floats[key] = made
        return self.floats[key]

    def _grid(self, node: ir.Node) -> Quantization:
        scale, zero = constant(node.inputs[1]), None
        if len(node.inputs) > 2 and node.inputs[2] is not None:
            zero = constant(node.inputs[2])
        if scale is None:
            raise UnsupportedError(
                "EC391",
                "a scale is computed at run time",
                where=f"{node.op_type} {node.name}",
                why="scales are part of a .tflite file",
                fix="quantize with constant scales",
            )
        scales = np.atleast_1d(np.asarray(scale, np.float32)).reshape(-1)
        zeros = np.zeros(scales.shape, np.int64)
        if zero is not None:
            zeros = np.broadcast_to(np.asarray(zero, np.int64).reshape(-1), scales.shape).copy()
        attribute = node.attributes.get("axis")
        rank = len(shape_of(node.inputs[0]) or ())
        axis = 1 if attribute is None else attribute.as_int()
        return Quantization(scales, zeros, axis % rank if scales.size > 1 and rank else 0)

    # --- conversions -------------------------------------------------------------------------

    def _alias(self, node: ir.Node) -> None:
        source, output = node.inputs[0], node.outputs[0]
        assert source is not None
        if source in self.twins and source not in self.values:
            self.twins[output] = self.twins[source]
        else:
            self.values[output] = self._value(source)

    def _dequantize(self, node: ir.Node) -> None:
        source, output = node.inputs[0], node.outputs[0]
        assert source is not None
        array = constant(source)
        if array is not None:
            grid = self._grid(node)
            told = output if order_of(output) is not None else source
            self.twins[output] = Value(
                name_of(told), array.shape, array.dtype, array, grid, order_of(told)
            )
        else:
            twin = self.twins[output] = self._value(source)
            if twin.quantization is None:  # an integer input, or integers that were moved
                twin.quantization = self._grid(node)

    def _quantize(self, node: ir.Node) -> None:
        source, output = node.inputs[0], node.outputs[0]
        assert source is not None
        assert output.dtype is not None
        grid = self._grid(node)
        dtype = np.dtype(output.dtype.numpy())
        twin = self.twins.get(source)
        if twin is not None and twin.quantization is not None:
            if same_grid(twin.quantization, grid) and twin.dtype == dtype:
                self.values[output] = twin
                return
            self.requantizations += 1
        operand = self._value(source) if twin is None else twin
        made = Value(name_of(output), operand.shape, dtype, None, grid, order_of(output))
        self.values[output] = made
        found = Node("Quantize", str(node.name), [operand], [made], module=self._module(node))
        found.position = position_of(node)
        self.nodes.append(found)

    # --- operators ---------------------------------------------------------------------------

    def _operator(self, node: ir.Node) -> set[ir.Node]:
        """Read `node` and what belongs to it; returns the ONNX nodes that this was."""
        group = [node]
        bias = self._bias_of(node)
        if bias is not None:
            group.append(bias[0])
        activation = "NONE"
        behind = self._activation_of(group[-1])
        if behind is not None:
            group.append(behind[0])
            activation = behind[1]
        operands = list(node.inputs)
        if bias is not None:
            operands = [*operands[:2], bias[1]]
        attrs = {name: _plain(a) for name, a in node.attributes.items()}
        names = STATIC.get(node.op_type, ())
        for index, name in enumerate(names):
            operand = operands[index] if index < len(operands) else None
            if not name or operand is None:
                continue
            array = constant(operand)
            if array is None and operand in self.twins and self.twins[operand].const is not None:
                array = self.twins[operand].real()
            if array is None:
                raise UnsupportedError(
                    "EC391",
                    f"{node.op_type} has a computed operand {name}",
                    where=f"{node.op_type} {node.name}",
                    why="shapes of a .tflite file are static",
                    fix="make it a constant of the network",
                )
            attrs[name] = array
        if names:
            operands = operands[:1]
        outputs = list(group[-1].outputs)
        while len(outputs) > 1 and node.op_type != "Split" and not _used(outputs[-1]):
            outputs.pop()
        if node.op_type == "Split":
            attrs["split"] = [shape_of(v)[int(attrs.get("axis", 0))] for v in outputs]  # type: ignore[index]
        made = Node(
            node.op_type,
            str(node.name),
            [],
            [],
            attrs,
            module=self._module(node),
            activation=activation,
            position=position_of(node),
        )
        found = None if self._too_long(node) else self._grids(node.op_type, operands, outputs)
        if found is None:
            made.inputs = [None if v is None else self._float(v) for v in operands]
            made.outputs = [self._value(v) for v in outputs]
            self.nodes.append(made)
            return set(group)
        grids, dtype = found
        made.inputs = [
            None if v is None else self.twins[v] if v in self.twins else self._value(v)
            for v in operands
        ]
        if node.op_type in self.flavour.composites and dtype == np.int16:
            made.inputs = [None if v is None else self._widened(v) for v in made.inputs]
        if node.op_type == "Concat":
            made.inputs = [self._onto(v, grids[0]) for v in made.inputs if v is not None]
        for output, grid in zip(outputs, grids, strict=True):
            shape = shape_of(output)
            assert shape is not None
            twin = Value(name_of(output), shape, dtype, None, grid, order_of(output))
            self.twins[output] = twin
            made.outputs.append(twin)
        self.nodes.append(made)
        return set(group)

    def _grids(
        self, op: str, operands: list[ir.Value | None], outputs: list[ir.Value]
    ) -> tuple[list[Quantization], np.dtype[Any]] | None:
        """Grids and type of the outputs if the operator computes on integers, else None."""
        first = operands[0]
        if first is None or any(v.dtype != ir.DataType.FLOAT for v in outputs):
            return None
        twin = self.twins.get(first)
        if op in SAME_GRID and op != "Concat":
            if twin is None or twin.quantization is None or twin.const is not None:
                return None
            if op in self.flavour.in_float(twin.dtype):
                return None
            # a file says itself on which side of its DEQUANTIZE something moves
            literal = op in ROUNDING or all(order_of(v) is not None for v in outputs)
            if literal and any(self._wanted(v) is None for v in outputs):
                return None
            return [twin.quantization] * len(outputs), twin.dtype
        weighted = op == "MatMul" and self._is_linear(operands)
        floats = [v for v in operands if v is not None and v.dtype == ir.DataType.FLOAT]
        if op in self.flavour.composites:  # their scales and offsets stay float
            floats = [v for v in floats if constant(v) is None]
        if op in ("Conv", "ConvTranspose", "Gemm") or weighted:
            # a float bias is rounded to the kernel's grid
            floats = [*floats[:2], *(v for v in floats[2:] if constant(v) is None)]
        if any(v not in self.twins for v in floats):
            return None
        wanted = [grid for v in outputs if (grid := self._wanted(v)) is not None]
        read = {self.twins[v].dtype for v in floats if self.twins[v].const is None}
        types = read | {dtype for _, dtype in wanted}
        if len(wanted) < len(outputs) or not read:
            return None
        wide = np.dtype(np.int16)
        if op in self.flavour.composites and wide in types:
            return [grid if dtype == wide else widened(grid) for grid, dtype in wanted], wide
        if len(types) > 1:
            return None
        (dtype,) = types
        if not weighted and not computes_on_integers(op, self.flavour, dtype):
            return None
        if op not in FIXED:
            return [grid for grid, _ in wanted], dtype
        prescribed = fixed_grid(op, dtype)
        if any((2 * grid.scale < prescribed.scale).any() for grid, _ in wanted):
            return None  # its kernel would round away what the graph keeps
        return [prescribed] * len(wanted), dtype

    def _too_long(self, node: ir.Node) -> bool:
        """Whether the runtime fails on the rows of an int8 softmax."""
        limit, output = self.flavour.longest_softmax, node.outputs[0]
        if node.op_type != "Softmax" or limit is None:
            return False
        axis = node.attributes.get("axis")
        row = (shape_of(output) or (0,))[-1 if axis is None else axis.as_int()]
        users = [use.node.outputs[0].dtype for use in output.uses()]
        return row > limit and ir.DataType.INT16 not in users

    def _is_linear(self, operands: list[ir.Value | None]) -> bool:
        """Whether one operand of a MatMul can be the weight of a FULLY_CONNECTED."""
        right = self._array(operands[1])
        if right is not None:
            return right.ndim == 2
        left = operands[0]
        array, twin = self._array(left), None if left is None else self.twins.get(left)
        if array is None or array.ndim != 2:
            return False
        grid = None if twin is None else twin.quantization
        return grid is None or not grid.zero_point.any()

    def _wanted(self, value: ir.Value) -> tuple[Quantization, np.dtype[Any]] | None:
        """Grid and type that all readers of `value` put it on; None if one reads the float."""
        if value.is_graph_output() or not value.uses():
            return None
        grids, types = [], set()
        for use in value.uses():
            dtype = use.node.outputs[0].dtype
            if use.node.op_type != "QuantizeLinear" or dtype is None:
                return None
            grids.append(self._grid(use.node))
            types.add(np.dtype(dtype.numpy()))
        same = len(types) == 1 and all(same_grid(grids[0], g) for g in grids)
        return (grids[0], types.pop()) if same else None

    def _onto(self, value: Value, grid: Quantization) -> Value:
        """`value` on another grid of the same type."""
        assert value.quantization is not None
        if same_grid(value.quantization, grid):
            return value
        self.requantizations += 1
        made = Value(f"{value.name}/requantized", value.shape, value.dtype, None, grid)
        if value.const is not None:
            info = np.iinfo(value.dtype)
            levels = np.rint(value.real() / grid.scale[0]) + int(grid.zero_point[0])
            made.const = np.clip(levels, info.min, info.max).astype(value.dtype)
            return made
        self.nodes.append(Node("Quantize", f"{value.name}/requantize", [value], [made]))
        return made

    def _widened(self, value: Value) -> Value:
        """`value` as int16: the same numbers."""
        if value.dtype != np.int8 or value.quantization is None or value.const is not None:
            return value
        self.requantizations += 1
        grid = widened(value.quantization)
        made = Value(f"{value.name}/wide", value.shape, np.dtype(np.int16), None, grid)
        self.nodes.append(Node("Quantize", f"{value.name}/widen", [value], [made]))
        return made

    def _bias_of(self, node: ir.Node) -> tuple[ir.Node, ir.Value] | None:
        """The Add of a constant vector behind a product with a constant matrix, and the vector."""
        if node.op_type != "MatMul" or self._array(node.inputs[1]) is None:
            return None
        if order_of(node.outputs[0]) is not None:
            return None  # a tensor of the file that it was read from
        add = sole_user(node.outputs[0])
        weight = self._array(node.inputs[1])
        if add is None or add.op_type != "Add" or weight is None or weight.ndim != 2:
            return None
        for value in add.inputs:
            array = self._array(value)
            if value is not None and array is not None and array.shape == (weight.shape[1],):
                return add, value
        return None

    def _activation_of(self, node: ir.Node) -> tuple[ir.Node, str] | None:
        if node.op_type not in _FUSABLE or len(node.outputs) != 1:
            return None
        if order_of(node.outputs[0]) is not None:
            return None  # a tensor of the file that it was read from
        if node.op_type == "MatMul" and not self._is_linear(list(node.inputs)):
            return None  # BATCH_MATMUL has no activation
        user = sole_user(node.outputs[0])
        if user is None or user.op_type not in ("Relu", "Clip"):
            return None
        if user.inputs[0] is not node.outputs[0]:
            return None
        limits = [-np.inf, np.inf]
        if user.op_type == "Relu":
            limits = [0.0, np.inf]
        for index, value in enumerate(user.inputs[1:3]):
            if value is None:
                continue
            array = self._array(value)
            if array is None:
                return None
            limits[index] = float(array.reshape(-1)[0])
        name = _LIMITS.get((limits[0], limits[1]))
        if name is None and self._saturates(user.outputs[0], limits):
            name = "NONE"
        return None if name is None else (user, name)

    def _saturates(self, value: ir.Value, limits: list[float]) -> bool:
        """Whether all readers of `value` put it on a grid that ends within `limits`, where
        rounding to the grid limits it as well."""
        wanted = self._wanted(value)
        if wanted is None:
            return False
        grid, dtype = wanted
        low, high = (np.rint(np.float32(limit) / grid.scale) + grid.zero_point for limit in limits)
        return bool((low <= np.iinfo(dtype).min).all() and (high >= np.iinfo(dtype).max).all())

    def _array(self, value: ir.Value | None) -> Array | None:
        """The numbers of a constant, through DequantizeLinear."""
        if value is None:
            return None
        producer = value.producer()
        if producer is not None and producer.op_type == "DequantizeLinear":
            if value not in self.twins and constant(producer.inputs[0]) is not None:
                self._dequantize(producer)
            twin = self.twins.get(value)
            return None if twin is None or twin.const is None else twin.real()
        return constant(value)

    @staticmethod
    def _module(node: ir.Node | None) -> str | None:
        return None if node is None else node.metadata_props.get(MODULE_KEY)


def _used(value: ir.Value) -> bool:
    return bool(value.uses()) or value.is_graph_output()


def _plain(attribute: ir.Attr) -> Any:
    value = attribute.value
    if isinstance(value, ir.TensorProtocol):
        return value.numpy()
    return value
