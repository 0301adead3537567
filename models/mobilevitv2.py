"""MobileViT v2: MobileViT with separable self-attention, whose cost is linear in the pixels.

Mehta and Rastegari, "Separable Self-attention for Mobile Vision Transformers", arXiv 2206.02680.
Parameter names are those of timm's ``mobilevitv2_*``.

All layers between unfolding and folding are 1x1 convolutions, norms over everything and sums
along one axis, so the tokens stay in an (N, C, phases, pixels) map.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgec.models.layers import ConvBN
from edgec.models.mobilevit import PATCH, Head, InvertedResidual, even_size, init_weights

DEPTHS = (2, 4, 3)


class MapNorm(nn.GroupNorm):
    """Norm over all channels and pixels of an image (a GroupNorm of one group), affine by channel.

    As LayerNormalization it is one operator, and its factor and offset go into the 1x1 convolution
    that follows; GroupNormalization needs opset 21 and torch's way around it several operators.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(1, channels)

    def forward(self, x: Tensor) -> Tensor:
        normal = F.layer_norm(x, x.shape[1:], eps=self.eps)
        return normal * self.weight[:, None, None] + self.bias[:, None, None]


class SeparableAttention(nn.Module):
    """One score per pixel weighs the keys into a context vector, which scales all values.

    As always in the original, pixels meet only those of the same place in their patch.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.qkv_proj = nn.Conv2d(channels, 1 + 2 * channels, 1)
        self.out_proj = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, phases, pixels), shape kept."""
        weight, bias = self.qkv_proj.weight, self.qkv_proj.bias
        assert bias is not None
        end = 1 + x.shape[1]
        score, key, value = (
            F.conv2d(x, weight[part], bias[part])
            for part in (slice(0, 1), slice(1, end), slice(end, None))
        )
        context = (key * torch.softmax(score, dim=-1)).sum(dim=-1, keepdim=True)
        out: Tensor = self.out_proj(F.relu(value) * context)
        return out


class MLP(nn.Module):
    """Two 1x1 convolutions with SiLU between them."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.act = nn.SiLU()
        self.fc2 = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(self.act(self.fc1(x)))
        return out


class Encoder(nn.Module):
    """Separable attention and MLP, each behind a norm over all channels and pixels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1 = MapNorm(channels)
        self.attn = SeparableAttention(channels)
        self.norm2 = MapNorm(channels)
        self.mlp = MLP(channels, 2 * channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, phases, pixels), shape kept."""
        x = x + self.attn(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class MobileViTv2Block(nn.Module):
    """Depthwise convolution, encoders between unfolding and folding, projection; no shortcut.

    A map of odd height or width is resized to even ones, which its output keeps.
    """

    def __init__(self, channels: int, depth: int) -> None:
        super().__init__()
        dim = channels // 2
        self.conv_kxk = ConvBN(channels, channels, 3, groups=channels, act=nn.SiLU())
        self.conv_1x1 = nn.Conv2d(channels, dim, 1, bias=False)
        self.transformer = nn.Sequential(*(Encoder(dim) for _ in range(depth)))
        self.norm = MapNorm(dim)
        self.conv_proj = ConvBN(dim, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, even H, even W)."""
        size = even_size(x)
        if size != x.shape[2:]:
            x = F.interpolate(x, size, mode="bilinear", align_corners=True)
        y: Tensor = self.conv_1x1(self.conv_kxk(x))
        # the norm sees all pixels in any order: after folding it meets the convolution it goes into
        y = self.norm(fold(self.transformer(unfold(y)), size))
        projected: Tensor = self.conv_proj(y)
        return projected


def unfold(x: Tensor) -> Tensor:
    """(N, C, H, W) to (N, C, phases, pixels): phase = place in its patch, pixel = patch."""
    n, channels, height, width = x.shape
    rows, columns = height // PATCH, width // PATCH
    pixels = x.reshape(n * channels, rows, PATCH, columns, PATCH).permute(0, 2, 4, 1, 3)
    return pixels.reshape(n, channels, PATCH**2, rows * columns)


def fold(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Inverse of `unfold` for a map of height and width `size`."""
    n, channels = x.shape[:2]
    rows, columns = size[0] // PATCH, size[1] // PATCH
    pixels = x.reshape(n * channels, PATCH, PATCH, rows, columns).permute(0, 3, 1, 4, 2)
    return pixels.reshape(n, channels, *size)


class MobileViTv2(nn.Module):
    """The classifier: stem, two convolutional stages, three stages with a MobileViT v2 block each.

    Args:
        width: factor of all channels of width 1.
    """

    def __init__(self, width: float, num_classes: int = 1000) -> None:
        super().__init__()
        self.num_classes = num_classes
        stem, *channels = (int(width * c) for c in (32, 64, 128, 256, 384, 512))
        self.stem = ConvBN(3, stem, 3, stride=2, act=nn.SiLU())

        def residual(inputs: int, outputs: int, stride: int) -> InvertedResidual:
            return InvertedResidual(inputs, outputs, stride=stride, ratio=2)

        first, second, *rest = channels
        stages = [
            nn.Sequential(residual(stem, first, 1)),
            nn.Sequential(residual(first, second, 2), residual(second, second, 1)),
        ]
        inputs = second
        for outputs, depth in zip(rest, DEPTHS, strict=True):
            block = MobileViTv2Block(outputs, depth)
            stages.append(nn.Sequential(residual(inputs, outputs, 2), block))
            inputs = outputs
        self.stages = nn.Sequential(*stages)
        self.head = Head(inputs, num_classes)
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
        logits: Tensor = self.head(x)
        return logits


def mobilevitv2(width: float, num_classes: int = 1000) -> MobileViTv2:
    """The network of the given width: 0.5 to 2 in the paper."""
    return MobileViTv2(width, num_classes)
