"""Joint fine-tuning of a quantized network on unlabelled calibration samples.

All degrees of freedom of the quantized network are trained together by Adam, straight through the
rounding, until it answers what the float network answers (Finkelstein, Fuchs, Tal, Grobman,
Vosco, Meller, "QFT: post-training quantization via fast joint finetuning of all degrees of
freedom", 2022, arXiv 2212.02634). Unlike block reconstruction it sees how errors of different
layers make up for each other.

Nothing is taken on trust: the tuned network is kept only if it is closer to the float one on
samples held back from training.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from edgec.export.quantize.calibrate import Calibration
from edgec.export.quantize.finetune.freedom import Freedom, own_biases
from edgec.export.quantize.fisher import LEAST_PROBABILITY, MIN_CLASSES
from edgec.export.quantize.graph import elements, input_specs, prepared_copy
from edgec.export.quantize.insert import quantize
from edgec.export.quantize.learned import Learned
from edgec.export.quantize.replay.graph import Replay, Segment, as_tensors
from edgec.export.quantize.scheme import QuantScheme
from edgec.export.quantize.stream import check_feed, no_samples

Stacks = dict[str, Tensor]
"""Value name → samples stacked on the first axis."""
RATE, FEW_BITS_RATE = 3e-3, 1e-2
"""Learning rates by steps of the weights, at eight bits and below."""
_ROW_VIEWS = ("Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity")
"""Operators that leave the order of the elements as it is."""
_KEPT_PER_ELEMENT = 3
"""Copies of an activation that a backward pass needs: the value, its rounded form, a gradient."""


@dataclass(frozen=True)
class Training:
    """How a network is trained.

    Attributes:
        iterations: Adam steps.
        batch: samples per step.
        step_rate: learning rate of weights, their scales and biases, in steps of the weights; None
            for 0.003 at eight bits and 0.01 below, where there is more to win than to lose.
        factor_rate: learning rate of activation ranges, relative.
        squares: weight of the relative squared error of logits beside the divergence, which hardly
            sees samples of which the network is sure.
        holdout: share of the samples on which the result is judged.
        memory: bytes for the samples and what the float network answers (fewer samples are used
            if they need more), and again for the activations of a training step (which is split if
            it needs more).
        seed: of the batches.
    """

    iterations: int = 200
    batch: int = 8
    step_rate: float | None = None
    factor_rate: float = 1e-3
    squares: float = 0.1
    holdout: float = 0.25
    memory: int = 1 << 30
    seed: int = 0


@dataclass(frozen=True)
class FineTuned:
    """What `edgec.export.quantize.insert.quantize` is to be called with, and how it came about.

    Attributes:
        model: float graph with other weights and biases.
        calibration: with the learned ranges.
        learned: scales of the weights.
        before, after: objective on the held-back samples, of the start and of the result; None
            for a training that diverged.
        kept: the result is used; otherwise the other attributes are those of the start.
        samples: how many were used.
    """

    model: ir.Model
    calibration: Calibration
    learned: Learned
    before: float
    after: float | None
    kept: bool
    samples: int


def finetune(
    model: ir.Model,
    start: ir.Model,
    calibration: Calibration,
    scheme: QuantScheme,
    feeds: Iterable[Mapping[str, NDArray[Any]]],
    *,
    exclude: Collection[str] = (),
    learned: Learned | None = None,
    options: Training | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> FineTuned:
    """Train weights, their scales, biases and activation ranges together.

    Args:
        model: float32 graph, the teacher; not modified.
        start: float graph that would be quantized otherwise: `model`, or `model` with corrected
            biases.
        calibration, scheme, exclude, learned: as for `quantize`, of the start.
        feeds: calibration samples without labels, read once.
        options: of the training.
        on_progress: called with (steps done, steps in all).

    Raises:
        UnsupportedError: EC366, the graph cannot be replayed in torch; otherwise as `quantize`.
        InputError: EC760, no samples, or too few to hold one back; EC761, a sample does not fit.
    """
    options, learned = options or Training(), learned or {}
    if options.step_rate is None:
        options = replace(options, step_rate=FEW_BITS_RATE if scheme.few_bits else RATE)
    floats = own_biases(prepared_copy(start), scheme, exclude)
    quantized = quantize(floats, calibration, scheme, exclude=exclude, learned=learned)
    freedom = Freedom(floats, quantized, calibration, scheme, exclude=exclude, learned=learned)
    objective = _Objective(prepared_copy(model), feeds, options)
    before = objective.held_back(quantized)
    _train(freedom, Replay(freedom.skeleton(quantized)), objective, options, on_progress)
    after = None
    if freedom.is_finite():
        graph, ranges, scales = freedom.result()
        result = quantize(graph, ranges, scheme, exclude=exclude, learned=scales)
        after = objective.held_back(result)
        if after < before:
            found = (graph, ranges, scales)
            return FineTuned(*found, before, after, kept=True, samples=objective.samples)
    found = (start, calibration, learned)
    return FineTuned(*found, before, after, kept=False, samples=objective.samples)


def _train(
    freedom: Freedom,
    replay: Replay,
    objective: _Objective,
    options: Training,
    on_progress: Callable[[int, int], None] | None,
) -> None:
    segment = objective.segment(replay)
    steps, factors = freedom.parameters()
    assert options.step_rate is not None
    rates = (options.step_rate, options.factor_rate)
    optimizer = torch.optim.Adam(
        [{"params": p, "lr": r} for p, r in zip((steps, factors), rates, strict=True) if p]
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, options))
    batches = _Batches(objective.train, options)
    for step in range(options.iterations):
        optimizer.zero_grad()
        values = freedom.values()
        # the parts of a batch share the quantities: their gradients are collected at copies
        copies = {n: v.detach().requires_grad_(v.requires_grad) for n, v in values.items()}
        intercepts = freedom.intercepts(copies)
        chosen = batches.next()
        for part in chosen.split(objective.at_once):
            found = segment.batched(objective.inputs_of(part), intercept=intercepts)
            (objective(found, part) * (len(part) / len(chosen))).backward()
        reached = [n for n, copy in copies.items() if copy.grad is not None]
        torch.autograd.backward([values[n] for n in reached], [copies[n].grad for n in reached])
        optimizer.step()
        schedule.step()
        if on_progress is not None:
            on_progress(step + 1, options.iterations)


def _rate(step: int, options: Training) -> float:
    """Share of the learning rates: up over the first tenth, then down along a cosine."""
    up = max(1, options.iterations // 10)
    if step < up:  # the first steps of Adam are as long as the rate, whatever the gradient
        return (step + 1) / up
    return 0.5 + 0.5 * math.cos(math.pi * (step - up) / max(1, options.iterations - up))


class _Batches:
    """Batches of training samples, shuffled anew when all were seen."""

    def __init__(self, samples: Tensor, options: Training) -> None:
        self._samples, self._size = samples, min(options.batch, len(samples))
        self._generator = torch.Generator().manual_seed(options.seed)
        self._left = torch.empty(0, dtype=torch.int64)

    def next(self) -> Tensor:
        """Indices of the next batch."""
        if len(self._left) < self._size:
            order = torch.randperm(len(self._samples), generator=self._generator)
            self._left = self._samples[order]
        batch, self._left = self._left[: self._size], self._left[self._size :]
        return batch


class _Objective:
    """How far outputs are from those of the float network."""

    def __init__(
        self, model: ir.Model, feeds: Iterable[Mapping[str, NDArray[Any]]], options: Training
    ) -> None:
        specs = input_specs(model)
        self.inputs = tuple(specs)
        self.outputs = tuple(str(v.name) for v in model.graph.outputs)
        self._axes = {str(v.name): _class_axis(v) for v in model.graph.outputs}
        self._squares = options.squares
        sizes = {
            str(v.name): elements(v)
            for v in (*model.graph.inputs, *(v for node in model.graph for v in node.outputs))
        }
        self.at_once = max(1, options.memory // (4 * _KEPT_PER_ELEMENT * sum(sizes.values())))
        teacher = self.segment(Replay(model))
        limit = options.memory // (4 * sum(sizes[n] for n in (*self.inputs, *self.outputs)))
        stacks: dict[str, list[Tensor]] = {}
        for number, feed in enumerate(feeds):
            if number == max(limit, 2):
                break
            given = as_tensors(check_feed(feed, specs, number))
            with torch.no_grad():
                found = teacher(given)
            for name, tensor in (given | found).items():
                stacks.setdefault(name, []).append(tensor)
        self.samples = len(next(iter(stacks.values()), []))
        if self.samples < 2:
            raise no_samples(self.samples)
        self._stacks: Stacks = {name: torch.stack(parts) for name, parts in stacks.items()}
        held = min(max(1, round(options.holdout * self.samples)), self.samples - 1)
        # spread over the samples: neighbours may be frames of one video, or of one class
        self.held = torch.linspace(0, self.samples - 1, held).round().long()
        left = torch.ones(self.samples, dtype=torch.bool)
        left[self.held] = False
        self.train = left.nonzero()[:, 0]

    def segment(self, replay: Replay) -> Segment:
        """From the inputs to the outputs."""
        return replay.between(self.inputs, self.outputs)

    def inputs_of(self, chosen: Tensor) -> Stacks:
        """Inputs of some samples."""
        return {name: self._stacks[name][chosen] for name in self.inputs}

    def __call__(self, found: Stacks, chosen: Tensor) -> Tensor:
        """Mean over the samples, summed over outputs."""
        terms = [self._term(n, found[n], self._stacks[n][chosen]) for n in self.outputs]
        return torch.stack(terms).sum()

    def held_back(self, quantized: ir.Model) -> float:
        """The objective of a Q/DQ graph over the samples held back."""
        segment, total = self.segment(Replay(quantized)), 0.0
        with torch.no_grad():
            for part in self.held.split(self.at_once):
                found = segment.batched(self.inputs_of(part))
                total += float(self(found, part)) * len(part)
        return total / len(self.held)

    def _term(self, name: str, found: Tensor, wanted: Tensor) -> Tensor:
        axis = self._axes[name]
        if axis is None:
            return (found - wanted).square().mean() / wanted.square().mean().clamp(min=1e-12)
        kind, dim = axis
        if kind == "probabilities":
            found, wanted = (v.clamp(min=LEAST_PROBABILITY).log() for v in (found, wanted))
        # what all classes have in common does not matter
        centred = [v - v.mean(dim, keepdim=True) for v in (found, wanted)]
        error = (centred[0] - centred[1]).square().mean() / centred[1].square().mean()
        divergence = F.kl_div(
            found.log_softmax(dim), wanted.log_softmax(dim), reduction="none", log_target=True
        )
        return divergence.sum(dim).mean() + self._squares * error


def _class_axis(output: ir.Value) -> tuple[str, int] | None:
    """Whether an output holds probabilities or logits, and along which axis; None for neither."""
    shape = output.shape
    rank = 0 if shape is None else len(shape)
    producer = output.producer()
    if producer is not None and producer.op_type == "Softmax":
        axis = producer.attributes.get_int("axis", -1)
        return "probabilities", axis if axis < 0 else axis - rank
    if _holds_rows_of_softmax(output):
        return "probabilities", -1
    if rank in (2, 3) and shape is not None:
        classes = shape[-1]
        if isinstance(classes, int) and classes >= MIN_CLASSES:
            return "logits", -1
    return None


def _holds_rows_of_softmax(value: ir.Value) -> bool:
    """Whether a value is a Softmax over the last axis seen through views that keep its rows.

    Exporters flatten the time steps of a text recogniser in front of the Softmax, and give the
    shape back behind it.
    """
    classes = _last(value)
    while (producer := value.producer()) is not None and producer.op_type in _ROW_VIEWS:
        source = producer.inputs[0]
        if source is None or classes is None or _last(source) != classes:
            return False
        value = source
    if producer is None or producer.op_type != "Softmax" or value.shape is None:
        return False
    axis = producer.attributes.get_int("axis", -1)
    return axis in (-1, len(value.shape) - 1)


def _last(value: ir.Value) -> int | None:
    """Length of the last axis, if it is known."""
    size = value.shape[-1] if value.shape is not None and len(value.shape) else None
    return size if isinstance(size, int) else None
