"""Grids of operands that integer additions can align."""

from __future__ import annotations

import numpy as np

from edgec.export.emit.tflite.graph import Graph, Node, Value
from edgec.export.tflite.model import Quantization

_ROOM = 2.0
"""Scales are kept this far from the smallest ratio, which is compared in float32."""


def widen_small_operands(graph: Graph, least_ratio: float) -> int:
    """Give operands of additions that are small beside the sum a coarser grid.

    XNNPACK shifts both operands of an addition to a common scale and takes none that is below
    2⁻¹⁰ of the sum's; LiteRT would compute the addition itself, between two parts of the delegate.
    The operand changes by at most half of its new step, 2⁻¹⁰ steps of the sum. What is computed
    gets there by a QUANTIZE; layouts that are settled already stay as they are.

    Returns:
        How many were changed.
    """
    count = 0
    nodes: list[Node] = []
    for node in graph.nodes:
        total = node.outputs[0].quantization
        for place, value in enumerate(node.inputs):
            if node.op not in ("Add", "Sub") or total is None:
                break
            if value is None or value.dtype != np.int8 or value.quantization is None:
                continue
            least = float(total.scale[0]) * least_ratio
            scale = least * _ROOM
            if float(value.quantization.scale.max()) >= least:
                continue
            if value.const is not None:
                node.inputs[place] = _regridded(value, scale)
            elif graph.layout is None:
                grid = Quantization.per_tensor(scale, int(value.quantization.zero_point[0]))
                made = Value(f"{value.name}/coarser", value.shape, value.dtype, None, grid)
                name = f"{node.name}/coarser"
                nodes.append(Node("Quantize", name, [value], [made], module=node.module))
                node.inputs[place] = made
                graph.requantizations += 1
            else:
                continue
            count += 1
        nodes.append(node)
    graph.nodes = nodes
    return count


def _regridded(value: Value, scale: float) -> Value:
    """The constant on the grid of `scale` with zero point 0, which is wider than its own."""
    integers = np.clip(np.rint(value.real() / np.float32(scale)), -127, 127).astype(np.int8)
    return Value(value.name, value.shape, value.dtype, integers, Quantization.per_tensor(scale))
