"""SmoothQuant: share the difficulty of outlier channels between activations and weights.

Xiao et al., "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language
Models", ICML 2023, arXiv 2211.10438, section 4: channel j of the input is divided by
s[j] = max|X[j]|^α / max|W[j]|^(1 − α) and the weights that read it are multiplied. The paper takes
one α for a model; here each link gets the α that brings the outputs of its readers nearest to the
float ones when input and weights are quantized, or is left alone if none helps.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgec.export.quantize.equivalent.equalize import change, input_peaks
from edgec.export.quantize.equivalent.links import Link, find_links, rescale
from edgec.export.quantize.equivalent.statistics import ChannelStatistics, channel_statistics
from edgec.export.quantize.equivalent.transformed import Transformed
from edgec.export.quantize.graph import prepared_copy
from edgec.export.quantize.operands import weight_axis
from edgec.export.quantize.qhyvit.layers import Layer
from edgec.export.quantize.qhyvit.segment import rounded
from edgec.export.quantize.ranges import Range
from edgec.export.quantize.replay.graph import Replay, as_tensors
from edgec.export.quantize.scheme import QuantScheme
from edgec.export.quantize.weights import activation_parameters

ALPHAS = tuple(round(0.1 * i, 1) for i in range(11))


def smooth(
    model: ir.Model,
    feeds: Iterable[Mapping[str, NDArray[Any]]],
    scheme: QuantScheme,
    *,
    alphas: Sequence[float] = ALPHAS,
    samples: int = 16,
    positions: int = 32,
    limit: float = 64.0,
    seed: int = 0,
) -> Transformed:
    """Rescale every link with the exponent that serves its readers best.

    Args:
        model: float32 graph that `Replay` can execute; not modified.
        feeds: calibration samples; the first `samples` are read, and kept.
        scheme: its grids decide.
        alphas: exponents that are tried.
        samples, positions: samples, and output positions of each, that errors are measured on.
        limit: factors stay within [1 / limit, limit].
        seed: of the positions.

    Raises:
        UnsupportedError: EC366, an operator has no replay.
        InputError: as `edgec.export.quantize.stream.run_activations`.
    """
    copy = prepared_copy(model)
    links, refused = find_links(copy)
    kept = list(itertools.islice(feeds, samples))
    axes = {name: axis for link in links for name, axis in link.input_axes.items()}
    found = channel_statistics(copy, kept, axes)
    layers = _sampled(copy, links, kept, scheme, positions, seed)
    changes = []
    for link in links:
        statistics = [found[name] for name in link.inputs]
        peaks = np.max([s.peak for s in statistics], axis=0)
        weights = input_peaks(link)
        if not (peaks > 0).all() or not (weights > 0).all():
            continue
        candidates: list[tuple[float | None, NDArray[np.float64]]] = [
            (None, np.ones(link.channels))
        ]
        for alpha in alphas:
            factors = peaks**alpha / weights ** (1 - alpha)
            factors /= np.exp(np.log(factors).mean())
            candidates.append((alpha, np.clip(factors, 1 / limit, limit)))
        readers = layers[str(link.producer.name)]
        errors = [_error(readers, statistics, factors, scheme) for _, factors in candidates]
        best, factors = candidates[int(np.argmin(errors))]
        if best is not None:
            rescale(link, factors)
            gain = 10 * np.log10(errors[0] / max(min(errors), 1e-30))
            changes.append(change(link, factors, f"alpha {best}, error −{gain:.1f} dB"))
    return Transformed(copy, tuple(changes), tuple(refused))


def _sampled(
    model: ir.Model,
    links: Sequence[Link],
    feeds: Sequence[Mapping[str, NDArray[Any]]],
    scheme: QuantScheme,
    positions: int,
    seed: int,
) -> dict[str, list[Layer]]:
    """Per link, by its producer's name, its readers with sampled inputs."""
    replay, nodes = Replay(model), list(model.graph)
    generator = torch.Generator().manual_seed(seed)
    layers: dict[str, list[Layer]] = {}
    for link in links:
        found = []
        for consumer in link.consumers:
            node = consumer.linear.node
            axis = weight_axis(node, 1, consumer.linear.weight.ndim) if scheme.per_channel else None
            layer = Layer.of(node, axis, replay, nodes)
            found += [] if layer is None else [layer]
        layers[str(link.producer.name)] = found
    readers = [layer for found in layers.values() for layer in found]
    names = {str(v.name) for r in readers if (v := r.node.inputs[0]) is not None}
    written = {str(r.node.outputs[0].name) for r in readers}
    for feed in feeds:
        with torch.no_grad():
            values = replay(as_tensors(feed), watch=sorted(names | written))
        for layer in readers:
            x, y = layer.node.inputs[0], layer.node.outputs[0]
            assert x is not None
            ones = dict.fromkeys(layer.after.exits, torch.ones_like(values[str(y.name)]))
            layer.sample(values[str(x.name)], ones, positions, generator)
    for layer in readers:
        layer.freeze()
    return layers


def _error(
    readers: Sequence[Layer],
    statistics: Sequence[ChannelStatistics],
    factors: NDArray[np.float64],
    scheme: QuantScheme,
) -> float:
    """Squared error of the readers' outputs, relative to their energy, with both quantized."""
    low = min(float((s.low / factors).min()) for s in statistics)
    high = max(float((s.high / factors).max()) for s in statistics)
    limits = scheme.limits
    interval = Range.including_zero(low, high)
    scale, zero = activation_parameters(interval, limits, symmetric=scheme.symmetric)
    grid = float(scale), float(limits[0] - zero), float(limits[1] - zero)
    total = 0.0
    for layer in readers:
        spread = _per_row(layer, factors)
        weight = _rounded_weight(layer, layer.weight * spread[:, None, :], scheme)
        columns = rounded(layer.columns / spread[:, :, None], *grid)
        wanted = layer.outputs_of(layer.weight, layer.columns)
        error = (layer.outputs_of(weight, columns) - wanted).square().sum()
        total += float(error / wanted.square().sum().clamp_min(1e-30))
    return total


def _per_row(layer: Layer, factors: NDArray[np.float64]) -> Tensor:
    """Factors as (groups, inputs × window)."""
    groups, rows = layer.weight.shape[0], layer.weight.shape[2]
    channels = torch.tensor(factors, dtype=torch.float32).reshape(groups, -1)
    return channels.repeat_interleave(rows // channels.shape[1], dim=1)


def _rounded_weight(layer: Layer, weight: Tensor, scheme: QuantScheme) -> Tensor:
    rows = weight.reshape(1 if layer.axis is None else layer.outputs, -1)
    scales = (rows.abs().amax(1, keepdim=True) / scheme.weight_limit(layer.node)).clamp_min(1e-30)
    return ((rows / scales).round_() * scales).reshape(weight.shape)
