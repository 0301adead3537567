"""Layers shared by the families of the zoo, written so that they export to few operators."""

from __future__ import annotations

from collections.abc import Callable

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


class PointwiseLinear(nn.Linear):
    """`nn.Linear` over the channels of an (N, C, H, W) map, computed as a 1x1 convolution.

    The parameters keep the Linear shapes (out, in), so published checkpoints fit; the map
    stays in NCHW, so no transposes surround it, and runtimes use their convolution kernels.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) to (N, out, H, W)."""
        return F.conv2d(x, self.weight[:, :, None, None], self.bias)


def init_like_transformers(module: nn.Module) -> None:
    """Truncated normal (std 0.02) weights and zero biases for linear layers and convolutions."""
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def layer_scale(*shape: int) -> nn.Parameter:
    """A learned factor per channel that starts at 1e-6."""
    return nn.Parameter(torch.full(shape, LAYER_SCALE_INIT))
