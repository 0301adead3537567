"""Two linear operators in a row become one where that saves work.

Low-rank layers are trained as products of two or three factors without anything between them
(MCUFormer, LoRA-like adapters), and 1×1 convolutions follow convolutions directly in some stems.
The product of the weights is exact; whether it is cheaper depends on the sizes alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgec.export.rewrite.base import RewritePass
from edgec.export.rewrite.fold.merge_parallel import linear_behind
from edgec.export.rewrite.graph import (
    Array,
    Builder,
    int_attr,
    ints,
    is_op,
    remove_dead,
    replace_value,
    shape_of,
    str_attr,
)
from edgec.export.rewrite.linear import Linear, match_linear, rebuilt


@dataclass(frozen=True)
class _Merged:
    """What replaces the pair: `base` (for its geometry) with other weights, read from first's x."""

    base: Linear
    weight: Callable[[], tuple[Array, Array | None]]
    size: int
    macs: int


class MergeLinearChains(RewritePass):
    """MatMul/Gemm after MatMul/Gemm, 1×1 Conv after Conv, Conv after 1×1 Conv.

    Refuses if multiply-accumulates or stored weights would grow, if the tensor in between has
    another reader, if a bias would have to cross zero padding, and with groups.
    """

    name = "merge-linear-chains"
    change = "B·(A·x + a) + b → (B·A)·x + (B·a + b) where that saves MACs and bytes"

    def rewrite(self, graph: ir.Graph) -> int:
        count = 0
        for node in graph:
            second = match_linear(node)
            source = None if second is None else second.node.inputs[0]
            if second is None or source is None or source.producer() is None:
                continue
            first = linear_behind(source, node)
            if first is None or first.node.graph is not graph or first.last.graph is not graph:
                continue
            merged = _merge(first, second)
            if isinstance(merged, str):
                self.refuse(node, merged)
                continue
            weight, bias = merged.weight()
            builder = Builder(second.last, second.node)
            x = first.node.inputs[0]
            result = rebuilt(merged.base, builder, weight, bias, x)
            replace_value(second.output, result)
            remove_dead([second.last])
            count += 1
        return count


def _merge(first: Linear, second: Linear) -> _Merged | str:
    """The one operator for both, or why not."""
    if first.weight.dtype != second.weight.dtype:
        return "the weights have different types"
    if is_op(first.node, "MatMul", "Gemm") and is_op(second.node, "MatMul", "Gemm"):
        merged = _matrices(first, second)
    elif is_op(first.node, "Conv") and is_op(second.node, "Conv"):
        merged = _convolutions(first, second)
    else:
        return "a convolution and a matrix"
    if isinstance(merged, str):
        return merged
    macs = _macs(first) + _macs(second)
    stored = sum(_stored(linear) for linear in (first, second))
    if merged.macs > macs or merged.size > stored:
        return f"{merged.macs} MACs and {merged.size} weights instead of {macs} and {stored}"
    return merged


def _macs(linear: Linear) -> int:
    """Multiply-accumulates of one inference."""
    positions = math.prod(shape_of(linear.output) or ()) // linear.channels
    return int(positions * linear.weight.size)


def _stored(linear: Linear) -> int:
    """Weights that go when the operator goes: shared ones stay."""
    value = linear.node.inputs[1]
    return linear.weight.size if value is not None and len(value.uses()) == 1 else 0


def _rows(linear: Linear) -> Array:
    """The weights as (inputs, outputs) in double precision."""
    weight: Array = linear.weight.astype(np.float64)
    return weight if linear.weight_axis == 1 else weight.T


def _matrices(first: Linear, second: Linear) -> _Merged | str:
    if any(int_attr(linear.node, "transA", 0) for linear in (first, second)):
        return "the input is transposed"
    inputs = first.weight.size // first.channels
    size = inputs * second.channels
    positions = math.prod(shape_of(second.output) or ()) // second.channels

    def weight() -> tuple[Array, Array | None]:
        tail = _rows(second)
        product = _rows(first) @ tail
        bias = None if second.bias is None else second.bias.astype(np.float64)
        if first.bias is not None:
            bias = first.bias.astype(np.float64) @ tail + (0.0 if bias is None else bias)
        return (product if second.weight_axis == 1 else product.T), bias

    return _Merged(second, weight, size, positions * size)


def _convolutions(first: Linear, second: Linear) -> _Merged | str:
    if first.groups > 1 or second.groups > 1:
        return "the convolution has groups"
    if first.weight.ndim != second.weight.ndim:
        return "the convolutions differ in rank"
    if _is_pointwise(second.node, second.weight):
        return _pointwise_last(first, second)
    if _is_pointwise(first.node, first.weight):
        return _pointwise_first(first, second)
    return "neither convolution is 1×1 with stride 1"


def _pointwise_last(first: Linear, second: Linear) -> _Merged:
    """Any convolution, then a 1×1: every output position is mixed by itself, border included."""
    inputs, kernel = first.weight.shape[1], first.weight.shape[2:]
    size = second.channels * inputs * math.prod(kernel)
    positions = math.prod(shape_of(second.output) or ()) // second.channels

    def weight() -> tuple[Array, Array | None]:
        mix = second.weight.astype(np.float64).reshape(second.channels, -1)
        product = np.tensordot(mix, first.weight.astype(np.float64), axes=1)
        bias = None if second.bias is None else second.bias.astype(np.float64)
        if first.bias is not None:
            bias = mix @ first.bias.astype(np.float64) + (0.0 if bias is None else bias)
        return product, bias

    return _Merged(first, weight, size, positions * size)


def _pointwise_first(first: Linear, second: Linear) -> _Merged | str:
    """A 1×1, then any convolution; zero padding comes after the 1×1 and its bias."""
    biased = first.bias is not None and bool(first.bias.any())
    if biased and _is_padded(second.node):
        return "the padding of the second convolution is zero, not the first one's bias"
    inputs, kernel = first.weight.shape[1], second.weight.shape[2:]
    size = second.channels * inputs * math.prod(kernel)
    positions = math.prod(shape_of(second.output) or ()) // second.channels

    def weight() -> tuple[Array, Array | None]:
        mix = first.weight.astype(np.float64).reshape(first.channels, -1)
        tail = second.weight.astype(np.float64)
        product = np.moveaxis(np.tensordot(tail, mix, axes=(1, 0)), -1, 1)
        bias = None if second.bias is None else second.bias.astype(np.float64)
        if first.bias is not None and biased:
            extra = np.tensordot(tail.sum(tuple(range(2, tail.ndim))), first.bias, axes=1)
            bias = extra + (0.0 if bias is None else bias)
        return product, bias

    return _Merged(second, weight, size, positions * size)


def _is_pointwise(node: ir.Node, weight: Array) -> bool:
    strides = ints(node, "strides") or (1,)
    return set(weight.shape[2:]) == {1} and set(strides) == {1} and not _is_padded(node)


def _is_padded(node: ir.Node) -> bool:
    automatic = str_attr(node, "auto_pad", "NOTSET") not in ("NOTSET", "VALID")
    return automatic or any(ints(node, "pads") or ())
