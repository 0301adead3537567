"""QuantizeLinear and DequantizeLinear, with gradients straight through the rounding.

Integers stay float tensors: they have exact values below 2^24, and gradients. The rounding passes
the gradient as it is, saturation stops it (Bengio, Léonard, Courville, arXiv 1308.3432; Esser et
al., LSQ, arXiv 1902.08153).
"""

from __future__ import annotations

import torch
from torch import Tensor

from edgec.export.quantize.replay.table import Attributes, operator


def round_through(x: Tensor) -> Tensor:
    """Round half to even; the gradient is that of the identity."""
    return x + (torch.round(x) - x).detach()


@operator("QuantizeLinear")
def quantize_linear(
    a: Attributes, x: Tensor, scale: Tensor, zero_point: Tensor | None = None
) -> Tensor:
    kind = torch.uint8 if zero_point is None else zero_point.dtype
    if kind.is_floating_point or a.get("block_size", 0):
        raise NotImplementedError("QuantizeLinear to a float type or in blocks")
    limits = torch.iinfo(kind)
    scale = _along(scale, a.get("axis", 1), x.ndim)
    scaled = round_through(x / scale)
    if zero_point is not None:
        scaled = scaled + _along(zero_point, a.get("axis", 1), x.ndim)
    return scaled.clamp(limits.min, limits.max)


@operator("DequantizeLinear")
def dequantize_linear(
    a: Attributes, x: Tensor, scale: Tensor, zero_point: Tensor | None = None
) -> Tensor:
    if a.get("block_size", 0):
        raise NotImplementedError("DequantizeLinear in blocks")
    centred = x.to(scale.dtype)
    if zero_point is not None:
        centred = centred - _along(zero_point, a.get("axis", 1), x.ndim).to(scale.dtype)
    return centred * _along(scale, a.get("axis", 1), x.ndim)


def _along(parameter: Tensor, axis: int, rank: int) -> Tensor:
    """A vector of per-channel parameters in the shape that broadcasts along `axis`."""
    if parameter.ndim == 0 or parameter.numel() == 1:
        return parameter.reshape(())
    shape = [1] * rank
    shape[axis] = -1
    return parameter.reshape(shape)
