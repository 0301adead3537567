"""Block reconstruction: learn the rounding of a block's weights from the block's output.

Block after block in graph order, the rounding is trained (Adam) so that the quantized block, fed by
the quantized network before it, gives what the float block gives on float inputs. Output errors
are weighted by the diagonal of the Fisher information, so that they count as much as they change
the prediction (Li et al., BRECQ, arXiv 2102.05426). A window of several blocks
is trained together and moves on by one, each block being fixed when it leaves, so that dependencies
between neighbours are seen (Ding et al., CBQ, arXiv 2312.07950).

Nothing is taken on trust: a fixed block is compared with rounding to nearest on samples held back
from training, and keeps nearest unless learning was better there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgec.export.quantize.calibrate import Calibration
from edgec.export.quantize.fisher import fisher_loss
from edgec.export.quantize.graph import TensorSpec, elements, input_specs
from edgec.export.quantize.learned import LearnedWeight, WeightKey
from edgec.export.quantize.rounding.blocks import MAX_LAYERS, Block, find_blocks
from edgec.export.quantize.rounding.flexround import FlexRound
from edgec.export.quantize.rounding.pair import GraphPair, QuantizedPart, dequantized
from edgec.export.quantize.rounding.target import LearnableWeight, RoundingMethod
from edgec.export.quantize.scheme import QuantScheme
from edgec.export.quantize.stream import check_feed, no_samples
from edgec.export.quantize.weights import WeightRule

Stacks = dict[str, Tensor]
"""Value name → samples stacked on the first axis."""


@dataclass(frozen=True)
class Reconstruction:
    """How blocks are trained.

    Attributes:
        iterations: Adam steps per block.
        batch: samples per step.
        learning_rate: of Adam; None takes the method's own.
        warmup: share of the steps without penalty.
        sharpness: β of the penalty at its start and end.
        penalty: weight of the penalty beside the error relative to rounding to nearest.
        window: blocks trained together; 1 is BRECQ, more is CBQ.
        drop: share of activations left unrounded in training (QDrop); 0 for none.
        fisher: weight errors by the Fisher diagonal; False takes plain squares.
        max_layers: size of blocks, see `edgec.export.quantize.rounding.blocks.find_blocks`.
        holdout: share of the samples on which a block is judged.
        memory: bytes for the values between blocks; fewer samples are used if they need more. What
            one batch needs inside a block comes on top.
        seed: of batches, dropped activations and drawn classes.
    """

    iterations: int = 100
    batch: int = 32
    learning_rate: float | None = None
    warmup: float = 0.2
    sharpness: tuple[float, float] = (20.0, 2.0)
    penalty: float = 0.5
    window: int = 1
    drop: float = 0.0
    fisher: bool = True
    max_layers: int = MAX_LAYERS
    holdout: float = 0.125
    memory: int = 1 << 30
    seed: int = 0


@dataclass(frozen=True)
class BlockResult:
    """What learning did to one block.

    Attributes:
        name: of the block.
        nearest, learned: objective on the held-back samples, in the same units for both.
        kept: the learned rounding is used; otherwise rounding to nearest.
        moved: share of the integers that differ from rounding to nearest.
        seconds: wall time.
    """

    name: str
    nearest: float
    learned: float
    kept: bool
    moved: float
    seconds: float


@dataclass(frozen=True)
class LearnedRounding:
    """What `edgec.export.quantize.insert.quantize` takes as `learned`, and how it came about."""

    learned: Mapping[WeightKey, LearnedWeight]
    blocks: tuple[BlockResult, ...]
    samples: int


Progress = Callable[[int, int, BlockResult], None]
"""Called after each block with its number from 1, the count of blocks, and its result."""


def learn_rounding(
    model: ir.Model,
    calibration: Calibration,
    scheme: QuantScheme,
    feeds: Iterable[Mapping[str, NDArray[Any]]],
    *,
    method: RoundingMethod | None = None,
    options: Reconstruction | None = None,
    exclude: Collection[str] = (),
    weight_rule: WeightRule = "absmax",
    on_progress: Progress | None = None,
) -> LearnedRounding:
    """Learn how the weights of a network are rounded.

    Give `learned` of the result to `quantize`, with the same calibration, scheme, `exclude` and
    `weight_rule`.

    Args:
        model: float32 graph; not modified.
        calibration: ranges of the activations.
        scheme: grids; learned integers respect them, pair safety included.
        feeds: calibration samples without labels, read once.
        method: `FlexRound()` by default, which needs fewer steps than `AdaRound()`.
        options: of the training.
        exclude, weight_rule: as for `quantize`; the rule chooses the scales at the start.
        on_progress: see `Progress`.

    Raises:
        UnsupportedError: EC366, the graph cannot be replayed in torch; otherwise as `quantize`.
        InputError: EC760, no samples, or too few to hold one back; EC761, a sample does not fit.
    """
    options = options or Reconstruction()
    pair = GraphPair(model, calibration, scheme, exclude=exclude, weight_rule=weight_rule)
    blocks = find_blocks(pair.model, pair.plan, max_layers=options.max_layers)
    limit = _affordable(pair.model, blocks, options.memory)
    inputs = _stacked(feeds, input_specs(pair.model), limit)
    count = len(next(iter(inputs.values())))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)  # vectorized random numbers come from the global state
        work = _Work(pair, blocks, method or FlexRound(), options, inputs)
        results = []
        for number in range(len(blocks)):
            results.append(work.learn(number))
            if on_progress is not None:
                on_progress(number + 1, len(blocks), results[-1])
    return LearnedRounding(work.learned, tuple(results), count)


class _Work:
    """The state that moves from block to block."""

    def __init__(
        self,
        pair: GraphPair,
        blocks: Sequence[Block],
        method: RoundingMethod,
        options: Reconstruction,
        inputs: Stacks,
    ) -> None:
        self.pair, self.blocks, self.options = pair, blocks, options
        self.method = method
        self.generator = torch.Generator().manual_seed(options.seed)
        self.learned: dict[WeightKey, LearnedWeight] = {}
        self.fixed: dict[WeightKey, Tensor] = {}
        self.training: dict[WeightKey, LearnableWeight] = {}
        self.before = dict(inputs)  # values alive before the block, of the float network
        self.rounded = dict(inputs)  # and of the quantized one
        count = len(next(iter(inputs.values())))
        held = min(max(1, round(options.holdout * count)), count - 1)
        self.train, self.held = torch.arange(count - held), torch.arange(count - held, count)

    def learn(self, number: int) -> BlockResult:
        """Train a window that starts with this block, fix the block, and step behind it."""
        start = time.perf_counter()
        block = self.blocks[number]
        window = self.blocks[number : number + self.options.window]
        for member in window:
            for key in member.weights:
                if key not in self.fixed and key not in self.training:
                    self.training[key] = self.method(self.pair.targets[key])
        objective = _Objective(self, block.inputs, window[-1])
        keys = [key for member in window for key in member.weights if key in self.training]
        self._train(objective, keys)
        result = self._fix(block, objective, start)
        self._advance(block)
        return result

    def _train(self, objective: _Objective, keys: Sequence[WeightKey]) -> None:
        options = self.options
        weights = [self.training[key] for key in keys]
        parameters = [p for weight in weights for p in weight.parameters()]
        if not parameters:
            return
        rate = options.learning_rate or self.method.learning_rate
        optimizer = torch.optim.Adam(parameters, lr=rate)
        scale = max(objective.error(self.nearest(keys), self.train), 1e-30)
        warm = options.warmup * options.iterations
        first, last = options.sharpness
        for step in range(options.iterations):
            order = torch.randperm(len(self.train), generator=self.generator)
            chosen = self.train[order[: options.batch]]
            soft = {key: weight.soft() for key, weight in zip(keys, weights, strict=True)}
            loss = objective(self.fixed | soft, chosen, drop=options.drop) / scale
            if step >= warm:
                left = 1 - (step - warm) / max(1.0, options.iterations - warm)
                sharpness = last + (first - last) * left
                terms = [weight.penalty(sharpness) for weight in weights]
                loss = loss + options.penalty * torch.stack(terms).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    def _fix(self, block: Block, objective: _Objective, start: float) -> BlockResult:
        """Decide for learned integers or nearest, by the samples held back."""
        targets = self.pair.targets
        mine = [key for key in block.weights if key in self.training]
        hard = {key: weight.hard() for key, weight in self.training.items()}
        others = {k: dequantized(hard[k], targets[k]) for k in hard if k not in mine}
        ours = {k: dequantized(hard[k], targets[k]) for k in mine}
        nearest = objective.error(self.fixed | others | self.nearest(mine), self.held)
        learned = objective.error(self.fixed | others | ours, self.held)
        kept = learned < nearest
        total = changed = 0
        for key in mine:
            integers = hard[key].integers
            assert integers is not None  # rounding methods give integers
            total += integers.size
            changed += int((integers != targets[key].integers).sum())
            if kept:
                self.learned[key] = hard[key]
            self.fixed[key] = ours[key] if kept else targets[key].nearest()
            del self.training[key]
        seconds = time.perf_counter() - start
        return BlockResult(block.name, nearest, learned, kept, changed / max(total, 1), seconds)

    def _advance(self, block: Block) -> None:
        """Compute the values behind a fixed block and forget those that nothing reads any more."""
        float_part = self.pair.float_part(block.inputs, block.outputs)
        quantized = self.pair.quantized_part(block.inputs, block.outputs)
        with torch.no_grad():
            self.before |= self.in_batches(float_part.batched, self.before, block.inputs)
            self.rounded |= self.in_batches(
                lambda feeds: quantized(feeds, self.fixed), self.rounded, block.inputs
            )
        for values in (self.before, self.rounded):
            for name in [name for name in values if name not in block.alive]:
                del values[name]

    def nearest(self, keys: Iterable[WeightKey]) -> dict[WeightKey, Tensor]:
        """The weights rounded to nearest."""
        return {key: self.pair.targets[key].nearest() for key in keys}

    def in_batches(
        self, function: Callable[[Stacks], Stacks], values: Stacks, names: Sequence[str]
    ) -> Stacks:
        """Apply a function of stacks to all samples, a batch at a time."""
        count = len(self.train) + len(self.held)
        parts = [
            function({name: values[name][i : i + self.options.batch] for name in names})
            for i in range(0, count, self.options.batch)
        ]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


class _Objective:
    """Weighted squared error of a window's outputs, as a function of its weights."""

    def __init__(self, work: _Work, inputs: Sequence[str], last: Block) -> None:
        self.work, self.inputs = work, inputs
        # with a window, what earlier blocks of it write may live on behind its last block
        self.outputs = [name for name in last.alive if name not in work.before]
        self.part: QuantizedPart = work.pair.quantized_part(inputs, self.outputs)
        float_part = work.pair.float_part(inputs, self.outputs)
        with torch.no_grad():
            self.expected = work.in_batches(float_part.batched, work.before, inputs)
        self.importance = self._importance(last) if work.options.fisher else None

    def __call__(
        self, weights: Mapping[WeightKey, Tensor], chosen: Tensor, *, drop: float = 0.0
    ) -> Tensor:
        """Mean over samples and elements, summed over outputs."""
        feeds = {name: self.work.rounded[name][chosen] for name in self.inputs}
        found = self.part(feeds, weights, drop=drop)
        errors = []
        for name in self.outputs:
            square = (found[name] - self.expected[name][chosen]) ** 2
            if self.importance is not None:
                square = square * self.importance[name][chosen]
            errors.append(square.mean())
        return torch.stack(errors).sum()

    def error(self, weights: Mapping[WeightKey, Tensor], chosen: Tensor) -> float:
        """The objective over many samples, a batch at a time, without gradients."""
        total = 0.0
        with torch.no_grad():
            for part in chosen.split(self.work.options.batch):
                total += float(self(weights, part)) * len(part)
        return total / len(chosen)

    def _importance(self, last: Block) -> Stacks:
        """Squared gradients at the outputs, with mean 1 over samples and elements of all."""
        work = self.work
        tail = work.pair.float_part(last.alive, work.pair.float_replay.output_names)
        given = {**self.expected, **{n: work.before[n] for n in last.alive if n in work.before}}

        def squares(feeds: Stacks) -> Stacks:
            leaves = {n: v.detach().requires_grad_(n in self.outputs) for n, v in feeds.items()}
            results = tail.batched(leaves)
            loss = torch.stack(
                [fisher_loss(y.flatten(0, 1), work.generator) for y in results.values()]
            ).sum()
            watched = [leaves[name] for name in self.outputs]
            gradients = torch.autograd.grad(loss, watched, allow_unused=True)
            return {
                name: torch.zeros_like(leaf) if gradient is None else gradient**2
                for name, leaf, gradient in zip(self.outputs, watched, gradients, strict=True)
            }

        found = work.in_batches(squares, given, last.alive)
        mean = sum(float(v.mean()) for v in found.values()) / len(found)
        if mean <= 0:
            return {name: torch.ones_like(value) for name, value in found.items()}
        return {name: value / mean for name, value in found.items()}


def _affordable(model: ir.Model, blocks: Sequence[Block], memory: int) -> int:
    """Samples whose values around any block fit: before (twice), expected, and importance."""
    sizes = {
        str(v.name): elements(v)
        for v in (*model.graph.inputs, *(v for node in model.graph for v in node.outputs))
    }
    largest = 1
    for block in blocks:
        around = sum(sizes[n] for n in (*block.inputs, *block.outputs))
        largest = max(largest, 4 * 2 * around)
    return max(2, memory // largest)


def _stacked(
    feeds: Iterable[Mapping[str, NDArray[Any]]], inputs: Mapping[str, TensorSpec], limit: int
) -> Stacks:
    kept: dict[str, list[NDArray[Any]]] = {}
    for i, feed in enumerate(feeds):
        if i == limit:
            break
        for name, array in check_feed(feed, inputs, i).items():
            kept.setdefault(name, []).append(array)
    count = len(next(iter(kept.values()), ()))
    if count < 2:
        raise no_samples(count)
    return {name: torch.from_numpy(np.stack(arrays)) for name, arrays in kept.items()}
