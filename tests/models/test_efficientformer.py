"""EfficientFormer's rewritten parts against what they stand for."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from edgec.models import create_model
from edgec.models.efficientformerv2 import DownsampleQuery
from edgec.models.layers import DistilledHead, distance_indices


@pytest.mark.parametrize(("size", "stride"), [(7, 1), (14, 2), (5, 2)])
def test_distance_indices(size: int, stride: int) -> None:
    indices = distance_indices(size, stride)
    queries = [(y, x) for y in range(0, size, stride) for x in range(0, size, stride)]
    assert indices.shape == (len(queries), size**2)
    for row, (qy, qx) in enumerate(queries):
        for column in range(size**2):
            ky, kx = divmod(column, size)
            assert indices[row, column] == abs(qy - ky) * size + abs(qx - kx)


def test_two_heads_are_averaged() -> None:
    torch.manual_seed(0)
    head = DistilledHead(6, 4)
    nn.init.normal_(head.head.bias)
    x = torch.randn(3, 6)
    torch.testing.assert_close(head.classify(x), (head.head(x) + head.head_dist(x)) / 2)


@pytest.mark.parametrize("size", [8, 7])
def test_the_query_adds_the_pixel_itself(size: int) -> None:
    torch.manual_seed(0)
    query = DownsampleQuery(6, 8).eval()
    x = torch.randn(2, 6, size, size)
    expected = query.proj(query.local(x) + F.avg_pool2d(x, 1, 2))
    torch.testing.assert_close(query(x), expected)


@pytest.mark.parametrize("name", ["efficientformer_l1", "efficientformerv2_cifar10"])
def test_images_of_a_batch_are_independent(name: str) -> None:
    torch.manual_seed(0)
    network = create_model(name)
    for key, parameter in network.named_parameters():
        if "biases" in key or "gamma" in key:
            nn.init.normal_(parameter, std=0.5)
    size = 32 if name.endswith("cifar10") else 224
    x = torch.randn(2, 3, size, size)
    with torch.no_grad():
        single = torch.cat([network(image[None]) for image in x])
        torch.testing.assert_close(network(x), single, rtol=1e-4, atol=1e-4)
