"""Attention on other numbers of axes than four."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgec.export.capture import from_torch


class Windows(nn.Module):
    """Self-attention over the last axes but one, on whatever axes come before."""

    def __init__(self, mask: tuple[int, ...] | None, causal: bool) -> None:
        super().__init__()
        self.causal = causal
        bias = None if mask is None else torch.randn(mask)
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = F.scaled_dot_product_attention(
            x, 2 * x, x + 1, attn_mask=self.bias, is_causal=self.causal, scale=0.3
        )
        return y


@pytest.mark.parametrize(
    ("shape", "mask", "causal"),
    [
        ((3, 2, 6, 4), None, False),
        ((2, 6, 4), None, False),
        ((6, 4), None, True),
        ((3, 2, 2, 6, 4), (6, 6), False),
        ((3, 2, 2, 6, 4), (3, 1, 2, 6, 6), False),
    ],
)
def test_it_is_captured(shape: tuple[int, ...], mask: tuple[int, ...] | None, causal: bool) -> None:
    torch.manual_seed(0)
    model = from_torch(Windows(mask, causal), shape)  # compares with torch on seeded inputs
    assert "MatMul" in {node.op_type for node in model.graph}
    assert np.prod([int(d) for d in model.graph.outputs[0].shape or ()]) == np.prod(shape)
