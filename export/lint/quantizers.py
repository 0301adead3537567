"""QuantizeLinear and DequantizeLinear as runtimes take them, TensorRT first.

Sources: NVIDIA TensorRT developer guide, "Explicit quantization"; ``NvInfer.h``, IQuantizeLayer and
IDequantizeLayer; onnx/onnx-tensorrt docs/operators.md.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from edgec.export.lint.base import (
    DEQUANTIZE,
    QUANTIZE,
    Context,
    Hit,
    array_of,
    input_at,
    is_standard,
    producer,
    readers,
)
from edgec.export.lint.tensors import type_name
from edgec.export.quantize.operands import is_depthwise
from edgec.export.quantize.weights import is_pair_safe, per_channel
from edgec.export.rewrite.graph import int_attr

_STORED = frozenset({"int8", "uint8", "int4", "uint4"})


def nonzero_zero_point(context: Context) -> Iterator[Hit]:
    """E201: quantization is symmetric; the zero point is a constant of zeros."""
    for node in context.of_type(QUANTIZE, DEQUANTIZE):
        point = input_at(node, 2)
        if point is None:
            continue
        array = array_of(point)
        if array is None or np.any(array != 0):
            what = (
                "computed" if array is None else f"{array.ravel()[np.argmax(array.ravel() != 0)]}"
            )
            yield Hit(
                node,
                f"the zero point is {what}; TensorRT quantizes symmetrically",
                "quantize with scheme tensorrt (symmetric int8)",
            )


def unsigned(context: Context) -> Iterator[Hit]:
    """E202: integers other than the signed ones of the runtime's table."""
    row = context.table.find("", DEQUANTIZE)
    allowed = (row.types if row is not None else frozenset()) | {"int8"}
    for node in context.of_type(QUANTIZE, DEQUANTIZE):
        if node.op_type == DEQUANTIZE:
            if is_standard(producer(input_at(node, 0)), QUANTIZE):
                continue  # reported there
            dtype = type_name(input_at(node, 0))
            if dtype == "int32":
                continue  # E203
        else:
            # without a zero point and output type, ONNX defines uint8
            dtype = type_name(node.outputs[0]) or type_name(input_at(node, 2)) or "uint8"
        if dtype is not None and dtype not in allowed:
            yield Hit(
                node,
                f"{node.op_type} with {dtype}; {context.runtime} takes "
                f"{', '.join(sorted(allowed))}",
                "quantize with scheme tensorrt (symmetric int8)",
            )


def integer_bias(context: Context) -> Iterator[Hit]:
    """E203: a bias stored as int32 behind a DequantizeLinear."""
    for node in context.of_type(DEQUANTIZE):
        if type_name(input_at(node, 0)) == "int32":
            yield Hit(
                node,
                "an int32 bias with DequantizeLinear is refused by TensorRT",
                "leave the bias in float: TensorRT quantizes it itself",
            )


def per_channel_activation(context: Context) -> Iterator[Hit]:
    """E204: one scale per channel on a tensor that is computed, not a weight."""
    for node in context.of_type(QUANTIZE, DEQUANTIZE):
        scale = input_at(node, 1)
        if _size(scale) > 1 and not context.is_constant(input_at(node, 0)):
            if node.op_type == DEQUANTIZE and is_standard(producer(input_at(node, 0)), QUANTIZE):
                continue  # reported at its QuantizeLinear
            yield Hit(
                node,
                f"an activation has {_size(scale)} scales; TensorRT takes one per tensor",
                "quantize activations per tensor; only weights may have a scale per channel",
            )


def weight_axis(context: Context) -> Iterator[Hit]:
    """E205: scales of a weight along another axis than its output channels."""
    for node in context.of_type(DEQUANTIZE):
        rank = _rank(node.outputs[0]) or _rank(input_at(node, 0))
        if _size(input_at(node, 1)) <= 1 or rank is None:
            continue
        if not context.is_constant(input_at(node, 0)):
            continue
        axis = int_attr(node, "axis", 1) % rank
        for user, index in readers(node.outputs[0]):
            want = _channel_axis(user, index, rank)
            if want is not None and want != axis:
                yield Hit(
                    node,
                    f"the weight of {user.op_type} {user.name!r} has its scales along axis {axis}, "
                    f"its output channels are axis {want}",
                    f"quantize the weight along axis {want}",
                )


def bad_scale(context: Context) -> Iterator[Hit]:
    """E206: a scale that is computed, zero, negative or not finite."""
    for node in context.of_type(QUANTIZE, DEQUANTIZE):
        scale = input_at(node, 1)
        if not context.is_constant(scale):
            what = "computed at run time"
        else:
            array = array_of(scale)
            if array is None or bool(np.all(np.isfinite(array) & (array > 0))):
                continue
            what = f"{array.ravel()[np.argmin(np.isfinite(array) & (array > 0))]}"
        yield Hit(
            node,
            f"the scale is {what}; TensorRT takes positive constants",
            "calibrate again: a channel that is always zero needs a small positive scale",
        )


def scalar(context: Context) -> Iterator[Hit]:
    """E213: a tensor without dimensions that is quantized."""
    for node in context.of_type(QUANTIZE):
        if _rank(input_at(node, 0)) == 0:
            yield Hit(
                node,
                "QuantizeLinear reads a scalar; TensorRT takes tensors of at least one dimension",
                "leave the scalar in float: nothing is gained by quantizing one number",
            )


def other_scale_type(context: Context) -> Iterator[Hit]:
    """E214: a scale in another float type than what it scales."""
    for node in context.of_type(QUANTIZE):
        data, scale = type_name(input_at(node, 0)), type_name(input_at(node, 1))
        if data is not None and scale is not None and data != scale:
            yield Hit(
                node,
                f"the scale is {scale}, the tensor {data}; strongly typed networks take one type",
                f"write the scale as {data}",
            )


def stray_constant(context: Context) -> Iterator[Hit]:
    """E207: a constant stored in 8 bits that something else than a DequantizeLinear reads."""
    seen: set[ir.Value] = set()
    for node in context.nodes:
        for index, value in enumerate(node.inputs):
            if value is None or type_name(value) not in _STORED or value in seen:
                continue
            is_stored = value.const_value is not None or is_standard(producer(value), "Constant")
            point = is_standard(node, QUANTIZE, DEQUANTIZE) and index == 2
            if not is_stored or point or (is_standard(node, DEQUANTIZE) and index == 0):
                continue
            seen.add(value)
            yield Hit(
                node,
                f"the {type_name(value)} constant {value.name!r} feeds {node.op_type}; TensorRT "
                "builds no engine unless DequantizeLinear reads it directly",
                "move DequantizeLinear before this node, or keep the constant in float",
            )


def saturating_weight(context: Context) -> Iterator[Hit]:
    """W212: int8 weights whose products saturate where the CPU has no VNNI."""
    if context.target.int8_scheme != "ort-x86":
        return
    for node in context.of_type(DEQUANTIZE):
        stored = array_of(input_at(node, 0))
        if stored is None or stored.dtype != np.int8 or stored.ndim < 2:
            continue
        for user, index in readers(node.outputs[0]):
            axis = _channel_axis(user, index, stored.ndim)
            if axis is None or is_depthwise(user, stored.shape) or _reads_16_bits(user):
                continue
            if not is_pair_safe(per_channel(stored, axis)):
                yield Hit(
                    user,
                    "pairs of its 8-bit weights saturate on x86 without VNNI",
                    "quantize the float network for this target, or run it as .tflite",
                )


def _reads_16_bits(user: ir.Node) -> bool:
    """Whether an operand comes from integers of 16 bits, whose products are computed in float."""
    producers = [value.producer() for value in user.inputs if value is not None]
    stored = [p.inputs[0] for p in producers if p is not None and p.op_type == DEQUANTIZE]
    wide = (ir.DataType.INT16, ir.DataType.UINT16)
    return any(value is not None and value.dtype in wide for value in stored)


def _channel_axis(user: ir.Node, index: int, rank: int) -> int | None:
    """Axis of the output channels of a weight that `user` reads at input `index`."""
    if index == 1 and is_standard(user, "Conv"):
        return 0
    if index == 1 and is_standard(user, "ConvTranspose"):
        return 1
    if is_standard(user, "MatMul"):
        return rank - 1 if index == 1 else rank - 2 if rank > 1 else None
    if index == 1 and is_standard(user, "Gemm"):
        return 0 if int_attr(user, "transB", 0) else 1
    return None


def _size(value: ir.Value | None) -> int:
    array = array_of(value)
    if array is not None:
        return int(array.size)
    shape = None if value is None else value.shape
    return int(np.prod(shape.numpy())) if shape is not None and shape.is_static() else 1


def _rank(value: ir.Value | None) -> int | None:
    return None if value is None or value.shape is None else len(value.shape)
