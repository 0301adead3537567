"""The MCUFormer supernet, and cutting subnets out of it.

A supernet is trained with random subnets and holds the weights of all of them: a subnet uses the
first rows and columns of each matrix. Parameter names are those of github.com/liangyn22/MCUFormer
(derived from AutoFormer, Chen et al., arXiv 2107.00651), which trains one supernet per point of the
outer search space (patch size and rank).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from edgec.export.errors import InputError
from edgec.models.mcuformer import MCUFormer, widths
from edgec.models.mcuformer_config import (
    HEAD,
    SUPER_DEPTH,
    SUPER_HEADS,
    SUPER_RATIO,
    SUPER_WIDTH,
    Config,
)

# Offsets beyond this many patches share a vector; row 0 of a table is the class token's.
FARTHEST = 14


class Supernet(nn.Module):
    """Supernet-T for one image size, patch size and pair of ranks.

    Args:
        img, patch, rank_attn, rank_mlp, num_classes: see `Config`.
    """

    def __init__(
        self,
        img: int,
        patch: int,
        rank_attn: float,
        rank_mlp: float | None = None,
        num_classes: int = 1000,
    ) -> None:
        super().__init__()
        self.largest = Config(
            layer_num=SUPER_DEPTH,
            mlp_ratio=(SUPER_RATIO,) * SUPER_DEPTH,
            num_heads=(SUPER_HEADS,) * SUPER_DEPTH,
            embed_dim=SUPER_WIDTH,
            img=img,
            patch=patch,
            rank_attn=rank_attn,
            rank_mlp=rank_attn if rank_mlp is None else rank_mlp,
            num_classes=num_classes,
        )
        self.patch_embed_super = nn.Module()
        self.patch_embed_super.proj = nn.Conv2d(3, SUPER_WIDTH, patch, patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, SUPER_WIDTH))
        self.pos_embed = nn.Parameter(torch.zeros(1, self.largest.tokens, SUPER_WIDTH))
        self.blocks = nn.ModuleList(_super_layer(self.largest) for _ in range(SUPER_DEPTH))
        self.norm = nn.LayerNorm(SUPER_WIDTH)
        self.head = nn.Linear(SUPER_WIDTH, num_classes)
        for name, parameter in self.named_parameters():
            if name.endswith(("token", "embed", "table_v", "table_h")) or (
                parameter.ndim == 2 and "norm" not in name
            ):
                nn.init.trunc_normal_(parameter, std=0.02)

    def subnet(self, config: Config, *, premultiply: bool = True) -> MCUFormer:
        """A static network with a copy of the subnet's weights, in eval mode.

        Raises:
            InputError: the supernet does not hold this subnet (EC729).
        """
        with torch.device("meta"):
            network = MCUFormer(config, premultiply=premultiply)
        state = cut(self.state_dict(), config, premultiply=premultiply)
        state = {key: value.detach().clone() for key, value in state.items()}
        network.load_state_dict(state, strict=True, assign=True)
        return network.eval()

    def forward(self, x: Tensor, config: Config) -> Tensor:
        """Logits of one subnet, differentiable in the supernet's parameters.

        Args:
            x: images (N, 3, img, img).
            config: the subnet.

        Raises:
            InputError: the supernet does not hold this subnet (EC729).
        """
        with torch.device("meta"):
            network = MCUFormer(config, premultiply=False)
        state = cut(dict(self.named_parameters()), config, premultiply=False)
        logits: Tensor = torch.func.functional_call(network, state, (x,), strict=True)
        return logits


def cut(state: Mapping[str, Tensor], config: Config, *, premultiply: bool) -> dict[str, Tensor]:
    """The state dict of `MCUFormer(config)` from that of its supernet.

    Raises:
        InputError: the supernet does not hold this subnet (EC729).
    """
    _check(state, config)
    e = config.embed_dim
    out = {
        "patch_embed.weight": state["patch_embed_super.proj.weight"][:e],
        "patch_embed.bias": state["patch_embed_super.proj.bias"][:e],
        "cls_token": state["cls_token"][..., :e],
        "pos_embed": state["pos_embed"][..., :e],
        "norm.weight": state["norm.weight"][:e],
        "norm.bias": state["norm.bias"][:e],
        "head.weight": state["head.weight"][:, :e],
        "head.bias": state["head.bias"],
    }
    for layer in range(config.layer_num):
        prefix = f"blocks.{layer}."
        block = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        for key, value in _cut_layer(block, config, layer, premultiply=premultiply).items():
            out[prefix + key] = value
    return out


def _cut_layer(
    block: Mapping[str, Tensor], config: Config, layer: int, *, premultiply: bool
) -> dict[str, Tensor]:
    e, hidden, rank = config.embed_dim, config.hidden(layer), config.mlp_rank(layer)
    width, attention_rank = config.num_heads[layer] * HEAD, config.attention_rank
    out = {
        f"{norm}.{part}": block[f"{norm}.{part}"][:e]
        for norm in ("attn_layer_norm", "ffn_layer_norm")
        for part in ("weight", "bias")
    }

    def low_rank(ours: str, theirs: str, inputs: int, outputs: int, r: int) -> None:
        sizes = ((r, inputs), (r, r), (outputs, r))
        chain = [block[f"{theirs}{i + 1}.weight"][:o, :c] for i, (o, c) in enumerate(sizes)]
        inner = widths(inputs, outputs, r, premultiply=premultiply)
        *first, last = multiply(chain, len(inner) + 1)
        out.update({f"{ours}.factors.{i}.weight": weight for i, weight in enumerate(first)})
        out[f"{ours}.last.weight"] = last
        out[f"{ours}.last.bias"] = block[f"{theirs}3.bias"][:outputs]

    low_rank("fc1", "fc1", e, hidden, rank)
    low_rank("fc2", "fc2", hidden, e, rank)
    low_rank("attn.proj", "attn.proj", width, e, attention_rank)

    # the rows of all three factors of q, k and v are chosen in an order of their own
    sizes = ((attention_rank, e), (attention_rank, attention_rank), (3 * width, attention_rank))
    chain = [
        every_third(block[f"attn.qkv{i + 1}.weight"], outputs)[:, :inputs]
        for i, (outputs, inputs) in enumerate(sizes)
    ]
    inner = widths(e, 3 * width, attention_rank, premultiply=premultiply)
    *first, last = multiply(chain, len(inner) + 1)
    out.update({f"attn.factors.{i}.weight": weight for i, weight in enumerate(first)})
    bias = block["attn.qkv3.bias"][: 3 * width]
    for name, weight, part in zip("qkv", last.chunk(3), bias.chunk(3), strict=True):
        out[f"attn.{name}.weight"], out[f"attn.{name}.bias"] = weight, part
    for name, table in (("key", "k"), ("value", "v")):
        for axis, suffix in (("rows", "v"), ("columns", "h")):
            vectors = block[f"attn.rel_pos_embed_{table}.embeddings_table_{suffix}"]
            out[f"attn.{name}_position.{axis}"] = relative(vectors, config.grid)
    # the weights of attention sum to one, so the class token's vector is an offset of all values
    vertical, horizontal = (
        block[f"attn.rel_pos_embed_v.embeddings_table_{suffix}"][0] for suffix in "vh"
    )
    offset = (vertical + horizontal).repeat(config.num_heads[layer])
    out["attn.v.bias"] = out["attn.v.bias"] + offset
    return out


def every_third(weight: Tensor, rows: int) -> Tensor:
    """Rows 0, 3, 6, ... then 1, 4, ... then 2, 5, ... of the first `rows`.

    So a supernet's first rows hold queries, keys and values of the first heads alike.
    """
    return torch.cat([weight[i:rows:3] for i in range(3)])


def multiply(chain: Sequence[Tensor], count: int) -> list[Tensor]:
    """Multiply the last factors of a chain ``x -> chain[-1] ... chain[0] x`` until `count` remain.

    The products are formed in float64: their rounding stays far below that of the layer.
    """
    kept = list(chain[: count - 1])
    rest = chain[count - 1 :]
    product = rest[0]
    if len(rest) > 1:
        product = product.double()
        for factor in rest[1:]:
            product = factor.double() @ product
    return [*kept, product.to(chain[0].dtype)]


def relative(table: Tensor, grid: int) -> Tensor:
    """Vectors of the offsets ``1 - grid`` to ``grid - 1``, less the class token's.

    A query meets the class token with vector 0 and patches with that of their offset. Logits may
    lose the same amount in a whole row, and the outputs of attention get it back as a constant.
    """
    offsets = torch.arange(1 - grid, grid, device=table.device)
    return table[offsets.clamp(-FARTHEST, FARTHEST) + FARTHEST + 1] - table[:1]


def _super_layer(largest: Config) -> nn.Module:
    """A container of a layer's parameters under the published names."""

    def chain(name: str, inputs: int, outputs: int, rank: int) -> dict[str, nn.Module]:
        return {
            f"{name}1": nn.Linear(inputs, rank, bias=False),
            f"{name}2": nn.Linear(rank, rank, bias=False),
            f"{name}3": nn.Linear(rank, outputs),
        }

    def table() -> nn.Module:
        vectors = nn.Module()
        for suffix in "vh":
            empty = torch.zeros(2 * FARTHEST + 2, HEAD)
            vectors.register_parameter(f"embeddings_table_{suffix}", nn.Parameter(empty))
        return vectors

    e, hidden, rank = largest.embed_dim, largest.hidden(0), largest.mlp_rank(0)
    attention = nn.ModuleDict(
        {
            **chain("qkv", e, 3 * e, largest.attention_rank),
            **chain("proj", e, e, largest.attention_rank),
            "rel_pos_embed_k": table(),
            "rel_pos_embed_v": table(),
        }
    )
    return nn.ModuleDict(
        {
            "attn": attention,
            "attn_layer_norm": nn.LayerNorm(e),
            "ffn_layer_norm": nn.LayerNorm(e),
            **chain("fc1", e, hidden, rank),
            **chain("fc2", hidden, e, rank),
        }
    )


def _check(state: Mapping[str, Tensor], config: Config) -> None:
    """Raise EC729 unless the supernet's matrices are large enough, and made for these patches."""
    needed = {
        "patch": (state["patch_embed_super.proj.weight"].shape[2], config.patch, "=="),
        "tokens": (state["pos_embed"].shape[1], config.tokens, "=="),
        "classes": (len(state["head.bias"]), config.num_classes, "=="),
        "attention rank": (len(state["blocks.0.attn.qkv2.weight"]), config.attention_rank, "=="),
        "channels": (state["cls_token"].shape[-1], config.embed_dim, ">="),
        "MLP rank": (
            len(state["blocks.0.fc12.weight"]),
            max(map(config.mlp_rank, range(config.layer_num))),
            ">=",
        ),
        "heads": (
            state["blocks.0.attn.proj1.weight"].shape[1] // HEAD,
            max(config.num_heads),
            ">=",
        ),
        "hidden channels": (
            len(state["blocks.0.fc13.bias"]),
            max(map(config.hidden, range(config.layer_num))),
            ">=",
        ),
        "layers": (
            len({key.split(".")[1] for key in state if key.startswith("blocks.")}),
            config.layer_num,
            ">=",
        ),
    }
    wrong = [
        f"{name}: the supernet has {has}, the subnet needs {wants}"
        for name, (has, wants, relation) in needed.items()
        if has < wants or (relation == "==" and has != wants)
    ]
    if wrong:
        raise InputError(
            "EC729",
            "the supernet does not hold this subnet",
            why="; ".join(wrong),
            fix="use the configuration of a subnet that was searched in this supernet",
        )
