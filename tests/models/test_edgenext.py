"""The parts of EdgeNeXt against direct readings of their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgec.models import create_model
from edgec.models.edgenext import (
    XCA,
    EdgeNeXt,
    LayerNorm2d,
    SDTAEncoder,
    l2_normalize,
    rename_timm_keys,
    sine_encoding,
)
from edgec.models.layers import PointwiseLinear


def test_sine_encoding() -> None:
    height, width, features = 5, 3, 6
    encoding = sine_encoding(height, width, features)
    assert encoding.shape == (1, 2 * features, height, width)
    assert encoding.dtype == np.float32
    for y in range(height):
        for x in range(width):
            for axis, position, count in ((0, y, height), (1, x, width)):
                for i in range(features):
                    angle = (position + 1) / (count + 1e-6) * 2 * math.pi
                    angle /= 10000 ** (2 * (i // 2) / features)
                    expected = math.cos(angle) if i % 2 else math.sin(angle)
                    assert encoding[0, axis * features + i, y, x] == pytest.approx(
                        expected, abs=1e-6
                    )


def xca_by_tokens(xca: XCA, x: Tensor) -> Tensor:
    """Cross-covariance attention as published: on tokens (N, C), with one qkv product."""
    n, channels, height, width = x.shape
    tokens = x.flatten(2).transpose(1, 2)
    qkv = F.linear(tokens, xca.qkv.weight, xca.qkv.bias)
    qkv = qkv.reshape(n, height * width, 3, xca.heads, channels // xca.heads)
    q, k, v = qkv.permute(2, 0, 3, 4, 1)  # (n, heads, channels / heads, tokens) each
    q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
    weights = torch.softmax(q @ k.transpose(-1, -2) * xca.temperature, dim=-1)
    out = (weights @ v).permute(0, 3, 1, 2).reshape(n, height * width, channels)
    out = F.linear(out, xca.proj.weight, xca.proj.bias)
    return out.transpose(1, 2).reshape(x.shape)


def test_cross_covariance_attention() -> None:
    torch.manual_seed(0)
    xca = XCA(24, 4)
    nn.init.uniform_(xca.temperature, 0.5, 2)
    x = torch.randn(2, 24, 5, 7)
    with torch.no_grad():
        torch.testing.assert_close(xca(x), xca_by_tokens(xca, x), rtol=1e-5, atol=1e-6)


def test_l2_normalize_of_zeros() -> None:
    x = torch.stack([torch.zeros(4), torch.arange(4.0)])
    torch.testing.assert_close(l2_normalize(x), F.normalize(x, dim=-1))


@pytest.mark.parametrize(("channels", "scales"), [(88, 3), (100, 3), (48, 2), (168, 4)])
def test_groups_of_the_split(channels: int, scales: int) -> None:
    """The last group is narrower where channels do not divide, and stays as it is."""
    encoder = SDTAEncoder(channels, 4, scales, positional=False, batch_norm=False)
    assert len(encoder.convs) == scales - 1
    sizes = [t.shape[1] for t in torch.empty(1, channels, 1, 1).split(encoder.width, dim=1)]
    assert len(sizes) == scales
    assert sizes[:-1] == [encoder.width] * (scales - 1)
    assert 0 < sizes[-1] <= encoder.width


def test_pointwise_linear_is_a_linear_over_channels() -> None:
    torch.manual_seed(0)
    layer, x = PointwiseLinear(6, 5), torch.randn(2, 6, 3, 4)
    expected = F.linear(x.permute(0, 2, 3, 1), layer.weight, layer.bias).permute(0, 3, 1, 2)
    torch.testing.assert_close(layer(x), expected)
    assert layer.weight.shape == (5, 6)


@pytest.mark.parametrize(
    ("name", "kind", "eps"),
    [
        ("edgenext_xx_small", LayerNorm2d, 1e-6),
        ("edgenext_xx_small_bn_hs", nn.BatchNorm2d, 1e-5),
    ],
)
def test_eps_of_the_norms(name: str, kind: type[nn.Module], eps: float) -> None:
    norms = [m for m in create_model(name).modules() if hasattr(m, "eps")]
    assert {type(m) for m in norms} == {kind}
    assert {m.eps for m in norms} == {eps}


def test_positional_encoding_is_not_stored() -> None:
    network = create_model("edgenext_xx_small")
    assert not list(network.buffers())
    network(torch.zeros(1, 3, 96, 64))
    assert not list(network.buffers())


def test_renaming_leaves_other_keys_and_values_alone() -> None:
    value = object()
    assert rename_timm_keys({"some.other.key": value}) == {"some.other.key": value}


@pytest.mark.parametrize("batch_norm", [False, True])
def test_images_of_a_batch_are_independent(batch_norm: bool) -> None:
    torch.manual_seed(0)
    network = EdgeNeXt((1, 1, 1, 1), (16, 16, 24, 32), 4, batch_norm=batch_norm).eval()
    x = torch.randn(3, 3, 64, 96)
    with torch.no_grad():
        single = torch.cat([network(image[None]) for image in x])
        torch.testing.assert_close(network(x), single, rtol=1e-4, atol=1e-5)
