"""Clipped weight scales: the share of the largest weight with the least error of the output.

On grids of few levels the largest weight of a channel costs all others their resolution. Per output
channel a grid of shares of it is tried, as in OmniQuant's learnable weight clipping (Shao et al.,
arXiv 2308.13137), and each weight's squared error counts by the mean square of the input that it
multiplies: the diagonal of the layer's squared output error, which needs no gradients (as in
AWQ, Lin et al., arXiv 2306.00978).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgec.export.quantize.entries import Weight
from edgec.export.quantize.graph import constant_of, prepared_copy
from edgec.export.quantize.learned import Learned, LearnedWeight
from edgec.export.quantize.moments import channel_axis, channel_moments
from edgec.export.quantize.plan import plan_quantization
from edgec.export.quantize.scheme import QuantScheme
from edgec.export.quantize.weights import quantize_weight
from edgec.export.rewrite.graph import int_attr


def clipped_scales(
    model: ir.Model,
    feeds: Iterable[Mapping[str, NDArray[Any]]],
    scheme: QuantScheme,
    *,
    exclude: Collection[str] = (),
) -> Learned:
    """Scales for every weight that `quantize` will round with this scheme and `exclude`.

    Args:
        model: float32 graph; not modified.
        feeds: calibration samples, read once.
        scheme, exclude: as for `edgec.export.quantize.insert.quantize`.

    Raises:
        InputError: as `edgec.export.quantize.calibrate.calibrate`; EC764, NaN or infinite weights.
    """
    copy = prepared_copy(model)
    plan = plan_quantization(copy, scheme, exclude)
    nodes = {str(node.name): node for node in copy.graph}
    weights = [weight for weight in plan.weights if not weight.operand]
    layers = [nodes[weight.node] for weight in weights]
    axes = {_input(layer): channel_axis(layer.op_type) for layer in layers}
    power = {name: square for name, (_, square) in channel_moments(copy, axes, feeds).items()}
    found = {}
    for weight in weights:
        key, node = (weight.tensor, weight.axis), nodes[weight.node]
        if key in found:
            continue  # shared: the first layer's inputs count
        number = constant_of(node.inputs[weight.index])
        assert number is not None  # the planner took only constants
        _, scales = quantize_weight(
            number,
            weight.axis,
            rule="mse",
            pair_safe=weight.pair_safe,
            limit=scheme.weight_limit(node),
            importance=_importance(node, weight, number, power[_input(node)]),
        )
        found[key] = LearnedWeight(None, scales)
    return found


def _input(node: ir.Node) -> str:
    value = node.inputs[0]
    assert value is not None
    return str(value.name)


def _importance(
    node: ir.Node, weight: Weight, number: NDArray[np.float32], power: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Mean square of what each weight multiplies; shape of the weight."""
    shape = [1] * number.ndim
    if node.op_type == "Conv":  # (M, C / groups, …)
        groups = int_attr(node, "group", 1)
        shape[0], shape[1] = number.shape[0], number.shape[1]
        by_group = power.reshape(groups, 1, -1).repeat(number.shape[0] // groups, axis=1)
        found = by_group.reshape(shape)
    elif node.op_type == "ConvTranspose":  # (C, M / groups, …)
        shape[0] = number.shape[0]
        found = power.reshape(shape)
    else:
        inputs = 1 if node.op_type == "Gemm" and int_attr(node, "transB", 0) else number.ndim - 2
        shape[inputs] = number.shape[inputs]
        found = power.reshape(shape)
    # a channel that is always zero must not make all shares alike
    return np.broadcast_to(found + 1e-12 * max(float(power.max(initial=0.0)), 1e-30), number.shape)
