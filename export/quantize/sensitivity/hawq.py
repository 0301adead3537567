"""HAWQ-v2: sensitivity of weights by the trace of the Hessian.

Rounding a layer's weights changes the loss by about ½·ΔWᵀHΔW; with the mean of H's eigenvalues for
H this is ½·(Tr H / n)·‖Q(W) − W‖² (Dong et al., HAWQ-V2, arXiv 1911.03852, section 3; the factor ½
is left out). The trace is estimated without H: E[zᵀHz] for random signs z (Hutchinson), one product
Hz costing two backward passes.

Labels are not needed: the loss is the cross-entropy to the network's own float prediction. It is at
its minimum there, so its Hessian is the Fisher information and has no negative eigenvalue.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from edgec.export.quantize.fisher import MIN_CLASSES, as_logits
from edgec.export.quantize.graph import constant_of, input_specs, prepared_copy
from edgec.export.quantize.learned import WeightKey
from edgec.export.quantize.plan import plan_quantization
from edgec.export.quantize.replay.graph import Replay, as_tensors, constantly
from edgec.export.quantize.rounding.blocks import Block
from edgec.export.quantize.scheme import QuantScheme
from edgec.export.quantize.stream import check_feed, no_samples
from edgec.export.quantize.weights import channel_shape, quantize_weight


@dataclass(frozen=True)
class Trace:
    """Estimated trace of one weight tensor's Hessian.

    Attributes:
        trace: mean over samples and draws.
        error: standard error of that mean over the draws.
        size: number of weights.
    """

    trace: float
    error: float
    size: int

    @property
    def mean(self) -> float:
        """Mean eigenvalue."""
        return self.trace / self.size


def hessian_traces(
    model: ir.Model,
    feeds: Iterable[Mapping[str, NDArray[Any]]],
    tensors: Sequence[str],
    *,
    draws: int = 16,
    seed: int = 0,
) -> dict[str, Trace]:
    """Traces of the Hessian of the loss with respect to weight tensors, one at a time.

    All tensors share the forward and backward passes: signs are drawn for all at once, and the
    blocks off the diagonal average out.

    Args:
        model: float32 graph that `Replay` can execute; not modified.
        feeds: samples, read once and held; the loss is their mean.
        tensors: names of float initializers.
        draws: products with the Hessian per sample.
        seed: of the signs.

    Raises:
        UnsupportedError: EC366, the graph has no replay.
        InputError: EC760, no samples; EC761, a sample does not fit.
        KeyError: a tensor is no float initializer.
    """
    copy = prepared_copy(model)
    replay = Replay(copy)
    weights = [replay.weights[name].detach().clone().requires_grad_() for name in tensors]
    generator = torch.Generator().manual_seed(seed)
    inputs = input_specs(copy)
    samples = [as_tensors(check_feed(feed, inputs, i)) for i, feed in enumerate(feeds)]
    if not samples:
        raise no_samples()
    found = np.zeros((draws, len(tensors)))
    for draw in range(draws):
        for sample in samples:
            signs = [
                2.0 * torch.randint(0, 2, w.shape, generator=generator).float() - 1.0
                for w in weights
            ]
            products = _products(replay, sample, dict(zip(tensors, weights, strict=True)), signs)
            found[draw] += [float((z * h).sum()) for z, h in zip(signs, products, strict=True)]
    found /= len(samples)
    error = found.std(axis=0, ddof=1) / np.sqrt(draws) if draws > 1 else np.full(len(tensors), 0.0)
    return {
        name: Trace(float(found[:, i].mean()), float(error[i]), weights[i].numel())
        for i, name in enumerate(tensors)
    }


def hawq_sensitivity(
    model: ir.Model,
    scheme: QuantScheme,
    blocks: Sequence[Block],
    traces: Mapping[str, Trace],
    *,
    bits: int = 8,
) -> dict[str, float]:
    """Ω of each block: Σ mean eigenvalue · ‖Q(W) − W‖² over its weights.

    Args:
        model: the graph of the blocks.
        scheme: grids of the weights, but for `bits`.
        blocks: from `find_blocks`.
        traces: of all weights in the blocks.
        bits: of the weights.
    """
    copy = prepared_copy(model)
    plan = plan_quantization(copy, scheme)
    nodes = {str(node.name): node for node in copy.graph}
    distance: dict[WeightKey, float] = {}
    for weight in plan.weights:
        number = constant_of(nodes[weight.node].inputs[weight.index])
        if weight.operand or number is None:
            continue
        limit = 2 ** (bits - 1) - 1
        integers, scales = quantize_weight(
            number, weight.axis, pair_safe=weight.pair_safe, limit=limit
        )
        steps = scales.astype(np.float64).reshape(channel_shape(weight.axis, number.ndim))
        rounded = integers * steps
        distance[(weight.tensor, weight.axis)] = float(((rounded - number) ** 2).sum())
    return {
        block.name: sum(traces[key[0]].mean * distance[key] for key in block.weights)
        for block in blocks
    }


def _products(
    replay: Replay,
    sample: Mapping[str, Tensor],
    weights: Mapping[str, Tensor],
    signs: Sequence[Tensor],
) -> list[Tensor]:
    """Hessian of one sample's loss times the signs, per weight."""
    outputs = replay(
        dict(sample),
        intercept={name: constantly(weight) for name, weight in weights.items()},
    )
    loss = torch.stack([_self_loss(outputs[name]) for name in replay.output_names]).sum()
    tensors = list(weights.values())
    gradients = torch.autograd.grad(loss, tensors, create_graph=True, allow_unused=True)
    pairs = [(g, z) for g, z in zip(gradients, signs, strict=True) if g is not None]
    inner = torch.stack([(g * z).sum() for g, z in pairs]).sum()
    products = torch.autograd.grad(inner, tensors, allow_unused=True)
    return [
        torch.zeros_like(tensor) if product is None else product
        for tensor, product in zip(tensors, products, strict=True)
    ]


def _self_loss(output: Tensor) -> Tensor:
    """Cross-entropy to the own prediction for class scores, half the squared error otherwise."""
    if output.ndim in (2, 3) and output.shape[-1] >= MIN_CLASSES:
        logits = as_logits(output.reshape(-1, output.shape[-1]))
        return F.cross_entropy(logits, logits.detach().softmax(-1), reduction="sum")
    return 0.5 * ((output - output.detach()) ** 2).sum()
