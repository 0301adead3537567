"""Random parameters of untrained networks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgec.models.random_init import randomize, settle


class Residual(nn.Module):
    """Blocks that double the variance of their input each."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, padding=1)) for _ in range(depth)
        )
        self.head = nn.BatchNorm2d(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = x + block(x)
        y: torch.Tensor = self.head(x)
        return y


def test_settled_norms_have_the_statistics_of_their_inputs() -> None:
    network = Residual(12).eval()
    randomize(network, 0)
    x = torch.randn(4, 8, 6, 6, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        before = float(network(x).std())
        settle(network, (8, 6, 6), 0)
        after = float(network(x).std())
    assert before > 100
    assert 0.5 < after < 2
    assert not any(module.training for module in network.modules())
    assert network.head.momentum == 0.1


def test_settling_is_reproducible_and_restores_on_errors() -> None:
    twins = [Residual(2).eval(), Residual(2).eval()]
    for network in twins:
        randomize(network, 1)
        settle(network, (8, 6, 6), 2)
    for one, other in zip(*(network.state_dict().values() for network in twins), strict=True):
        assert torch.equal(one, other)
    with pytest.raises(RuntimeError):
        settle(twins[0], (3, 6, 6), 2)
    assert not twins[0].head.training
    assert twins[0].head.momentum == 0.1
