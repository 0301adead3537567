"""Versions of builtin operators: the oldest one that has the types and options used.

Source: tensorflow/lite/tools/versioning/op_version.cc. An interpreter refuses a version above what
its kernels are registered for, so that a file names the lowest one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from edgec.export.tflite.model import ABSENT, Operator, Tensor

_Rule = Callable[[Operator, Sequence[Tensor]], int]

# (int8, int16) versions of operators that have version 1 for floats
_BY_TYPE: Mapping[str, tuple[int, int]] = {
    "ABS": (2, 3),
    "ADD": (2, 3),
    "AVERAGE_POOL_2D": (2, 3),
    "BATCH_MATMUL": (2, 3),
    "CONCATENATION": (2, 3),
    "EXP": (2, 2),
    "GATHER": (2, 4),
    "GELU": (2, 2),
    "L2_NORMALIZATION": (2, 2),
    "LEAKY_RELU": (2, 2),
    "LOGISTIC": (2, 3),
    "LOG_SOFTMAX": (2, 2),
    "MAXIMUM": (2, 3),
    "MAX_POOL_2D": (2, 3),
    "MEAN": (2, 3),
    "MINIMUM": (2, 3),
    "MIRROR_PAD": (2, 3),
    "MUL": (2, 4),
    "PAD": (2, 3),
    "PADV2": (2, 3),
    "REDUCE_MAX": (2, 3),
    "REDUCE_MIN": (2, 3),
    "RELU": (2, 3),
    "RELU6": (2, 3),
    "SLICE": (2, 4),
    "SOFTMAX": (2, 3),
    "SPACE_TO_DEPTH": (2, 2),
    "DEPTH_TO_SPACE": (2, 2),
    "SPLIT": (2, 4),
    "SPLIT_V": (2, 2),
    "SQUARED_DIFFERENCE": (2, 2),
    "STRIDED_SLICE": (2, 4),
    "SUB": (2, 5),
    "SUM": (2, 2),
    "TANH": (2, 3),
    "TILE": (3, 3),
    "TRANSPOSE": (2, 3),
}
_RANKED: Mapping[str, int] = {
    "SLICE": 5,
    "STRIDED_SLICE": 4,
    "PAD": 3,
    "SUB": 3,
}
"""Operators that take more than four dimensions only from this version on."""


def version(operator: Operator, tensors: Sequence[Tensor]) -> int:
    """The version to write for `operator`, whose indices refer to `tensors`."""
    present = [tensors[i] for i in operator.inputs if i != ABSENT]
    if operator.code in _SPECIAL:
        return _SPECIAL[operator.code](operator, present)
    first = present[0].dtype
    result = 1
    if operator.code in _BY_TYPE:
        result = {"INT8": _BY_TYPE[operator.code][0], "INT16": _BY_TYPE[operator.code][1]}.get(
            first, 1
        )
    if operator.code in _RANKED and max(len(t.shape) for t in present) > 4:
        result = max(result, _RANKED[operator.code])
    return result


def _convolution(operator: Operator, inputs: Sequence[Tensor]) -> int:
    x, weight = inputs[:2]
    channels = weight.quantization is not None and weight.quantization.per_channel
    if operator.code == "DEPTHWISE_CONV_2D":
        if x.dtype == "INT8":
            return 3
        if x.dtype == "INT16":
            return 5
        if weight.dtype == "INT8":
            return 6 if channels else 4
        dilated = {operator.options.get(f"dilation_{a}_factor", 1) for a in "wh"} != {1}
        return 2 if dilated else 1
    if x.shape[-1] != weight.shape[-1]:
        return 6
    if x.dtype == "INT8":
        return 3
    if x.dtype == "INT16":
        return 4
    if weight.dtype == "INT8":
        return 5 if channels else 2
    return 1


def _fully_connected(operator: Operator, inputs: Sequence[Tensor]) -> int:
    x, weight = inputs[:2]
    channels = weight.quantization is not None and weight.quantization.per_channel
    if channels and weight.dtype == "INT8":
        return 12
    if x.dtype == "INT16":
        return 7
    keep = bool(operator.options.get("keep_num_dims"))
    if operator.options.get("asymmetric_quantize_inputs"):
        return 9
    if len(inputs) < 3:
        return 6
    if keep:
        return 5
    if x.dtype == "INT8":
        return 4
    return 3 if weight.dtype == "INT8" else 1


def _transpose_convolution(operator: Operator, inputs: Sequence[Tensor]) -> int:
    if operator.options.get("fused_activation_function", "NONE") != "NONE":
        return 4
    if len(inputs) == 4:
        return 3
    return 2 if inputs[2].dtype == "INT8" else 1


def _transpose(operator: Operator, inputs: Sequence[Tensor]) -> int:
    rank = len(inputs[0].shape)
    if rank > 5:
        return 6
    if rank > 4:
        return 4
    return {"INT8": 2, "INT16": 5}.get(inputs[0].dtype, 1)


def _resize(operator: Operator, inputs: Sequence[Tensor]) -> int:
    if inputs[0].dtype == "INT16":
        return 4
    if operator.options.get("half_pixel_centers") or (
        operator.code == "RESIZE_NEAREST_NEIGHBOR" and operator.options.get("align_corners")
    ):
        return 3
    return 2 if inputs[0].dtype == "INT8" else 1


def _quantize(operator: Operator, inputs: Sequence[Tensor]) -> int:
    dtype = inputs[0].dtype
    return 1 if dtype == "FLOAT32" else 3 if dtype == "INT16" else 2


def _dequantize(operator: Operator, inputs: Sequence[Tensor]) -> int:
    x = inputs[0]
    if x.quantization is not None and x.quantization.per_channel:
        return 5
    return {"INT8": 2, "INT16": 3, "FLOAT16": 3}.get(x.dtype, 1)


_SPECIAL: Mapping[str, _Rule] = {
    "CONV_2D": _convolution,
    "DEPTHWISE_CONV_2D": _convolution,
    "FULLY_CONNECTED": _fully_connected,
    "TRANSPOSE_CONV": _transpose_convolution,
    "TRANSPOSE": _transpose,
    "RESIZE_BILINEAR": _resize,
    "RESIZE_NEAREST_NEIGHBOR": _resize,
    "QUANTIZE": _quantize,
    "DEQUANTIZE": _dequantize,
    "BROADCAST_TO": lambda operator, inputs: 2,
}
