"""Where quantizers stand: placements that are legal and cost TensorRT its fused kernels.

Sources: NVIDIA TensorRT developer guide, "Q/DQ placement recommendations"; the placement of
NVIDIA's TensorFlow quantization toolkit ("ResNetV1QDQCase") and of nvidia-modelopt.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from edgec.export.lint.base import (
    DEQUANTIZE,
    QUANTIZE,
    WEIGHTED,
    Context,
    Hit,
    input_at,
    is_standard,
    producer,
    readers,
)

_ACTIVATIONS = (
    "Relu",
    "Clip",
    "LeakyRelu",
    "PRelu",
    "HardSwish",
    "HardSigmoid",
    "Sigmoid",
    "Gelu",
    "Elu",
    "Selu",
    "Mish",
    "BatchNormalization",
)


def double_pair(context: Context) -> Iterator[Hit]:
    """W208: a tensor that is quantized twice."""
    reported: set[ir.Value] = set()
    for node in context.of_type(QUANTIZE):
        value = input_at(node, 0)
        if value is None:
            continue
        if is_standard(producer(value), DEQUANTIZE):
            yield Hit(
                node,
                "QuantizeLinear behind DequantizeLinear: the tensor is quantized twice",
                "remove one pair; the second one rounds again and blocks fusion",
            )
        others = [n for n, i in readers(value) if i == 0 and is_standard(n, QUANTIZE)]
        if len(others) > 1 and value not in reported:
            reported.add(value)
            yield Hit(
                node,
                f"{len(others)} QuantizeLinear read {value.name!r}",
                "let all readers share one pair",
            )


def before_activation(context: Context) -> Iterator[Hit]:
    """W209: Q/DQ between an operator and the activation that would fuse with it."""
    for node in context.of_type(*_ACTIVATIONS):
        source = _behind_pair(input_at(node, 0))
        origin = producer(source)
        if is_standard(origin, *WEIGHTED):
            assert origin is not None
            yield Hit(
                node,
                f"Q/DQ stands between {origin.op_type} {origin.name!r} and {node.op_type}, "
                "which can then not be one kernel",
                f"quantize behind {node.op_type} instead",
            )


def single_arm(context: Context) -> Iterator[Hit]:
    """W210: a residual Add of one quantized and one float arm.

    A float arm that comes straight from a weighted operator is right: that operator, the Add and
    the activation behind it become one kernel.
    """
    for node in context.of_type("Add"):
        arms = [input_at(node, 0), input_at(node, 1)]
        if any(context.is_constant(arm) for arm in arms):
            continue
        quantized = [is_standard(producer(arm), DEQUANTIZE) for arm in arms]
        if sum(quantized) != 1:
            continue
        other = arms[quantized.index(False)]
        if not is_standard(_weighted_origin(context, other), *WEIGHTED):
            yield Hit(
                node,
                f"one arm of the Add is quantized, {other.name if other else None!r} is not",
                "quantize the skip connection too, or neither arm",
            )


def island(context: Context) -> Iterator[Hit]:
    """W211: an operator with one quantized operand: it computes in float all the same."""
    for node in context.of_type(*WEIGHTED):
        quantized = [is_standard(producer(input_at(node, i)), DEQUANTIZE) for i in (0, 1)]
        if sum(quantized) == 1:
            missing = "data" if quantized[1] else "weight"
            yield Hit(
                node,
                f"only one operand of {node.op_type} is quantized, its {missing} is float: the "
                "integer kernel cannot be used",
                f"quantize its {missing} too, or leave both in float",
            )


def _behind_pair(value: ir.Value | None) -> ir.Value | None:
    """What a QuantizeLinear-DequantizeLinear pair that makes `value` reads; None without one."""
    dequantize = producer(value)
    if not is_standard(dequantize, DEQUANTIZE):
        return None
    assert dequantize is not None
    quantize = producer(input_at(dequantize, 0))
    if not is_standard(quantize, QUANTIZE):
        return None
    assert quantize is not None
    return input_at(quantize, 0)


def _weighted_origin(context: Context, value: ir.Value | None) -> ir.Node | None:
    """The node behind `value`, seen through the addition of a constant bias."""
    node = producer(value)
    if is_standard(node, "Add"):
        assert node is not None
        for index in (0, 1):
            if context.is_constant(input_at(node, index)):
                return producer(input_at(node, 1 - index))
    return node
