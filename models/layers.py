"""Layers shared by the families of the zoo, written so that they export to few operators."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Both EMOv2 and EdgeNeXt start their layer scales here (Touvron et al., arXiv 2103.17239).
LAYER_SCALE_INIT = 1e-6


def channel_layer_norm(x: Tensor, norm: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply a LayerNorm over the channels of an (N, C, H, W) map.

    Two transposes around the fused operator: ONNX LayerNormalization works on trailing axes
    only, and spelling out mean and variance costs seven nodes instead.
    """
    channels_last = x.permute(0, 2, 3, 1)
    return norm(channels_last).permute(0, 3, 1, 2)


class ConvBN(nn.Module):
    """Convolution with "same" padding for stride 1, BatchNorm, optional activation; timm's keys."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        stride: int = 1,
        groups: int = 1,
        bias: bool = False,
        act: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=bias
        )
        self.bn = nn.BatchNorm2d(outputs)
        self.act = act or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        out: Tensor = self.act(self.bn(self.conv(x)))
        return out


def to_map(tokens: Tensor, height: int, width: int) -> Tensor:
    """(N, height * width, C) to (N, C, height, width)."""
    return tokens.transpose(1, 2).reshape(len(tokens), -1, height, width)


class PointwiseLinear(nn.Linear):
    """`nn.Linear` over the channels of an (N, C, H, W) map, computed as a 1x1 convolution.

    The parameters keep the Linear shapes (out, in), so published checkpoints fit; the map
    stays in NCHW, so no transposes surround it, and runtimes use their convolution kernels.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) to (N, out, H, W)."""
        return F.conv2d(x, self.weight[:, :, None, None], self.bias)


class LayerScale(nn.Module):
    """A learned factor per channel, under timm's key ``gamma``.

    Args:
        channels: size of the axis.
        trailing: axes behind it: 2 for (N, C, H, W) maps, 0 for (N, tokens, C).
    """

    def __init__(self, channels: int, trailing: int, initial: float = 1e-5) -> None:
        super().__init__()
        self.trailing = trailing
        self.gamma = nn.Parameter(torch.full((channels,), initial))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma.reshape(-1, *[1] * self.trailing)


class DistilledHead(nn.Module):
    """Mean of two classifiers that were trained apart (Touvron et al., arXiv 2012.12877).

    A base class and not a child, because checkpoints hold both at the network itself.
    """

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(channels, num_classes)
        self.head_dist = nn.Linear(channels, num_classes)

    def classify(self, x: Tensor) -> Tensor:
        """(N, C) to logits (N, num_classes); one product, of averaged weights."""
        weight = (self.head.weight + self.head_dist.weight) / 2
        return F.linear(x, weight, (self.head.bias + self.head_dist.bias) / 2)


@cache
def distance_indices(size: int, stride: int = 1) -> np.ndarray:
    """Index of the (vertical, horizontal) distance between two pixels of a square map.

    Args:
        size: edge of the map; keys are all its pixels, row by row.
        stride: queries are every stride-th pixel of both axes.

    Returns:
        int64 (queries, size**2) with values ``|dy| * size + |dx|`` below size**2.
    """
    keys = np.stack(np.divmod(np.arange(size**2), size))
    queries = keys[:, (keys % stride == 0).all(0)]
    dy, dx = np.abs(queries[:, :, None] - keys[:, None, :])
    indices: np.ndarray = dy * size + dx
    return indices


def distance_bias(biases: Tensor, size: int, stride: int = 1) -> Tensor:
    """Attention biases (heads, queries, keys) from a table (heads, size**2); constant at export."""
    indices = torch.from_numpy(distance_indices(size, stride))
    return biases[:, indices.to(biases.device)]


def init_like_transformers(module: nn.Module) -> None:
    """Truncated normal (std 0.02) weights and zero biases for linear layers and convolutions."""
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def layer_scale(*shape: int) -> nn.Parameter:
    """A learned factor per channel that starts at 1e-6."""
    return nn.Parameter(torch.full(shape, LAYER_SCALE_INIT))
