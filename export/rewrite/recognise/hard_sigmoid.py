"""HardSigmoid (Courbariaux et al., 2015), spelled out with Clip, becomes HardSigmoid.

Exporters write it as Clip(x + 3, 0, 6) / 6, as Clip(x / 6 + 1/2, 0, 1), with Min and Max or Relu
for Clip and with the constants on either side; what all of them share is a clipped affine map of
one tensor, and that is what is matched.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgec.export.rewrite.base import RewritePass
from edgec.export.rewrite.graph import (
    Builder,
    is_op,
    remove_dead,
    replace_value,
    scalar,
    shape_of,
    sole_user,
)

SLOPES = (1 / 6, 0.2)
"""PyTorch's slope and Keras's (ONNX's default); the offset is 1/2 in both."""


@dataclass(frozen=True)
class Clipped:
    """`result` = clip(x · slope + offset, low, high) · factor."""

    x: ir.Value
    slope: float
    offset: float
    low: float
    high: float


class RecogniseHardSigmoid(RewritePass):
    """clip(x·a + b, 0, h) / h with a/h of `SLOPES` and b/h = 1/2 → HardSigmoid.

    Refuses other slopes, which fold into the weights before them more cheaply, and a clipped tensor
    that something else reads before it is divided.
    """

    name = "recognise-hard-sigmoid"
    change = "Clip(x + 3, 0, 6) / 6 in any spelling → HardSigmoid(α = 1/6, β = 1/2)"

    def rewrite(self, graph: ir.Graph) -> int:
        count = 0
        for node in graph:
            bounds = clip_bounds(node)
            if bounds is None:
                continue
            for factor, last in scaled(node.outputs[0]):
                match = next((c for c in clipped_affine(bounds) if _is_gate(c, factor)), None)
                if match is None:
                    continue
                _replace(match, factor, last)
                count += 1
                break
            else:
                self.refuse(node, "no clipped affine map of slope 1/6 or 1/5 and offset 1/2")
        return count


def near(number: float | None, target: float) -> bool:
    """Equal up to the rounding of constants written with five digits."""
    return number is not None and bool(np.isclose(number, target, rtol=1e-4, atol=1e-7))


def _is_gate(clipped: Clipped, factor: float) -> bool:
    slope = clipped.slope * factor
    return (
        near(clipped.low * factor, 0.0)
        and near(clipped.high * factor, 1.0)
        and near(clipped.offset * factor, 0.5)
        and any(near(slope, known) for known in SLOPES)
    )


def _replace(clipped: Clipped, factor: float, last: ir.Value) -> None:
    anchor = last.producer()
    assert anchor is not None
    slope = next(known for known in SLOPES if near(clipped.slope * factor, known))
    result = Builder(anchor).op(
        "HardSigmoid", [clipped.x], shape=shape_of(last), dtype=last.dtype, alpha=slope, beta=0.5
    )
    replace_value(last, result)
    remove_dead([anchor])


def clip_bounds(node: ir.Node) -> tuple[ir.Value, float, float] | None:
    """(x, low, high) if `node` clips x to two constants: Clip, or Min and Max of either nesting."""
    if is_op(node, "Clip") and len(node.inputs) == 3 and node.inputs[0] is not None:
        low, high = scalar(node.inputs[1]), scalar(node.inputs[2])
        return None if low is None or high is None else (node.inputs[0], low, high)
    outer = _bound(node)
    inner = None if outer is None else _bound(outer[0].producer())
    if outer is None or inner is None or outer[1] == inner[1]:
        return None
    low, high = (outer[2], inner[2]) if outer[1] == "Max" else (inner[2], outer[2])
    return (inner[0], low, high) if low <= high else None


def _bound(node: ir.Node | None) -> tuple[ir.Value, str, float] | None:
    """(x, "Max" or "Min", bound) of a one-sided clip."""
    if node is None or not node.inputs or node.inputs[0] is None:
        return None
    if is_op(node, "Relu"):
        return node.inputs[0], "Max", 0.0
    if not is_op(node, "Max", "Min") or len(node.inputs) != 2:
        return None
    left, right = node.inputs
    for x, bound in ((left, scalar(right)), (right, scalar(left))):
        if x is not None and bound is not None:
            return x, node.op_type, bound
    return None


def clipped_affine(bounds: tuple[ir.Value, float, float]) -> Iterator[Clipped]:
    """The clipped map read from nearer and nearer to the inputs: of x', of x if x' = x + 3, …"""
    x, low, high = bounds
    for source, slope, offset in affine_of(x):
        yield Clipped(source, slope, offset, low, high)


def affine_of(value: ir.Value) -> Iterator[tuple[ir.Value, float, float]]:
    """(x, a, b) with `value` = a·x + b, for ever earlier x; `value` itself comes first."""
    slope, offset = 1.0, 0.0
    yield value, slope, offset
    while (step := _scalar_step(value.producer())) is not None:
        value, a, b = step
        slope, offset = slope * a, slope * b + offset
        yield value, slope, offset


def scaled(value: ir.Value) -> Iterator[tuple[float, ir.Value]]:
    """(1, `value`), then (f, f · `value`) for the scaling that alone reads it."""
    yield 1.0, value
    reader = sole_user(value)
    step = _scalar_step(reader)
    if reader is not None and step is not None and step[0] is value and step[2] == 0.0:
        yield step[1], reader.outputs[0]


def _scalar_step(node: ir.Node | None) -> tuple[ir.Value, float, float] | None:
    """(x, a, b) if `node` computes a·x + b with constant numbers and keeps the shape of x."""
    if node is None or not is_op(node, "Add", "Sub", "Mul", "Div") or len(node.inputs) != 2:
        return None
    left, right = node.inputs
    number, x, swapped = scalar(right), left, False
    if number is None:
        number, x, swapped = scalar(left), right, True
    if number is None or x is None or shape_of(x) != shape_of(node.outputs[0]):
        return None
    if node.op_type == "Mul":
        return x, number, 0.0
    if node.op_type == "Add":
        return x, 1.0, number
    if node.op_type == "Sub":
        return (x, -1.0, number) if swapped else (x, 1.0, -number)
    return None if swapped or number == 0.0 else (x, 1.0 / number, 0.0)
