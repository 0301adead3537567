"""Q-HyViT: ranges and scales that lose least where it matters.

Lee et al., "Q-HyViT: Post-Training Quantization of Hybrid Vision Transformers with Bridge Block
Reconstruction for IoT Systems", arXiv 2303.12557: for every layer in order, minimise
E[ΔOᵀ diag((∂L/∂O)²) ΔO] over the weight scale, the activation scale, its scheme and granularity,
alternating between the two scales. O is the output of the layer, or of the bridge block it lies in;
L is the divergence of the quantized network's prediction from the float one's.

What is different here, because the result has to run on integer kernels:

- An activation tensor has one range, whichever layers read it, so its candidates are judged by the
  sum over all readers. What elementwise kernels read is judged by its own error.
- Channel-wise activations are no option of the search. Where they are exact, an equivalent
  transform of the float graph gives them before (`edgec.export.quantize.equivalent`).
- Every range holds zero, so no zero point leaves the integer grid, whatever sign a channel has.
- Errors are measured behind the nonlinearity that follows, where clipping shows (`pointwise`).
- A proposal is kept only if it lowers the divergence of the whole network (`verify`).
- Outputs are compared at a sample of positions (`Config.positions`), with inputs cut out once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgec.export.quantize.bridges import Bridge, find_bridges
from edgec.export.quantize.calibrate import Calibration
from edgec.export.quantize.entries import QuantPlan
from edgec.export.quantize.graph import prepared_copy
from edgec.export.quantize.insert import check_quantizable, quantize
from edgec.export.quantize.learned import Learned, LearnedWeight, WeightKey
from edgec.export.quantize.plan import plan_quantization
from edgec.export.quantize.qhyvit.gradients import Gradients
from edgec.export.quantize.qhyvit.groups import Group, find_groups
from edgec.export.quantize.qhyvit.layers import Layer
from edgec.export.quantize.qhyvit.segment import Segment, rounded, segments
from edgec.export.quantize.qhyvit.verify import Divergence, accepted
from edgec.export.quantize.ranges import Range
from edgec.export.quantize.scheme import QuantScheme
from edgec.export.quantize.stream import no_samples
from edgec.export.quantize.weights import activation_parameters, quantize_weight

Feed = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Config:
    """How thorough the search is.

    Attributes:
        candidates, lowest, highest: shares of the min-max range that are tried.
        rounds: alternations between weight scales and activation range.
        samples: calibration samples used, the first ones of the feeds.
        positions: output positions compared per sample and layer.
        bridge_samples: samples on which bridge blocks are run whole.
        weights: search weight scales (else only activation ranges).
        held_out: further samples, on which proposals are verified; 0 takes them as they are.
        verify: how many ranges are tried in the whole network, those of largest gain first, after
            the weight scales; the others are dropped.
        margin: standard errors of the mean by which a proposal must lower the divergence.
        draws: classes drawn per sample for the squared gradients; 0 squares the gradient of the
            divergence, as the paper does (see `gradients`).
        seed: of positions and draws.
    """

    candidates: int = 100
    lowest: float = 0.01
    highest: float = 1.2
    rounds: int = 3
    samples: int = 32
    positions: int = 24
    bridge_samples: int = 4
    weights: bool = True
    held_out: int = 64
    verify: int = 32
    margin: float = 0.0
    draws: int = 4
    seed: int = 0

    def shares(self) -> list[float]:
        """The candidates, ascending."""
        return [float(s) for s in np.linspace(self.lowest, self.highest, self.candidates)]


@dataclass(frozen=True)
class SearchResult:
    """What was found, ready for `edgec.export.quantize.insert.quantize`.

    Attributes:
        calibration: the given one with the chosen ranges.
        learned: weight scales that differ from min-max, for ``quantize(..., learned=)``.
        bridges: the bridge blocks of the graph.
        divergence: mean KL per held-out sample (of the search's own without any) with ``minmax``,
            with the ranges of the given ``calibration``, with all that was ``proposed``, and with
            the ``result``.
    """

    calibration: Calibration
    learned: Learned
    bridges: tuple[Bridge, ...]
    divergence: Mapping[str, float]


def search(
    model: ir.Model,
    calibration: Calibration,
    scheme: QuantScheme,
    feeds: Iterable[Feed],
    *,
    exclude: Collection[str] = (),
    config: Config | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> SearchResult:
    """Search activation ranges and weight scales of a graph.

    Args:
        model: float32 graph that `Replay` can execute; not modified.
        calibration: statistics of the same graph; its ranges are where the search starts.
        scheme: rules of the target runtime.
        feeds: calibration samples; `Config.samples` + `Config.held_out` of them are read and kept.
        exclude: as for `edgec.export.quantize.insert.quantize`.
        config: how thorough.
        on_progress: called with (tensors done, tensors in all).

    Raises:
        UnsupportedError: EC360, EC362, EC363 as `quantize`; EC366, the graph has no replay.
        InputError: EC760, no samples.
        UsageError: EC262, the calibration is of another graph.
    """
    check_quantizable(model, scheme)
    config = config or Config()
    copy = prepared_copy(model)
    drawn = list(islice(feeds, config.samples + config.held_out))
    if not drawn:
        raise no_samples()
    samples, held_out = drawn[: config.samples], drawn[config.samples :]
    plan = plan_quantization(copy, scheme, exclude)
    minmax = quantize(copy, calibration.with_method("minmax"), scheme, exclude=exclude)
    gradients = Gradients(copy, minmax, draws=config.draws, seed=config.seed)
    bridges = find_bridges(copy)
    work = _Search(copy, plan, calibration, gradients, bridges, config)
    groups = list(work.groups.values())
    tried = min(config.verify, len(groups)) if held_out else 0
    total = len(groups) + tried
    tick = on_progress or (lambda done, total: None)
    work.observe(samples)
    for done, group in enumerate(groups):
        work.improve(group)
        tick(done + 1, total)

    def built(chosen: Sequence[Group | None]) -> tuple[Calibration, Learned]:
        ranges = {group.root: group.range for group in chosen if group is not None}
        return calibration.with_ranges(ranges), work.learned() if None in chosen else {}

    def cost(chosen: Sequence[Group | None]) -> NDArray[np.float64]:
        ranges, learned = built(chosen)
        return judge(quantize(copy, ranges, scheme, exclude=exclude, learned=learned))

    references = [gradients.values(feed, ()) for feed in held_out or samples]
    judge = Divergence(held_out or samples, references)
    # None stands for the weight scales, which are one proposal
    proposals = [None, *sorted(groups, key=lambda group: -group.gain)]
    kept = proposals
    if tried:
        kept = accepted(
            proposals[: 1 + tried],
            cost,
            lambda done: tick(len(groups) + max(done - 1, 0), total),
            errors=config.margin,
        )
    ranges, learned = built(kept)
    divergences = {
        "minmax": float(judge(minmax).mean()),
        "calibration": float(cost([]).mean()),
        "proposed": float(cost(proposals).mean()),
        "result": float(cost(kept).mean()),
    }
    return SearchResult(ranges, learned, tuple(bridges), divergences)


class _Search:
    def __init__(
        self,
        model: ir.Model,
        plan: QuantPlan,
        calibration: Calibration,
        gradients: Gradients,
        bridges: Sequence[Bridge],
        config: Config,
    ) -> None:
        self.plan, self.scheme, self.config = plan, plan.scheme, config
        self.gradients = gradients
        self.groups = find_groups(model, plan, calibration, gradients.replay)
        self.shares = config.shares()
        layers = {str(layer.node.name) for g in self.groups.values() for layer, _ in g.layers}
        self.segments: dict[str, Segment] = segments(gradients.replay, bridges, layers)
        safe = {w.tensor: w.pair_safe for w in plan.weights}
        self.scales: dict[WeightKey, Tensor] = {}
        self.floors: dict[WeightKey, Tensor] = {}
        for group in self.groups.values():
            for layer, _ in group.layers:
                key = (layer.tensor, layer.axis)
                whole = layer.original(layer.rows())
                limit = self.scheme.weight_limit(layer.node)
                pairs = safe[layer.tensor]
                _, scales = quantize_weight(whole, layer.axis, pair_safe=pairs, limit=limit)
                self.scales[key] = torch.from_numpy(scales.reshape(-1).copy())
                peak = layer.rows().abs().amax(1) / limit
                # min-max is above the peak only where pairs of weights need room
                paired = self.scales[key] > peak * (1 + 1e-6)
                self.floors[key] = torch.where(paired, self.scales[key], 0.0)
        self.start = dict(self.scales)
        self.samples = 0

    # --- passes 1 and 2 --------------------------------------------------------------------

    def observe(self, samples: Sequence[Feed]) -> None:
        """Collect sampled inputs and squared gradients."""
        generator = torch.Generator().manual_seed(self.config.seed)
        layers = [pair for group in self.groups.values() for pair in group.layers]
        watched = [g for g in self.groups.values() if g.watched is not None]
        values = {name for _, name in layers} | {group.root for group in watched}
        errors = {name for layer, _ in layers for name in layer.after.exits}
        errors |= {name for g in watched if g.watched is not None for name in g.watched.exits}
        for segment in self.segments.values():
            values |= {*segment.needed, *segment.exits}
            errors |= set(segment.exits)
        self.samples = len(samples)
        for position, feed in enumerate(samples):
            found = self.gradients.values(feed, sorted(values))
            squares = self.gradients.squares(feed, found, sorted(errors))
            for layer, name in layers:
                layer.sample(found[name], squares, self.config.positions, generator)
            for group in watched:
                self._sample(group, found[group.root], squares, generator)
            if position < self.config.bridge_samples:
                for segment in self.segments.values():
                    segment.keep(found, squares)
        for layer, _ in layers:
            layer.freeze()
        for group in watched:
            group.values = [torch.cat(group.values)]
            group.importance = [[torch.cat(p)] for p in zip(*group.importance, strict=True)]
            group.target = [] if group.watched is None else group.watched(group.values[0])

    def _sample(
        self,
        group: Group,
        value: Tensor,
        squares: Mapping[str, Tensor],
        generator: torch.Generator,
    ) -> None:
        assert group.watched is not None
        flat = value.reshape(-1)
        count = min(len(flat), 64 * self.config.positions)
        chosen = torch.randint(len(flat), (count,), generator=generator)
        group.values.append(flat[chosen])
        share = len(flat) / count
        weights = [squares[name].reshape(-1)[chosen] * share for name in group.watched.exits]
        group.importance.append(weights)

    # --- pass 3 ----------------------------------------------------------------------------

    def improve(self, group: Group) -> None:
        """Alternate between the weights of a group and its range."""
        before = self._range_error(group, group.range)
        self._alternate(group)
        group.gain = before - self._range_error(group, group.range)

    def _alternate(self, group: Group) -> None:
        for turn in range(self.config.rounds if group.layers else 1):
            if self.config.weights:
                for layer, name in group.layers:
                    self._improve_weight(group, layer, name)
            candidates = self._ranges(group, turn)
            before = group.range
            group.range = self._best_range(group, candidates)
            if not group.layers and not self.scheme.symmetric:
                for other in (1, 2):
                    group.range = self._best_range(group, self._ranges(group, other))
            elif turn and group.range == before:
                break  # nothing moves any more

    def _ranges(self, group: Group, turn: int) -> list[Range]:
        """Candidates of one turn: both ends first, then the upper and the lower one alone."""
        low, high = group.full.low, group.full.high
        if self.scheme.symmetric:
            bound = max(-low, high)
            found = [Range(-s * bound, s * bound) for s in self.shares]
        elif turn == 0:
            bound = max(-low, high)
            found = [Range(s * low, s * high) for s in self.shares]
            if low < 0.0 < high:
                found += [Range(-s * bound, s * bound) for s in self.shares]
        elif turn == 1:
            found = [Range(group.range.low, s * high) for s in self.shares]
        else:
            found = [Range(s * low, group.range.high) for s in self.shares] if low < 0 else []
        return [r.intersect(*group.bounds) for r in found]

    def _best_range(self, group: Group, candidates: Sequence[Range]) -> Range:
        """The candidate of least error, the present range if none is better.

        Layers in bridge blocks are expensive to judge: a coarse walk through the candidates and a
        fine one around its best stand for all of them.
        """
        if any(str(layer.node.name) in self.segments for layer, _ in group.layers):
            coarse = list(candidates[:: max(1, len(candidates) // 20)])
            best = self._least(group, [group.range, *coarse])
            around = [c for c in candidates if _close(c, best, 3 / self.config.candidates)]
            return self._least(group, [best, *around])
        return self._least(group, [group.range, *candidates])

    def _least(self, group: Group, candidates: Sequence[Range]) -> Range:
        errors = [self._range_error(group, candidate) for candidate in candidates]
        return candidates[int(np.argmin(errors))]  # of equal ones the first

    def _range_error(self, group: Group, candidate: Range) -> float:
        grid = self._grid(candidate)
        total = 0.0
        for layer, name in group.layers:
            weight = self._on_grid(layer, self.scales[(layer.tensor, layer.axis)])
            segment = self.segments.get(str(layer.node.name))
            if segment is not None:
                total += self._segment_error(segment, layer, name, weight, grid)
            else:
                total += float(layer.errors(weight, rounded(layer.columns, *grid)).sum())
        if group.watched is not None:
            found = group.watched(rounded(group.values[0], *grid))
            for value, target, share in zip(found, group.target, group.importance, strict=True):
                total += float(((value - target).square_() * share[0]).sum())
        return total

    def _segment_error(
        self,
        segment: Segment,
        layer: Layer,
        name: str,
        weight: Tensor,
        grid: tuple[float, float, float],
    ) -> float:
        """Error at the exits of the bridge block, scaled to as many samples as layers see."""
        array = layer.original(weight.reshape(layer.rows().shape))
        error = segment.error({layer.tensor: torch.from_numpy(array)}, {name: grid})
        return error * (self.samples / len(segment.images))

    def _improve_weight(self, group: Group, layer: Layer, name: str) -> None:
        """Per channel the best scale for the present range; in bridges the best set of them."""
        key = (layer.tensor, layer.axis)
        grid = self._grid(group.range)
        columns = rounded(layer.columns, *grid)
        peak = layer.rows().abs().amax(1) / self.scheme.weight_limit(layer.node)
        best = self.scales[key]
        least = self._channel_errors(layer, best, columns)
        for share in self.shares:
            scales = torch.maximum(share * peak, self.floors[key])
            scales = torch.where(peak > 0, scales, self.start[key])
            errors = self._channel_errors(layer, scales, columns)
            best = torch.where(errors < least, scales, best)
            least = torch.minimum(errors, least)
        segment = self.segments.get(str(layer.node.name))
        if segment is not None:
            # channels mix behind the layer: choose between whole sets of scales
            sets = [self.scales[key], best]
            sets += [torch.maximum(s * self.start[key], self.floors[key]) for s in (0.9, 0.8, 0.7)]
            judged = [
                self._segment_error(segment, layer, name, self._on_grid(layer, scales), grid)
                for scales in sets
            ]
            best = sets[int(np.argmin(judged))]
        self.scales[key] = best

    def _channel_errors(self, layer: Layer, scales: Tensor, columns: Tensor) -> Tensor:
        errors = layer.errors(self._on_grid(layer, scales), columns)
        return errors.sum()[None] if layer.axis is None else errors

    def _on_grid(self, layer: Layer, scales: Tensor) -> Tensor:
        """The layer's weight rounded with a scale per row, in the form of `Layer.weight`."""
        rows = layer.rows()
        limit = self.scheme.weight_limit(layer.node)
        integers = (rows / scales[:, None]).round_().clamp_(-limit, limit)
        return (integers * scales[:, None]).reshape(layer.weight.shape)

    def _grid(self, interval: Range) -> tuple[float, float, float]:
        limits = self.scheme.limits
        scale, zero = activation_parameters(interval, limits, symmetric=self.scheme.symmetric)
        return float(scale), float(limits[0] - zero), float(limits[1] - zero)

    def learned(self) -> dict[WeightKey, LearnedWeight]:
        """The weight scales that the search moved."""
        result = {}
        for key, scales in self.scales.items():
            if not torch.equal(scales, self.start[key]):
                array = scales.numpy().astype(np.float32)
                result[key] = LearnedWeight(None, array.reshape(() if key[1] is None else -1))
        return result


def _close(candidate: Range, best: Range, share: float) -> bool:
    width = (best.high - best.low) * share
    return abs(candidate.low - best.low) <= width and abs(candidate.high - best.high) <= width
