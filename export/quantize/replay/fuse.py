"""QuantizeLinear, DequantizeLinear and what is between them as one step.

Executed one by one with their gradients, these operators take a dozen elementwise passes, which is
most of the time of a small network; together they take six.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from edgec.export.quantize.replay.elementwise import clip
from edgec.export.quantize.replay.integers import dequantize_linear, quantize_linear
from edgec.export.quantize.replay.table import Attributes, Operator


class _Step(Protocol):
    @property
    def function(self) -> Operator: ...
    @property
    def inputs(self) -> tuple[str, ...]: ...
    @property
    def outputs(self) -> tuple[str, ...]: ...


S = TypeVar("S", bound=_Step)


def fused(
    steps: Sequence[S],
    constants: Mapping[str, Tensor],
    kept: Collection[str],
    rebuilt: Callable[[S, Operator, tuple[str, ...]], S],
) -> list[S]:
    """Merge Q → (Clip) → DQ of activations with one scale.

    Args:
        steps: in order.
        constants: values of initializers by name.
        kept: values that must stay; their chains are left alone.
        rebuilt: makes a step with another function and other inputs.
    """
    made = {name: step for step in steps for name in step.outputs}
    uses = Counter(name for step in steps for name in step.inputs)
    gone: set[str] = set()
    merged: dict[str, S] = {}
    for step in steps:
        if step.function is not dequantize_linear:
            continue
        inner = [step.inputs[0]]
        source = made.get(inner[0])
        limits: tuple[float, float] | None = None
        if source is not None and source.function is clip and len(source.inputs) == 3:
            ends = [constants.get(name) for name in source.inputs[1:]]
            inner.append(source.inputs[0])
            source = made.get(inner[1])
            if ends[0] is not None and ends[1] is not None:
                limits = (ends[0].item(), ends[1].item())
        if source is None or source.function is not quantize_linear or len(source.inputs) < 3:
            continue
        if (limits is None) != (len(inner) == 1) or source.inputs[1:] != step.inputs[1:]:
            continue
        if any(uses[name] != 1 or name in kept for name in inner):
            continue
        scale, zero = (constants.get(name) for name in source.inputs[1:3])
        if scale is None or zero is None or scale.numel() != 1 or zero.is_floating_point():
            continue
        kind = torch.iinfo(zero.dtype)
        low, high = (kind.min, kind.max) if limits is None else (int(limits[0]), int(limits[1]))
        function = partial(_fake_quantized, parameters=(scale.item(), int(zero.item()), low, high))
        merged[step.outputs[0]] = rebuilt(step, function, (source.inputs[0],))
        gone.update(inner)
    return [merged.get(step.outputs[0], step) for step in steps if gone.isdisjoint(step.outputs)]


def _fake_quantized(
    attributes: Attributes, x: Tensor, *, parameters: tuple[float, int, int, int]
) -> Tensor:
    result: Tensor = _FakeQuantize.apply(x, *parameters)[0]
    return result


class _FakeQuantize(torch.autograd.Function):
    """The gradient passes where the value did not saturate."""

    @staticmethod
    def forward(
        x: Tensor, scale: float, zero_point: int, low: int, high: int
    ) -> tuple[Tensor, Tensor]:
        # the zero point is whole, so it can move into the limits
        steps = (x / scale).round_()
        inside = steps.clamp(low - zero_point, high - zero_point)
        passes = steps == inside
        return inside.mul_(scale), passes

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(output[1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Any) -> Any:
        return gradient * ctx.saved_tensors[0], None, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor, *parameters: Any) -> Any:
        # elementwise: the axis of the samples makes no difference
        return _FakeQuantize.apply(x, *parameters), (
            in_dims[0],
            in_dims[0],
        )
