"""The float graph and its Q/DQ graph side by side, in torch.

Both are cut at the same tensors, because quantization keeps the names of what nodes compute.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgec.export.quantize.calibrate import Calibration
from edgec.export.quantize.entries import QuantPlan, Weight
from edgec.export.quantize.graph import constant_of, prepared_copy
from edgec.export.quantize.insert import quantize
from edgec.export.quantize.learned import LearnedWeight, WeightKey
from edgec.export.quantize.plan import plan_quantization
from edgec.export.quantize.replay.graph import Intercept, Replay, Segment, constantly
from edgec.export.quantize.rounding.target import RoundingTarget
from edgec.export.quantize.scheme import QuantScheme
from edgec.export.quantize.weights import WeightRule

_BIAS_ROOM = float(2**30)


@dataclass(frozen=True)
class _Quantizer:
    """Where the Q/DQ graph rounds an activation: value before, and the float value after."""

    before: str
    after: str


class GraphPair:
    """A network before and after quantization by rounding to nearest."""

    def __init__(
        self,
        model: ir.Model,
        calibration: Calibration,
        scheme: QuantScheme,
        *,
        exclude: Collection[str] = (),
        weight_rule: WeightRule = "absmax",
    ) -> None:
        """Quantize and prepare both for torch.

        Raises:
            UnsupportedError: EC366, the graph has no replay; otherwise as `quantize`.
        """
        self.model = prepared_copy(model)
        self.plan: QuantPlan = plan_quantization(self.model, scheme, exclude)
        quantized = quantize(model, calibration, scheme, exclude=exclude, weight_rule=weight_rule)
        self.float_replay, self.quantized_replay = Replay(self.model), Replay(quantized)
        self._nodes = {str(node.name): node for node in quantized.graph}
        self._float_nodes = {str(node.name): node for node in self.model.graph}
        self.renamed = _renamed_outputs(self.model, quantized)
        self.targets: dict[WeightKey, RoundingTarget] = {}
        self.weight_values: dict[WeightKey, str] = {}
        rooms = self._bias_rooms()
        for weight in self.plan.weights:
            key = (weight.tensor, weight.axis)
            if not weight.operand and key not in self.targets:
                self.targets[key] = self._target(weight, rooms, scheme)
                source = self._nodes[weight.node].inputs[weight.index]
                self.weight_values[key] = str(source.name) if source is not None else ""
        self.quantizers = tuple(_quantizers(quantized))

    def float_part(self, inputs: Collection[str], outputs: Collection[str]) -> Segment:
        """A part of the float network."""
        return self.float_replay.between(inputs, tuple(outputs))

    def quantized_part(self, inputs: Collection[str], outputs: Collection[str]) -> QuantizedPart:
        """The same part of the quantized network, with values named as in the float one."""
        return QuantizedPart(self, inputs, tuple(outputs))

    def _target(
        self, weight: Weight, rooms: Mapping[WeightKey, NDArray[np.float64]], scheme: QuantScheme
    ) -> RoundingTarget:
        node = self._float_nodes[weight.node]
        number = constant_of(node.inputs[weight.index])
        source = self._nodes[weight.node].inputs[weight.index]
        dq = source.producer() if source is not None else None
        assert number is not None  # the planner took only constants
        assert dq is not None  # and quantize put a DequantizeLinear there
        grid, scales, zeros = (constant_of(value) for value in dq.inputs)
        assert grid is not None
        assert scales is not None
        assert zeros is not None
        offset = zeros.astype(np.int16).reshape(-1)[:1]
        integers = (grid.astype(np.int16) - offset).astype(np.int8)
        room = rooms.get((weight.tensor, weight.axis))
        least = np.zeros(scales.shape) if room is None else np.asarray(scales * room)
        return RoundingTarget(
            weight=number,
            axis=weight.axis,
            integers=integers,
            scales=scales,
            least=least,
            limit=scheme.weight_limit(node),
            pair_safe=weight.pair_safe,
        )

    def _bias_rooms(self) -> dict[WeightKey, NDArray[np.float64]]:
        """Share of the scales down to which the int32 biases fit."""
        rooms: dict[WeightKey, NDArray[np.float64]] = {}
        for bias in self.plan.biases:
            value = self._nodes[bias.node].inputs[bias.index]
            dq = value.producer() if value is not None else None
            integers = constant_of(dq.inputs[0]) if dq is not None else None
            assert integers is not None  # quantize put a DequantizeLinear there
            room = np.abs(integers.astype(np.float64)) / _BIAS_ROOM
            if bias.axis is None:
                room = room.max(initial=0.0)
            key = (bias.weight, bias.axis)
            rooms[key] = np.maximum(rooms.get(key, np.zeros(())), room)
        return rooms


class QuantizedPart:
    """A `Segment` of the quantized network whose weights can be replaced."""

    def __init__(self, pair: GraphPair, inputs: Collection[str], outputs: tuple[str, ...]) -> None:
        self._pair = pair
        self._names = {name: pair.renamed.get(name, name) for name in outputs}
        self._inputs = {name: pair.renamed.get(name, name) for name in inputs}
        self._segment = pair.quantized_replay.between(
            self._inputs.values(), tuple(self._names.values())
        )
        inside = self._segment.produced
        self._quantizers = [q for q in pair.quantizers if q.after in inside]

    def __call__(
        self,
        feeds: Mapping[str, Tensor],
        weights: Mapping[WeightKey, Tensor],
        *,
        drop: float = 0.0,
    ) -> dict[str, Tensor]:
        """Outputs of stacked samples.

        Args:
            feeds: one stack of values per input.
            weights: key → weight to use in place of the one rounded to nearest.
            drop: share of activations that are passed on unrounded (Wei et al., QDrop,
                arXiv 2203.05740).
        """
        intercept: dict[str, Intercept] = {
            self._pair.weight_values[key]: constantly(weight) for key, weight in weights.items()
        }
        if drop > 0.0:
            for quantizer in self._quantizers:
                intercept |= _dropping(quantizer, drop)
        given = {inner: feeds[name] for name, inner in self._inputs.items()}
        found = self._segment.batched(given, intercept=intercept)
        return {name: found[inner] for name, inner in self._names.items()}


def dequantized(learned: LearnedWeight, target: RoundingTarget) -> Tensor:
    """The float weight that learned integers and scales stand for."""
    assert learned.integers is not None  # rounding methods give integers
    integers = torch.tensor(learned.integers).float()
    return integers * target.broadcast(torch.tensor(learned.scales))


def _dropping(quantizer: _Quantizer, drop: float) -> dict[str, Intercept]:
    held: list[Tensor] = []

    def keep(value: Tensor) -> Tensor:
        held[:] = [value]
        return value

    def mix(rounded: Tensor) -> Tensor:
        dropped = torch.rand_like(rounded) < drop
        return torch.where(dropped, held[0], rounded)

    return {quantizer.before: keep, quantizer.after: mix}


def _quantizers(quantized: ir.Model) -> list[_Quantizer]:
    found = []
    for node in quantized.graph:
        if node.op_type != "DequantizeLinear":
            continue
        source = node.inputs[0].producer() if node.inputs[0] is not None else None
        if source is not None and source.op_type == "Clip":  # fewer levels than the type
            source = source.inputs[0].producer() if source.inputs[0] is not None else None
        if source is not None and source.inputs[0] is not None:
            found.append(_Quantizer(str(source.inputs[0].name), str(node.outputs[0].name)))
    return found


def _renamed_outputs(model: ir.Model, quantized: ir.Model) -> dict[str, str]:
    """Graph outputs that are quantized: the value before rounding has another name."""
    made = {str(v.name) for node in quantized.graph for v in node.outputs}
    names = [str(v.name) for v in model.graph.outputs]
    return {name: f"{name}_float" for name in names if f"{name}_float" in made}
