"""What a rounding method is given about a weight, and what it must provide."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgec.export.quantize.learned import LearnedWeight
from edgec.export.quantize.weights import channel_shape, from_channels, make_pair_safe, per_channel


@dataclass(frozen=True)
class RoundingTarget:
    """A float weight and its grid as rounding to nearest has it.

    Attributes:
        weight: float32, any shape.
        axis: channel axis of the scales, None for one scale.
        integers: int8, rounded to nearest; shape of the weight.
        scales: float32 (channels,), or () without an axis.
        least: least admissible scales, same shape: below, an int32 bias would overflow.
        limit: largest magnitude of an integer.
        pair_safe: see `edgec.export.quantize.weights.quantize_weight`.
    """

    weight: NDArray[np.float32]
    axis: int | None
    integers: NDArray[np.int8]
    scales: NDArray[np.float32]
    least: NDArray[np.float64]
    limit: int
    pair_safe: bool

    def broadcast(self, scales: Tensor) -> Tensor:
        """Per-channel values in a shape that multiplies the weight."""
        return scales.reshape(channel_shape(self.axis, self.weight.ndim))

    def nearest(self) -> Tensor:
        """The weight that rounding to nearest stands for."""
        return torch.tensor(self.integers).float() * self.broadcast(torch.tensor(self.scales))

    def on_grid(self, integers: Tensor) -> NDArray[np.int8]:
        """Whole numbers as int8, made pair-safe where that is asked for."""
        array: NDArray[np.int8] = integers.detach().numpy().round().astype(np.int8)
        if not self.pair_safe:
            return array
        rows = make_pair_safe(per_channel(array, self.axis))
        return from_channels(rows, array.shape, self.axis)


class LearnableWeight(Protocol):
    """A weight in training."""

    def parameters(self) -> list[Tensor]:
        """What the optimizer changes."""

    def soft(self) -> Tensor:
        """The weight as the network sees it in training; differentiable."""

    def penalty(self, sharpness: float) -> Tensor:
        """A scalar in [0, 1] that is 0 once every weight has decided for an integer."""

    def hard(self) -> LearnedWeight:
        """The integers and scales that the parameters now stand for."""


class RoundingMethod(Protocol):
    """A way to learn rounding: makes the learnable form of a weight."""

    @property
    def name(self) -> str:
        """As in the literature."""

    @property
    def learning_rate(self) -> float:
        """Of Adam."""

    def __call__(self, target: RoundingTarget) -> LearnableWeight: ...
