"""Mobile-Former's rewritten parts against what the authors' code writes down."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgec.models import create_model
from edgec.models.mobileformer import (
    ChannelShuffle,
    DynamicReLU,
    GlobalBlock,
    GlobalToLocal,
    LocalToGlobal,
    MobileFormer,
    Step,
)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def wild(module: nn.Module) -> nn.Module:
    """Parameters of order one, so that clamps clamp."""
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    return module.eval()


def h_sigmoid(x: Tensor) -> Tensor:
    return F.relu6(x + 3) / 6


def split(x: Tensor, heads: int) -> Tensor:
    """(N, T, C) to (N, heads, T, C / heads)."""
    return x.unflatten(2, (heads, -1)).transpose(1, 2)


def test_dynamic_relu() -> None:
    act = wild(DynamicReLU(8, 5))
    x, token = torch.randn(3, 5, 4, 4), torch.randn(3, 8)
    theta = h_sigmoid(act.hyper(token))
    a = (theta[:, :5] - 0.5) * 2 + 1
    b = (theta[:, 5:] - 0.5) * 2
    expected = torch.maximum(x * a[:, :, None, None], x * b[:, :, None, None])
    torch.testing.assert_close(act(x, token), expected, rtol=1e-5, atol=1e-5)


def test_local_to_global() -> None:
    attention = wild(LocalToGlobal(6, 8))
    x, tokens = torch.randn(2, 6, 3, 5), torch.randn(2, 3, 8)
    pixels = split(x.flatten(2).transpose(1, 2), 2)
    scores = split(attention.q(tokens), 2) @ pixels.transpose(2, 3) * 3**-0.5
    seen = (scores.softmax(-1) @ pixels).transpose(1, 2).flatten(2)
    seen = seen * 2 * h_sigmoid(attention.alpha(tokens))
    expected = attention.layer_norm(tokens + attention.proj(seen))
    torch.testing.assert_close(attention(x, tokens[:, None])[:, 0], expected, rtol=1e-4, atol=1e-4)


def test_global_block() -> None:
    block = wild(GlobalBlock(8))
    tokens = torch.randn(2, 3, 8)
    k = split(tokens, 4)
    scores = split(block.q(tokens), 4) @ k.transpose(2, 3) * 2**-0.5
    seen = (scores.softmax(-1) @ k).transpose(1, 2).flatten(2)
    expected = block.layer_norm(tokens + block.channel_mlp(seen))
    expected = block.ffn_norm(expected + block.ffn(expected))
    torch.testing.assert_close(block(tokens[:, None])[:, 0], expected, rtol=1e-4, atol=1e-4)


def test_global_to_local() -> None:
    attention = wild(GlobalToLocal(6, 8))
    x, tokens = torch.randn(2, 6, 3, 5), torch.randn(2, 3, 8)
    q = split(x.flatten(2).transpose(1, 2), 2)
    scores = q @ split(attention.k(tokens), 2).transpose(2, 3) * 3**-0.5
    seen = scores.softmax(-1) @ split(attention.proj(tokens), 2)
    expected = x + seen.transpose(1, 2).flatten(2).transpose(1, 2).reshape(x.shape)
    torch.testing.assert_close(attention(x, tokens[:, None]), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("groups", [1, 2, 3])
def test_channel_shuffle(groups: int) -> None:
    x = torch.randn(2, 6, 3, 4)
    torch.testing.assert_close(ChannelShuffle(groups)(x), F.channel_shuffle(x, groups))


def test_images_of_a_batch_are_independent() -> None:
    steps = (Step(2, 8, lite=True), Step(2, 12, 2), Step(2, 12))
    network = MobileFormer(8, steps, (3, 16), 16, groups=4, num_classes=10).eval()
    x = torch.randn(3, 3, 32, 48)
    with torch.no_grad():
        single = torch.cat([network(image[None]) for image in x])
        torch.testing.assert_close(network(x), single, rtol=1e-4, atol=1e-5)


def test_only_the_smallest_is_grouped() -> None:
    with torch.device("meta"):
        groups = {
            name: {m.groups for m in create_model(name).modules() if isinstance(m, nn.Conv2d)}
            for name in ("mobile_former_26m", "mobile_former_52m")
        }
    assert 4 in groups["mobile_former_26m"]
    assert 4 not in groups["mobile_former_52m"]
