"""Activation ranges of a plan, each with everything that it decides."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from torch import Tensor

from edgec.export.quantize.calibrate import Calibration
from edgec.export.quantize.entries import QuantPlan
from edgec.export.quantize.qhyvit.layers import Layer
from edgec.export.quantize.qhyvit.pointwise import Pointwise
from edgec.export.quantize.ranges import Range
from edgec.export.quantize.replay.graph import Replay


@dataclass
class Group:
    """An activation range and everything that it decides.

    Attributes:
        root: tensor that lends the range.
        full: its min-max range; `range` is the choice so far.
        bounds: limits of the range, of all its quantizers.
        layers: layers whose input it is, with the name of the tensor they read.
        watched: the nonlinearity behind the tensor, at whose exits its own error counts; None if
            only layers read it.
        values: its sampled values; `importance` and `target`: per exit, squared gradients and
            float values.
        gain: by how much the search expects the loss to fall.
    """

    root: str
    full: Range
    range: Range
    bounds: tuple[float, float]
    layers: list[tuple[Layer, str]] = field(default_factory=list)
    watched: Pointwise | None = None
    values: list[Tensor] = field(default_factory=list)
    importance: list[list[Tensor]] = field(default_factory=list)
    target: list[Tensor] = field(default_factory=list)
    gain: float = 0.0


def find_groups(
    model: ir.Model, plan: QuantPlan, calibration: Calibration, replay: Replay
) -> dict[str, Group]:
    """The activation ranges of a plan, in its order, with the layers that read each of them."""
    ordered = list(model.graph)
    nodes = {str(node.name): node for node in ordered}
    values = {str(v.name): v for v in model.graph.inputs}
    values |= {str(v.name): v for node in ordered for v in node.outputs}
    weights = {(w.node, w.index): w for w in plan.weights}
    uses = [w.tensor for w in plan.weights]
    groups: dict[str, Group] = {}
    for quantizer in plan.quantizers:
        if quantizer.fixed is not None:
            continue
        name = quantizer.range_of
        scheme = plan.scheme
        if name not in groups:
            extremes = calibration.extremes(name)
            start = calibration.range(name, levels=scheme.levels, symmetric=scheme.symmetric)
            full = start if extremes is None else Range.including_zero(*extremes)
            groups[name] = Group(name, full, start, (-np.inf, np.inf))
        group = groups[name]
        if quantizer.bounds is not None:
            low, high = group.bounds
            group.bounds = max(low, quantizer.bounds[0]), min(high, quantizer.bounds[1])
            group.range = group.range.intersect(*group.bounds)
        watched = quantizer.output
        for node, index in quantizer.readers:
            weight = weights.get((node, 1))
            layer = None
            if index == 0 and weight is not None and not weight.operand:
                shared = uses.count(weight.tensor) > 1
                layer = None if shared else Layer.of(nodes[node], weight.axis, replay, ordered)
            if layer is not None:
                group.layers.append((layer, quantizer.tensor))
            elif nodes[node].op_type not in scheme.same_scale:
                watched = True
        if watched and group.watched is None:
            group.watched = Pointwise.of(replay, ordered, values[name])
    return groups
