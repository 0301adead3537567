"""EMO: inverted residual mobile blocks with dilated window attention.

Zhang et al., "Rethinking Mobile Block for Efficient Attention-based Models", ICCV 2023, arXiv
2301.01146; parameter names are those of github.com/zhangzjn/EMO. `edgec.models.emov2` is the
successor, from which layers are shared. Only inference is implemented.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from torch import Tensor, nn

from edgec.models.emov2 import ConvNormAct, LayerNorm2d, QueryKey, batch_norm
from edgec.models.layers import init_like_transformers
from edgec.models.windows import pad_to_windows, window_attention


class SqueezeExcite(nn.Module):
    """Channel gate from the pooled map (Hu et al., arXiv 1709.01507), without reduction."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_reduce = nn.Conv2d(channels, channels, 1)
        self.act = nn.SiLU()
        self.conv_expand = nn.Conv2d(channels, channels, 1)
        self.gate = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, H, W)."""
        pooled = x.mean(dim=(2, 3), keepdim=True)
        gate: Tensor = self.gate(self.conv_expand(self.act(self.conv_reduce(pooled))))
        return x * gate


class StemConv(nn.Module):
    """3x3 convolution of stride 2 with BatchNorm; nested as in the published checkpoints."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        conv = nn.Conv2d(3, channels, 3, 2, padding=1)
        self.convs = nn.ModuleList([nn.Sequential(conv, batch_norm(channels))])

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) to (N, C, H / 2, W / 2)."""
        out: Tensor = self.convs[0](x)
        return out


class StemBlock(nn.Module):
    """Depthwise convolution, channel gate, projection; neither norm before nor residual."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_local = ConvNormAct(
            channels, channels, 3, groups=channels, norm=batch_norm(channels), act=nn.SiLU()
        )
        self.se = SqueezeExcite(channels)
        self.proj = ConvNormAct(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, H, W)."""
        out: Tensor = self.proj(self.se(self.conv_local(x)))
        return out


class Block(nn.Module):
    """iRMB: norm, [attention], expansion, depthwise convolution, projection, residual.

    Attention mixes the normalised input itself; the values are expanded after it.
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
        act: nn.Module,
        head: int | None,
        window: int,
    ) -> None:
        super().__init__()
        self.residual = stride == 1 and inputs == outputs
        self.window = window
        self.norm = norm(inputs)
        self.heads = inputs // head if head else 0
        self.qk = QueryKey(inputs, head**-0.5) if head else None
        self.v = ConvNormAct(inputs, expanded, 1, bias=True, act=act)
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

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        y: Tensor = self.norm(x)
        if self.qk is not None:
            y = self._attend(y)
        y = self.v(y)
        local = self.conv_local(y)
        y = y + local if self.residual else local
        y = self.proj(y)
        return x + y if self.residual else y

    def _attend(self, x: Tensor) -> Tensor:
        assert self.qk is not None
        height, width = x.shape[2:]
        x = pad_to_windows(x, self.window)
        query, key = self.qk(x)
        out = window_attention(query, key, x, self.window, self.heads, close=False)
        return out[:, :, :height, :width] if out.shape[2:] != (height, width) else out


class EMO(nn.Module):
    """The classifier: stem, four stages, global average pooling, one linear layer.

    Args:
        depths, dims: blocks and channels per stage.
        expansions: hidden channels per input channel, per stage; doubled in the first block.
        heads: channels of an attention head per stage (only stages 3 and 4 use attention).
        stem: channels of the stem.
        window: edge of an attention window in pixels.
    """

    def __init__(
        self,
        depths: Sequence[int],
        dims: Sequence[int],
        expansions: Sequence[float],
        heads: Sequence[int],
        *,
        stem: int = 24,
        window: int = 7,
        num_classes: int = 1000,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.stage0 = nn.ModuleList([StemConv(stem), StemBlock(stem)])
        inputs = stem
        for stage, kernel in enumerate((3, 3, 5, 5)):
            attentive = stage >= 2
            norm: Callable[[int], nn.Module] = LayerNorm2d if attentive else batch_norm
            act: Callable[[], nn.Module] = nn.GELU if attentive else nn.SiLU
            blocks = nn.ModuleList()
            for index in range(depths[stage]):
                first = index == 0
                blocks.append(
                    Block(
                        inputs,
                        dims[stage],
                        int(inputs * expansions[stage] * (2 if first else 1)),
                        kernel=kernel,
                        stride=2 if first else 1,
                        norm=norm,
                        act=act(),
                        head=heads[stage] if attentive and not first else None,
                        window=window,
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


def emo_1m(num_classes: int = 1000) -> EMO:
    return EMO(
        (2, 2, 8, 3), (32, 48, 80, 168), (2, 2.5, 3, 3.5), (16, 16, 20, 21), num_classes=num_classes
    )


def emo_2m(num_classes: int = 1000) -> EMO:
    return EMO(
        (3, 3, 9, 3),
        (32, 48, 120, 200),
        (2, 2.5, 3, 3.5),
        (16, 16, 20, 20),
        num_classes=num_classes,
    )


def emo_5m(num_classes: int = 1000) -> EMO:
    return EMO(
        (3, 3, 9, 3), (48, 72, 160, 288), (2, 3, 4, 4), (24, 24, 32, 32), num_classes=num_classes
    )


def emo_6m(num_classes: int = 1000) -> EMO:
    return EMO(
        (3, 3, 9, 3), (48, 72, 160, 320), (2, 3, 4, 5), (16, 24, 20, 32), num_classes=num_classes
    )
