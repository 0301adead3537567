"""Insert QuantizeLinear and DequantizeLinear as a `QuantPlan` says."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgec.export.errors import UnsupportedError, UsageError
from edgec.export.quantize.calibrate import Calibration
from edgec.export.quantize.entries import Bias, Quantizer, QuantPlan, Weight
from edgec.export.quantize.graph import (
    constant_of,
    drop_unused_constants,
    is_excluded,
    opset_of,
    prepared_copy,
    require_float32,
)
from edgec.export.quantize.learned import Learned, learned_grid
from edgec.export.quantize.plan import plan_quantization
from edgec.export.quantize.ranges import Range
from edgec.export.quantize.scheme import INT4_OPSET, QuantScheme
from edgec.export.quantize.weights import (
    WeightRule,
    activation_parameters,
    quantize_bias,
    quantize_weight,
    scale_floor,
)
from edgec.export.rewrite.graph import MODULE_KEY

SCHEME_KEY = "edgec.quant_scheme"
FEWEST_STEPS = 8
"""Of a prescribed grid that a tensor has to reach. Attention over many tokens does not on 1/256:
no weight of attention that is spread over 196 is far above 1/196."""


def quantize(
    model: ir.Model,
    calibration: Calibration,
    scheme: QuantScheme,
    *,
    exclude: Collection[str] = (),
    weight_rule: WeightRule = "absmax",
    learned: Learned | None = None,
) -> ir.Model:
    """Return a Q/DQ copy of a float graph.

    Args:
        model: float32 graph, opset >= `scheme.min_opset`; not modified.
        calibration: ranges of the activations, collected on the same graph.
        scheme: rules of the target runtime.
        exclude: node names, operator types or module paths (with everything below) to leave
            float; each must match something.
        weight_rule: see `edgec.export.quantize.weights.quantize_weight`.
        learned: (weight tensor, axis) → integers and scales that replace rounding to nearest; each
            must be a weight of the plan (`Weight.tensor`, `Weight.axis`).

    Raises:
        UnsupportedError: EC360 not a float32 graph, EC362 opset too low, EC363 the graph has
            Q/DQ already.
        UsageError: EC262 a tensor was not calibrated, EC265 `exclude` names nothing, EC269 a
            learned weight does not fit.
        InputError: EC764 NaN or infinite weights.
    """
    check_quantizable(model, scheme)
    copy = prepared_copy(model)
    for entry in exclude:
        if not any(is_excluded(node, (entry,)) for node in copy.graph):
            raise UsageError(
                "EC265",
                f"nothing to exclude is called {entry!r}",
                fix="give a node name, an operator type or a module path of the network",
            )
    plan = plan_quantization(copy, scheme, exclude)
    learned = learned or {}
    weights = {(w.tensor, w.axis) for w in plan.weights if not w.operand}
    for tensor, axis in learned:
        if (tensor, axis) not in weights:
            raise UsageError(
                "EC269",
                f"there is no quantized weight {tensor!r} with axis {axis} to replace",
                why="the scheme leaves it float, `exclude` names it, or it is of another graph",
                fix="learn it for the graph, scheme and `exclude` that are quantized",
            )
    InsertQDQPass(plan, calibration, weight_rule, learned)(copy)
    return copy


def check_quantizable(model: ir.Model, scheme: QuantScheme) -> None:
    """Raise UnsupportedError (EC360, EC362, EC363) unless the graph can be quantized."""
    opset = opset_of(model)
    if opset < scheme.lowest_opset:
        raise UnsupportedError(
            "EC362",
            f"opset {opset} is too old for the Q/DQ of {scheme.name}",
            why=f"DequantizeLinear has an axis from opset 13 on, 16-bit integers from 21; "
            f"{scheme.name} needs {scheme.lowest_opset}",
            fix="convert the model up first (edgec does so when it loads an ONNX file)",
        )
    require_float32(model)
    for node in model.graph:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") or "Quant" in node.domain:
            raise UnsupportedError(
                "EC363",
                "the graph is quantized already",
                where=f"{node.op_type} {node.name}",
                fix="start from the float model",
            )


class InsertQDQPass(ir.passes.InPlacePass):
    """Turn a plan into nodes and integer initializers.

    Names are derived from the tensor's: ``T_quantized``, ``T_dequantized``, ``T_scale``,
    ``T_zero_point``. A weight used with one axis by several nodes is stored once.
    """

    def __init__(
        self,
        plan: QuantPlan,
        calibration: Calibration,
        weight_rule: WeightRule = "absmax",
        learned: Learned | None = None,
    ) -> None:
        super().__init__()
        self.plan = plan
        self.calibration = calibration
        self.weight_rule: WeightRule = weight_rule
        self.learned: Learned = learned or {}

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        self._graph = model.graph
        self._nodes = {str(node.name): node for node in model.graph}
        self._values = {str(v.name): v for v in model.graph.inputs}
        self._values |= {str(v.name): v for node in model.graph for v in node.outputs}
        self._values |= dict(model.graph.initializers)
        # parameters by the tensor that lends its range, and width: same-scale operators share them
        self._parameters: dict[tuple[str, bool], tuple[ir.Value, ir.Value, np.float32]] = {}
        self._stored: dict[
            tuple[str, int | None, bool, bool], tuple[ir.Value, NDArray[np.float32]]
        ] = {}
        self._scale_of: dict[tuple[str, bool], np.float32] = {}
        # the nodes behind which a conversion stands
        self._behind: dict[str, ir.Node] = {}
        self._limits: tuple[ir.Value, ir.Value] | None = None
        self._opset = opset_of(model)
        for quantizer in self.plan.quantizers:
            self._activation(quantizer)
        floors = self._floors()
        for weight in self.plan.weights:
            self._weight(weight, floors)
        for bias in self.plan.biases:
            self._bias(bias)
        drop_unused_constants(model)
        model.metadata_props[SCHEME_KEY] = self.plan.scheme.name
        return ir.passes.PassResult(model, modified=bool(self.plan.quantizers))

    # --- activations -----------------------------------------------------------------------

    def _activation(self, quantizer: Quantizer) -> None:
        scheme = self.plan.scheme.in_width(quantizer.wide)
        value = self._values[quantizer.tensor]
        scale, zero_point, number = self._shared_parameters(quantizer)
        self._scale_of[quantizer.tensor, quantizer.wide] = number
        producer = value.producer()
        module = self._module_of(producer or self._nodes[quantizer.readers[0][0]])
        if quantizer.converts:
            producer = self._behind[quantizer.tensor]
            value = producer.outputs[0]
        name = quantizer.name
        quantized = ir.Value(
            name=f"{name}_quantized",
            type=ir.TensorType(ir.DataType.from_numpy(scheme.dtype)),
            shape=value.shape,
        )
        dequantized = ir.Value(name=f"{name}_dequantized", type=value.type, shape=value.shape)
        q = ir.node(
            "QuantizeLinear",
            [value, scale, zero_point],
            outputs=[quantized],
            name=f"{name}_QuantizeLinear",
            metadata_props=module,
        )
        dq = ir.node(
            "DequantizeLinear",
            [quantized, scale, zero_point],
            outputs=[dequantized],
            name=f"{name}_DequantizeLinear",
            metadata_props=dict(module),
        )
        nodes = [q, dq]
        if scheme.cut:
            nodes.insert(1, self._cut(quantized, f"{name}_cut", module))
            dq.replace_input_with(0, nodes[1].outputs[0])
        if producer is None:
            self._graph.insert_before(self._graph[0], nodes)
        else:
            self._graph.insert_after(producer, nodes)
        if not quantizer.converts:
            self._behind[quantizer.tensor] = dq
        for node_name, index in quantizer.readers:
            self._nodes[node_name].replace_input_with(index, dequantized)
        if quantizer.output:
            # the graph keeps its output name; the float value behind it gets another one
            value.name = f"{quantizer.tensor}_float"
            dequantized.name = quantizer.tensor
            for i, output in enumerate(self._graph.outputs):
                if output is value:
                    self._graph.outputs[i] = dequantized

    def _cut(self, quantized: ir.Value, name: str, module: dict[str, str]) -> ir.Node:
        """Saturate integers at the limits of a grid that is smaller than their type."""
        scheme = self.plan.scheme
        if self._limits is None:
            low, high = (np.array(limit, scheme.dtype) for limit in scheme.limits)
            self._limits = (
                self._initializer("edgec_lowest_integer", low),
                self._initializer("edgec_highest_integer", high),
            )
        output = ir.Value(name=name, type=quantized.type, shape=quantized.shape)
        return ir.node(
            "Clip",
            [quantized, *self._limits],
            outputs=[output],
            name=f"{name}_Clip",
            metadata_props=dict(module),
        )

    def _shared_parameters(self, quantizer: Quantizer) -> tuple[ir.Value, ir.Value, np.float32]:
        key = quantizer.range_of, quantizer.wide
        if key not in self._parameters:
            scheme = self.plan.scheme.in_width(quantizer.wide)
            name = replace(quantizer, tensor=quantizer.range_of).name
            number, zero = activation_parameters(
                self._range(quantizer), scheme.limits, symmetric=scheme.symmetric
            )
            self._parameters[key] = (
                self._initializer(f"{name}_scale", np.array(number, np.float32)),
                self._initializer(f"{name}_zero_point", np.array(zero, scheme.dtype)),
                number,
            )
        return self._parameters[key]

    def _range(self, quantizer: Quantizer) -> Range:
        scheme = self.plan.scheme.in_width(quantizer.wide)
        if quantizer.fixed is not None:
            fixed = Range(*quantizer.fixed)
            if not self._too_coarse(fixed, quantizer.range_of, scheme.levels):
                return fixed
        chosen = self.calibration.range(
            quantizer.range_of, levels=scheme.levels, symmetric=scheme.symmetric
        )
        return chosen if quantizer.bounds is None else chosen.intersect(*quantizer.bounds)

    def _too_coarse(self, fixed: Range, tensor: str, levels: int) -> bool:
        """Whether a prescribed grid of `levels` leaves a tensor almost no steps: then its operator
        computes in float, since no integer kernel writes on a finer one. A tensor that was not
        observed counts as fitting."""
        extremes = self.calibration.extremes(tensor)
        step = (fixed.high - fixed.low) / (levels - 1)
        return extremes is not None and max(map(abs, extremes)) < FEWEST_STEPS * step

    # --- constants -------------------------------------------------------------------------

    def _floors(self) -> dict[str, NDArray[np.float64]]:
        """Per weight tensor, the least scales for which all biases on it fit int32."""
        floors: dict[str, NDArray[np.float64]] = {}
        for bias in self.plan.biases:
            number = constant_of(self._nodes[bias.node].inputs[bias.index])
            assert number is not None  # the planner took only constant biases
            floor = scale_floor(number, float(self._scale_of[bias.activation, bias.wide]))
            if bias.axis is None:
                floor = floor.max(initial=0.0, keepdims=True)
            known = floors.get(bias.weight)
            floors[bias.weight] = floor if known is None else np.maximum(known, floor)
        return floors

    def _weight(self, weight: Weight, floors: dict[str, NDArray[np.float64]]) -> None:
        key = (weight.tensor, weight.axis, weight.operand, weight.wide)
        node = self._nodes[weight.node]
        if key not in self._stored:
            number = constant_of(node.inputs[weight.index])
            assert number is not None  # the planner took only constants
            suffix = "".join(
                [
                    f"_axis{weight.axis}" if self._has_other(weight) else "",
                    "_operand" if weight.operand else "",
                    "_wide" if weight.wide else "",
                ]
            )
            if weight.operand:
                scheme = self.plan.scheme.in_width(weight.wide)
                span = Range.including_zero(float(number.min()), float(number.max()))
                scalar, zero = activation_parameters(
                    span, scheme.limits, symmetric=scheme.symmetric
                )
                low, high = scheme.limits
                grid = np.clip(np.rint(number / scalar) + zero, low, high).astype(scheme.dtype)
                scales, zeros = np.array(scalar, np.float32), np.array(zero, scheme.dtype)
            else:
                grid, scales = self._weight_grid(weight, number, floors.get(weight.tensor))
                zeros = np.zeros(scales.shape, np.int8)
                if self._has_int4(node):
                    grid, zeros = grid.astype(ml_dtypes.int4), zeros.astype(ml_dtypes.int4)
                elif self.plan.scheme.weight == "uint8":
                    grid = (grid.astype(np.int16) + 128).astype(np.uint8)
                    zeros = np.full(scales.shape, 128, np.uint8)
            name = weight.tensor + suffix
            output = self._dequantized_constant(node, name, grid, scales, zeros, weight.axis)
            self._stored[key] = output, scales
        node.replace_input_with(weight.index, self._stored[key][0])

    def _weight_grid(
        self, weight: Weight, number: NDArray[np.float32], floor: NDArray[np.float64] | None
    ) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
        key, safe = (weight.tensor, weight.axis), weight.pair_safe
        limit = self.plan.scheme.weight_limit(self._nodes[weight.node])
        if key in self.learned:
            given = self.learned[key]
            return learned_grid(key, number, given, pair_safe=safe, floor=floor, limit=limit)
        return quantize_weight(
            number, weight.axis, rule=self.weight_rule, pair_safe=safe, floor=floor, limit=limit
        )

    def _has_int4(self, node: ir.Node) -> bool:
        return self.plan.scheme.weight_limit(node) == 7 and self._opset >= INT4_OPSET

    def _has_other(self, weight: Weight) -> bool:
        return any(w.tensor == weight.tensor and w.axis != weight.axis for w in self.plan.weights)

    def _bias(self, bias: Bias) -> None:
        node = self._nodes[bias.node]
        number = constant_of(node.inputs[bias.index])
        assert number is not None  # the planner took only constant biases
        _, weight_scales = self._stored[bias.weight, bias.axis, False, False]
        given = self._scale_of[bias.activation, bias.wide]
        grid, scales = quantize_bias(number, given, weight_scales)
        name = f"{bias.node}_bias"
        axis = 0 if scales.ndim else None
        node.replace_input_with(
            bias.index, self._dequantized_constant(node, name, grid, scales, None, axis)
        )

    def _dequantized_constant(
        self,
        reader: ir.Node,
        name: str,
        grid: NDArray[Any],
        scales: NDArray[np.float32],
        zeros: NDArray[Any] | None,
        axis: int | None,
    ) -> ir.Value:
        inputs = [
            self._initializer(f"{name}_quantized", grid),
            self._initializer(f"{name}_scale", scales),
        ]
        if zeros is not None:
            inputs.append(self._initializer(f"{name}_zero_point", zeros))
        output = ir.Value(
            name=f"{name}_dequantized",
            type=ir.TensorType(ir.DataType.FLOAT),
            shape=ir.Shape(grid.shape),
        )
        dq = ir.node(
            "DequantizeLinear",
            inputs,
            attributes={} if axis is None else {"axis": axis},
            outputs=[output],
            name=f"{name}_DequantizeLinear",
            metadata_props=self._module_of(reader),
        )
        self._graph.insert_before(reader, [dq])
        return output

    def _initializer(self, name: str, array: NDArray[np.generic]) -> ir.Value:
        tensor = ir.tensor(np.ascontiguousarray(array).reshape(array.shape), name=name)
        value = ir.Value(
            name=name,
            type=ir.TensorType(tensor.dtype),
            shape=ir.Shape(array.shape),
            const_value=tensor,
        )
        self._graph.register_initializer(value)
        return value

    @staticmethod
    def _module_of(node: ir.Node) -> dict[str, str]:
        path = node.metadata_props.get(MODULE_KEY)
        return {} if path is None else {MODULE_KEY: path}
