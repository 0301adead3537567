"""Which subnet of an MCUFormer supernet: the candidate that its architecture search finds.

Liang et al., "MCUFormer: Deploying Vision Transformers on Microcontrollers with Limited Memory",
arXiv 2310.16898; the names of the fields are those of github.com/liangyn22/MCUFormer.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

from edgec.export.errors import InputError

SUPER_WIDTH = 256  # channels of supernet-T
SUPER_DEPTH = 14
SUPER_HEADS = 4
SUPER_RATIO = 4.0
HEAD = 64  # channels of an attention head, in every subnet
# Patches that do not divide 224 pixels come with a padding of the image.
PADDINGS = {32: 8, 28: 6}


@dataclass(frozen=True)
class Config:
    """One subnet.

    Attributes:
        layer_num: number of transformer layers.
        mlp_ratio: hidden channels of each layer's MLP per channel.
        num_heads: attention heads of each layer.
        embed_dim: channels.
        img: edge of the square input image in pixels.
        patch: edge of a patch in pixels.
        rank_attn: rank of the attention's factors as a share of the supernet's width.
        rank_mlp: rank of the MLP's factors as a share of `embed_dim`.
        num_classes: width of the classifier.
    """

    layer_num: int
    mlp_ratio: tuple[float, ...]
    num_heads: tuple[int, ...]
    embed_dim: int
    img: int
    patch: int
    rank_attn: float
    rank_mlp: float
    num_classes: int = 1000

    @property
    def padding(self) -> int:
        """Zeros around the image, in pixels."""
        return PADDINGS.get(self.patch, 0)

    @property
    def grid(self) -> int:
        """Patches along an edge of the image."""
        return (self.img + 2 * self.padding) // self.patch

    @property
    def tokens(self) -> int:
        """Patches and the class token."""
        return self.grid**2 + 1

    @property
    def attention_rank(self) -> int:
        """Rank of the attention's factors; a share of the supernet's width, not of the subnet's."""
        return int(SUPER_WIDTH * self.rank_attn)

    def hidden(self, layer: int) -> int:
        """Hidden channels of a layer's MLP."""
        return int(self.embed_dim * self.mlp_ratio[layer])

    def mlp_rank(self, layer: int) -> int:
        """Rank of the factors of a layer's MLP."""
        return int(min(self.embed_dim, self.hidden(layer)) * self.rank_mlp)


@dataclass(frozen=True)
class SearchSpace:
    """What a subnet of supernet-T is chosen from (experiments/supernet/supernet-T*.yaml).

    The inner space belongs to one trained supernet, the outer one has a supernet per point.
    """

    layer_num: tuple[int, ...] = (12, 13, 14)
    mlp_ratio: tuple[float, ...] = (3.5, 4.0)
    num_heads: tuple[int, ...] = (3, 4)
    embed_dim: tuple[int, ...] = (168, 192, 216)
    rank: tuple[float, ...] = field(default=tuple(round(0.05 * i, 2) for i in range(8, 20)))
    patch: tuple[int, ...] = (32, 28, 24, 20, 16)

    def __contains__(self, config: Config) -> bool:
        """Whether the search could have found `config`."""
        return (
            config.layer_num in self.layer_num
            and set(config.mlp_ratio) <= set(self.mlp_ratio)
            and set(config.num_heads) <= set(self.num_heads)
            and config.embed_dim in self.embed_dim
            and {config.rank_attn, config.rank_mlp} <= set(self.rank)
            and config.patch in self.patch
        )


_REQUIRED = ("layer_num", "mlp_ratio", "num_heads", "embed_dim", "img", "patch")
_RANKS = ("rank", "rank_attn", "rank_mlp")


def load_config(path: Path) -> Config:
    """Read a subnet from a JSON object.

    Its fields are those of `Config`. ``rank`` stands for both ranks; ``mlp_ratio``, ``num_heads``
    and ``embed_dim`` may be one number for all layers or a list with one per layer (of equal ones
    for ``embed_dim``, which the residual connections need).

    Raises:
        InputError: the file cannot be read or is no JSON object (EC727), or no subnet (EC728).
    """
    try:
        data = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from error
    except UnicodeDecodeError as error:
        raise _unreadable(path, "it is not text in UTF-8") from error
    except json.JSONDecodeError as error:
        raise _unreadable(path, f"line {error.lineno}: {error.msg}") from error
    if not isinstance(data, dict):
        raise _unreadable(path, f"it holds a {type(data).__name__} instead of an object")
    return parse_config(data, where=str(path))


def parse_config(data: dict[str, Any], where: str | None = None) -> Config:
    """The subnet in the JSON object `data`; see `load_config`.

    Raises:
        InputError: it is no subnet (EC728).
    """

    def invalid(why: str) -> InputError:
        return InputError(
            "EC728",
            "not a configuration of an MCUFormer subnet",
            where=where,
            why=why,
            fix="it needs " + ", ".join(_REQUIRED) + ", and rank or rank_attn and rank_mlp",
        )

    def number(name: str, value: Any, low: float, high: float, *, whole: bool) -> float:
        right = isinstance(value, int | float) and not isinstance(value, bool)
        if not right or not isfinite(value) or (whole and value != int(value)):
            kind = "a whole number" if whole else "a number"
            raise invalid(f"{name} is {json.dumps(value)[:60]} instead of {kind}")
        if not low <= value <= high:
            raise invalid(f"{name} is {value}, outside {low} to {high}")
        return int(value) if whole else float(value)

    def integer(name: str, high: int) -> int:
        return int(number(name, data[name], 1, high, whole=True))

    def per_layer(name: str, low: float, high: float, *, whole: bool) -> tuple[float, ...]:
        values = data[name] if isinstance(data[name], list) else [data[name]] * layers
        if len(values) != layers:
            raise invalid(f"{name} has {len(values)} entries for {layers} layers")
        return tuple(
            number(f"{name}[{i}]", value, low, high, whole=whole) for i, value in enumerate(values)
        )

    if unknown := sorted(set(data) - {*_REQUIRED, *_RANKS, "num_classes"}):
        raise invalid(f"unknown: {', '.join(unknown)}")
    ranks = ("rank",) if "rank" in data else ("rank_attn", "rank_mlp")
    if missing := [name for name in (*_REQUIRED, *ranks) if name not in data]:
        raise invalid(f"missing: {', '.join(missing)}")
    if "rank" in data and set(_RANKS) & set(data) != {"rank"}:
        raise invalid("rank stands for rank_attn and rank_mlp; give it or them")
    layers = integer("layer_num", SUPER_DEPTH)
    ratios = per_layer("mlp_ratio", 0.0, SUPER_RATIO, whole=False)
    heads = per_layer("num_heads", 1, SUPER_HEADS, whole=True)
    widths = set(per_layer("embed_dim", 1, SUPER_WIDTH, whole=True))
    if len(widths) != 1:
        raise invalid("embed_dim differs between layers, which are joined by residual connections")
    rank_attn, rank_mlp = (
        number(name, data[name], 0.0, 1.0, whole=False) for name in (ranks * 2)[:2]
    )
    config = Config(
        layer_num=layers,
        mlp_ratio=ratios,
        num_heads=tuple(int(h) for h in heads),
        embed_dim=int(widths.pop()),
        img=integer("img", 4096),
        patch=integer("patch", 4096),
        rank_attn=rank_attn,
        rank_mlp=rank_mlp,
        num_classes=integer("num_classes", 10**6) if "num_classes" in data else 1000,
    )
    if config.grid < 1:
        raise invalid(f"the image of {config.img} pixels holds no patch of {config.patch}")
    narrowest = min(range(layers), key=config.mlp_rank)
    if min(config.attention_rank, config.mlp_rank(narrowest)) < 1:
        raise invalid("a rank is so small that nothing is left of a layer")
    return config


def _unreadable(path: Path, why: str) -> InputError:
    return InputError(
        "EC727",
        "cannot read the model configuration",
        where=str(path),
        why=why,
        fix="give the path of a JSON file with one object",
    )
