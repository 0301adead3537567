"""Random parameters that keep a network's signal alive, for structural exports and tests.

A factory's own initialisation is made for training: with convolutions of standard deviation 0.02
and layer scales of 1e-6 the logits of an untrained EMOv2 are about 1e-32, and any comparison of
such outputs passes. These draws keep activations near unit variance (He et al., arXiv 1502.01852),
and no bias, scale or running statistic is at its neutral value, where a simplifier could drop it.

Nor may they amplify rounding: outputs that the last bit decides tell nothing about a conversion.
What ends a residual branch is drawn small where a network has layer scales (``gamma``). Where it
has none, a module names the parameters that must be small in `damped`, a tuple of names below it:
the scale of the norm that ends a residual branch, whose map would otherwise grow with every block
(Goyal et al., arXiv 1706.02677; De & Smith, arXiv 2002.10444), the output weights of functions
that compute factors of other layers, whose errors multiply (Chang et al., arXiv 2312.08399), and
the scale of queries that are made of a map which nothing normalises. A trained BatchNorm gives
queries and keys the unit variance that 1/√d counts on (Vaswani et al., arXiv 1706.03762); drawn
statistics do not, logits grow with the square of the map, and attention goes to one pixel, which
rounding chooses (Dehghani et al., arXiv 2302.05442).
"""

from __future__ import annotations

import math

import torch
from torch import nn

GAIN = 1.4
DAMPING = 0.1
"""Size of layer scales and of what modules name in `damped`, relative to an ordinary draw."""
SETTLING = 8
"""Inputs of `settle`: few, and enough for the variance of a channel that has one value each."""


@torch.no_grad()
def randomize(network: nn.Module, seed: int) -> None:
    """Fill all floating-point parameters and buffers of `network` in place.

    Args:
        network: any network; integer buffers (index tables, counters) are left alone.
        seed: same seed and architecture, same values.
    """
    generator = torch.Generator().manual_seed(seed)
    damped = {
        f"{path}.{name}".removeprefix(".")
        for path, module in network.named_modules()
        for name in getattr(module, "damped", ())
    }
    for key, tensor in sorted(network.state_dict().items()):
        if not tensor.dtype.is_floating_point:
            continue
        name = key.rpartition(".")[2]
        draw = torch.randn(tensor.shape, generator=generator)
        if name == "running_var":
            value = 1 + 0.1 * draw.abs()
        elif name.startswith("gamma"):
            value = DAMPING * (1 + 0.1 * draw)
        elif name == "temperature" or (name == "weight" and tensor.ndim == 1):
            value = 1 + 0.1 * draw
        elif name == "weight":
            value = draw * (GAIN / math.sqrt(max(1, tensor[0].numel())))
        else:
            value = 0.02 * draw
        tensor.copy_(DAMPING * value if key in damped else value)


@torch.no_grad()
def settle(network: nn.Module, shape: tuple[int, int, int], seed: int) -> None:
    """Give BatchNorm layers the statistics of what reaches them, in place.

    Without that the signal of a deep network with random weights doubles with every residual block:
    logits of 1e9 and attention that is decided by the last bit, where no two runtimes agree.

    Args:
        network: in evaluation mode, with random parameters; nothing is done without BatchNorm.
        shape: of one input, (C, H, W); normally distributed ones are drawn.
        seed: of the draw.
    """
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    kept = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0  # the statistics of this batch, nothing of what was there
    generator = torch.Generator().manual_seed(seed)
    try:
        network(torch.randn(SETTLING, *shape, generator=generator))
    finally:
        for norm, momentum in zip(norms, kept, strict=True):
            norm.eval()
            norm.momentum = momentum
