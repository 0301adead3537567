"""Whether the GPU delegate takes an operator.

Source: ``CheckGpuDelegateCompatibility`` of tensorflow/lite/tools/versioning/gpu_compatibility.cc,
with broadcasting as its caller for files assumes it, and, for the number of dimensions,
``ExtractTensorShape`` of tensorflow/lite/delegates/gpu/common/model_builder_helper.cc. Conditions
that a valid file meets anyway are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from edgec.export.emit.tflite.delegates.call import Call
from edgec.targets.operators.delegates import DelegateTable

_TYPES = frozenset({"FLOAT32", "FLOAT16", "INT8", "UINT8", "INT32", "BOOL"})
"""The delegate computes in float; 8-bit integers are converted (quantized models are taken by
default), indices are int32, conditions bool."""
_MOST_AXES = 4
_UNARY = frozenset(
    "ABS CEIL COS ELU EXP FLOOR GELU LOG LOGISTIC NEG RSQRT SIGN SIN SQRT SQUARE TANH".split()
)
_BINARY = frozenset(
    "ATAN2 DIV EQUAL FLOOR_DIV FLOOR_MOD GREATER GREATER_EQUAL LOGICAL_AND LESS LESS_EQUAL MAXIMUM "
    "MINIMUM NOT_EQUAL POW SQUARED_DIFFERENCE SUB".split()
)
_SINGLE = frozenset(
    "AVERAGE_POOL_2D MAX_POOL_2D CAST DEPTH_TO_SPACE SPACE_TO_DEPTH HARD_SWISH QUANTIZE RESHAPE "
    "TILE TRANSPOSE RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR PAD PADV2 MIRROR_PAD MEAN SUM "
    "REDUCE_MAX REDUCE_MIN REDUCE_PROD".split()
)
"""Operators with one computed input, whatever else they read."""


def obstacle(call: Call, table: DelegateTable) -> str:
    """Why the delegate leaves the operator to the CPU; empty if it takes it."""
    if call.code not in table.operators:
        return f"the {table.title} has no {call.code}"
    for tensor in (*call.computed, *call.outputs):
        if tensor.dtype not in _TYPES:
            return f"{tensor.dtype.lower()} tensors"
        if not 1 <= len(tensor.shape) <= _MOST_AXES:
            return f"{len(tensor.shape)} dimensions"
    computed = len(call.computed)
    if call.code in _UNARY | _SINGLE and computed != 1:
        return f"{computed} computed inputs"
    if call.code in _BINARY and computed not in (1, 2):
        return f"{computed} computed inputs"
    rule = _RULES.get(call.code)
    return "" if rule is None else rule(call)


def _two_inputs(call: Call) -> str:
    return "" if len(call.inputs) == 2 else f"{len(call.inputs)} inputs"


def _multiply(call: Call) -> str:
    one, other = (t.shape for t in call.inputs)
    if len(one) != len(other):
        return ""
    smaller = any(a < b for a, b in zip(one, other, strict=True))
    larger = any(a > b for a, b in zip(one, other, strict=True))
    return "operands that broadcast against each other" if smaller and larger else ""


def _depthwise(call: Call) -> str:
    multiplier = call.operator.options.get("depth_multiplier", 1)
    if multiplier != 1 and call.inputs[0].shape[-1] != 1:
        return f"depth multiplier {multiplier} on several channels"
    return _convolution(call)


def _convolution(call: Call) -> str:
    return "" if len(call.computed) <= 2 else "a computed bias"


def _linear(call: Call) -> str:
    if call.constant[0]:
        return "a constant input"
    if len(call.computed) > 2:
        return "a computed bias"
    kept = call.operator.options.get("keep_num_dims")
    if kept and len(call.inputs[0].shape) != len(call.outputs[0].shape):
        return "kept dimensions"
    return ""


def _gather(call: Call) -> str:
    if call.inputs[0].dtype == "INT32":
        return "int32 data"
    if len(call.inputs[1].shape) != 1 or call.inputs[1].dtype != "INT32":
        return "indices that are no int32 vector"
    return ""


def _slice(call: Call) -> str:
    rank = len(call.inputs[0].shape)
    return "" if rank in (3, 4) else f"{rank} dimensions"


def _strided_slice(call: Call) -> str:
    masks = ("ellipsis_mask", "new_axis_mask", "shrink_axis_mask")
    used = [name for name in masks if call.operator.options.get(name)]
    return used[0] if used else _slice(call)


def _softmax(call: Call) -> str:
    beta = call.operator.options.get("beta", 1.0)
    return "" if beta == 1 else f"beta = {beta}"


def _pad(call: Call) -> str:
    if call.code == "MIRROR_PAD" and call.operator.options.get("mode") != "REFLECT":
        return "symmetric padding"
    rows = call.inputs[1].shape[0]
    return "" if rows in (3, 4) else f"{rows} dimensions"


def _reduce(call: Call) -> str:
    if call.axes is None:
        return "computed axes"
    return "" if call.inputs[1].dtype == "INT32" else f"{call.inputs[1].dtype} axes"


def _dequantize(call: Call) -> str:
    return "int16 integers" if call.inputs[0].dtype == "INT16" else ""


def _cast(call: Call) -> str:
    ends = {call.inputs[0].dtype, call.outputs[0].dtype}
    floats = {"FLOAT32", "FLOAT16"}
    if ends <= floats | {"BOOL"} and len(ends & floats) == 1 and "BOOL" in ends:
        return ""
    return "" if ends <= {"FLOAT32", "INT32"} else " to ".join(sorted(ends))


_RULES: Mapping[str, Callable[[Call], str]] = {
    "ADD": _two_inputs,
    "ADD_N": _two_inputs,
    "BATCH_MATMUL": _two_inputs,
    "CAST": _cast,
    "CONV_2D": _convolution,
    "DEPTHWISE_CONV_2D": _depthwise,
    "DEQUANTIZE": _dequantize,
    "FULLY_CONNECTED": _linear,
    "GATHER": _gather,
    "MUL": _multiply,
    **dict.fromkeys(("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_PROD"), _reduce),
    **dict.fromkeys(("PAD", "PADV2", "MIRROR_PAD"), _pad),
    "SLICE": _slice,
    "SOFTMAX": _softmax,
    "STRIDED_SLICE": _strided_slice,
    "TRANSPOSE_CONV": _convolution,
}
