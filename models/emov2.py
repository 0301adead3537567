"""EMOv2: inverted residual blocks with spanning window attention.

Zhang et al., "EMOv2: Pushing 5M Vision Model Frontier", arXiv 2412.06674; parameter names are
those of github.com/zhangzjn/EMOv2, so its checkpoints load unchanged. That repository also
holds four networks called EMO1, which are this architecture with other kernels and without
the window branch of the attention; they are not the EMO of ICCV 2023 (zhangzjn/EMO).

Only inference is implemented: the paper's stochastic depth has no parameters and is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from edgec.models.layers import channel_layer_norm, init_like_transformers, layer_scale
from edgec.models.windows import pad_to_windows, window_attention

# Every norm of the family, BatchNorm included, uses this instead of torch's 1e-5.
EPS = 1e-6

Branches = Literal["hybrid", "remote"]


class LayerNorm2d(nn.Module):
    """LayerNorm over the channels of an (N, C, H, W) map; parameters under ``norm``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=EPS)

    def forward(self, x: Tensor) -> Tensor:
        return channel_layer_norm(x, self.norm)


def batch_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=EPS)


class ConvNormAct(nn.Module):
    """Convolution with "same" padding for stride 1, then optional norm and activation."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        stride: int = 1,
        groups: int = 1,
        bias: bool = False,
        norm: nn.Module | None = None,
        act: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=bias
        )
        self.norm = norm or nn.Identity()
        self.act = act or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.act(self.norm(self.conv(x)))
        return out


class ConvExpansion(nn.Module):
    """The expansion of a purely convolutional block: 1x1 convolution and activation."""

    def __init__(self, channels: int, expanded: int, act: nn.Module) -> None:
        super().__init__()
        self.net = ConvNormAct(channels, expanded, 1, bias=True, act=act)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) to (N, expanded, H, W)."""
        out: Tensor = self.net(x)
        return out


class QueryKey(ConvNormAct):
    """One stored 1x1 convolution for queries and keys, run as two.

    Separate outputs save a Split in the graph and give queries and keys quantization ranges of
    their own. The 1/sqrt(d) of the attention goes into the query weights: both the halves and
    the factor are constants at export.
    """

    def __init__(self, channels: int, scale: float) -> None:
        super().__init__(channels, 2 * channels, 1, bias=True)
        self.scale = scale

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """(N, C, H, W) to scaled queries and keys, both (N, C, H, W)."""
        weight, bias = self.conv.weight, self.conv.bias
        assert bias is not None
        # slices, not chunk: Slice of a constant is folded everywhere, Split by few
        half = len(bias) // 2
        query = F.conv2d(x, weight[:half] * self.scale, bias[:half] * self.scale)
        return query, F.conv2d(x, weight[half:], bias[half:])


class SpanningAttention(nn.Module):
    """Window attention over near and far neighbours that expands channels (section 3 of the paper).

    The same queries, keys and values are cut into windows twice and the results added:
    *close* windows are ordinary tiles; *remote* windows take every n-th pixel (n windows per
    axis), so that each one spans the whole map. The map is zero-padded at the right and the
    bottom to a multiple of `window`; as in the authors' code padding takes part in attention.

    Args:
        channels: input channels; queries and keys have as many.
        expanded: output channels, a multiple of the number of heads.
        head: channels of a head, a divisor of `channels`.
        window: edge of a window in pixels.
        branches: ``"hybrid"`` adds both branches, ``"remote"`` uses the second alone.
    """

    def __init__(
        self,
        channels: int,
        expanded: int,
        head: int,
        window: int,
        act: nn.Module,
        branches: Branches = "hybrid",
    ) -> None:
        super().__init__()
        self.heads = channels // head
        self.window = window
        self.branches = branches
        self.qk = QueryKey(channels, head**-0.5)
        self.v = ConvNormAct(channels, expanded, 1, bias=True, act=act)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) to (N, expanded, H, W)."""
        height, width = x.shape[2:]
        x = pad_to_windows(x, self.window)
        query, key = self.qk(x)
        value = self.v(x)
        out = window_attention(query, key, value, self.window, self.heads, close=False)
        if self.branches == "hybrid":
            near = window_attention(query, key, value, self.window, self.heads, close=True)
            out = near + out
        return out[:, :, :height, :width] if out.shape[2:] != (height, width) else out


class LayerScale2d(nn.Module):
    """A learned factor per channel of an (N, C, H, W) map."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = layer_scale(1, channels, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Block(nn.Module):
    """i2RMB, the improved inverted residual mobile block.

    norm, expansion (convolution or attention), depthwise convolution with its own shortcut,
    projection, layer scale, residual. Blocks that change the shape have neither shortcut.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        expanded: int,
        *,
        kernel: int,
        stride: int,
        norm: Callable[[int], nn.Module],
        expansion: nn.Module,
    ) -> None:
        super().__init__()
        self.residual = stride == 1 and inputs == outputs
        self.norm = norm(inputs)
        self.eops = nn.ModuleList([expansion])
        self.conv_local = ConvNormAct(
            expanded,
            expanded,
            kernel,
            stride=stride,
            groups=expanded,
            norm=batch_norm(expanded),
            act=nn.SiLU(),
        )
        self.proj = ConvNormAct(expanded, outputs, 1)
        self.ls = LayerScale2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        y: Tensor = self.eops[0](self.norm(x))
        local = self.conv_local(y)
        y = y + local if self.residual else local
        y = self.ls(self.proj(y))
        return x + y if self.residual else y


class EMOv2(nn.Module):
    """The classifier: a convolutional stem, four stages, global average pooling, one linear layer.

    Args:
        depths: blocks per stage.
        dims: channels per stage.
        expansions: hidden channels per input channel, per stage; doubled in the first block.
        heads: channels of an attention head per stage (only stages 3 and 4 use attention).
        kernels: edge of the depthwise kernel per stage.
        strides: of the stem and of each stage's first block.
        window: edge of an attention window; 7 for 224-pixel images, 8 for 256 and 512.
        branches: see `SpanningAttention`.
    """

    def __init__(
        self,
        depths: Sequence[int],
        dims: Sequence[int],
        expansions: Sequence[float],
        heads: Sequence[int],
        *,
        kernels: Sequence[int] = (5, 5, 5, 5),
        strides: Sequence[int] = (2, 2, 2, 2, 2),
        window: int = 7,
        branches: Branches = "hybrid",
        num_classes: int = 1000,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        stem = dims[0] // 2
        self.stage0 = nn.ModuleList(
            [
                ConvNormAct(
                    3, stem, 3, stride=strides[0], bias=True, norm=batch_norm(stem), act=nn.SiLU()
                ),
                ConvNormAct(stem, stem, 3, groups=stem, norm=batch_norm(stem), act=nn.SiLU()),
                ConvNormAct(stem, stem, 1),
            ]
        )
        inputs = stem
        for stage in range(4):
            attentive = stage >= 2
            norm: Callable[[int], nn.Module] = LayerNorm2d if attentive else batch_norm
            act: Callable[[], nn.Module] = nn.GELU if attentive else nn.SiLU
            blocks = nn.ModuleList()
            for index in range(depths[stage]):
                first = index == 0
                expanded = int(inputs * expansions[stage] * (2 if first else 1))
                expansion = (
                    SpanningAttention(inputs, expanded, heads[stage], window, act(), branches)
                    if attentive and not first
                    else ConvExpansion(inputs, expanded, act())
                )
                blocks.append(
                    Block(
                        inputs,
                        dims[stage],
                        expanded,
                        kernel=kernels[stage],
                        stride=strides[stage + 1] if first else 1,
                        norm=norm,
                        expansion=expansion,
                    )
                )
                inputs = dims[stage]
            self.add_module(f"stage{stage + 1}", blocks)
        self.norm = LayerNorm2d(inputs)
        self.head = nn.Linear(inputs, num_classes)
        self.apply(init_like_transformers)

    def stage_maps(self, x: Tensor) -> Iterator[Tensor]:
        """Outputs of the four stages behind the stem, see `edgec.models.features.Staged`."""
        for stage in range(5):
            for block in self.get_submodule(f"stage{stage}").children():
                x = block(x)
            if stage > 0:
                yield x

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes) of images (N, 3, H, W), H and W multiples of 32."""
        *_, x = self.stage_maps(x)
        x = self.norm(x)
        logits: Tensor = self.head(x.mean(dim=(2, 3)))
        return logits


# depths, dims, expansions, heads of the published sizes
_1M = ((2, 2, 8, 3), (32, 48, 80, 180), (2, 2.5, 3, 3.5), (16, 16, 20, 20))
_2M = ((3, 3, 9, 3), (32, 48, 120, 200), (2, 2.5, 3, 3.5), (16, 16, 20, 20))
_5M = ((3, 3, 9, 3), (48, 72, 160, 288), (2, 3, 4, 4), (16, 24, 32, 32))
_20M = ((3, 3, 13, 3), (64, 128, 320, 448), (2, 3, 4, 4), (16, 32, 32, 32))
_50M = ((5, 8, 20, 7), (64, 128, 384, 512), (2, 3, 4, 4), (16, 32, 32, 32))


def emov2_1m(window: int = 7, num_classes: int = 1000) -> EMOv2:
    return EMOv2(*_1M, window=window, num_classes=num_classes)


def emov2_2m(window: int = 7, num_classes: int = 1000) -> EMOv2:
    return EMOv2(*_2M, window=window, num_classes=num_classes)


def emov2_5m(window: int = 7, num_classes: int = 1000) -> EMOv2:
    return EMOv2(*_5M, window=window, num_classes=num_classes)


def emov2_20m(window: int = 7, num_classes: int = 1000) -> EMOv2:
    return EMOv2(*_20M, window=window, num_classes=num_classes)


def emov2_50m(window: int = 7, num_classes: int = 1000) -> EMOv2:
    return EMOv2(*_50M, window=window, num_classes=num_classes)


def emov2repo_emo1_1m(num_classes: int = 1000) -> EMOv2:
    return _emo1(_1M, num_classes)


def emov2repo_emo1_2m(num_classes: int = 1000) -> EMOv2:
    return _emo1(_2M, num_classes)


def emov2repo_emo1_5m(num_classes: int = 1000) -> EMOv2:
    return _emo1(_5M, num_classes)


def emov2repo_emo1_20m(num_classes: int = 1000) -> EMOv2:
    return _emo1(_20M, num_classes)


def _emo1(
    shape: tuple[Sequence[int], Sequence[int], Sequence[float], Sequence[int]], num_classes: int
) -> EMOv2:
    return EMOv2(*shape, kernels=(3, 3, 5, 5), branches="remote", num_classes=num_classes)


def emov2_cifar10(num_classes: int = 10) -> EMOv2:
    """A small one for 32-pixel images: less downsampling, windows of 4 x 4 pixels."""
    return EMOv2(
        (1, 1, 3, 2),
        (24, 32, 64, 96),
        (2, 2.5, 3, 3),
        (16, 16, 16, 16),
        strides=(2, 1, 2, 1, 2),
        window=4,
        num_classes=num_classes,
    )
