"""What fine-tuning may change, in units that one learning rate suits, and its way back.

A quantized network has these degrees of freedom (Finkelstein et al., QFT, arXiv 2212.02634): the
weights, their scales, the biases, and the ranges of the activations. Each starts where the
quantizer put it. Weights, their scales and biases move in units of the step of the weight's
grid, ranges of activations by factors. Everything that the scheme derives stays derived: zero
points from ranges, bias scales from the scales of input and weight, one range for all tensors
that share a grid.

The way back is a float graph with other weights and biases, ranges, and weight scales: what
`edgec.export.quantize.insert.quantize` takes from every other method.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgec.export.quantize.calibrate import Calibration
from edgec.export.quantize.entries import Quantizer, QuantPlan, Weight
from edgec.export.quantize.finetune.learned_step import learned_step
from edgec.export.quantize.graph import (
    constant_of,
    drop_unused_constants,
    give_constant,
    in_memory,
)
from edgec.export.quantize.learned import Learned, LearnedWeight, WeightKey
from edgec.export.quantize.plan import plan_quantization
from edgec.export.quantize.ranges import Range
from edgec.export.quantize.replay.graph import Intercept, constantly
from edgec.export.quantize.replay.integers import round_through
from edgec.export.quantize.scheme import QuantScheme
from edgec.export.quantize.weights import channel_shape

Parameters = list[Tensor]


class LearnedRange:
    """Range of one activation grid; all quantizers that name it share it."""

    def __init__(self, start: Range, bounds: tuple[float, float], scheme: QuantScheme) -> None:
        self._start, self._bounds, self._scheme = start, bounds, scheme
        # logarithms of the factors on both ends: a range keeps its signs, and zero
        self.factors = torch.zeros(2, requires_grad=True)

    def ends(self) -> tuple[Tensor, Tensor]:
        """Lowest and highest value; differentiable."""
        low, high = (torch.tensor(v) for v in (self._start.low, self._start.high))
        if self._scheme.symmetric:
            bound = torch.maximum(-low, high) * self.factors[1].exp()
            return -bound, bound
        low = (low * self.factors[0].exp()).clamp(min=self._bounds[0])
        return low, (high * self.factors[1].exp()).clamp(max=self._bounds[1])

    def grid(self) -> tuple[Tensor, Tensor]:
        """Scale and zero point, as `activation_parameters` makes them; differentiable."""
        low, high = self.ends()
        first, last = self._scheme.limits
        if self._scheme.symmetric:
            return high / last, torch.zeros(())
        scale = (high - low) / (last - first)
        return scale, round_through(first - low / scale).clamp(first, last)

    def range(self) -> Range:
        """What was learned."""
        low, high = (float(end.detach()) for end in self.ends())
        return Range(min(low, 0.0), max(high, 0.0))


class LearnedLayer:
    """A weight and its scales."""

    def __init__(
        self, weight: NDArray[np.float32], axis: int | None, start: LearnedWeight, limit: int
    ) -> None:
        self._limit = limit
        self._weight, self._first = torch.tensor(weight), torch.tensor(start.scales)
        self._shape = channel_shape(axis, weight.ndim)
        if start.integers is not None:
            # learned integers are where it starts, inside their rounding intervals where possible
            steps = self._weight / self._along(self._first)
            integers = torch.tensor(start.integers).float()
            same = torch.round(steps) == integers
            self._weight = torch.where(same, steps, integers) * self._along(self._first)
        self.moves = torch.zeros_like(self._weight, requires_grad=True)
        self.stretch = torch.zeros_like(self._first, requires_grad=True)

    def _along(self, scales: Tensor) -> Tensor:
        return scales.reshape(self._shape)

    def weight(self) -> Tensor:
        """The float weight that is rounded; differentiable."""
        return self._weight + self._along(self._first) * self.moves

    def scales(self) -> Tensor:
        """Steps of the grid; differentiable."""
        # one unit moves the largest weight by one step, like a unit of `moves`
        return self._first * (self.stretch / self._limit).exp()

    def rounded(self) -> Tensor:
        """The weight as an integer kernel sees it; differentiable."""
        scales, limit = self._along(self.scales()), self._limit
        return scales * round_through(self.weight() / scales).clamp(-limit, limit)


class LearnedBias:
    """A bias; moves in units of one step of its weights at a typical input."""

    def __init__(self, bias: NDArray[np.float32], unit: NDArray[np.float32]) -> None:
        self._bias, self._unit = torch.tensor(bias), torch.tensor(unit)
        self.moves = torch.zeros_like(self._bias, requires_grad=True)

    def bias(self) -> Tensor:
        """Differentiable."""
        return self._bias + self._unit * self.moves


class Freedom:
    """The degrees of freedom of one quantized network."""

    def __init__(
        self,
        model: ir.Model,
        quantized: ir.Model,
        calibration: Calibration,
        scheme: QuantScheme,
        *,
        exclude: Collection[str] = (),
        learned: Learned | None = None,
    ) -> None:
        """Find them.

        Args:
            model: float graph in which every bias has an initializer of its own (`own_biases`).
            quantized: what `quantize` makes of it with the other arguments.
            calibration, scheme, exclude, learned: as for `quantize`.
        """
        self._model, self._calibration, self._scheme = model, calibration, scheme
        self._learned = dict(learned or {})
        self.plan: QuantPlan = plan_quantization(model, scheme, exclude)
        self._nodes = {str(node.name): node for node in model.graph}
        self._quantized = {str(node.name): node for node in quantized.graph}
        self.ranges: dict[str, LearnedRange] = {}
        # value of the quantized graph -> what gives it
        self._steps: dict[str, str] = {}
        for quantizer in self.plan.quantizers:
            self._add_range(quantizer)
        self.layers: dict[WeightKey, LearnedLayer] = {}
        self._rounded: dict[str, WeightKey] = {}
        self._scales: dict[WeightKey, NDArray[np.float32]] = {}
        for weight in self.plan.weights:
            self._add_weight(weight)
        self.biases: dict[str, LearnedBias] = {}
        self._shown: dict[str, str] = {}
        self._add_biases(exclude)

    def parameters(self) -> tuple[Parameters, Parameters]:
        """What moves by steps of weights, and what by factors (ranges)."""
        steps = [p for layer in self.layers.values() for p in (layer.moves, layer.stretch)]
        steps += [bias.moves for bias in self.biases.values()]
        return steps, [found.factors for found in self.ranges.values()]

    def values(self) -> dict[str, Tensor]:
        """All quantities that the network is computed with, by name; differentiable."""
        found = {}
        for name, learned in self.ranges.items():
            found[f"{name}:scale"], found[f"{name}:zero_point"] = learned.grid()
        for value, key in self._rounded.items():
            found[value] = self.layers[key].rounded()
        for value, name in self._shown.items():
            found[value] = self.biases[name].bias()
        return found

    def intercepts(self, values: dict[str, Tensor]) -> dict[str, Intercept]:
        """`values` put into a replay of `skeleton`."""
        found: dict[str, Intercept] = {
            name: constantly(values[name]) for name in (*self._rounded, *self._shown)
        }
        for value, key in self._steps.items():
            found[value] = self._stepping(values[f"{key}:scale"], values[f"{key}:zero_point"])
        return found

    def skeleton(self, quantized: ir.Model) -> ir.Model:
        """A copy of the quantized graph in which learned activation grids are identities."""
        copy = in_memory(quantized)
        for node in list(copy.graph):
            if node.op_type == "DequantizeLinear" and str(node.outputs[0].name) in self._steps:
                value = node.inputs[0]
                while value is not None and (source := value.producer()) is not None:
                    value = source.inputs[0]
                    if source.op_type == "QuantizeLinear":
                        break
                node.resize_inputs(1)
                node.replace_input_with(0, value)
                node.op_type = "Identity"
        return copy

    def result(self) -> tuple[ir.Model, Calibration, Learned]:
        """A tuned float graph, and ranges and weight scales to quantize it with."""
        graph = in_memory(self._model)
        learned = dict(self._learned)
        with torch.no_grad():
            for key, layer in self.layers.items():
                _store(graph, key[0], layer.weight())
                learned[key] = LearnedWeight(None, layer.scales().numpy().astype(np.float32))
            for name, bias in self.biases.items():
                _store(graph, name, bias.bias())
            ranges = {name: found.range() for name, found in self.ranges.items()}
        return graph, self._calibration.with_ranges(ranges), learned

    def is_finite(self) -> bool:
        """Whether training has not diverged."""
        return all(bool(p.isfinite().all()) for group in self.parameters() for p in group)

    def _add_range(self, quantizer: Quantizer) -> None:
        if quantizer.fixed is not None or quantizer.wide or quantizer.converts:
            return  # sixteen bits leave nothing to learn; what is narrowed follows its source
        scheme, key = self._scheme, quantizer.range_of
        bounds = quantizer.bounds or (float("-inf"), float("inf"))
        start = self._calibration.range(key, levels=scheme.levels, symmetric=scheme.symmetric)
        start = start.intersect(*bounds)
        if start.low == start.high:
            return  # nothing but zeros was seen
        if key not in self.ranges:
            self.ranges[key] = LearnedRange(start, bounds, scheme)
        dq = self._quantized[f"{quantizer.tensor}_DequantizeLinear"]
        self._steps[str(dq.outputs[0].name)] = key

    def _add_weight(self, weight: Weight) -> None:
        key, node = (weight.tensor, weight.axis), self._nodes[weight.node]
        source = node.inputs[weight.index]
        assert source is not None  # the planner took only constants
        planned = {
            (w.node, w.index)
            for w in self.plan.weights
            if (w.tensor, w.axis) == key and not w.operand
        }
        read = {(str(use.node.name), use.idx) for use in source.uses()}
        dq_value = self._quantized[weight.node].inputs[weight.index]
        dq = None if dq_value is None else dq_value.producer()
        scales = None if dq is None else constant_of(dq.inputs[1])
        assert scales is not None  # quantize put a DequantizeLinear there
        self._scales[key] = scales
        if read != planned:
            return  # somebody needs the float weight as it is
        if key not in self.layers:
            number = constant_of(source)
            assert number is not None
            given = self._learned.get(key)
            start = LearnedWeight(None if given is None else given.integers, scales)
            limit = self._scheme.weight_limit(node)
            self.layers[key] = LearnedLayer(number, weight.axis, start, limit)
        assert dq_value is not None
        self._rounded[str(dq_value.name)] = key

    def _add_biases(self, exclude: Collection[str]) -> None:
        # float biases move, too
        plan = plan_quantization(self._model, self._scheme.with_integer_bias(), exclude)
        for bias in plan.biases:
            value = self._nodes[bias.node].inputs[bias.index]
            shown = self._quantized[bias.node].inputs[bias.index]
            number = constant_of(value)
            assert value is not None
            assert shown is not None
            assert number is not None  # the planner took only constant biases
            chosen = self._calibration.range(bias.activation)
            typical = 0.25 * (chosen.high - chosen.low)
            unit = (self._scales[bias.weight, bias.axis] * np.float32(typical)).astype(np.float32)
            name = str(value.name)
            self.biases[name] = LearnedBias(number, np.broadcast_to(unit, number.shape).copy())
            self._shown[str(shown.name)] = name

    def _stepping(self, scale: Tensor, zero_point: Tensor) -> Intercept:
        return lambda x: learned_step(x, scale, zero_point, self._scheme.limits)


def own_biases(model: ir.Model, scheme: QuantScheme, exclude: Collection[str]) -> ir.Model:
    """A copy in which no two layers share the initializer of a bias."""
    copy = in_memory(model)
    nodes = {str(node.name): node for node in copy.graph}
    plan = plan_quantization(copy, scheme.with_integer_bias(), exclude)
    for bias in plan.biases:
        node = nodes[bias.node]
        number = constant_of(node.inputs[bias.index])
        assert number is not None  # the planner took only constant biases
        give_constant(copy, node, bias.index, number, f"{bias.node}_own_bias")
    drop_unused_constants(copy)
    return copy


def _store(graph: ir.Model, name: str, value: Tensor) -> None:
    graph.graph.initializers[name].const_value = ir.tensor(
        np.ascontiguousarray(value.numpy().astype(np.float32)), name=name
    )
