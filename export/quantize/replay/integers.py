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
    """Round half to even; the gradient is that of the identity (Bengio et al., arXiv 1308.3432).

    What is added is at most a half, so neither the difference nor the sum is rounded, and the
    result is that of `torch.round`. A `torch.autograd.Function` says the same, but each call of one
    under `torch.vmap` takes several times as long.
    """
    step = (torch.round(x) - x).detach().nan_to_num(0.0)  # infinities are whole
    return x + step


def along(parameter: Tensor, x: Tensor, axis: int) -> Tensor:
    """Shape a scale or zero point (one, per channel, per block of `axis`) to broadcast to `x`."""
    if parameter.numel() == 1:
        return parameter.reshape(())
    if parameter.ndim == x.ndim > 1:
        block = -(-x.shape[axis] // parameter.shape[axis])
        return parameter.repeat_interleave(block, axis).narrow(axis, 0, x.shape[axis])
    return parameter.reshape([-1 if i == axis % x.ndim else 1 for i in range(x.ndim)])


@operator("QuantizeLinear")
def quantize_linear(
    a: Attributes, x: Tensor, scale: Tensor, zero_point: Tensor | None = None
) -> Tensor:
    """Integers, held as floats so that gradients pass: straight through inside the type's range.

    Types of 4 and 16 bits are clamped to their ranges as 8 bits are.
    """
    axis = a.get("axis", 1)
    kind = torch.uint8 if zero_point is None else zero_point.dtype
    if kind.is_floating_point:
        raise NotImplementedError("QuantizeLinear to a float type")
    info = torch.iinfo(kind)
    offset = torch.zeros(()) if zero_point is None else along(zero_point, x, axis).to(x.dtype)
    return (round_through(x / along(scale, x, axis)) + offset).clamp(info.min, info.max)


@operator("DequantizeLinear")
def dequantize_linear(
    a: Attributes, x: Tensor, scale: Tensor, zero_point: Tensor | None = None
) -> Tensor:
    axis = a.get("axis", 1)
    values = x.to(scale.dtype)
    if zero_point is not None:
        values = values - along(zero_point, x, axis).to(scale.dtype)
    return values * along(scale, x, axis)
