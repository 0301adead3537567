"""What a graph tells about how it should be quantized."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgec.export.quantize.weights import per_channel
from edgec.export.rewrite.graph import is_op
from edgec.export.rewrite.linear import Linear, match_linear


@dataclass(frozen=True)
class GraphFeatures:
    """Numbers that the automatic recipe decides by.

    Attributes:
        layers: linear operators with constant weights.
        spread: median over the layers of (largest weight / largest weight of the median channel):
            what one scale per tensor costs the channels in precision.
        worst_spread: largest such quotient.
        worst: "depthwise" or "dense", the kind of the layer that has it.
    """

    layers: int
    spread: float
    worst_spread: float
    worst: str


def graph_features(model: ir.Model) -> GraphFeatures:
    """Read the features of a float graph."""
    layers = [found for node in model.graph if (found := match_linear(node)) is not None]
    spreads = [(_spread(layer), layer) for layer in layers]
    worst, of = max(spreads, key=lambda pair: pair[0], default=(1.0, None))
    return GraphFeatures(
        layers=len(layers),
        spread=float(np.median([spread for spread, _ in spreads])) if spreads else 1.0,
        worst_spread=worst,
        worst="depthwise" if of is not None and _is_depthwise(of) else "dense",
    )


def _is_depthwise(layer: Linear) -> bool:
    return is_op(layer.node, "Conv") and layer.groups == layer.channels > 1


def _spread(layer: Linear) -> float:
    """The tensor's largest weight over that of its median channel; channels of zeros left out."""
    peaks = np.abs(per_channel(layer.weight, layer.weight_axis)).max(axis=1)
    peaks = peaks[peaks > 0]
    return float(peaks.max() / np.median(peaks)) if peaks.size else 1.0
