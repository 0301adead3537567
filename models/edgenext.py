"""EdgeNeXt: convolutional encoders and split depthwise transposed attention (SDTA).

Maaz et al., "EdgeNeXt: Efficiently Amalgamated CNN-Transformer Architecture for Mobile Vision
Applications", arXiv 2206.10589. Parameter names are those of github.com/mmaaz60/EdgeNeXt;
`rename_timm_keys` takes checkpoints of timm's ``edgenext_*`` to them. The ``bn_hs`` variants
replace LayerNorm by BatchNorm and GELU by Hardswish.

Everything stays an (N, C, H, W) map: linear layers run as 1x1 convolutions, and cross-covariance
attention reads its (channels x pixels) matrices straight from the map, so nothing exceeds rank 4
and the only transposes left are those around LayerNorm (none in the ``bn_hs`` variants).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import pairwise
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgec.models.layers import (
    PointwiseLinear,
    channel_layer_norm,
    init_like_transformers,
    layer_scale,
)

EXPANSION = 4
KERNELS = (3, 5, 7, 9)
SCALES = (2, 2, 3, 4)  # channel groups of the SDTA encoder of each stage
POSITIONAL_STAGE = 1  # the only stage whose attention gets a positional encoding


class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of an (N, C, H, W) map."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return channel_layer_norm(x, super().forward)


class MLP(nn.Module):
    """What both encoders end with: norm, expansion, activation, projection, layer scale.

    A base class and not a child, because checkpoints hold its parameters at the encoder itself.
    """

    def __init__(self, channels: int, *, batch_norm: bool) -> None:
        super().__init__()
        self.norm = make_norm(channels, batch_norm)
        self.pwconv1 = PointwiseLinear(channels, EXPANSION * channels)
        self.act = nn.Hardswish() if batch_norm else nn.GELU()
        self.pwconv2 = PointwiseLinear(EXPANSION * channels, channels)
        self.gamma = layer_scale(channels)

    def mlp(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, H, W)."""
        y: Tensor = self.pwconv2(self.act(self.pwconv1(self.norm(x))))
        return per_channel(self.gamma) * y


class ConvEncoder(MLP):
    """Depthwise convolution, then the MLP, around one residual."""

    def __init__(self, channels: int, kernel: int, *, batch_norm: bool) -> None:
        super().__init__(channels, batch_norm=batch_norm)
        self.dwconv = nn.Conv2d(
            channels,
            channels,
            kernel,
            padding=kernel // 2,
            groups=channels,
            bias=not batch_norm,
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, H, W)."""
        return x + self.mlp(self.dwconv(x))


class SDTAEncoder(MLP):
    """Split depthwise transposed attention (section 3.2 of the paper).

    Channels are split into `scales` groups; each group but the last is convolved after adding
    the result of the one before it, which widens the receptive field step by step. Attention
    across channels and the MLP follow.
    """

    def __init__(
        self, channels: int, heads: int, scales: int, *, positional: bool, batch_norm: bool
    ) -> None:
        super().__init__(channels, batch_norm=batch_norm)
        self.width = math.ceil(channels / scales)
        self.convs = nn.ModuleList(
            nn.Conv2d(self.width, self.width, 3, padding=1, groups=self.width)
            for _ in range(scales - 1)
        )
        self.pos_embd = PositionalEncoding(channels) if positional else None
        self.norm_xca = make_norm(channels, batch_norm)
        self.gamma_xca = layer_scale(channels)
        self.xca = XCA(channels, heads)
        self.batch_norm = batch_norm

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, H, W)."""
        *groups, last = x.split(self.width, dim=1)
        outputs: list[Tensor] = []
        for conv, group in zip(self.convs, groups, strict=True):
            outputs.append(conv(outputs[-1] + group if outputs else group))
        y = torch.cat([*outputs, last], dim=1)
        if self.batch_norm:  # here the published code normalises the shortcut as well
            y = self._encode_position(self.norm_xca(y))
            y = y + per_channel(self.gamma_xca) * self.xca(y)
        else:
            y = self._encode_position(y)
            y = y + per_channel(self.gamma_xca) * self.xca(self.norm_xca(y))
        return x + self.mlp(y)

    def _encode_position(self, x: Tensor) -> Tensor:
        return x if self.pos_embd is None else x + self.pos_embd(x.shape[2], x.shape[3])


class XCA(nn.Module):
    """Cross-covariance attention (El-Nouby et al., arXiv 2106.09681): channels attend to channels.

    The attention matrix is (C / heads) x (C / heads), so the cost is linear in the pixels.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = PointwiseLinear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, H, W)."""
        n, channels, height, width = x.shape
        matrix = (n, self.heads, channels // self.heads, height * width)
        parts = [slice(i * channels, (i + 1) * channels) for i in range(3)]
        # Three convolutions instead of one and a Split: each output has its own range, which
        # int8 needs, and nothing is copied. The slices of the weights are constants at export.
        q, k, v = (
            F.conv2d(x, weight[:, :, None, None], bias).reshape(matrix)
            for weight, bias in ((self.qkv.weight[s], self.qkv.bias[s]) for s in parts)
        )
        scores = l2_normalize(q) @ l2_normalize(k).transpose(2, 3)
        out = torch.softmax(scores * self.temperature, dim=-1) @ v
        projected: Tensor = self.proj(out.reshape(n, channels, height, width))
        return projected


class PositionalEncoding(nn.Module):
    """Sinusoidal encoding of rows and columns (64 channels), projected to `channels`.

    It depends on the map's size alone: at export it is a constant behind a 1x1 convolution of a
    constant.
    """

    FEATURES = 32

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.token_projection = nn.Conv2d(2 * self.FEATURES, channels, 1)

    def forward(self, height: int, width: int) -> Tensor:
        """Encoding (1, channels, height, width) of every pixel of a map."""
        weight = self.token_projection.weight
        encoding = sine_encoding(int(height), int(width), self.FEATURES)
        encoded: Tensor = self.token_projection(
            torch.tensor(encoding, dtype=weight.dtype, device=weight.device)
        )
        return encoded


class EdgeNeXt(nn.Module):
    """The classifier: four stages, each of convolutional encoders and (from the second) one SDTA.

    Args:
        depths: encoders per stage, the SDTA encoder included.
        dims: channels per stage.
        heads: attention heads.
        patch: kernel and stride of the stem.
        batch_norm: BatchNorm and Hardswish instead of LayerNorm and GELU.
    """

    def __init__(
        self,
        depths: Sequence[int],
        dims: Sequence[int],
        heads: int,
        *,
        patch: int = 4,
        batch_norm: bool = False,
        num_classes: int = 1000,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.downsample_layers = nn.ModuleList(
            [
                nn.Sequential(
                    nn.Conv2d(3, dims[0], patch, patch, bias=not batch_norm),
                    make_norm(dims[0], batch_norm),
                )
            ]
        )
        for inputs, outputs in pairwise(dims):
            self.downsample_layers.append(
                nn.Sequential(
                    make_norm(inputs, batch_norm),
                    nn.Conv2d(inputs, outputs, 2, 2, bias=not batch_norm),
                )
            )
        self.stages = nn.ModuleList()
        for stage, (depth, channels) in enumerate(zip(depths, dims, strict=True)):
            attentive = stage > 0
            encoders: list[nn.Module] = [
                ConvEncoder(channels, KERNELS[stage], batch_norm=batch_norm)
                for _ in range(depth - attentive)
            ]
            if attentive:
                encoders.append(
                    SDTAEncoder(
                        channels,
                        heads,
                        SCALES[stage],
                        positional=stage == POSITIONAL_STAGE,
                        batch_norm=batch_norm,
                    )
                )
            self.stages.append(nn.Sequential(*encoders))
        self.norm = make_norm(dims[-1], batch_norm)
        self.head = nn.Linear(dims[-1], num_classes)
        self.apply(init_like_transformers)

    def stage_maps(self, x: Tensor) -> Iterator[Tensor]:
        """Outputs of the stages, see `edgec.models.features.Staged`."""
        for downsample, stage in zip(self.downsample_layers, self.stages, strict=True):
            x = stage(downsample(x))
            yield x

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes) of images (N, 3, H, W), H and W multiples of 32."""
        *_, x = self.stage_maps(x)
        if isinstance(self.norm, nn.BatchNorm2d):
            x = self.norm(x).mean(dim=(2, 3))
        else:
            # LayerNorm comes after pooling; kept as a map, it would be transposed for nothing
            x = nn.LayerNorm.forward(self.norm, x.mean(dim=(2, 3)))
        logits: Tensor = self.head(x)
        return logits


def make_norm(channels: int, batch_norm: bool) -> nn.BatchNorm2d | LayerNorm2d:
    """BatchNorm with torch's eps (1e-5) or LayerNorm with 1e-6, over the channels of a map."""
    return nn.BatchNorm2d(channels) if batch_norm else LayerNorm2d(channels)


def per_channel(parameter: Tensor) -> Tensor:
    """Shape (C,) to (C, 1, 1), to broadcast over a map."""
    return parameter[:, None, None]


def l2_normalize(x: Tensor) -> Tensor:
    """Divide by the norm of the last axis; as `F.normalize`, but without an Expand at export."""
    norm: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return x / norm.clamp_min(1e-12)


@cache
def sine_encoding(height: int, width: int, features: int) -> np.ndarray:
    """Encoding (1, 2 * features, height, width) of pixel positions, rows first; float32.

    Position p of n is scaled to 2 pi p / (n + 1e-6), p = 1..n; pair i of `features` has
    wavelength 10000 ** (2 i / features), its sine and cosine interleaved (as in DETR,
    arXiv 2005.12872).
    """
    wavelength = 10000.0 ** (2 * (np.arange(features) // 2) / features)

    def along(count: int) -> np.ndarray:
        position = 2 * np.pi * np.arange(1, count + 1) / (count + 1e-6)
        phase = position / wavelength[:, None]  # (features, count)
        return np.where(np.arange(features)[:, None] % 2 == 0, np.sin(phase), np.cos(phase))

    rows = np.broadcast_to(along(height)[:, :, None], (features, height, width))
    columns = np.broadcast_to(along(width)[:, None, :], (features, height, width))
    return np.concatenate([rows, columns])[None].astype(np.float32)


T = TypeVar("T")

_TIMM_RENAMES = (
    (r"^stem\.", "downsample_layers.0."),
    (r"^stages\.(\d+)\.downsample\.", r"downsample_layers.\1."),
    (r"^stages\.(\d+)\.blocks\.", r"stages.\1."),
    (r"\.conv_dw\.", ".dwconv."),
    (r"\.mlp\.fc(\d)\.", r".pwconv\1."),
    (r"^head\.fc\.", "head."),
    (r"^head\.norm\.", "norm."),
)


def rename_timm_keys(state: Mapping[str, T]) -> dict[str, T]:
    """Map the keys of timm's ``edgenext_*`` state dicts to this module's; values are untouched.

    Keys that timm does not have pass through unchanged.
    """
    renamed: dict[str, T] = {}
    for key, value in state.items():
        for pattern, replacement in _TIMM_RENAMES:
            key = re.sub(pattern, replacement, key)
        renamed[key] = value
    return renamed


def adapt_keys(state: Mapping[str, T]) -> tuple[dict[str, T], tuple[str, ...]]:
    """Rename the keys if they are timm's; also a note that says so."""
    if "stem.0.weight" in state:
        return rename_timm_keys(state), ("keys renamed from timm's format",)
    return dict(state), ()


def edgenext_xx_small(batch_norm: bool = False, num_classes: int = 1000) -> EdgeNeXt:
    return EdgeNeXt(
        (2, 2, 6, 2), (24, 48, 88, 168), 4, batch_norm=batch_norm, num_classes=num_classes
    )


def edgenext_x_small(batch_norm: bool = False, num_classes: int = 1000) -> EdgeNeXt:
    return EdgeNeXt(
        (3, 3, 9, 3), (32, 64, 100, 192), 4, batch_norm=batch_norm, num_classes=num_classes
    )


def edgenext_small(batch_norm: bool = False, num_classes: int = 1000) -> EdgeNeXt:
    return EdgeNeXt(
        (3, 3, 9, 3), (48, 96, 160, 304), 8, batch_norm=batch_norm, num_classes=num_classes
    )


def edgenext_base(num_classes: int = 1000) -> EdgeNeXt:
    return EdgeNeXt((3, 3, 9, 3), (80, 160, 288, 584), 8, num_classes=num_classes)


def edgenext_cifar10(num_classes: int = 10) -> EdgeNeXt:
    """A small one for 32-pixel images: a finer stem, so that the stages have pixels to work on."""
    return EdgeNeXt((2, 2, 4, 1), (32, 48, 80, 120), 4, patch=2, num_classes=num_classes)
