"""EfficientFormer: pooling blocks on maps, then a few attention blocks on tokens.

Li et al., "EfficientFormer: Vision Transformers at MobileNet Speed", arXiv 2206.01191. Parameter
names are those of timm's ``efficientformer_*``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgec.models.layers import (
    DistilledHead,
    LayerScale,
    distance_bias,
    distance_indices,
    init_like_transformers,
    to_map,
)

HEADS = 8
KEY = 32  # channels of a head's queries and keys
VALUE = 4 * KEY
RATIO = 4  # hidden channels of an MLP per channel


class Stem(nn.Sequential):
    """Two 3x3 convolutions of stride 2 with BatchNorm and ReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inputs, outputs = 3, channels // 2
        for i in (1, 2):
            self.add_module(f"conv{i}", nn.Conv2d(inputs, outputs, 3, 2, padding=1))
            self.add_module(f"norm{i}", nn.BatchNorm2d(outputs))
            self.add_module(f"act{i}", nn.ReLU())
            inputs, outputs = outputs, channels


class Downsample(nn.Module):
    """3x3 convolution of stride 2 with BatchNorm."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, 2, padding=1)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H / 2, W / 2)."""
        out: Tensor = self.norm(self.conv(x))
        return out


class ConvMLP(nn.Module):
    """Two 1x1 convolutions with BatchNorm, GELU between them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = RATIO * channels
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.norm1 = nn.BatchNorm2d(hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Conv2d(hidden, channels, 1)
        self.norm2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W), shape kept."""
        out: Tensor = self.norm2(self.fc2(self.act(self.norm1(self.fc1(x)))))
        return out


class PoolBlock(nn.Module):
    """Pooling instead of attention (Yu et al., arXiv 2111.11418), then an MLP; both residual."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
        self.ls1 = LayerScale(channels, 2)
        self.mlp = ConvMLP(channels)
        self.ls2 = LayerScale(channels, 2)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W), shape kept."""
        x = x + self.ls1(self.pool(x) - x)
        out: Tensor = x + self.ls2(self.mlp(x))
        return out


class Tokens(nn.Module):
    """(N, C, H, W) to (N, H * W, C); a module, because it has an index among the blocks."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2).transpose(1, 2)


class Attention(nn.Module):
    """Multi-head attention with a learned bias per distance.

    Args:
        size: edge of the square map that the tokens come from.
    """

    attention_bias_idxs: Tensor

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.qkv = nn.Linear(channels, HEADS * (2 * KEY + VALUE))
        self.proj = nn.Linear(HEADS * VALUE, channels)
        self.attention_biases = nn.Parameter(torch.zeros(HEADS, size**2))
        # stored by published checkpoints; the values never differ
        self.register_buffer("attention_bias_idxs", torch.from_numpy(distance_indices(size)))

    def forward(self, x: Tensor) -> Tensor:
        """(N, size**2, C), shape kept."""
        n, tokens, _ = x.shape
        # stored per head; three linear layers of slices, which are constants at export
        weight = self.qkv.weight.reshape(HEADS, 2 * KEY + VALUE, -1)
        bias = self.qkv.bias.reshape(HEADS, -1)
        q, k, v = (
            F.linear(x, weight[:, part].flatten(0, 1) * factor, bias[:, part].flatten() * factor)
            .reshape(n, tokens, HEADS, -1)
            .transpose(1, 2)
            for part, factor in (
                (slice(0, KEY), KEY**-0.5),
                (slice(KEY, 2 * KEY), 1.0),
                (slice(2 * KEY, None), 1.0),
            )
        )
        logits = q @ k.transpose(2, 3) + distance_bias(self.attention_biases, self.size)
        out = torch.softmax(logits, dim=-1) @ v
        projected: Tensor = self.proj(out.transpose(1, 2).reshape(n, tokens, HEADS * VALUE))
        return projected


class MLP(nn.Module):
    """Two linear layers with GELU between them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, RATIO * channels)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(RATIO * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(self.act(self.fc1(x)))
        return out


class AttentionBlock(nn.Module):
    """A transformer encoder with norms in front and layer scales behind."""

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.token_mixer = Attention(channels, size)
        self.ls1 = LayerScale(channels, 0)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = MLP(channels)
        self.ls2 = LayerScale(channels, 0)

    def forward(self, x: Tensor) -> Tensor:
        """(N, tokens, C), shape kept."""
        x = x + self.ls1(self.token_mixer(self.norm1(x)))
        out: Tensor = x + self.ls2(self.mlp(self.norm2(x)))
        return out


class Stage(nn.Module):
    """Downsampling and blocks, of which the last `attentive` work on tokens."""

    def __init__(
        self, inputs: int, outputs: int, depth: int, *, first: bool, attentive: int, size: int
    ) -> None:
        super().__init__()
        self.downsample = nn.Identity() if first else Downsample(inputs, outputs)
        blocks: list[nn.Module] = [PoolBlock(outputs) for _ in range(depth - attentive)]
        if attentive:
            blocks.append(Tokens())
            blocks += [AttentionBlock(outputs, size) for _ in range(attentive)]
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.blocks(self.downsample(x))
        return out


class EfficientFormer(DistilledHead):
    """The classifier: stem, four stages, mean over tokens, two averaged heads.

    Args:
        depths, widths: blocks and channels per stage.
        attentive: number of attention blocks at the end of the last stage.
        image: edge of the input in pixels; the attention biases are made for it.
    """

    def __init__(
        self,
        depths: Sequence[int],
        widths: Sequence[int],
        attentive: int,
        *,
        image: int = 224,
        num_classes: int = 1000,
    ) -> None:
        super().__init__(widths[-1], num_classes)
        self.num_classes = num_classes
        self.stem = Stem(widths[0])
        last = len(depths) - 1
        self.stages = nn.Sequential(
            *(
                Stage(
                    widths[max(0, i - 1)],
                    widths[i],
                    depth,
                    first=i == 0,
                    attentive=attentive if i == last else 0,
                    size=-(-image // 2 ** (i + 2)),
                )
                for i, depth in enumerate(depths)
            )
        )
        self.grid = -(-image // 2 ** (last + 2))  # edge of the last stage's map
        self.norm = nn.LayerNorm(widths[-1])
        self.apply(init_like_transformers)

    def stage_maps(self, x: Tensor) -> Iterator[Tensor]:
        """Outputs of the stages, see `edgec.models.features.Staged`."""
        for y in self._stage_outputs(x):
            yield y if y.ndim == 4 else to_map(y, self.grid, self.grid)

    def _stage_outputs(self, x: Tensor) -> Iterator[Tensor]:
        """Maps, and of the last stage its tokens (N, pixels, C)."""
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
            yield x

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes) of images (N, 3, image, image)."""
        *_, tokens = self._stage_outputs(x)
        x = self.norm(tokens)
        return self.classify(x.mean(dim=1))


def efficientformer_l1(num_classes: int = 1000) -> EfficientFormer:
    return EfficientFormer((3, 2, 6, 4), (48, 96, 224, 448), 1, num_classes=num_classes)


def efficientformer_l3(num_classes: int = 1000) -> EfficientFormer:
    return EfficientFormer((4, 4, 12, 6), (64, 128, 320, 512), 4, num_classes=num_classes)


def efficientformer_l7(num_classes: int = 1000) -> EfficientFormer:
    return EfficientFormer((6, 6, 18, 8), (96, 192, 384, 768), 8, num_classes=num_classes)
