"""Mobile-Former: a MobileNet on the map and a transformer on a few tokens, joined by attention.

Chen et al., "Mobile-Former: Bridging MobileNet and Transformer", arXiv 2108.05895. Parameter names
are those of github.com/AAboys/MobileFormer.

Tokens are kept as (N, 1, tokens, width): a linear layer of several heads is then one product with a
constant of shape (1, heads, width, channels of a head), without any reshape or transpose, and back
from heads to tokens it is the product and a sum. The map is never transposed but by the flags of
matrix products. The dynamic ReLU's ``2 relu6(x + 3) / 6`` becomes a Clip of scaled weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MAP_HEADS = 2  # of attention between tokens and map
TOKEN_HEADS = 4  # of attention among tokens


def to_heads(
    x: Tensor, linear: nn.Linear, heads: int, scale: float = 1.0, offset: float = 0.0
) -> Tensor:
    """``scale * linear(x) + offset`` from (N, 1, T, width) to (N, heads, T, channels of a head)."""
    weight = linear.weight.reshape(1, heads, -1, linear.in_features).transpose(2, 3)
    bias = linear.bias.reshape(1, heads, 1, -1)
    return x @ (weight * scale) + (bias * scale + offset)


def columns_to_heads(x: Tensor, linear: nn.Linear, heads: int, scale: float = 1.0) -> Tensor:
    """``scale * linear`` from (N, 1, width, T) to (N, heads, channels of a head, T)."""
    weight = linear.weight.reshape(1, heads, -1, linear.in_features)
    bias = linear.bias.reshape(1, heads, -1, 1)
    return (weight * scale) @ x + bias * scale


def from_heads(x: Tensor, linear: nn.Linear) -> Tensor:
    """A linear layer from (N, heads, T, channels of a head) to (N, 1, T, width)."""
    heads = x.shape[1]
    weight = linear.weight.T.reshape(1, heads, -1, linear.out_features)
    return (x @ weight).sum(dim=1, keepdim=True) + linear.bias


class LocalToGlobal(nn.Module):
    """Tokens look at the map (its pixels are keys and values as they are)."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.alpha = nn.Sequential(nn.Linear(width, channels))
        self.q = nn.Linear(width, channels)
        self.proj = nn.Linear(channels, width)
        self.layer_norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        """Map (N, C, H, W) and tokens (N, 1, T, width) to tokens."""
        n, channels = x.shape[:2]
        head = channels // MAP_HEADS
        q = to_heads(tokens, self.q, MAP_HEADS, head**-0.5)
        pixels = x.reshape(n, MAP_HEADS, head, -1)
        seen = torch.softmax(q @ pixels, dim=-1) @ pixels.transpose(2, 3)
        layer = self.alpha[0]
        assert isinstance(layer, nn.Linear)
        # 2 relu6(x + 3) / 6 = clamp(x / 3 + 1, 0, 2)
        gate = to_heads(tokens, layer, MAP_HEADS, 1 / 3, offset=1)
        seen = seen * F.hardtanh(gate, 0, 2)
        out: Tensor = self.layer_norm(tokens + from_heads(seen, self.proj))
        return out


class GlobalBlock(nn.Module):
    """Tokens look at each other (keys and values as they are); then an MLP. Norms come last."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.ffn = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )
        self.ffn_norm = nn.LayerNorm(width)
        self.q = nn.Linear(width, width)
        self.channel_mlp = nn.Linear(width, width)
        self.layer_norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, 1, T, width), shape kept."""
        n, _, count, width = tokens.shape
        head = width // TOKEN_HEADS
        q = to_heads(tokens, self.q, TOKEN_HEADS, head**-0.5)
        k = tokens.reshape(n, count, TOKEN_HEADS, head).transpose(1, 2)
        seen = torch.softmax(q @ k.transpose(2, 3), dim=-1) @ k
        tokens = self.layer_norm(tokens + from_heads(seen, self.channel_mlp))
        out: Tensor = self.ffn_norm(tokens + self.ffn(tokens))
        return out


class GlobalToLocal(nn.Module):
    """Pixels look at the tokens (pixels are queries as they are)."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.k = nn.Linear(width, channels)
        self.proj = nn.Linear(width, channels)

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        """Map (N, C, H, W) and tokens (N, 1, T, width) to a map."""
        n, channels = x.shape[:2]
        head = channels // MAP_HEADS
        columns = tokens.transpose(2, 3)
        k = columns_to_heads(columns, self.k, MAP_HEADS, head**-0.5)
        v = columns_to_heads(columns, self.proj, MAP_HEADS)
        pixels = x.reshape(n, MAP_HEADS, head, -1)
        weights = torch.softmax(pixels.transpose(2, 3) @ k, dim=-1)
        seen = v @ weights.transpose(2, 3)
        return x + seen.reshape(x.shape)


class DynamicReLU(nn.Module):
    """The larger of two multiples of the map; both factors per channel come from a token."""

    damped = ("hyper.2.weight",)  # see `edgec.models.random_init`

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.hyper = nn.Sequential(
            nn.Linear(width, width // 4), nn.ReLU(), nn.Linear(width // 4, 2 * channels)
        )

    def forward(self, x: Tensor, token: Tensor) -> Tensor:
        """Map (N, C, H, W) and token (N, width) to a map."""
        layer = self.hyper[2]
        assert isinstance(layer, nn.Linear)
        hidden = self.hyper[1](self.hyper[0](token))
        weight, bias = layer.weight / 3, layer.bias / 3
        half = self.channels  # factors from 0 to 2, then from -1 to 1
        high = F.hardtanh(F.linear(hidden, weight[:half], bias[:half] + 1), 0, 2)
        low = F.hardtanh(F.linear(hidden, weight[half:], bias[half:]), -1, 1)
        return torch.maximum(x * high[:, :, None, None], x * low[:, :, None, None])


class ChannelShuffle(nn.Module):
    """Mixes the channels of `groups` groups (Zhang et al., arXiv 1707.01083); one is no change."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W), shape kept."""
        if self.groups == 1:
            return x
        n, channels, height, width = x.shape
        groups = x.reshape(n, self.groups, channels // self.groups, height * width)
        return groups.transpose(1, 2).reshape(x.shape)


def depthwise(inputs: int, outputs: int, stride: int, shuffle: int = 1) -> nn.Sequential:
    """3x3 convolution of each channel with BatchNorm; `outputs` is a multiple of `inputs`."""
    conv = nn.Conv2d(inputs, outputs, 3, stride, padding=1, groups=inputs, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), ChannelShuffle(shuffle))


def pointwise(inputs: int, outputs: int, groups: int, shuffle: int = 1) -> nn.Sequential:
    """1x1 convolution with BatchNorm."""
    conv = nn.Conv2d(inputs, outputs, 1, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), ChannelShuffle(shuffle))


class LiteBlock(nn.Module):
    """Depthwise expansion and 1x1 projection; tokens are not concerned."""

    def __init__(self, inputs: int, outputs: int, ratio: int, stride: int, groups: int) -> None:
        super().__init__()
        self.residual = stride == 1 and inputs == outputs
        hidden = inputs * ratio
        self.conv = nn.Sequential(
            nn.Conv2d(inputs, hidden, 3, stride, padding=1, groups=inputs, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(),
            ChannelShuffle(inputs if groups > 1 else 1),
            nn.Conv2d(hidden, outputs, 1, groups=groups, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.damped = ("conv.5.weight",) if self.residual else ()

    def forward(self, x: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Map (N, inputs, H, W) to (N, outputs, H / stride, W / stride); tokens pass through."""
        y: Tensor = self.conv(x)
        return x + y if self.residual else y, tokens


class Block(nn.Module):
    """Tokens read the map and each other, then direct its convolutions, then are read by it."""

    def __init__(self, inputs: int, outputs: int, width: int) -> None:
        super().__init__()
        self.local_global = LocalToGlobal(inputs, width)
        self.global_block = GlobalBlock(width)
        self.global_local = GlobalToLocal(outputs, width)

    def forward(self, x: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Map (N, inputs, H, W) and tokens (N, 1, T, width) to the next map and tokens."""
        tokens = self.global_block(self.local_global(x, tokens))
        y = self.convolve(x, tokens[:, :, :1].flatten(1))
        return self.global_local(y, tokens), tokens

    def convolve(self, x: Tensor, token: Tensor) -> Tensor:
        """Map and first token (N, width) to the next map."""
        raise NotImplementedError


class InvertedResidual(Block):
    """Expansion, depthwise 3x3 and projection with dynamic ReLUs."""

    def __init__(self, inputs: int, outputs: int, ratio: int, width: int, groups: int) -> None:
        super().__init__(inputs, outputs, width)
        self.residual = inputs == outputs
        hidden = inputs * ratio
        self.conv1 = pointwise(inputs, hidden, groups, shuffle=groups)
        self.hyper1 = DynamicReLU(width, hidden)
        self.conv2 = depthwise(hidden, hidden, 1)
        self.hyper2 = DynamicReLU(width, hidden)
        self.conv3 = pointwise(hidden, outputs, groups, shuffle=groups)
        self.damped = ("conv3.1.weight",) if self.residual else ()

    def convolve(self, x: Tensor, token: Tensor) -> Tensor:
        y: Tensor = self.hyper1(self.conv1(x), token)
        y = self.conv3(self.hyper2(self.conv2(y), token))
        return x + y if self.residual else y


class Downsample(Block):
    """Depthwise expansion of stride 2 and projection; then the same at stride 1, as residual."""

    damped = ("conv4.1.weight",)

    def __init__(self, inputs: int, outputs: int, ratio: int, width: int, groups: int) -> None:
        super().__init__(inputs, outputs, width)
        hidden, second = inputs * ratio, outputs * 4
        shuffles = (inputs, outputs) if groups > 1 else (1, 1)
        self.conv1 = depthwise(inputs, hidden, 2, shuffle=shuffles[0])
        self.hyper1 = DynamicReLU(width, hidden)
        self.conv2 = pointwise(hidden, outputs, groups)
        self.conv3 = depthwise(outputs, second, 1, shuffle=shuffles[1])
        self.hyper3 = DynamicReLU(width, second)
        self.conv4 = pointwise(second, outputs, groups)

    def convolve(self, x: Tensor, token: Tensor) -> Tensor:
        x = self.conv2(self.hyper1(self.conv1(x), token))
        out: Tensor = x + self.conv4(self.hyper3(self.conv3(x), token))
        return out


class Classifier(nn.Module):
    """Pooled features and the first token through one hidden layer."""

    def __init__(
        self, channels: int, width: int, hidden: int, groups: int, num_classes: int
    ) -> None:
        super().__init__()
        expanded = 6 * channels
        self.conv = nn.Sequential(
            ChannelShuffle(groups),
            nn.Conv2d(channels, expanded, 1, groups=groups, bias=False),
            nn.BatchNorm2d(expanded),
            nn.ReLU6(),
        )
        self.pooled_act = nn.Hardswish()
        self.fc = nn.Sequential(
            nn.Linear(expanded + width, hidden), nn.BatchNorm1d(hidden), nn.Hardswish()
        )
        self.classifier = nn.Sequential(nn.Identity(), nn.Linear(hidden, num_classes))

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        """Map (N, C, H, W) and tokens (N, 1, T, width) to (N, num_classes)."""
        pooled = self.pooled_act(self.conv(x).mean(dim=(2, 3)))
        hidden = self.fc(torch.cat([pooled, tokens[:, :, :1].flatten(1)], dim=1))
        logits: Tensor = self.classifier(hidden)
        return logits


@dataclass(frozen=True)
class Step:
    """One block: expansion ratio, output channels, stride, and whether tokens take part."""

    ratio: int
    channels: int
    stride: int = 1
    lite: bool = False


class MobileFormer(nn.Module):
    """The classifier.

    Args:
        stem: channels of the stem.
        steps: the blocks.
        tokens: number of tokens and their width.
        hidden: channels of the classifier's hidden layer.
        groups: groups of all 1x1 convolutions.
    """

    def __init__(
        self,
        stem: int,
        steps: Sequence[Step],
        tokens: tuple[int, int],
        hidden: int,
        *,
        groups: int = 1,
        num_classes: int = 1000,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        count, width = tokens
        self.tokens = nn.Embedding(count, width)
        self.stem = nn.Sequential(
            nn.Conv2d(3, stem, 3, 2, padding=1, bias=False), nn.BatchNorm2d(stem), nn.ReLU6()
        )
        blocks: list[nn.Module] = []
        inputs = stem
        for step in steps:
            if step.lite:
                blocks.append(LiteBlock(inputs, step.channels, step.ratio, step.stride, groups))
            else:
                kind = Downsample if step.stride == 2 else InvertedResidual
                blocks.append(kind(inputs, step.channels, step.ratio, width, groups))
            inputs = step.channels
        self.features = nn.ModuleList(blocks)
        # a stage ends before the next reduction, and at the end
        following = [step.stride for step in steps[1:]] + [2]
        self.ends = tuple(i for i, stride in enumerate(following) if stride == 2)
        self.local_global = LocalToGlobal(inputs, width)
        self.classifier = Classifier(inputs, width, hidden, groups, num_classes)
        self.apply(init_weights)

    def stage_maps(self, x: Tensor) -> Iterator[Tensor]:
        """Outputs of the stages behind the stem, see `edgec.models.features.Staged`."""
        return (y for y, _ in self._stage_outputs(x))

    def _stage_outputs(self, x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Map and tokens behind the last block of each stage."""
        tokens = self.tokens.weight.expand(len(x), 1, -1, -1)
        x = self.stem(x)
        for index, block in enumerate(self.features):
            x, tokens = block(x, tokens)
            if index in self.ends:
                yield x, tokens

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes) of images (N, 3, H, W)."""
        *_, (x, tokens) = self._stage_outputs(x)
        logits: Tensor = self.classifier(x, self.local_global(x, tokens))
        return logits


def init_weights(module: nn.Module) -> None:
    """As the authors: normal, by fan out for convolutions, with std 0.01 for linear layers."""
    if isinstance(module, nn.Conv2d):
        fan_out = module.out_channels * module.kernel_size[0] * module.kernel_size[1]
        nn.init.normal_(module.weight, std=(2 / fan_out) ** 0.5)
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.01)
        nn.init.zeros_(module.bias)


def _twelve(widths: Sequence[int], early: Sequence[int] = (4, 4)) -> list[Step]:
    """The blocks of the larger networks.

    Args:
        widths: channels at strides 2, 4, 8, 16 (twice) and 32.
        early: expansion ratios of the blocks that follow downsampling to strides 4 and 8.
    """
    a, b, c, d, e, f = widths
    steps = [Step(2, a, lite=True), Step(6, b, 2), Step(early[0], b), Step(6, c, 2)]
    steps += [Step(early[1], c), Step(6, d, 2), Step(4, d), Step(6, e), Step(6, e)]
    return [*steps, Step(6, f, 2), Step(6, f), Step(6, f)]


_52M = (
    *(Step(3, 12, 2, lite=True), Step(3, 12), Step(6, 24, 2), Step(3, 24), Step(6, 48, 2)),
    *(Step(4, 48), Step(6, 64), Step(6, 96, 2), Step(6, 96)),
)


def mobile_former_508m(num_classes: int = 1000) -> MobileFormer:
    steps = _twelve((24, 40, 72, 128, 176, 240), (3, 3))
    return MobileFormer(24, steps, (6, 192), 1920, num_classes=num_classes)


def mobile_former_294m(num_classes: int = 1000) -> MobileFormer:
    steps = _twelve((16, 24, 48, 96, 128, 192))
    return MobileFormer(16, steps, (6, 192), 1920, num_classes=num_classes)


def mobile_former_214m(num_classes: int = 1000) -> MobileFormer:
    steps = _twelve((12, 20, 40, 80, 112, 160), (3, 4))
    return MobileFormer(12, steps, (6, 192), 1600, num_classes=num_classes)


def mobile_former_151m(num_classes: int = 1000) -> MobileFormer:
    steps = _twelve((12, 16, 32, 64, 88, 128), (3, 3))
    return MobileFormer(12, steps, (6, 192), 1280, num_classes=num_classes)


def mobile_former_96m(num_classes: int = 1000) -> MobileFormer:
    steps = [
        *(Step(2, 12, lite=True), Step(6, 16, 2), Step(6, 32, 2), Step(3, 32), Step(6, 64, 2)),
        *(Step(4, 64), Step(6, 88), Step(6, 128, 2), Step(6, 128)),
    ]
    return MobileFormer(12, steps, (4, 128), 1280, num_classes=num_classes)


def mobile_former_52m(num_classes: int = 1000) -> MobileFormer:
    return MobileFormer(8, _52M, (3, 128), 1024, num_classes=num_classes)


def mobile_former_26m(num_classes: int = 1000) -> MobileFormer:
    return MobileFormer(8, _52M, (3, 128), 1024, groups=4, num_classes=num_classes)
