"""Subnets of MCUFormer: golden outputs, work saved, memory models, and what a supernet refuses."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from edgec.export.errors import InputError
from edgec.models import create_model, get_spec
from edgec.models.matching import load_strict
from edgec.models.mcuformer import CONFIGS, Attention, MCUFormer, mcuformer_t, widths
from edgec.models.mcuformer_config import HEAD, Config, SearchSpace, load_config, parse_config
from edgec.models.mcuformer_memory import LIMIT, tokens_and_hidden, widest_product
from edgec.models.mcuformer_supernet import Supernet, cut, every_third, multiply
from edgec.profiles.macs_torch import count_module_macs

GOLDEN = Path(__file__).parent / "golden" / "supernet"
CASES: dict[str, dict[str, Any]] = json.loads((GOLDEN / "mcuformer.json").read_text())["models"]
TINY = Config(2, (2.0, 3.5), (2, 3), 24, 32, 8, 0.1, 0.5, num_classes=10)


def supernet(config: Config) -> Supernet:
    with torch.device("meta"):
        return Supernet(
            config.img, config.patch, config.rank_attn, config.rank_mlp, config.num_classes
        )


def filled(config: Config, fill: Callable[..., dict[str, Tensor]], gain: float = 1.0) -> Supernet:
    network = supernet(config)
    network.load_state_dict(fill(network.state_dict(), {"gain": gain}), strict=True, assign=True)
    return network


@pytest.mark.parametrize("name", CONFIGS)
def test_supernet_keys(name: str) -> None:
    with gzip.open(GOLDEN / "mcuformer_keys.json.gz") as stream:
        published = json.load(stream)[f"mcuformer_t_{name}"]
    network = supernet(CONFIGS[name])
    ours = {key: list(value.shape) for key, value in network.state_dict().items()}
    assert ours == published
    golden = CASES[f"mcuformer_t_{name}"]
    assert sum(p.numel() for p in network.parameters()) == golden["params"]


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if n in "bd" else []) for n in CONFIGS]
)
@pytest.mark.parametrize("premultiply", [False, True])
def test_logits_and_macs(
    name: str,
    premultiply: bool,
    fill: Callable[..., dict[str, Tensor]],
    image: Callable[..., Tensor],
) -> None:
    config, golden = CONFIGS[name], CASES[f"mcuformer_t_{name}"]
    network = filled(config, fill, golden["gain"]).subnet(config, premultiply=premultiply)
    (values,) = golden["sizes"].values()
    tolerance = 1e-4 * max(1.0, values["std"])
    for seed, expected in values["logits"].items():
        with torch.no_grad():
            logits = network(image(config.img, int(seed))).double().numpy()[0]
        np.testing.assert_allclose(logits[:16], expected, rtol=0, atol=tolerance)
        if seed == "123":
            assert logits.sum() == pytest.approx(values["sum"], abs=10 * tolerance)
            assert logits.std(ddof=1) == pytest.approx(values["std"], abs=tolerance)
    # relative positions: N x N vectors per head twice, against a grid of rows and of columns
    per_head = 2 * config.tokens**2 * HEAD - 4 * config.grid**3 * HEAD
    chains = values["macs"] - per_head * sum(config.num_heads)
    total = count_module_macs(network, image(config.img)).total
    assert total < chains if premultiply else total == chains


@pytest.mark.parametrize("inputs", [8, 168])
@pytest.mark.parametrize("outputs", [8, 672])
@pytest.mark.parametrize("rank", [1, 7, 100, 153])
def test_factors_never_cost_more(inputs: int, outputs: int, rank: int) -> None:
    def cost(*inner: int) -> int:
        sizes = (inputs, *inner, outputs)
        return sum(a * b for a, b in pairwise(sizes))

    chosen = cost(*widths(inputs, outputs, rank, premultiply=True))
    assert chosen == min(cost(), cost(rank), cost(rank, rank))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_multiply(count: int) -> None:
    torch.manual_seed(0)
    chain = [torch.randn(6, 4), torch.randn(6, 6), torch.randn(5, 6)]
    kept = multiply(chain, count)
    assert len(kept) == count
    x = torch.randn(3, 4)
    expected = actual = x
    for factor in chain:
        expected = expected @ factor.T
    for factor in kept:
        actual = actual @ factor.T
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


def test_every_third_row() -> None:
    weight = torch.arange(9.0)[:, None]
    assert every_third(weight, 7).flatten().tolist() == [0, 3, 6, 1, 4, 2, 5]


@pytest.mark.parametrize("grid", [1, 3, 16])
def test_relative_positions(grid: int, fill: Callable[..., dict[str, Tensor]]) -> None:
    """Attention against one that looks every pair of tokens up in the supernet's tables."""
    config = replace(TINY, img=8 * grid)
    state = filled(config, fill, 1.4).state_dict()
    for key, value in state.items():
        if "table" in key:
            value.mul_(40)
    layer = 0
    with torch.no_grad():
        network = MCUFormer(config)
        network.load_state_dict(cut(state, config, premultiply=True))
        attention = network.blocks[layer].attn
        assert isinstance(attention, Attention)
        x = torch.randn(2, config.tokens, 24, generator=torch.Generator().manual_seed(0))
        expected = attention.proj(slow_attention(attention, x, state, config, layer))
        torch.testing.assert_close(attention(x), expected, rtol=1e-4, atol=1e-4)


def slow_attention(
    attention: Attention, x: Tensor, state: dict[str, Tensor], config: Config, layer: int
) -> Tensor:
    """Heads, one pair of tokens at a time; the class token is token 0."""
    g, heads = config.grid, config.num_heads[layer]
    shared = attention.factors(x)
    parts = []
    for part in (attention.q, attention.k, attention.v):
        parts.append(part(shared).unflatten(-1, (heads, HEAD)).transpose(1, 2))
    q, k, v = parts
    # undo what cutting did to the values: their bias holds the class token's vector
    tables = {
        (p, s): state[f"blocks.{layer}.attn.rel_pos_embed_{p}.embeddings_table_{s}"]
        for p in "kv"
        for s in "vh"
    }
    v = v - (tables["v", "v"][0] + tables["v", "h"][0])

    def index(a: int, b: int) -> tuple[int, int]:
        if a == 0 or b == 0:
            return 0, 0
        dy, dx = (b - 1) // g - (a - 1) // g, (b - 1) % g - (a - 1) % g
        return min(max(dy, -14), 14) + 15, min(max(dx, -14), 14) + 15

    tokens = range(config.tokens)
    pairs = torch.tensor([[index(a, b) for b in tokens] for a in tokens])
    vectors = {p: tables[p, "v"][pairs[..., 0]] + tables[p, "h"][pairs[..., 1]] for p in "kv"}
    logits = torch.einsum("nhqd,nhkd->nhqk", q, k)
    logits = logits + torch.einsum("nhqd,qkd->nhqk", q, vectors["k"])
    weights = F.softmax(logits * HEAD**-0.5, dim=-1)
    out = torch.einsum("nhqk,nhkd->nhqd", weights, v)
    out = out + torch.einsum("nhqk,qkd->nhqd", weights, vectors["v"])
    return out.transpose(1, 2).flatten(2)


def test_supernet_trains_what_a_subnet_uses() -> None:
    torch.manual_seed(0)
    network = Supernet(TINY.img, TINY.patch, TINY.rank_attn, TINY.rank_mlp, TINY.num_classes)
    x = torch.randn(2, 3, 32, 32)
    logits = network(x, TINY)
    torch.testing.assert_close(logits, network.subnet(TINY)(x), rtol=1e-4, atol=1e-5)
    logits.square().sum().backward()
    used = network.blocks[0].attn["qkv1"].weight.grad
    assert used is not None
    assert used[:, :24].abs().min() > 0
    assert not used[:, 24:].any()
    assert network.blocks[2].attn["qkv1"].weight.grad is None


def test_weights_of_a_supernet_are_cut(fill: Callable[..., dict[str, Tensor]]) -> None:
    spec = get_spec("mcuformer_t_e")
    network = create_model("mcuformer_t_e")
    source = filled(CONFIGS["e"], fill)
    notes = load_strict(network, spec, source.state_dict(), where="test")
    assert notes == ("cut from a supernet",)
    expected = source.subnet(CONFIGS["e"]).state_dict()
    for key, value in network.state_dict().items():
        assert torch.equal(value, expected[key])
    assert load_strict(network, spec, expected, where="test") == ()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"patch": 16}, "patch"),
        ({"img": 40}, "tokens"),
        ({"rank_attn": 0.2}, "attention rank"),
        ({"num_classes": 11}, "classes"),
        ({"embed_dim": 257}, "channels"),
        ({"num_heads": (5, 1)}, "heads"),
        ({"mlp_ratio": (50.0, 1.0)}, "hidden channels"),
    ],
)
def test_supernet_refuses(change: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError) as caught:
        supernet(TINY).subnet(replace(TINY, **change))
    assert caught.value.code == "EC729"
    assert f"{named}:" in str(caught.value.why)


def test_images_of_a_batch_are_independent() -> None:
    torch.manual_seed(0)
    network = create_model("mcuformer_cifar10")
    x = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        single = torch.cat([network(image[None]) for image in x])
        torch.testing.assert_close(network(x), single, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "tokens", "first", "mlp", "attention"),
    [
        ("a", 197, 286_330, 281_852, 246_428),
        ("b", 197, 380_722, 376_042, 338_506),
        ("c", 145, 249_792, 242_832, 242_832),
        ("d", 65, 122_338, 117_380, 133_220),
        ("e", 50, 109_738, 105_800, 91_400),
    ],
)
def test_memory_models(name: str, tokens: int, first: int, mlp: int, attention: int) -> None:
    config = CONFIGS[name]
    assert config.tokens == tokens
    assert round(tokens_and_hidden(config)) == first
    widest = widest_product(config)
    assert (widest.mlp, widest.attention, widest.peak) == (mlp, attention, max(mlp, attention))
    assert (tokens_and_hidden(config) <= LIMIT) == (name != "b")


def test_search_space() -> None:
    assert all(config in SearchSpace() for config in CONFIGS.values())
    assert TINY not in SearchSpace()
    assert len(SearchSpace().rank) == 12


VALID = {
    "layer_num": 2,
    "mlp_ratio": [3.5, 4],
    "num_heads": [3, 4],
    "embed_dim": [192, 192],
    "img": 224,
    "patch": 16,
    "rank": 0.9,
}


def test_load_config(tmp_path: Path) -> None:
    path = tmp_path / "subnet.json"
    path.write_text(json.dumps(VALID))
    expected = Config(2, (3.5, 4.0), (3, 4), 192, 224, 16, 0.9, 0.9)
    assert load_config(path) == expected
    other = {**VALID, "rank_attn": 0.74, "rank_mlp": 0.86, "num_heads": 3, "num_classes": 5}
    del other["rank"]
    changed = replace(expected, rank_attn=0.74, rank_mlp=0.86, num_heads=(3, 3), num_classes=5)
    assert parse_config(other) == changed
    assert all(
        parse_config({**vars(c), "mlp_ratio": list(c.mlp_ratio), "num_heads": list(c.num_heads)})
        == c
        for c in CONFIGS.values()
    )


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"layer_num": 0}, "layer_num is 0, outside"),
        ({"layer_num": 3}, "mlp_ratio has 2 entries"),
        ({"layer_num": True}, "layer_num is true"),
        ({"mlp_ratio": [3.5, "4"]}, 'mlp_ratio[1] is "4"'),
        ({"mlp_ratio": [3.5, float("nan")]}, "mlp_ratio[1] is NaN"),
        ({"num_heads": [3, 4.5]}, "num_heads[1] is 4.5"),
        ({"embed_dim": [192, 216]}, "residual"),
        ({"embed_dim": 1000}, "embed_dim[0] is 1000, outside"),
        ({"rank": 1.5}, "rank is 1.5, outside"),
        ({"rank": 0.001}, "nothing is left"),
        ({"rank_mlp": 0.5}, "rank stands for"),
        ({"patch": 256}, "holds no patch"),
        ({"depth": 12}, "unknown: depth"),
    ],
)
def test_invalid_configs(change: dict[str, Any], why: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_config({**VALID, **change}, where="subnet.json")
    assert caught.value.code == "EC728"
    assert why in str(caught.value.why)
    assert caught.value.where == "subnet.json"


def test_missing_fields() -> None:
    for name in VALID:
        with pytest.raises(InputError, match="missing: ") as caught:
            parse_config({k: v for k, v in VALID.items() if k != name})
        assert name in str(caught.value.why)


@pytest.mark.parametrize(
    ("content", "why"),
    [(b"{,}", "line 1"), (b"[1]", "list"), (b"\xff\xfe", "UTF-8"), (None, "No such file")],
)
def test_unreadable_configs(content: bytes | None, why: str, tmp_path: Path) -> None:
    path = tmp_path / "subnet.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        load_config(path)
    assert caught.value.code == "EC727"
    assert why in str(caught.value.why)


def test_number_of_classes() -> None:
    with torch.device("meta"):
        assert mcuformer_t("e", num_classes=7).head.out_features == 7
