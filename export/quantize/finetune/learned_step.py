"""Fake quantization of an activation with gradients for its scale and zero point.

With q = clamp(round(x / s), low − z, high − z) and y = s·q, straight through the rounding (Esser,
McKinstry, Bablani, Appuswamy, Modha, "Learned step size quantization", ICLR 2020, arXiv 1902.08153;
zero points as in Bhalgat et al., LSQ+, arXiv 2004.09576):

    ∂y/∂x = 1 inside, 0 where it saturates
    ∂y/∂s = (y − x) / s inside, q where it saturates
    ∂y/∂z = 0 inside, −s where it saturates
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def learned_step(x: Tensor, scale: Tensor, zero_point: Tensor, limits: tuple[int, int]) -> Tensor:
    """Quantize and dequantize.

    Args:
        x: any shape, float32.
        scale: positive, ().
        zero_point: whole, ().
        limits: smallest and largest integer.
    """
    result: Tensor = _LearnedStep.apply(x, scale, zero_point, *limits)
    return result


class _LearnedStep(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, scale: Tensor, zero_point: Tensor, low: int, high: int) -> Tensor:
        zero = zero_point.item()
        return (x / scale).round_().clamp_(low - zero, high - zero).mul_(scale)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        x, scale, zero_point, low, high = inputs
        ctx.save_for_backward(x, output, scale, zero_point)
        ctx.limits = low, high

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, y, scale, zero_point = ctx.saved_tensors
        (low, high), zero, step = ctx.limits, zero_point.item(), scale.item()
        # half a step beyond the ends still rounds to them; hardtanh's backward is one fused mask
        inside = torch.ops.aten.hardtanh_backward(
            gradient, x, (low - zero - 0.5) * step, (high - zero + 0.5) * step
        )
        by_scale = ((gradient * y).sum() - (inside * x).sum()) / scale
        by_zero = -scale * (gradient.sum() - inside.sum())
        return inside, by_scale, by_zero, None, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor, *parameters: Any) -> Any:
        # elementwise, and scale and zero point are the same for all samples
        return _LearnedStep.apply(x, *parameters), in_dims[0]
