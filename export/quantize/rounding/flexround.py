"""FlexRound: rounding learned by element-wise division.

W = s1·clip(round(W / (s1·S2·s3))): the grid size s1 per channel, a factor S2 per weight and one s3
per output channel are learned, all positive, with gradients straight through the rounding (Lee,
Kim, Kwon, Lee, "FlexRound: learnable rounding based on element-wise division for post-training
quantization", ICML 2023, arXiv 2306.00317). Unlike in AdaRound a weight may move by
more than one step, large weights more easily than small ones. Training starts at rounding to
nearest.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from edgec.export.quantize.learned import LearnedWeight
from edgec.export.quantize.replay.integers import round_through
from edgec.export.quantize.rounding.target import LearnableWeight, RoundingTarget


class _FlexRoundWeight:
    def __init__(self, target: RoundingTarget) -> None:
        self.target = target
        self.weight = torch.tensor(target.weight)
        self.start = torch.tensor(target.scales)
        self.least = torch.from_numpy(target.least.astype(np.float32))
        # logarithms keep the factors positive; zero is the start
        self.grid = torch.zeros_like(self.start).requires_grad_()
        self.factors = torch.zeros_like(self.weight).requires_grad_()
        self.channels = torch.zeros_like(self.start).requires_grad_()

    def parameters(self) -> list[Tensor]:
        return [self.grid, self.factors, self.channels]

    def _scales(self) -> Tensor:
        return torch.maximum(self.start * self.grid.exp(), self.least)

    def _integers(self) -> Tensor:
        channel = self.target.broadcast(self._scales() * self.channels.exp())
        steps = self.weight / (channel * self.factors.exp())
        return round_through(steps).clamp(-self.target.limit, self.target.limit)

    def soft(self) -> Tensor:
        return self.target.broadcast(self._scales()) * self._integers()

    def penalty(self, sharpness: float) -> Tensor:
        return torch.zeros(())  # every weight is on the grid already

    def hard(self) -> LearnedWeight:
        scales = self._scales().detach().numpy().astype(np.float32)
        return LearnedWeight(self.target.on_grid(self._integers()), scales)


@dataclass(frozen=True)
class FlexRound:
    """The method, for `edgec.export.quantize.rounding.reconstruct.learn_rounding`."""

    name: str = "flexround"
    learning_rate: float = 1e-3

    def __call__(self, target: RoundingTarget) -> LearnableWeight:
        return _FlexRoundWeight(target)
