"""What a block's precision can be, and what it costs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Literal

import onnx_ir as ir

from edgec.export.quantize.entries import QuantPlan
from edgec.export.quantize.graph import constant_of, opset_of
from edgec.export.quantize.rounding.blocks import Block
from edgec.export.quantize.scheme import INT4_OPSET, QuantScheme
from edgec.export.rewrite.graph import MODULE_KEY
from edgec.profiles.macs import count_graph_macs

Precision = Literal["int8", "int4", "int16x8", "float"]
"""``"int8"``: as the scheme says; ``"int4"``: the same with 4-bit weights; ``"int16x8"``: 8-bit
weights and activations of 16 bits, by the scheme's `wide` rules; ``"float"``: float32."""

Assignment = tuple[Precision, ...]
"""One precision per block."""

_WEIGHT_BITS: Mapping[Precision, int] = {"int8": 8, "int4": 4, "int16x8": 8, "float": 32}
_ACTIVATION_BITS: Mapping[Precision, int] = {"int16x8": 16, "float": 32}


@dataclass(frozen=True)
class Cost:
    """Of a block, or of a network.

    Attributes:
        bytes: of the weights and their scales.
        bit_operations: MACs times bits of the weight times bits of the activation; the usual
            stand-in for time where nothing was measured (Wang et al., "Differentiable joint
            pruning and quantization", arXiv 2007.10463).
        milliseconds: on the device; 0 where nobody asked for it.
        activation_bytes: of the tensors between kernels, each counted where it is written.
    """

    bytes: int
    bit_operations: int
    milliseconds: float = 0.0
    activation_bytes: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.bytes + other.bytes,
            self.bit_operations + other.bit_operations,
            self.milliseconds + other.milliseconds,
            self.activation_bytes + other.activation_bytes,
        )


def executable_precisions(model: ir.Model, types: Collection[str]) -> tuple[Precision, ...]:
    """The choices that a runtime executes, cheapest last.

    Args:
        model: the graph; int4 needs opset 21.
        types: data types that the runtime's DequantizeLinear takes at that opset
            (`edgec.targets.operators.table.Operator.types_at`).
    """
    has_int4 = "int4" in types and opset_of(model) >= INT4_OPSET
    return ("float", "int8", "int4") if has_int4 else ("float", "int8")


def block_costs(
    model: ir.Model,
    plan: QuantPlan,
    blocks: Sequence[Block],
    precisions: Sequence[Precision],
) -> tuple[dict[Precision, Cost], ...]:
    """Cost of every block in every precision.

    Args:
        model: the planned graph.
        plan: of the scheme without exclusions.
        blocks: of the graph.
        precisions: choices.
    """
    macs, written = _macs(model, blocks), _written(model, plan, blocks)
    nodes = {str(node.name): node for node in model.graph}
    sizes: dict[tuple[str, int | None], tuple[int, int]] = {}
    for weight in plan.weights:
        number = constant_of(nodes[weight.node].inputs[weight.index])
        if number is not None and not weight.operand:
            channels = 1 if weight.axis is None else number.shape[weight.axis]
            sizes[(weight.tensor, weight.axis)] = number.size, channels
    result = []
    for block, work, elements in zip(blocks, macs, written, strict=True):
        costs: dict[Precision, Cost] = {}
        for precision in precisions:
            bits = _WEIGHT_BITS[precision]
            stored = sum(-(-sizes[key][0] * bits // 8) for key in block.weights)
            if precision != "float":
                stored += sum(4 * sizes[key][1] for key in block.weights)
            activation = _ACTIVATION_BITS.get(precision, plan.scheme.activation_bits)
            moved = -(-elements * activation // 8)
            costs[precision] = Cost(stored, work * bits * activation, activation_bytes=moved)
        result.append(costs)
    return tuple(result)


def total_cost(costs: Sequence[Mapping[Precision, Cost]], assignment: Assignment) -> Cost:
    """Cost of an assignment; what lies outside the blocks' quantized weights is left out."""
    total = Cost(0, 0)
    for options, precision in zip(costs, assignment, strict=True):
        total = total + options[precision]
    return total


def exclusions(plan: QuantPlan, blocks: Sequence[Block], assignment: Assignment) -> tuple[str, ...]:
    """Names of the integer nodes that the assignment leaves float, for `exclude`."""
    left = {
        name
        for block, precision in zip(blocks, assignment, strict=True)
        if precision == "float"
        for name in block.nodes
    }
    return tuple(name for name in plan.integer_nodes if name in left)


def assigned_scheme(
    scheme: QuantScheme, blocks: Sequence[Block], assignment: Assignment
) -> QuantScheme:
    """The scheme with 4-bit weights, and with 16-bit activations, where the assignment has them."""
    named: dict[Precision, list[str]] = {"int4": [], "int16x8": []}
    for block, precision in zip(blocks, assignment, strict=True):
        if precision in named:
            named[precision] += block.nodes
    four = dict.fromkeys(named["int4"], 4)
    return replace(
        scheme,
        weight_bits_of={**scheme.weight_bits_of, **four},
        wide_nodes=frozenset(named["int16x8"]),
    )


def _written(model: ir.Model, plan: QuantPlan, blocks: Sequence[Block]) -> list[int]:
    """Elements per block of the tensors that are quantized where they are written."""
    block_of = {name: i for i, block in enumerate(blocks) for name in block.nodes}
    quantized = {q.tensor for q in plan.quantizers}
    result = [0] * len(blocks)
    for node in model.graph:
        for value in node.outputs:
            if str(value.name) in quantized and value.shape is not None:
                result[block_of[str(node.name)]] += prod(value.shape.numpy())
    return result


def _macs(model: ir.Model, blocks: Sequence[Block]) -> list[int]:
    """MACs per block, counted on a copy whose nodes carry the block's number as their module."""
    copy = model.clone()
    number = {name: i for i, block in enumerate(blocks) for name in block.nodes}
    for node in copy.graph:
        node.metadata_props[MODULE_KEY] = f"block{number[str(node.name)]}"
    by_block = count_graph_macs(copy).by_module
    return [by_block.get(f"block{i}", 0) for i in range(len(blocks))]
