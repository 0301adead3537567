"""MobileViT's unfolding against a direct reading of its definition."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from edgec.models import create_model, mobilevit, mobilevitv2


def reference(attend: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply a map on (tokens, C) to the pixels of every place in the 2x2 patches on their own."""
    out = torch.empty_like(x)
    for image in range(len(x)):
        for r in range(2):
            for c in range(2):
                pixels = x[image, :, r::2, c::2]
                tokens = attend(pixels.flatten(1).T)
                out[image, :, r::2, c::2] = tokens.T.reshape(pixels.shape)
    return out


@pytest.mark.parametrize("size", [(2, 2), (4, 6), (8, 4)])
def test_pixels_meet_those_of_equal_place(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    attention = mobilevit.Attention(8, 4)
    x = torch.randn(3, 8, *size)
    with torch.no_grad():
        ours = mobilevit.fold(attention(mobilevit.unfold(x)), size)
        expected = reference(lambda tokens: attention(tokens[None])[0], x)
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("size", [(2, 2), (4, 6), (8, 4)])
def test_separable_attention(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    attention = mobilevitv2.SeparableAttention(8)
    weight, bias = attention.qkv_proj.weight[:, :, 0, 0], attention.qkv_proj.bias
    assert bias is not None

    def attend(tokens: Tensor) -> Tensor:
        qkv = tokens @ weight.T + bias
        scores = torch.softmax(qkv[:, 0], dim=0)
        context = sum(s * key for s, key in zip(scores, qkv[:, 1:9], strict=True))
        mixed = torch.relu(qkv[:, 9:]) * context
        return mixed @ attention.out_proj.weight[:, :, 0, 0].T + attention.out_proj.bias

    x = torch.randn(3, 8, *size)
    with torch.no_grad():
        ours = mobilevitv2.fold(attention(mobilevitv2.unfold(x)), size)
        torch.testing.assert_close(ours, reference(attend, x))


def test_map_norm_is_a_group_norm_of_one_group() -> None:
    torch.manual_seed(0)
    ours, theirs = mobilevitv2.MapNorm(6), nn.GroupNorm(1, 6)
    state = {"weight": torch.randn(6), "bias": torch.randn(6)}
    ours.load_state_dict(state)
    theirs.load_state_dict(state)
    x = torch.randn(2, 6, 4, 5)
    torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize("name", ["mobilevit_xxs", "mobilevitv2_050", "mobilevit_cifar10"])
def test_images_of_a_batch_are_independent(name: str) -> None:
    torch.manual_seed(0)
    network = create_model(name)
    x = torch.randn(3, 3, 72, 40)  # odd maps in the last stages
    with torch.no_grad():
        single = torch.cat([network(image[None]) for image in x])
        torch.testing.assert_close(network(x), single, rtol=1e-4, atol=1e-4)
