"""EfficientFormer V2: inverted residuals, and attention on maps in the last two stages.

Li et al., "Rethinking Vision Transformers for MobileNet Size and Speed", arXiv 2212.08059.
Parameter names are those of timm's ``efficientformerv2_*``.

Everything stays an (N, C, H, W) map: attention reads its (channels x pixels) matrices straight
from it, so the graph has no Transpose but the flags of its products.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgec.models.layers import (
    ConvBN,
    DistilledHead,
    LayerScale,
    distance_bias,
    init_like_transformers,
)

VALUE_RATIO = 4  # channels of a head's values per channel of its keys


def conv_bn(
    inputs: int,
    outputs: int,
    kernel: int = 1,
    *,
    stride: int = 1,
    depthwise: bool = False,
    act: nn.Module | None = None,
) -> ConvBN:
    """The family's convolutions all have a bias besides their BatchNorm."""
    groups = inputs if depthwise else 1
    return ConvBN(inputs, outputs, kernel, stride=stride, groups=groups, bias=True, act=act)


class Attention(nn.Module):
    """Attention with a bias per distance and heads that are mixed before and after the softmax.

    Args:
        size: edge of the square input map in pixels.
        stride: 2 lets attention see every second pixel and resizes its result.
    """

    damped = ("q.bn.weight",)  # see `edgec.models.random_init`

    def __init__(self, channels: int, *, heads: int, key: int, size: int, stride: int) -> None:
        super().__init__()
        value = VALUE_RATIO * key * heads
        self.heads = heads
        self.scale = key**-0.5
        self.size = -(-size // stride)
        self.stride_conv = (
            conv_bn(channels, channels, 3, stride=stride, depthwise=True) if stride > 1 else None
        )
        self.q = conv_bn(channels, key * heads)
        self.k = conv_bn(channels, key * heads)
        self.v = conv_bn(channels, value)
        self.v_local = conv_bn(value, value, 3, depthwise=True)
        self.talking_head1 = nn.Conv2d(heads, heads, 1)
        self.talking_head2 = nn.Conv2d(heads, heads, 1)
        self.act = nn.GELU()
        self.proj = conv_bn(value, channels)
        self.attention_biases = nn.Parameter(torch.zeros(heads, self.size**2))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, size, size), shape kept."""
        shape = x.shape[2:]
        if self.stride_conv is not None:
            x = self.stride_conv(x)
        matrix = (len(x), self.heads, -1, self.size**2)
        v = self.v(x)
        q, k = (self.q(x) * self.scale).reshape(matrix), self.k(x).reshape(matrix)
        logits = q.transpose(2, 3) @ k + distance_bias(self.attention_biases, self.size)
        weights = self.talking_head2(torch.softmax(self.talking_head1(logits), dim=-1))
        out = (v.reshape(matrix) @ weights.transpose(2, 3)).reshape(v.shape) + self.v_local(v)
        if self.stride_conv is not None:
            out = F.interpolate(out, shape, mode="bilinear", align_corners=False)
        projected: Tensor = self.proj(self.act(out))
        return projected


class DownsampleQuery(nn.Module):
    """Queries of every second pixel: the pixel itself plus a depthwise convolution around it."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.local = nn.Conv2d(channels, channels, 3, 2, padding=1, groups=channels)
        self.proj = conv_bn(channels, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, outputs, H / 2, W / 2)."""
        # the pixel itself is one more at the centre of its kernel: no Slice
        kernel = self.local.weight + F.pad(x.new_ones(1, 1, 1, 1), (1, 1, 1, 1))
        local = F.conv2d(x, kernel, self.local.bias, stride=2, padding=1, groups=x.shape[1])
        out: Tensor = self.proj(local)
        return out


class DownsampleAttention(nn.Module):
    """Attention from every second pixel to all pixels, with a bias per distance."""

    damped = ("q.proj.bn.weight",)

    def __init__(self, channels: int, outputs: int, *, heads: int, key: int, size: int) -> None:
        super().__init__()
        value = VALUE_RATIO * key * heads
        self.heads = heads
        self.scale = key**-0.5
        self.size = size
        self.q = DownsampleQuery(channels, key * heads)
        self.k = conv_bn(channels, key * heads)
        self.v = conv_bn(channels, value)
        self.v_local = conv_bn(value, value, 3, stride=2, depthwise=True)
        self.act = nn.GELU()
        self.proj = conv_bn(value, outputs)
        self.attention_biases = nn.Parameter(torch.zeros(heads, size**2))

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, size, size) to (N, outputs, size / 2, size / 2)."""
        v = self.v(x)
        local = self.v_local(v)
        matrix = (len(x), self.heads, -1, self.size**2)
        q = (self.q(x) * self.scale).reshape(len(x), self.heads, -1, local.shape[2:].numel())
        logits = q.transpose(2, 3) @ self.k(x).reshape(matrix)
        weights = torch.softmax(logits + distance_bias(self.attention_biases, self.size, 2), dim=-1)
        out = (v.reshape(matrix) @ weights.transpose(2, 3)).reshape(local.shape) + local
        projected: Tensor = self.proj(self.act(out))
        return projected


class Downsample(nn.Module):
    """3x3 convolution of stride 2, in the last stage beside attention."""

    def __init__(self, inputs: int, outputs: int, attn: nn.Module | None) -> None:
        super().__init__()
        self.conv = conv_bn(inputs, outputs, 3, stride=2)
        self.attn = attn

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H / 2, W / 2)."""
        out: Tensor = self.conv(x)
        return out if self.attn is None else self.attn(x) + out


class MLP(nn.Module):
    """Expansion, depthwise 3x3 and projection, with BatchNorm and GELU."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = conv_bn(channels, hidden, act=nn.GELU())
        self.mid = conv_bn(hidden, hidden, 3, depthwise=True, act=nn.GELU())
        self.fc2 = conv_bn(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W), shape kept."""
        out: Tensor = self.fc2(self.mid(self.fc1(x)))
        return out


class Block(nn.Module):
    """Attention (or none) and MLP, both residual and with a layer scale."""

    def __init__(self, channels: int, ratio: float, attention: nn.Module | None) -> None:
        super().__init__()
        if attention is not None:
            self.token_mixer = attention
            self.ls1 = LayerScale(channels, 2)
        self.attentive = attention is not None
        self.mlp = MLP(channels, int(channels * ratio))
        self.ls2 = LayerScale(channels, 2)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W), shape kept."""
        if self.attentive:
            x = x + self.ls1(self.token_mixer(x))
        out: Tensor = x + self.ls2(self.mlp(x))
        return out


class Stem(nn.Sequential):
    """Two 3x3 convolutions with BatchNorm and GELU."""

    def __init__(self, channels: int, strides: tuple[int, int]) -> None:
        super().__init__()
        half = channels // 2
        self.conv1 = conv_bn(3, half, 3, stride=strides[0], act=nn.GELU())
        self.conv2 = conv_bn(half, channels, 3, stride=strides[1], act=nn.GELU())


class Stage(nn.Module):
    """Downsampling (in all but the first stage) and blocks."""

    def __init__(self, downsample: nn.Module | None, blocks: Sequence[Block]) -> None:
        super().__init__()
        self.downsample = downsample or nn.Identity()
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.blocks(self.downsample(x))
        return out


class EfficientFormerV2(DistilledHead):
    """The classifier: stem, stages, mean over pixels, two averaged heads.

    The last two stages end in attention blocks; in the last but one attention works at half the
    resolution, and the last is entered through attention too.

    Args:
        widths: channels per stage.
        ratios: per stage the hidden channels per channel of the MLP of each block.
        attentive: number of attention blocks in each of the last two stages.
        heads, key: heads of a block's attention, and channels of their keys. Attention that
            downsamples uses half as many key channels.
        image: edge of the input in pixels; the attention biases are made for it.
        stem: strides of the stem.
    """

    def __init__(
        self,
        widths: Sequence[int],
        ratios: Sequence[Sequence[float]],
        attentive: int,
        *,
        heads: int = 8,
        key: int = 32,
        image: int = 224,
        stem: tuple[int, int] = (2, 2),
        num_classes: int = 1000,
    ) -> None:
        super().__init__(widths[-1], num_classes)
        self.num_classes = num_classes
        self.stem = Stem(widths[0], stem)
        size = -(-image // (stem[0] * stem[1]))
        last = len(widths) - 1
        stages: list[Stage] = []
        for i, (width, stage_ratios) in enumerate(zip(widths, ratios, strict=True)):
            downsample = None
            if i > 0:
                inputs = widths[i - 1]
                entry = (
                    DownsampleAttention(inputs, width, heads=heads, key=key // 2, size=size)
                    if i == last
                    else None
                )
                downsample = Downsample(inputs, width, entry)
                size = -(-size // 2)
            plain = len(stage_ratios) - (attentive if i >= last - 1 else 0)
            stride = 2 if i == last - 1 else 1
            blocks = [
                Block(
                    width,
                    ratio,
                    Attention(width, heads=heads, key=key, size=size, stride=stride)
                    if index >= plain
                    else None,
                )
                for index, ratio in enumerate(stage_ratios)
            ]
            stages.append(Stage(downsample, blocks))
        self.stages = nn.Sequential(*stages)
        self.norm = nn.BatchNorm2d(widths[-1])
        self.apply(init_like_transformers)

    def stage_maps(self, x: Tensor) -> Iterator[Tensor]:
        """Outputs of the stages behind the stem, see `edgec.models.features.Staged`."""
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
            yield x

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes) of images (N, 3, image, image)."""
        *_, x = self.stage_maps(x)
        x = self.norm(x)
        return self.classify(x.mean(dim=(2, 3)))


def efficientformerv2_s0(num_classes: int = 1000) -> EfficientFormerV2:
    ratios = ((4,) * 2, (4,) * 2, (4, 3, 3, 3, 4, 4), (4, 3, 3, 4))
    return EfficientFormerV2((32, 48, 96, 176), ratios, 2, num_classes=num_classes)


def efficientformerv2_s1(num_classes: int = 1000) -> EfficientFormerV2:
    ratios = ((4,) * 3, (4,) * 3, (4, 4, 3, 3, 3, 3, 4, 4, 4), (4, 4, 3, 3, 4, 4))
    return EfficientFormerV2((32, 48, 120, 224), ratios, 2, num_classes=num_classes)


def efficientformerv2_s2(num_classes: int = 1000) -> EfficientFormerV2:
    third = (4, 4, *(3,) * 6, *(4,) * 4)
    ratios = ((4,) * 4, (4,) * 4, third, (4, 4, 3, 3, 3, 3, 4, 4))
    return EfficientFormerV2((32, 64, 144, 288), ratios, 4, num_classes=num_classes)


def efficientformerv2_l(num_classes: int = 1000) -> EfficientFormerV2:
    third = (*(4,) * 4, *(3,) * 7, *(4,) * 4)
    ratios = ((4,) * 5, (4,) * 5, third, (4, 4, 4, 3, 3, 3, 3, 4, 4, 4))
    return EfficientFormerV2((40, 80, 192, 384), ratios, 6, num_classes=num_classes)


def efficientformerv2_cifar10(num_classes: int = 10) -> EfficientFormerV2:
    """A small one for 32-pixel images: three stages, attention among 16 pixels."""
    return EfficientFormerV2(
        (24, 48, 104),
        ((4,), (4, 4), (4, 4, 4)),
        1,
        heads=4,
        key=16,
        image=32,
        stem=(1, 2),
        num_classes=num_classes,
    )
