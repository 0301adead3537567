"""Gradients of a fake quantizer, against the same formulas written with plain operations."""

from __future__ import annotations

import pytest
import torch

from edgec.export.quantize.finetune.learned_step import learned_step
from edgec.export.quantize.replay.integers import round_through


def plain(x: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, low: int, high: int):
    integers = (round_through(x / scale) + zero).clamp(low, high)
    return (integers - zero) * scale


@pytest.mark.parametrize(("zero", "limits"), [(0, (-127, 127)), (3, (0, 15)), (-2, (-8, 7))])
def test_value_and_gradients(zero: int, limits: tuple[int, int]) -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 5, 7) * 40
    weight = torch.randn(4, 5, 7)
    results = []
    for function in (plain, lambda *a: learned_step(*a[:3], limits)):
        given = [x.clone(), torch.tensor(0.37), torch.tensor(float(zero))]
        for tensor in given:
            tensor.requires_grad_()
        y = function(*given, *limits)
        gradients = torch.autograd.grad((y * weight).sum(), given)
        results.append([y, *gradients])
    assert (results[0][0] != x).any()
    for found, wanted in zip(*results[::-1], strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_samples_together_are_as_one_by_one() -> None:
    torch.manual_seed(1)
    x = torch.randn(3, 6) * 5
    gradients = []
    for batched in (False, True):
        scale = torch.tensor(0.1, requires_grad=True)
        zero = torch.tensor(4.0, requires_grad=True)
        one = lambda v: learned_step(v, scale, zero, (0, 63))  # noqa: B023, E731
        y = torch.func.vmap(one)(x) if batched else torch.stack([one(v) for v in x])
        y.square().sum().backward()
        gradients.append(torch.stack([y.sum().detach(), scale.grad, zero.grad]))
    torch.testing.assert_close(gradients[0], gradients[1])
