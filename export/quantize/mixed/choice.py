"""What a block's precision can be, and what it costs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import onnx_ir as ir

from edgec.export.quantize.graph import constant_of, opset_of
from edgec.export.quantize.plan import QuantPlan
from edgec.export.quantize.rounding.blocks import Block
from edgec.export.quantize.scheme import INT4_OPSET, QuantScheme
from edgec.export.rewrite.graph import MODULE_KEY
from edgec.profiles.macs import count_graph_macs

Precision = Literal["int8", "int4", "float"]
"""``"int8"``: as the scheme says; ``"int4"``: the same with 4-bit weights; ``"float"``: float32.

Activations of 16 bits are no choice: only LiteRT has kernels for them, which are slower than float.
"""

Assignment = tuple[Precision, ...]
"""One precision per block."""

_WEIGHT_BITS: Mapping[Precision, int] = {"int8": 8, "int4": 4, "float": 32}


@dataclass(frozen=True)
class Cost:
    """Of a block, or of a network.

    Attributes:
        bytes: of the weights and their scales.
        bit_operations: MACs times bits of the weight times bits of the activation; the usual
            stand-in for time where nothing was measured (Wang et al., "Differentiable joint
            pruning and quantization", arXiv 2007.10463).
        milliseconds: on the device; 0 where nobody asked for it.
    """

    bytes: int
    bit_operations: int
    milliseconds: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.bytes + other.bytes,
            self.bit_operations + other.bit_operations,
            self.milliseconds + other.milliseconds,
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
    macs = _macs(model, blocks)
    nodes = {str(node.name): node for node in model.graph}
    sizes: dict[tuple[str, int | None], tuple[int, int]] = {}
    for weight in plan.weights:
        number = constant_of(nodes[weight.node].inputs[weight.index])
        if number is not None and not weight.operand:
            channels = 1 if weight.axis is None else number.shape[weight.axis]
            sizes[(weight.tensor, weight.axis)] = number.size, channels
    result = []
    for block, work in zip(blocks, macs, strict=True):
        costs: dict[Precision, Cost] = {}
        for precision in precisions:
            bits = _WEIGHT_BITS[precision]
            stored = sum(-(-sizes[key][0] * bits // 8) for key in block.weights)
            if precision != "float":
                stored += sum(4 * sizes[key][1] for key in block.weights)
            activation = 32 if precision == "float" else plan.scheme.activation_bits
            costs[precision] = Cost(stored, work * bits * activation)
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
    """The scheme with 4-bit weights where the assignment has them."""
    four = {
        name: 4
        for block, precision in zip(blocks, assignment, strict=True)
        if precision == "int4"
        for name in block.nodes
    }
    if not four:
        return scheme
    return replace(scheme, weight_bits_of={**scheme.weight_bits_of, **four})


def _macs(model: ir.Model, blocks: Sequence[Block]) -> list[int]:
    """MACs per block, counted on a copy whose nodes carry the block's number as their module."""
    copy = model.clone()
    number = {name: i for i, block in enumerate(blocks) for name in block.nodes}
    for node in copy.graph:
        node.metadata_props[MODULE_KEY] = f"block{number[str(node.name)]}"
    by_block = count_graph_macs(copy).by_module
    return [by_block.get(f"block{i}", 0) for i in range(len(blocks))]
