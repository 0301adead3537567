"""MobileViT: inverted residuals, and transformers between the pixels of equal place in 2x2 patches.

Mehta and Rastegari, "MobileViT: Light-weight, General-purpose, and Mobile-friendly Vision
Transformer", arXiv 2110.02178. Parameter names are those of timm's ``mobilevit_*``.

The tokens of a block are unfolded once and folded once. In between everything is (phases, pixels,
channels), so that LayerNorm and linear layers work on the last axis; nothing exceeds rank 5.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgec.models.layers import ConvBN, init_like_transformers

HEADS = 4
PATCH = 2  # edge of a patch; its PATCH**2 places are the phases


class InvertedResidual(nn.Module):
    """Expansion, depthwise 3x3 and linear projection (Sandler et al., arXiv 1801.04381)."""

    def __init__(self, inputs: int, outputs: int, *, stride: int, ratio: int) -> None:
        super().__init__()
        hidden = inputs * ratio
        self.residual = stride == 1 and inputs == outputs
        self.conv1_1x1 = ConvBN(inputs, hidden, 1, act=nn.SiLU())
        self.conv2_kxk = ConvBN(hidden, hidden, 3, stride=stride, groups=hidden, act=nn.SiLU())
        self.conv3_1x1 = ConvBN(hidden, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        y: Tensor = self.conv3_1x1(self.conv2_kxk(self.conv1_1x1(x)))
        return x + y if self.residual else y


class Attention(nn.Module):
    """Multi-head attention of (batch, tokens, channels)."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, channels = x.shape
        width = channels // self.heads
        parts = [slice(i * channels, (i + 1) * channels) for i in range(3)]
        weights = [self.qkv.weight[part] for part in parts]
        biases = [self.qkv.bias[part] for part in parts]
        # the factor 1/sqrt(d) is a constant of the query's weights at export
        weights[0], biases[0] = weights[0] * width**-0.5, biases[0] * width**-0.5
        q, k, v = (
            F.linear(x, weight, bias).reshape(batch, tokens, self.heads, width).transpose(1, 2)
            for weight, bias in zip(weights, biases, strict=True)
        )
        out = torch.softmax(q @ k.transpose(2, 3), dim=-1) @ v
        projected: Tensor = self.proj(out.transpose(1, 2).reshape(batch, tokens, channels))
        return projected


class MLP(nn.Module):
    """Two linear layers with SiLU between them."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden)
        self.act = nn.SiLU()
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(self.act(self.fc1(x)))
        return out


class Encoder(nn.Module):
    """A transformer encoder with norms in front."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn = Attention(channels, heads)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = MLP(channels, 2 * channels)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, channels), shape kept."""
        x = x + self.attn(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class MobileViTBlock(nn.Module):
    """Local representation by convolution, global one by transformers, fusion with the input.

    A map of odd height or width is resized to even ones for the transformers, and back.
    """

    def __init__(self, channels: int, dim: int, depth: int) -> None:
        super().__init__()
        self.conv_kxk = ConvBN(channels, channels, 3, act=nn.SiLU())
        self.conv_1x1 = nn.Conv2d(channels, dim, 1, bias=False)
        self.transformer = nn.Sequential(*(Encoder(dim, HEADS) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)
        self.conv_proj = ConvBN(dim, channels, 1, act=nn.SiLU())
        self.conv_fusion = ConvBN(2 * channels, channels, 3, act=nn.SiLU())

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W), shape kept."""
        y: Tensor = self.conv_1x1(self.conv_kxk(x))
        size = y.shape[2:]
        even = even_size(y)
        if even != size:
            y = F.interpolate(y, even, mode="bilinear", align_corners=False)
        y = fold(self.norm(self.transformer(unfold(y))), even)
        if even != size:
            y = F.interpolate(y, size, mode="bilinear", align_corners=False)
        fused: Tensor = self.conv_fusion(torch.cat((x, self.conv_proj(y)), dim=1))
        return fused


def even_size(x: Tensor) -> tuple[int, int]:
    """Height and width of a map, rounded up to whole patches."""
    return -(-x.shape[2] // PATCH) * PATCH, -(-x.shape[3] // PATCH) * PATCH


def unfold(x: Tensor) -> Tensor:
    """Tokens (PATCH**2 * N, H * W / PATCH**2, C) of a map (N, C, H, W); phases are outermost."""
    n, channels, height, width = x.shape
    rows, columns = height // PATCH, width // PATCH
    pixels = x.permute(0, 2, 3, 1).reshape(n * rows, PATCH, columns, PATCH, channels)
    return pixels.permute(1, 3, 0, 2, 4).reshape(PATCH**2 * n, rows * columns, channels)


def fold(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Inverse of `unfold` for a map of height and width `size`."""
    rows, columns = size[0] // PATCH, size[1] // PATCH
    n, channels = len(x) // PATCH**2, x.shape[2]
    pixels = x.reshape(PATCH, PATCH, n * rows, columns, channels).permute(2, 0, 3, 1, 4)
    return pixels.reshape(n, *size, channels).permute(0, 3, 1, 2)


class Head(nn.Module):
    """Global average pooling and a linear classifier."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, num_classes)."""
        logits: Tensor = self.fc(x.mean(dim=(2, 3)))
        return logits


class MobileViT(nn.Module):
    """The classifier: two convolutional stages, then stages with a MobileViT block each.

    Args:
        local: channels of the two convolutional stages.
        channels: channels of each further stage.
        dims: channels inside its transformers.
        depths: its number of transformer encoders.
        ratio: hidden channels per input channel of the inverted residuals.
        final: channels before pooling.
        strides: of the stem, of the second convolutional stage and of each further stage.
    """

    def __init__(
        self,
        local: tuple[int, int],
        channels: Sequence[int],
        dims: Sequence[int],
        depths: Sequence[int],
        *,
        ratio: int,
        final: int,
        strides: Sequence[int] = (2, 2, 2, 2, 2),
        num_classes: int = 1000,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        stem = 16
        self.stem = ConvBN(3, stem, 3, stride=strides[0], act=nn.SiLU())
        second = [
            InvertedResidual(inputs, local[1], stride=stride, ratio=ratio)
            for inputs, stride in ((local[0], strides[1]), (local[1], 1), (local[1], 1))
        ]
        stages = [
            nn.Sequential(InvertedResidual(stem, local[0], stride=1, ratio=ratio)),
            nn.Sequential(*second),
        ]
        inputs = local[1]
        for outputs, dim, depth, stride in zip(channels, dims, depths, strides[2:], strict=True):
            residual = InvertedResidual(inputs, outputs, stride=stride, ratio=ratio)
            stages.append(nn.Sequential(residual, MobileViTBlock(outputs, dim, depth)))
            inputs = outputs
        self.stages = nn.Sequential(*stages)
        self.final_conv = ConvBN(inputs, final, 1, act=nn.SiLU())
        self.head = Head(final, num_classes)
        self.apply(init_weights)

    def stage_maps(self, x: Tensor) -> Iterator[Tensor]:
        """Outputs of the stages behind the stem, see `edgec.models.features.Staged`."""
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
            yield x

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes) of images (N, 3, H, W)."""
        *_, x = self.stage_maps(x)
        logits: Tensor = self.head(self.final_conv(x))
        return logits


def init_weights(module: nn.Module) -> None:
    """Kaiming normal (fan out) convolutions, truncated normal linear layers."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    else:
        init_like_transformers(module)


def mobilevit_xxs(num_classes: int = 1000) -> MobileViT:
    return MobileViT(
        (16, 24), (48, 64, 80), (64, 80, 96), (2, 4, 3), ratio=2, final=320, num_classes=num_classes
    )


def mobilevit_xs(num_classes: int = 1000) -> MobileViT:
    return MobileViT(
        (32, 48),
        (64, 80, 96),
        (96, 120, 144),
        (2, 4, 3),
        ratio=4,
        final=384,
        num_classes=num_classes,
    )


def mobilevit_s(num_classes: int = 1000) -> MobileViT:
    return MobileViT(
        (32, 64),
        (96, 128, 160),
        (144, 192, 240),
        (2, 4, 3),
        ratio=4,
        final=640,
        num_classes=num_classes,
    )


def mobilevit_cifar10(num_classes: int = 10) -> MobileViT:
    """A small one for 32-pixel images: transformers see 16 and 4 pixels of each phase."""
    return MobileViT(
        (16, 32),
        (48, 72),
        (48, 80),
        (2, 3),
        ratio=2,
        final=256,
        strides=(1, 2, 2, 2),
        num_classes=num_classes,
    )
