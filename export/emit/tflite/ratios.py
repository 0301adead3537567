"""Grids of constants that integer additions can align."""

from __future__ import annotations

import numpy as np

from edgec.export.emit.tflite.graph import Graph, Value
from edgec.export.tflite.model import Quantization

_ROOM = 2.0
"""Scales are kept this far from the smallest ratio, which is compared in float32."""


def widen_small_constants(graph: Graph, least_ratio: float) -> int:
    """Give constants of additions that are small beside the sum a coarser grid.

    XNNPACK shifts both operands of an addition to a common scale and takes none that is below
    2⁻¹⁰ of the sum's; LiteRT would compute the addition itself, between two parts of the delegate.
    The constant changes by at most half of its new step, 2⁻¹⁰ steps of the sum.

    Returns:
        How many were changed.
    """
    count = 0
    for node in graph.nodes:
        total = node.outputs[0].quantization
        if node.op not in ("Add", "Sub") or total is None:
            continue
        for place, value in enumerate(node.inputs):
            if value is None or value.const is None or value.quantization is None:
                continue
            scale = float(total.scale[0]) * least_ratio
            if value.dtype == np.int8 and float(value.quantization.scale.max()) < scale:
                node.inputs[place] = _regridded(value, scale * _ROOM)
                count += 1
    return count


def _regridded(value: Value, scale: float) -> Value:
    """The constant on the grid of `scale` with zero point 0, which is wider than its own."""
    integers = np.clip(np.rint(value.real() / np.float32(scale)), -127, 127).astype(np.int8)
    return Value(value.name, value.shape, value.dtype, integers, Quantization.per_tensor(scale))
