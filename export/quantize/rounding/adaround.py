"""AdaRound: every weight learns whether to round up or down.

W = s·clip(floor(W / s) + h(V)) with h(V) = clip(1.2·sigmoid(V) − 0.1, 0, 1), which is in [0, 1]
during training; the penalty 1 − |2h − 1|^β pulls h to 0 or 1, harder as β falls (Nagel, Amjad, van
Baalen, Louizos, Blankevoort, "Up or down? Adaptive rounding for post-training quantization",
arXiv 2004.10568, section 3). Scales stay as they are. Training starts at the float weight.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from edgec.export.quantize.learned import LearnedWeight
from edgec.export.quantize.rounding.target import LearnableWeight, RoundingTarget

STRETCH = 1.2
OFFSET = -0.1


class _AdaRoundWeight:
    def __init__(self, target: RoundingTarget) -> None:
        self.target = target
        self.scales = target.broadcast(torch.tensor(target.scales))
        steps = torch.tensor(target.weight) / self.scales
        self.floor = torch.floor(steps)
        share = (steps - self.floor - OFFSET) / STRETCH  # in [1/12, 11/12]: has a logit
        self.logits = torch.logit(share).requires_grad_()

    def parameters(self) -> list[Tensor]:
        return [self.logits]

    def _raised(self) -> Tensor:
        return (STRETCH * torch.sigmoid(self.logits) + OFFSET).clamp(0, 1)

    def soft(self) -> Tensor:
        limit = self.target.limit
        return self.scales * (self.floor + self._raised()).clamp(-limit, limit)

    def penalty(self, sharpness: float) -> Tensor:
        return (1 - (2 * self._raised() - 1).abs().pow(sharpness)).mean()

    def hard(self) -> LearnedWeight:
        limit = self.target.limit
        integers = (self.floor + (self._raised() >= 0.5)).clamp(-limit, limit)
        return LearnedWeight(self.target.on_grid(integers), self.target.scales)


@dataclass(frozen=True)
class AdaRound:
    """The method, for `edgec.export.quantize.rounding.reconstruct.learn_rounding`."""

    name: str = "adaround"
    learning_rate: float = 1e-2

    def __call__(self, target: RoundingTarget) -> LearnableWeight:
        return _AdaRoundWeight(target)
