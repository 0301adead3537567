"""Activation statistics weighted by what each value matters to the output.

A plain histogram counts every value alike; an error in a value that the output hardly depends on
then costs as much as one that decides the class. Weighting each value by its squared gradient, the
diagonal of the Fisher information, turns the squared-error search over ranges into a second-order
estimate of the change of the network's loss (Li et al., BRECQ, arXiv 2102.05426, section 3.1; Lee
et al., Q-HyViT, arXiv 2303.12557, section IV, use it for hybrid vision transformers). Labels are
not needed: the class of each backward pass is drawn from the network's own prediction, which is the
Fisher information's definition. Every sample weighs the same, however sure the network is of it.

On the networks measured so far (8 bits) the ranges are no better than those of the plain squared
error; the statistics are for fewer bits and for comparison.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from edgec.export.quantize.calibrate import Calibration, observe
from edgec.export.quantize.graph import prepared_copy
from edgec.export.quantize.histogram import Histogram
from edgec.export.quantize.replay.graph import Replay, as_tensors, tracked
from edgec.export.quantize.stream import activation_names, no_samples

MIN_CLASSES = 3
"""Outputs of rank 2 or 3 whose last axis is at least this long are read as class scores over it."""
LEAST_PROBABILITY = 1e-7
"""Where logarithms of probabilities end."""
SUM_TOLERANCE = 1e-3
"""How far the sum of probabilities may be from one."""


def fisher_calibrate(
    model: ir.Model,
    feeds: Iterable[Mapping[str, NDArray[Any]]],
    *,
    tensors: Collection[str] | None = None,
    draws: int = 2,
    seed: int = 0,
    on_progress: Callable[[int], None] | None = None,
) -> Calibration:
    """As `calibrate` with method ``"mse"``, every value weighted by its squared gradient.

    Args:
        model: float32 graph that `Replay` can execute; not modified.
        feeds: one mapping input name → array per sample; each costs a forward and `draws` backward
            passes in torch.
        tensors: names to observe; None observes every float32 activation.
        draws: classes (or directions) drawn per sample.
        seed: of the draws.
        on_progress: called with the number of samples done.

    Raises:
        UnsupportedError: EC366, the graph has no replay.
        InputError: EC760, no samples; EC762, an activation is not finite.
    """
    copy = prepared_copy(model)
    replay = Replay(copy)
    names = activation_names(copy) if tensors is None else list(tensors)
    generator = torch.Generator().manual_seed(seed)
    histograms = {name: Histogram.weighted() for name in names}
    samples = 0
    for feed in feeds:
        values, squares = _squared_gradients(replay, feed, names, draws, generator)
        for name, histogram in histograms.items():
            total = squares[name].sum(dtype=np.float64)
            weights = squares[name] / total if total > 0 else squares[name]
            observe(copy, histogram, name, values[name], samples, weights)
        samples += 1
        if on_progress is not None:
            on_progress(samples)
    if not samples:
        raise no_samples()
    return Calibration(histograms, method="mse", samples=samples)


def _squared_gradients(
    replay: Replay,
    feed: Mapping[str, NDArray[Any]],
    names: Collection[str],
    draws: int,
    generator: torch.Generator,
) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
    """Values of the named tensors, and their squared gradients summed over the draws."""

    found = replay(as_tensors(feed), watch=names, intercept=dict.fromkeys(names, tracked))
    watched = [found[name] for name in names]
    squares = [np.zeros(tuple(value.shape), np.float32) for value in watched]
    for draw in range(draws):
        loss = torch.stack(
            [fisher_loss(found[name], generator) for name in replay.output_names]
        ).sum()
        gradients = torch.autograd.grad(
            loss, watched, retain_graph=draw + 1 < draws, allow_unused=True
        )
        for square, gradient in zip(squares, gradients, strict=True):
            if gradient is not None:
                square += gradient.numpy() ** 2
    values = {name: value.detach().numpy() for name, value in zip(names, watched, strict=True)}
    return values, dict(zip(names, squares, strict=True))


def fisher_loss(output: Tensor, generator: torch.Generator) -> Tensor:
    """A scalar whose squared gradients average to the diagonal of the Fisher information.

    Logits and probabilities: minus the log-probability of classes drawn from the prediction.
    Anything else: the projection on a random direction, the Fisher information of a Gaussian of
    unit variance.
    """
    if output.ndim in (2, 3) and output.shape[-1] >= MIN_CLASSES:
        logits = as_logits(output.reshape(-1, output.shape[-1]))
        classes = torch.multinomial(logits.detach().softmax(-1), 1, generator=generator)
        return F.cross_entropy(logits, classes[:, 0], reduction="sum")
    return (output * torch.randn(output.shape, generator=generator)).sum()


def as_logits(scores: Tensor) -> Tensor:
    """Class scores as logits: rows that are probabilities (a Softmax ends the network) in
    logarithms, others as they are.

    Args:
        scores: (…, classes).
    """
    if are_probabilities(scores.detach()):
        return scores.clamp(min=LEAST_PROBABILITY).log()
    return scores


def are_probabilities(scores: Any) -> bool:
    """Whether rows of class scores are probabilities, because a Softmax ends the network.

    Args:
        scores: (…, classes), a tensor or an array.
    """
    return bool((scores >= 0).all()) and bool(abs(scores.sum(-1) - 1).max() < SUM_TOLERANCE)
