"""Statistics matching: channels behind rounded weights get their mean and deviation back.

Coarsely rounded weights change how large a layer's outputs are, and the next layers add to that.
Layer after layer, on calibration samples through the layers matched before, each output channel is
brought back to the mean and the standard deviation of the float network: its weight scale takes
the factor, its bias the rest. Nothing is added to the graph. (Banner, Nahshan, Hoffer, Soudry,
"Post-training 4-bit quantization of convolution networks for rapid-deployment", NeurIPS 2019,
arXiv 1810.05723, match the weights' own statistics; with samples as in Nagel et al., arXiv
1906.04721, appendix D, who match means.)
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common_passes
from numpy.typing import NDArray

from edgec.export.quantize.entries import Bias, QuantPlan, Weight
from edgec.export.quantize.graph import (
    constant_of,
    drop_unused_constants,
    give_constant,
    in_memory,
    prepared_copy,
)
from edgec.export.quantize.learned import Learned, LearnedWeight, learned_grid
from edgec.export.quantize.moments import channel_axis, channel_moments
from edgec.export.quantize.plan import plan_quantization
from edgec.export.quantize.scheme import QuantScheme
from edgec.export.quantize.weights import quantize_weight

SAMPLES = 32
"""Calibration samples that are used: a layer costs a run of the network up to it on each."""
MOST = 2.0
"""Factor by which a deviation is changed at most: a channel that rounding silenced stays quiet."""

Feeds = Sequence[Mapping[str, NDArray[Any]]]
Statistics = tuple[NDArray[np.float64], NDArray[np.float64]]


def match_statistics(
    model: ir.Model,
    feeds: Iterable[Mapping[str, NDArray[Any]]],
    scheme: QuantScheme,
    *,
    exclude: Collection[str] = (),
    learned: Learned | None = None,
) -> tuple[ir.Model, Learned]:
    """A float copy and weight scales for `quantize`, with the same scheme and `exclude`.

    Only layers that have a bias are matched; of weights that several nodes read, the bias alone.

    Args:
        model: float32 graph; not modified.
        feeds: calibration samples; the first `SAMPLES` are read.
        scheme, exclude: as for `edgec.export.quantize.insert.quantize`.
        learned: weights that are not rounded to nearest on the scales of their largest values.

    Raises:
        UsageError: EC269, a learned weight does not fit.
        InputError: as `edgec.export.quantize.calibrate.calibrate`.
    """
    samples = list(islice(feeds, SAMPLES))
    copy = prepared_copy(model)
    # the plan lists biases only if they become integers; here float ones count, too
    plan = plan_quantization(copy, scheme.with_integer_bias(), exclude)
    work = _Work(copy, plan, scheme, learned or {})
    layers = [(bias, work.output(bias)) for bias in plan.biases]
    wanted = _deviations(copy, {name: work.axis(bias) for bias, name in layers}, samples)
    for bias, name in layers:
        found = _deviations(_until(work.rounded, name), {name: work.axis(bias)}, samples)
        work.match(bias, wanted[name], found[name])
    drop_unused_constants(work.result)
    return work.result, work.learned


class _Work:
    """The graph to be quantized (`result`), and the same with its weights rounded (`rounded`)."""

    def __init__(
        self, model: ir.Model, plan: QuantPlan, scheme: QuantScheme, learned: Learned
    ) -> None:
        self.result, self.rounded = in_memory(model), in_memory(model)
        self.learned = dict(learned)
        self._plan = plan
        self._nodes = {str(node.name): node for node in self.result.graph}
        self._twins = {str(node.name): node for node in self.rounded.graph}
        self._weights = {(w.tensor, w.axis): w for w in plan.weights if not w.operand}
        for key, weight in self._weights.items():
            grid, scales = self._grid(weight, scheme, learned)
            self.learned.setdefault(key, LearnedWeight(None, scales))
            _store(self.rounded, weight.tensor, grid * _along(scales, weight, grid.ndim))

    def output(self, bias: Bias) -> str:
        """Name of what the layer writes, bias included."""
        return str(self._nodes[bias.node].outputs[0].name)

    def axis(self, bias: Bias) -> int:
        """Channel axis of the output."""
        return channel_axis(self._nodes[bias.node].op_type)

    def match(self, bias: Bias, wanted: Statistics, found: Statistics) -> None:
        """Change scale and bias of one layer."""
        node = self._nodes[bias.node]
        number = constant_of(self._twins[bias.node].inputs[bias.index])
        assert number is not None  # the planner took only constant biases
        factor = np.ones(len(number))
        weight = self._weights[bias.weight, bias.axis]
        if bias.axis is not None and self._alone(weight):
            least = 1e-6 * wanted[1].max(initial=1e-30)
            factor = (wanted[1] + least) / (found[1] + least)
            factor = np.clip(factor, 1 / MOST, MOST)
            self._scale(weight, factor)
        matched = (wanted[0] - factor * (found[0] - number)).astype(np.float32)
        for graph, holder in ((self.result, node), (self.rounded, self._twins[bias.node])):
            give_constant(graph, holder, bias.index, matched, f"{bias.node}_matched_bias")

    def _scale(self, weight: Weight, factor: NDArray[np.float64]) -> None:
        """Multiply channels: float weight and scale alike, so that the integers stay."""
        key = weight.tensor, weight.axis
        before = self.learned[key]
        scales = (before.scales * factor).astype(np.float32)
        self.learned[key] = LearnedWeight(before.integers, scales)
        for graph in (self.result, self.rounded):
            number = constant_of(graph.graph.initializers[weight.tensor])
            assert number is not None
            _store(graph, weight.tensor, number * _along(factor, weight, number.ndim))

    def _alone(self, weight: Weight) -> bool:
        return len(list(self.result.graph.initializers[weight.tensor].uses())) == 1

    def _grid(
        self, weight: Weight, scheme: QuantScheme, learned: Learned
    ) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
        node, key = self._nodes[weight.node], (weight.tensor, weight.axis)
        number = constant_of(node.inputs[weight.index])
        assert number is not None  # the planner took only constants
        limit, safe = scheme.weight_limit(node), weight.pair_safe
        if key in learned:
            return learned_grid(key, number, learned[key], pair_safe=safe, limit=limit)
        return quantize_weight(number, weight.axis, pair_safe=safe, limit=limit)


def _along(
    scales: NDArray[np.floating[Any]], weight: Weight, rank: int
) -> NDArray[np.floating[Any]]:
    shape = [1] * rank
    if weight.axis is not None:
        shape[weight.axis] = -1
    return scales.reshape(shape)


def _store(model: ir.Model, name: str, number: NDArray[Any]) -> None:
    array = np.ascontiguousarray(number.astype(np.float32))
    model.graph.initializers[name].const_value = ir.tensor(array, name=name)


def _until(model: ir.Model, name: str) -> ir.Model:
    """The part of a graph that one value needs."""
    copy = in_memory(model)
    value = next(v for node in copy.graph for v in node.outputs if v.name == name)
    copy.graph.outputs[:] = [value]
    common_passes.RemoveUnusedNodesPass()(copy)
    return copy


def _deviations(model: ir.Model, axes: Mapping[str, int], feeds: Feeds) -> dict[str, Statistics]:
    """Mean and standard deviation per channel."""
    found = channel_moments(model, axes, feeds)
    return {n: (mean, np.sqrt(np.maximum(sq - mean**2, 0.0))) for n, (mean, sq) in found.items()}
