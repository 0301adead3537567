"""scaled_dot_product_attention with more or fewer axes than torch's ONNX exporter takes.

Window attention is often written on five axes (batch, windows, heads, tokens, channels). All axes
but the last two are a batch.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

OPERATOR = torch.ops.aten.scaled_dot_product_attention.default
AXES = 4


def with_four_axes(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """`program` with every attention on (batch, heads, tokens, channels); itself where it is."""
    for node in program.graph.nodes:
        if node.target is OPERATOR and node.args[0].meta["val"].ndim != AXES:
            folded: torch.export.ExportedProgram = program.run_decompositions(
                {OPERATOR: _attention}
            )
            return folded
    return program


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    **options: Any,
) -> Any:
    if query.ndim == AXES:
        return NotImplemented
    batch = torch.broadcast_shapes(query.shape[:-2], key.shape[:-2], value.shape[:-2])
    if attn_mask is not None:
        attn_mask = attn_mask.expand(*batch, *attn_mask.shape[-2:])
        attn_mask = attn_mask.reshape(math.prod(batch), 1, *attn_mask.shape[-2:])
    folded = [
        tensor.expand(*batch, *tensor.shape[-2:]).reshape(math.prod(batch), 1, *tensor.shape[-2:])
        for tensor in (query, key, value)
    ]
    result = OPERATOR(*folded, attn_mask, dropout_p, is_causal, **options)
    return result.reshape(*batch, *result.shape[-2:])
