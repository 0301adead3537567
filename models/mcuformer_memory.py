"""Peak memory of an MCUFormer subnet at int8, as its authors' search estimates it.

Two formulas are published. Both count the widest matrix product of the MLP or the attention: its
input or output, and one of its weight matrices, which is staged in RAM. Neither is measured;
`edgec.profiles` plans memory for the graph itself.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgec.models.mcuformer_config import HEAD, Config

# What the authors allow: the 320 KiB of an STM32F746.
LIMIT = 320 * 1024


def tokens_and_hidden(config: Config) -> float:
    """Bytes by the formula of github.com/liangyn22/MCUFormer (supernet training).

    ``E ((g^2 + 1)(1 + M) + E M R)`` with the largest MLP ratio M: the tokens, the hidden ones, and
    one factor of the MLP. g = img / patch is not rounded and leaves out any padding, as there.
    """
    e, m = config.embed_dim, max(config.mlp_ratio)
    grid = config.img / config.patch
    return e * ((grid**2 + 1) * (1 + m) + e * m * config.rank_mlp)


@dataclass(frozen=True)
class Widest:
    """Bytes of the widest product of the MLP and of the attention, over all layers."""

    mlp: float
    attention: int

    @property
    def peak(self) -> float:
        return max(self.mlp, self.attention)


def widest_product(config: Config) -> Widest:
    """Bytes by the formula of github.com/yankeee-0411/MCUformer1228.

    MLP ``E N M + r N + E M r`` with r = int(E R_mlp), attention ``Q N + r N + Q r`` with Q = 3 * 64
    heads and r = int(E R_attn): output and input of a factor, and the factor. N counts patches
    with padding, and the class token. The ranks are shares of E here, unlike `Config`'s.
    """
    e, n = config.embed_dim, config.tokens
    r_mlp, r_attn = int(e * config.rank_mlp), int(e * config.rank_attn)
    m, q = max(config.mlp_ratio), 3 * HEAD * max(config.num_heads)
    return Widest(
        mlp=e * n * m + r_mlp * n + e * m * r_mlp, attention=q * n + r_attn * n + q * r_attn
    )
