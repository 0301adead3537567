"""Linear operators: bounds of their outputs, and which constant inputs the bias can take over."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgec.export.rewrite.channels import interval
from edgec.export.rewrite.channels.constants import Constant, Floats, read_constant
from edgec.export.rewrite.channels.interval import ANY
from edgec.export.rewrite.channels.relations import Analysis, Channels, Linear, Mask, Whole
from edgec.export.rewrite.graph import (
    constant,
    float_attr,
    int_attr,
    ints,
    is_op,
    shape_of,
    str_attr,
)

_INT32_MAX = 2**31 - 1
_MAX_STEPS = 255
"""Largest distance of an 8-bit activation from its zero point."""


def linear(node: ir.Node, analysis: Analysis) -> bool:
    """Rule for Conv, ConvTranspose (one group), Gemm (alpha = beta = 1) and MatMul."""
    x, output = node.inputs[0], node.outputs[0]
    stored = read_constant(node.inputs[1])
    shape = shape_of(output)
    if x is None or stored is None or shape is None or node.inputs[1] in analysis.channels:
        return False
    own, weight = shape_of(x), _grouped(node, stored.real)
    if weight is None or own is None or len(own) < 2:
        return False
    last = is_op(node, "MatMul")
    axis_in, axis_out = (len(own) - 1, len(shape) - 1) if last else (1, 1)
    groups, per_group, inputs, _ = weight.shape
    bias: Floats = np.zeros((groups, per_group))
    given = node.inputs[2] if len(node.inputs) > 2 else None
    if given is not None:
        number = read_constant(given)
        if number is None or number.real.size != bias.size or number.real.shape[-1] != bias.size:
            return False
        bias = number.real.astype(np.float64).reshape(groups, per_group)
    known = analysis.channels.get(x)
    fits = known is not None and known.axis == axis_in
    bounds = ANY if known is None else known.bounds
    if known is not None and not fits:
        bounds = bounds.hull()
        analysis.relations.append(Whole((x,)))
    varies_at_border = _padded(node)
    reach = bounds.with_value(0.0) if varies_at_border else bounds
    result = interval.weighted_sum(weight, reach, bias)
    fold: Mask = np.zeros(groups * inputs, bool)
    values: Floats = np.zeros(groups * inputs)
    if fits:
        fold = bounds.fixed.copy()
        values = np.where(fold, bounds.low, 0.0)
        if varies_at_border or not _bias_takes(node, stored):
            fold &= values == 0.0
    source, axes = (x if fits else None), _stored_axes(node)
    analysis.relations.append(
        Linear(node, source, output, weight, axes, groups, fold, values, stored)
    )
    analysis.channels[output] = Channels(axis_out, result)
    return True


def _grouped(node: ir.Node, stored: NDArray[Any]) -> NDArray[Any] | None:
    """Weights as (groups, outputs, inputs, taps); None for forms that are left alone."""
    if is_op(node, "Conv"):
        groups = int_attr(node, "group", 1)
        return stored.reshape(groups, stored.shape[0] // groups, stored.shape[1], -1)
    if is_op(node, "ConvTranspose"):
        if int_attr(node, "group", 1) != 1:
            return None
        turned = np.moveaxis(stored, 1, 0)
        return turned.reshape(1, turned.shape[0], turned.shape[1], -1)
    if stored.ndim != 2:
        return None
    if is_op(node, "Gemm"):
        scaled = float_attr(node, "alpha", 1.0) != 1.0 or float_attr(node, "beta", 1.0) != 1.0
        if scaled or int_attr(node, "transA", 0):
            return None
        if int_attr(node, "transB", 0):
            return stored[None, :, :, None]
    return stored.T[None, :, :, None]


def _stored_axes(node: ir.Node) -> tuple[int, int]:
    """Axes of output and input channels in the stored weight."""
    if is_op(node, "Conv") or (is_op(node, "Gemm") and int_attr(node, "transB", 0)):
        return 0, 1
    return 1, 0


def _padded(node: ir.Node) -> bool:
    """Whether some outputs see fewer inputs than others."""
    if is_op(node, "ConvTranspose"):
        return True
    if not is_op(node, "Conv"):
        return False
    if str_attr(node, "auto_pad", "NOTSET") in ("SAME_UPPER", "SAME_LOWER"):
        return True
    return any(ints(node, "pads") or ())


def _bias_takes(node: ir.Node, weight: Constant) -> bool:
    """Whether a constant contribution can be added to the bias without changing any result.

    Integer arithmetic needs an int32 bias on the scale of the accumulator, where the addition is
    exact. In float arithmetic any bias will do.
    """
    grid = accumulator_grid(node, weight)
    given = node.inputs[2] if len(node.inputs) > 2 else None
    if grid is None:
        return given is None or constant(given) is not None
    if is_op(node, "MatMul") or weight.integers is None:
        return False
    largest = _MAX_STEPS * int(np.abs(weight.integers).sum())
    if given is not None:
        bias = read_constant(given)
        if bias is None or bias.integers is None or bias.scale is None:
            return False
        if not np.allclose(bias.scale, grid, rtol=1e-6, atol=0.0):
            return False
        largest += int(np.abs(bias.integers).max(initial=0))
    return largest <= _INT32_MAX


def accumulator_grid(node: ir.Node, weight: Constant) -> Floats | None:
    """s_x·s_w, a scalar or one per output; None unless input and weight are both integers."""
    quantizer = node.inputs[0].producer() if node.inputs[0] is not None else None
    if weight.scale is None or quantizer is None or not is_op(quantizer, "DequantizeLinear"):
        return None
    scale = constant(quantizer.inputs[1])
    if scale is None or scale.size != 1:
        return None
    return np.asarray(scale.reshape(()) * weight.scale, np.float64)


def contribution(relation: Linear, removed: Mask) -> Floats:
    """What the removed constant inputs add to each output, in real numbers."""
    values = np.where(removed & relation.fold, relation.constant, 0.0)
    grouped = values.reshape(relation.groups, -1)
    total = np.einsum("gmct,gc->gm", relation.weight, grouped)
    return np.asarray(total.reshape(-1))


def integer_contribution(relation: Linear, removed: Mask) -> NDArray[np.int64]:
    """The same in steps s_x·s_w of the accumulator: a sum of integers, so exact."""
    quantizer = relation.node.inputs[0].producer()  # type: ignore[union-attr]
    scale = constant(quantizer.inputs[1]) if quantizer is not None else None
    stored = relation.stored.integers
    if scale is None or stored is None:
        raise ValueError(f"{relation.node.name} does not compute on integers")
    values = np.where(removed & relation.fold, relation.constant, 0.0)
    steps = np.rint(values / float(scale.reshape(()))).astype(np.int64)
    weight = _grouped(relation.node, stored)
    assert weight is not None
    grouped = steps.reshape(relation.groups, -1)
    return np.asarray(np.einsum("gmct,gc->gm", weight, grouped).reshape(-1), np.int64)
