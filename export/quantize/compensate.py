"""Error compensation: each weight makes up for what was rounded before it.

Layer after layer, from second moments of the layer's input. First the weights are fitted to what
the float network has there, W′ = W·E[x·x̃ᵀ]·E[x̃·x̃ᵀ]⁻¹ with x of the float network and x̃ behind the
layers rounded before, so that errors do not pile up. Then W′ is rounded with the least error of the
output (`edgec.export.quantize.quadratic`). Moments are centred where a bias can take the means,
and the bias takes them.

Nothing is trained: it takes two runs of the network per sample, and a Cholesky factor per layer.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgec.export.quantize.calibrate import Calibration
from edgec.export.quantize.comoments import Comoments, Moments, collect, level
from edgec.export.quantize.entries import Bias, Weight
from edgec.export.quantize.graph import (
    constant_of,
    drop_unused_constants,
    give_constant,
    in_memory,
    prepared_copy,
)
from edgec.export.quantize.insert import InsertQDQPass
from edgec.export.quantize.learned import Learned, LearnedWeight, WeightKey
from edgec.export.quantize.plan import plan_quantization
from edgec.export.quantize.products import Product
from edgec.export.quantize.quadratic import nearest_on_grid
from edgec.export.quantize.scheme import QuantScheme
from edgec.export.quantize.stepwise import Stepwise
from edgec.export.quantize.stream import activation_names
from edgec.export.quantize.weights import MIN_SCALE, channel_shape, quantize_weight, round_weight

SAMPLES = 256
"""Calibration samples that are used."""
RIDGE = 0.03
"""What keeps the fitted weights near the float ones: share of the mean square of the inputs."""
DAMPING = 0.01
"""The same for the spreading of errors (GPTQ's 1 %)."""
FEW_LEVELS = 31
"""Largest magnitude of an integer up to which scales are searched (six bits)."""


def compensate(
    model: ir.Model,
    calibration: Calibration,
    feeds: Iterable[Mapping[str, NDArray[Any]]],
    scheme: QuantScheme,
    *,
    exclude: Collection[str] = (),
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[ir.Model, Learned]:
    """A float copy whose weights lie on their grids, and the scales for `quantize`.

    Quantize it with the same calibration, scheme and `exclude`.
    Convolutions, Gemm and MatMul are handled; transposed convolutions and weights that several
    nodes read stay as they are.

    Args:
        model: float32 graph; not modified.
        calibration: ranges of its activations: those of fewer than eight bits are rounded, too.
        feeds: calibration samples; the first `SAMPLES` are read.
        scheme, exclude: as for `edgec.export.quantize.insert.quantize`.
        on_progress: called with (layers done, layers in all).

    Raises:
        InputError: as `edgec.export.quantize.calibrate.calibrate`; EC764, NaN or infinite weights.
    """
    samples = list(islice(feeds, SAMPLES))
    floats = prepared_copy(model)
    result = in_memory(floats)
    # the plan lists biases only if they become integers; here float ones count, too
    plan = plan_quantization(floats, scheme.with_integer_bias(), exclude)
    biases = {(bias.weight, bias.axis): bias for bias in plan.biases}
    nodes = {str(node.name): node for node in result.graph}
    layers = _layers(result, plan.weights)
    rounded = [result]
    if scheme.activation_bits < 8:  # the noise of finer grids costs more than it tells
        rounded.append(in_memory(result))
        InsertQDQPass(replace(plan, weights=(), biases=()), calibration)(rounded[-1])
    before, after = Stepwise(floats, samples), Stepwise(rounded[-1], samples)
    learned: dict[WeightKey, LearnedWeight] = {}
    for number, (weight, product) in enumerate(layers):
        seen = collect(product, before, after, len(samples))
        key = (weight.tensor, weight.axis)
        bias = biases.get(key)
        old = constant_of(result.graph.initializers[weight.tensor])
        assert old is not None  # the planner took only constants
        limit = scheme.weight_limit(nodes[weight.node])
        new, scales = _on_grid(product, weight, old, seen, limit, centred=bias is not None)
        for graph in rounded:
            graph.graph.initializers[weight.tensor].const_value = ir.tensor(new, name=weight.tensor)
        learned[key] = LearnedWeight(None, scales)
        if bias is not None:
            moved = _bias(nodes[bias.node], bias, product, (old, new), seen)
            for graph in rounded:
                holder = next(node for node in graph.graph if node.name == bias.node)
                give_constant(graph, holder, bias.index, moved, f"{bias.node}_compensated_bias")
        if on_progress is not None:
            on_progress(number + 1, len(layers))
    drop_unused_constants(result)
    return result, learned


def _layers(model: ir.Model, weights: Iterable[Weight]) -> list[tuple[Weight, Product]]:
    """What is compensated, in graph order."""
    order = {str(node.name): (number, node) for number, node in enumerate(model.graph)}
    varying = set(activation_names(model))
    found = []
    for weight in sorted(weights, key=lambda weight: order[weight.node][0]):
        node = order[weight.node][1]
        product = None if weight.operand or weight.index != 1 else Product.of(node)
        alone = len(list(model.graph.initializers[weight.tensor].uses())) == 1
        source = node.inputs[0]
        if product is not None and alone and source is not None and source.name in varying:
            found.append((weight, product))
    return found


def _on_grid(
    product: Product,
    weight: Weight,
    old: NDArray[np.float32],
    seen: Comoments,
    limit: int,
    *,
    centred: bool,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The weight on its grid, and the scales."""
    squares, more = seen.shrunk(centred=centred)
    rows = product.rows(old).astype(np.float64)
    fitted = rows + rows @ _solved(squares, more)
    diagonal = np.diagonal(squares, axis1=1, axis2=2) + DAMPING * level(squares)
    importance = np.broadcast_to(diagonal[:, None, :], rows.shape)
    axis, safe = weight.axis, weight.pair_safe
    _, scales = quantize_weight(
        product.weight(fitted).astype(np.float32),
        axis,
        rule="mse",
        pair_safe=safe,
        limit=limit,
        importance=product.weight(importance).astype(np.float64),
    )
    steps = np.broadcast_to(scales.astype(np.float64), rows.shape[0] * rows.shape[1])
    steps = steps.reshape(rows.shape[:2])
    free = axis is not None and limit <= FEW_LEVELS
    found = nearest_on_grid(fitted, _damped(squares, DAMPING), steps, limit, free=free)
    if free:
        scales = np.maximum(found.scales.ravel(), MIN_SCALE).astype(np.float32)
    # rounded once more: to be pair-safe, and onto the float32 scales
    near = product.weight(found.integers * found.scales[:, :, None]).astype(np.float32)
    integers = round_weight(near, scales, axis, pair_safe=safe, limit=limit)
    grid = integers * scales.reshape(channel_shape(axis, near.ndim))
    return grid.astype(np.float32), scales


def _solved(squares: Moments, right: Moments) -> Moments:
    """right·(squares + ridge)⁻¹ for symmetric squares."""
    turned = np.linalg.solve(_damped(squares, RIDGE), np.swapaxes(right, 1, 2))
    return np.swapaxes(turned, 1, 2)


def _damped(squares: Moments, share: float) -> Moments:
    damped: Moments = squares + share * level(squares)[:, :, None] * np.eye(squares.shape[-1])
    return damped


def _bias(
    holder: ir.Node,
    bias: Bias,
    product: Product,
    weights: tuple[NDArray[np.float32], NDArray[np.float32]],
    seen: Comoments,
) -> NDArray[np.float32]:
    """The bias and the difference of the means."""
    number = constant_of(holder.inputs[bias.index])
    assert number is not None  # the planner took only constant biases
    wanted, found = (
        np.einsum("gmk,gk->gm", product.rows(weight).astype(np.float64), mean)
        for weight, mean in zip(weights, (seen.wanted, seen.found), strict=True)
    )
    moved: NDArray[np.float32] = (number + (wanted - found).ravel()).astype(np.float32)
    return moved
