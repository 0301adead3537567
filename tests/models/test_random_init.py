"""Random parameters of untrained networks."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from edgec.models import create_model, get_spec
from edgec.models.random_init import DAMPING, randomize, settle

# The aim of a float32 file is 1e-5 of the largest output. Two right implementations, each this far
# from the exact outputs, still agree within that.
ROUNDING = 3e-6


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


class Branch(nn.Module):
    """Two layers of which the first is drawn small."""

    damped = ("first.weight",)

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(64, 64)
        self.second = nn.Linear(64, 64)


def test_only_what_a_module_names_is_damped() -> None:
    for network, path in ((Branch(), ""), (nn.Sequential(nn.Identity(), Branch()), "1.")):
        randomize(network, 0)
        small = copy.deepcopy(network.state_dict())
        vars(network.get_submodule(path.removesuffix(".")))["damped"] = ()
        randomize(network, 0)
        for key, value in network.state_dict().items():
            factor = DAMPING if key == f"{path}first.weight" else 1
            assert torch.equal(small[key], factor * value), key


@pytest.mark.parametrize(
    "name",
    [
        "edgenext_xx_small",
        "efficientformer_l1",
        "efficientformerv2_s0",
        "efficientformerv2_l",
        "emo_1m",
        "emov2_1m",
        "mcuformer_cifar10",
        "mobile_former_26m",
        "mobile_former_52m",
        "mobile_former_151m",
        "mobilevit_xxs",
        "mobilevitv2_050",
    ],
)
def test_outputs_are_decided_by_the_input_not_by_rounding(name: str) -> None:
    network = create_model(name).eval()
    randomize(network, 0)
    for path, module in network.named_modules():
        for parameter in getattr(module, "damped", ()):
            assert isinstance(module.get_parameter(parameter), nn.Parameter), path
    images = torch.randn(2, *get_spec(name).input_shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        rounded = network(images)
        exact = copy.deepcopy(network).double()(images.double())
    scale = float(exact.abs().max())
    assert 1 < scale < 100
    assert float((rounded - exact).abs().max()) < ROUNDING * scale
    assert float((exact[0] - exact[1]).abs().max()) > 1e-2 * scale
