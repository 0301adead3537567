"""MCUFormer: vision transformers of low-rank layers for microcontrollers; one static subnet.

Liang et al., "MCUFormer: Deploying Vision Transformers on Microcontrollers with Limited Memory",
arXiv 2310.16898. `edgec.models.mcuformer_supernet` holds the supernet that subnets are cut from.

Two things make the graph small. A low-rank layer is stored the way that costs least (`widths`).
And the relative positions of attention, which the authors look up in an N x N table of vectors,
are separated: the row offset depends on the query and the key's row alone, so the grid of N
patches needs products with constants of sqrt(N) positions instead of N. The class token has no
position; what it would add is constant along each row of the attention, hence either without
effect on the softmax or a constant of the values (see `mcuformer_supernet.relative`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgec.models.layers import to_map
from edgec.models.mcuformer_config import HEAD, Config

SCALE = HEAD**-0.5


def widths(inputs: int, outputs: int, rank: int, *, premultiply: bool) -> tuple[int, ...]:
    """Inner widths of a layer that is trained as three factors of the given rank.

    Premultiplied, it is two factors or, where these cost more, one matrix: nothing non-linear lies
    between factors. Per token, two of them take ``rank * (inputs + outputs)`` multiplications and
    the matrix ``inputs * outputs``.
    """
    if not premultiply:
        return (rank, rank)
    return (rank,) if rank * (inputs + outputs) < inputs * outputs else ()


def factors(inputs: int, inner: tuple[int, ...]) -> nn.Sequential:
    """Linear layers without bias: all factors but the last one."""
    sizes = (inputs, *inner)
    return nn.Sequential(*(nn.Linear(a, b, bias=False) for a, b in zip(sizes, inner, strict=False)))


class LowRank(nn.Module):
    """A linear layer as a product of factors."""

    def __init__(self, inputs: int, outputs: int, rank: int, *, premultiply: bool) -> None:
        super().__init__()
        inner = widths(inputs, outputs, rank, premultiply=premultiply)
        self.factors = factors(inputs, inner)
        self.last = nn.Linear((inputs, *inner)[-1], outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) to (..., outputs)."""
        out: Tensor = self.last(self.factors(x))
        return out


class RelativePosition(nn.Module):
    """Vectors for the row and the column offset between two patches, relative to the class token's.

    Args:
        grid: patches along an edge; offsets are ``1 - grid`` to ``grid - 1``.
    """

    def __init__(self, grid: int) -> None:
        super().__init__()
        self.grid = grid
        self.rows = nn.Parameter(torch.zeros(2 * grid - 1, HEAD))
        self.columns = nn.Parameter(torch.zeros(2 * grid - 1, HEAD))

    def tables(self) -> tuple[Tensor, Tensor]:
        """Vectors (query position, key position, HEAD) for rows and for columns; constants."""
        # an index from numpy is a constant of the graph, torch.arange an operator
        position = np.arange(self.grid)
        index = torch.from_numpy(position[None, :] - position[:, None] + self.grid - 1)
        index = index.to(self.rows.device)
        return self.rows[index], self.columns[index]


class Attention(nn.Module):
    """Multi-head attention with relative positions on keys and values."""

    def __init__(self, config: Config, layer: int, *, premultiply: bool) -> None:
        super().__init__()
        self.heads = config.num_heads[layer]
        self.grid = config.grid
        width, channels = self.heads * HEAD, config.embed_dim
        rank = config.attention_rank
        shared = widths(channels, 3 * width, rank, premultiply=premultiply)
        self.factors = factors(channels, shared)  # of queries, keys and values together
        self.q, self.k, self.v = (nn.Linear((channels, *shared)[-1], width) for _ in range(3))
        self.proj = LowRank(width, channels, rank, premultiply=premultiply)
        self.key_position = RelativePosition(config.grid)
        self.value_position = RelativePosition(config.grid)

    def forward(self, x: Tensor) -> Tensor:
        """(N, tokens, C), shape kept; the class token comes first."""
        n, tokens, _ = x.shape
        shared = self.factors(x)
        matrix = (n, tokens, self.heads, HEAD)
        # the scale of attention is a constant of the query's weights at export
        query = F.linear(shared, self.q.weight * SCALE, self.q.bias * SCALE)
        q = query.reshape(matrix).transpose(1, 2)
        k, v = (part(shared).reshape(matrix).transpose(1, 2) for part in (self.k, self.v))
        weights = torch.softmax(q @ k.transpose(2, 3) + self._key_bias(q), dim=-1)
        out = weights @ v + self._value_offset(weights)
        projected: Tensor = self.proj(out.transpose(1, 2).reshape(n, tokens, -1))
        return projected

    def _key_bias(self, q: Tensor) -> Tensor:
        """What relative positions add to the logits (N, heads, tokens, tokens).

        Queries are taken as rows of the grid for row offsets, as columns for column offsets: all
        patches of one row share their constants.
        """
        n, g = len(q), self.grid
        rows, columns = (table.transpose(1, 2) for table in self.key_position.tables())
        patches = q[:, :, 1:].reshape(n * self.heads, g, g, HEAD)
        by_row = patches @ rows
        by_column = (patches.transpose(1, 2) @ columns).transpose(1, 2)
        bias = by_row.reshape(-1, g * g, g, 1) + by_column.reshape(-1, g * g, 1, g)
        bias = bias.reshape(n, self.heads, g * g, g * g)
        bias = torch.cat([q.new_zeros(n, self.heads, g * g, 1), bias], dim=3)
        return torch.cat([q.new_zeros(n, self.heads, 1, g * g + 1), bias], dim=2)

    def _value_offset(self, weights: Tensor) -> Tensor:
        """What relative positions add to the output (N, heads, tokens, HEAD)."""
        n, g = len(weights), self.grid
        rows, columns = self.value_position.tables()
        seen = weights[:, :, 1:, 1:].reshape(n * self.heads, g * g, g, g)
        by_row = seen.sum(dim=3).reshape(-1, g, g, g) @ rows
        by_column = seen.sum(dim=2).reshape(-1, g, g, g).transpose(1, 2) @ columns
        offset = (by_row + by_column.transpose(1, 2)).reshape(n, self.heads, g * g, HEAD)
        return torch.cat([weights.new_zeros(n, self.heads, 1, HEAD), offset], dim=2)


class Layer(nn.Module):
    """A transformer encoder with norms in front."""

    def __init__(self, config: Config, layer: int, *, premultiply: bool) -> None:
        super().__init__()
        channels, hidden, rank = config.embed_dim, config.hidden(layer), config.mlp_rank(layer)
        self.attn_layer_norm = nn.LayerNorm(channels)
        self.attn = Attention(config, layer, premultiply=premultiply)
        self.ffn_layer_norm = nn.LayerNorm(channels)
        self.fc1 = LowRank(channels, hidden, rank, premultiply=premultiply)
        self.act = nn.GELU()
        self.fc2 = LowRank(hidden, channels, rank, premultiply=premultiply)

    def forward(self, x: Tensor) -> Tensor:
        """(N, tokens, C), shape kept."""
        x = x + self.attn(self.attn_layer_norm(x))
        out: Tensor = x + self.fc2(self.act(self.fc1(self.ffn_layer_norm(x))))
        return out


class MCUFormer(nn.Module):
    """The classifier: patches, class token, layers, mean over the patches, one linear layer.

    Args:
        config: the subnet.
        premultiply: multiply the factors of low-rank layers where that saves work (`widths`).
    """

    def __init__(self, config: Config, *, premultiply: bool = True) -> None:
        super().__init__()
        self.config = config
        self.premultiply = premultiply
        self.num_classes = config.num_classes
        channels = config.embed_dim
        self.patch_embed = nn.Conv2d(
            3, channels, config.patch, config.patch, padding=config.padding
        )
        self.cls_token = nn.Parameter(torch.empty(1, 1, channels))
        self.pos_embed = nn.Parameter(torch.empty(1, config.tokens, channels))
        self.blocks = nn.Sequential(
            *(Layer(config, layer, premultiply=premultiply) for layer in range(config.layer_num))
        )
        self.norm = nn.LayerNorm(channels)
        self.head = nn.Linear(channels, config.num_classes)
        self.apply(init_weights)
        for parameter in (self.cls_token, self.pos_embed):
            nn.init.trunc_normal_(parameter, std=0.02)

    def stage_maps(self, x: Tensor) -> Iterator[Tensor]:
        """Its one stage: the patches as a map, see `edgec.models.features.Staged`."""
        yield to_map(self._patches(x), self.config.grid, self.config.grid)

    def _patches(self, x: Tensor) -> Tensor:
        """Output (N, grid ** 2, C) of the layers, without the class token."""
        patches = self.patch_embed(x).flatten(2).transpose(1, 2) + self.pos_embed[:, 1:]
        first = (self.cls_token + self.pos_embed[:, :1]).expand(len(x), -1, -1)
        tokens: Tensor = self.blocks(torch.cat([first, patches], dim=1))
        return tokens[:, 1:]

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes) of images (N, 3, img, img)."""
        logits: Tensor = self.head(self.norm(self._patches(x)).mean(dim=1))
        return logits

    def adapt_state(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
        """Cut this subnet out of a supernet's state dict; others pass through, without a note.

        Raises:
            InputError: the supernet does not hold this subnet (EC729).
        """
        if "blocks.0.attn.qkv1.weight" not in state:
            return dict(state), ()
        from edgec.models.mcuformer_supernet import cut

        return cut(state, self.config, premultiply=self.premultiply), ("cut from a supernet",)


def init_weights(module: nn.Module) -> None:
    """Uniform weights that keep the variance through products of factors; zero biases."""
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.xavier_uniform_(module.weight.flatten(1))
        if module.bias is not None:
            nn.init.zeros_(module.bias)


# Points of the search space that differ in every respect; none of them is published as a result.
CONFIGS = {
    "a": Config(12, (3.5,) * 12, (3,) * 12, 192, 224, 16, 0.9, 0.9),
    "b": Config(14, (3.5, 4.0) * 7, (3, 4) * 7, 216, 224, 16, 0.9, 0.9),
    "c": Config(13, (4.0,) * 6 + (3.5,) * 7, (4,) * 6 + (3,) * 7, 192, 240, 20, 0.75, 0.75),
    "d": Config(12, (4.0,) * 12, (4,) * 12, 168, 224, 28, 0.6, 0.6),
    "e": Config(12, (4.0,) * 12, (3,) * 12, 168, 224, 32, 0.6, 0.6),
}


def mcuformer_t(config: str, premultiply: bool = True, num_classes: int = 1000) -> MCUFormer:
    """The subnet of supernet-T called `config`, a key of `CONFIGS`."""
    return MCUFormer(replace(CONFIGS[config], num_classes=num_classes), premultiply=premultiply)


def mcuformer_cifar10(num_classes: int = 10) -> MCUFormer:
    """A small one for 32-pixel images: 64 patches, ranks low enough that factors stay factors."""
    return MCUFormer(
        Config(5, (2.0,) * 5, (1, 1, 2, 2, 2), 112, 32, 4, 0.22, 0.5, num_classes=num_classes)
    )
