"""Bias correction: take the mean error of rounded weights out of the bias.

Rounding changes a layer's output by (W_q − W)·x. Its mean over the data, (W_q − W)·E[x], is the
same for every sample, adds up over layers, and can be subtracted from the bias at no cost
(Nagel, van Baalen, Blankevoort, Welling, "Data-free quantization through weight equalization and
bias correction", ICCV 2019, section 4.2). E[x] is measured per input channel on calibration data
with the float network, so layers are independent of each other and one pass is enough.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgec.export.quantize.entries import QuantPlan, Weight
from edgec.export.quantize.graph import (
    constant_of,
    drop_unused_constants,
    give_constant,
    prepared_copy,
)
from edgec.export.quantize.learned import Learned, learned_grid
from edgec.export.quantize.plan import plan_quantization
from edgec.export.quantize.scheme import QuantScheme
from edgec.export.quantize.stream import run_activations
from edgec.export.quantize.weights import WeightRule, channel_shape, quantize_weight
from edgec.export.rewrite.graph import int_attr


def correct_biases(
    model: ir.Model,
    feeds: Iterable[Mapping[str, NDArray[Any]]],
    scheme: QuantScheme,
    *,
    exclude: Collection[str] = (),
    weight_rule: WeightRule = "absmax",
    learned: Learned | None = None,
) -> ir.Model:
    """A float copy whose biases make up for the weights that `quantize` will round.

    Calibrate the original graph and quantize this one, with the same scheme, `exclude`,
    `weight_rule` and `learned`. Only layers that have a bias are corrected.

    Args:
        model: float32 graph; not modified.
        feeds: calibration samples, read once.
        scheme, exclude, weight_rule, learned: as for `edgec.export.quantize.insert.quantize`.

    Raises:
        UsageError: EC269, a learned weight does not fit.
        InputError: as `edgec.export.quantize.calibrate.calibrate`.
    """
    copy = prepared_copy(model)
    # the plan lists biases only if they become integers; here float ones count, too
    plan = plan_quantization(copy, scheme.with_integer_bias(), exclude)
    means = _channel_means(copy, plan, feeds)
    nodes = {str(node.name): node for node in copy.graph}
    weights = {(w.tensor, w.axis): w for w in plan.weights}
    for bias in plan.biases:
        holder = nodes[bias.node]
        number = constant_of(holder.inputs[bias.index])
        assert number is not None  # the planner took only constant biases
        weight = weights[(bias.weight, bias.axis)]
        node = nodes[weight.node]
        floats = constant_of(node.inputs[weight.index])
        assert floats is not None  # the planner took only constants
        key, safe = (weight.tensor, weight.axis), weight.pair_safe
        limit = scheme.weight_limit(node)
        if learned is not None and key in learned:
            grid = learned_grid(key, floats, learned[key], pair_safe=safe, limit=limit)
        else:
            grid = quantize_weight(
                floats, weight.axis, rule=weight_rule, pair_safe=safe, limit=limit
            )
        shift = _mean_error(node, weight, means[bias.activation], floats, grid)
        corrected = (number - shift).astype(np.float32)
        give_constant(copy, holder, bias.index, corrected, f"{bias.node}_corrected_bias")
    drop_unused_constants(copy)
    return copy


def _channel_means(
    model: ir.Model, plan: QuantPlan, feeds: Iterable[Mapping[str, NDArray[Any]]]
) -> dict[str, NDArray[np.float64]]:
    """Mean per channel of every corrected layer's input; the channel axis is its layer's."""
    nodes = {str(node.name): node for node in model.graph}
    readers = {w.tensor: nodes[w.node].op_type for w in plan.weights}
    totals: dict[str, NDArray[np.float64]] = {}
    samples: Counter[str] = Counter()
    axes = {b.activation: 1 if readers[b.weight].startswith("Conv") else -1 for b in plan.biases}
    for _, values in run_activations(model, feeds, list(axes)):
        for name, value in values.items():
            kept = axes[name] % value.ndim
            rest = tuple(axis for axis in range(value.ndim) if axis != kept)
            mean = value.mean(axis=rest, dtype=np.float64)
            totals[name] = totals[name] + mean if name in totals else mean
            samples[name] += 1
    return {name: total / samples[name] for name, total in totals.items()}


def _mean_error(
    node: ir.Node,
    weight: Weight,
    mean: NDArray[np.float64],
    number: NDArray[np.float32],
    grid: tuple[NDArray[np.int8], NDArray[np.float32]],
) -> NDArray[np.float64]:
    """(W_q − W)·E[x] per output channel."""
    integers, scales = grid
    steps = scales.astype(np.float64).reshape(channel_shape(weight.axis, number.ndim))
    error = integers * steps - number
    shift: NDArray[np.float64]
    if node.op_type == "Conv":
        per_input = error.sum(axis=tuple(range(2, error.ndim)))  # (M, C / groups)
        inputs = mean.reshape(-1, 1, per_input.shape[1])  # (groups, 1, C / groups)
        shift = (per_input.reshape(len(inputs), -1, per_input.shape[1]) * inputs).sum(axis=2)
    else:
        shift = (error if int_attr(node, "transB", 0) else error.T) @ mean
    return shift.ravel()
