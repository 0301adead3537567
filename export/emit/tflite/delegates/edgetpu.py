"""Whether the Edge TPU's compiler maps an operator, by Coral's published requirements.

Source: coral.ai, "TensorFlow models on the Edge TPU", model requirements and supported operations:
tensors are 8-bit integers of constant size, parameters are constant, of more than three dimensions
only the innermost three may be larger than 1, and operators keep to the limitations of the table.
What the page does not state is not checked: the compiler may leave more to the host than this says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from edgec.export.emit.tflite.delegates.call import Call
from edgec.export.tflite.model import Tensor
from edgec.targets.operators.delegates import DelegateTable

INNER_AXES = 3
LARGEST_SOFTMAX = 16_000
DEPTH_STEP = 4
"""Channels that a reduction over them has to come in."""
_EIGHT = frozenset({"INT8", "UINT8"})
_WEIGHTED = frozenset(
    {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV", "PRELU"}
)


def obstacle(call: Call, table: DelegateTable, *, typed: bool = True) -> str:
    """Why the operator stays on the host; empty if nothing published speaks against it.

    Args:
        typed: also ask for 8-bit integers; False asks what a quantized version of a float network
            would meet.
    """
    if call.code not in table.operators:
        return f"{call.code} is not among the operators of the {table.title}"
    if typed:
        floats = [t for t in (*call.computed, *call.outputs) if t.dtype not in _EIGHT]
        if floats:
            return f"{floats[0].dtype.lower()} tensors"
    for tensor in (*call.computed, *call.outputs):
        if _outer(tensor) != 1:
            return f"shape {list(tensor.shape)}, of which only the inner {INNER_AXES} may exceed 1"
    if call.code in _WEIGHTED and not all(call.constant[1:]):
        return "computed parameters"
    rule = _RULES.get(call.code)
    return "" if rule is None else rule(call)


def _outer(tensor: Tensor) -> int:
    """Elements of the dimensions in front of the inner ones."""
    count = 1
    for size in tensor.shape[:-INNER_AXES]:
        count *= size
    return count


def _no_activation(call: Call) -> str:
    return "" if call.activation == "NONE" else f"fused {call.activation}"


def _concatenation(call: Call) -> str:
    constants = [t for t, known in zip(call.inputs, call.constant, strict=True) if known]
    if constants and (len(call.inputs) != 2 or any(t.data is None for t in constants)):
        return "a constant among its inputs"
    for tensor in constants:
        zero = 0 if tensor.quantization is None else int(tensor.quantization.zero_point[0])
        if tensor.data is not None and (tensor.data != zero).any():
            return "a constant among its inputs that is not zero"
    return _no_activation(call)


def _dilation(call: Call) -> str:
    options = call.operator.options
    across, down = (options.get(f"dilation_{a}_factor", 1) for a in "wh")
    return "" if across == down else f"dilation {down}x{across}"


def _linear(call: Call) -> str:
    rows = 1
    for size in call.outputs[0].shape[:-1]:
        rows *= size
    return "" if rows == 1 else f"{rows} rows; its output has to be one-dimensional"


def _reduce(call: Call) -> str:
    axes = call.axes
    if axes is None:
        return "computed axes"
    rank = len(call.inputs[0].shape)
    if rank > INNER_AXES and 0 in axes:
        return "a reduction over the batch"
    depth = call.inputs[0].shape[-1]
    if call.code == "MEAN" and rank - 1 in axes and depth % DEPTH_STEP:
        return f"a reduction over {depth} channels, no multiple of {DEPTH_STEP}"
    return ""


def _pad(call: Call) -> str:
    pads = call.inputs[1].data
    if pads is None:
        return "computed padding"
    return "padding of the batch" if len(pads) > INNER_AXES and pads[0].any() else ""


def _softmax(call: Call) -> str:
    shape = call.inputs[0].shape
    if call.inputs[0].elements != shape[-1]:
        return f"shape {list(shape)}; only vectors are mapped"
    if shape[-1] > LARGEST_SOFTMAX:
        return f"{shape[-1]} elements, more than {LARGEST_SOFTMAX}"
    return ""


def _strided_slice(call: Call) -> str:
    strides = call.inputs[3].data
    if strides is None or (strides != 1).any():
        return "strides other than 1"
    masks = ("ellipsis_mask", "new_axis_mask")
    used = [name for name in masks if call.operator.options.get(name)]
    return used[0] if used else ""


def _squeeze(call: Call) -> str:
    shape = call.inputs[0].shape
    result = call.outputs[0].shape
    return "" if shape[len(shape) - len(result) :] == result else "a dimension that is not leading"


def _prelu(call: Call) -> str:
    alpha = call.inputs[1]
    return "" if alpha.elements == alpha.shape[-1] else "a slope that is no vector"


_RULES: Mapping[str, Callable[[Call], str]] = {
    "AVERAGE_POOL_2D": _no_activation,
    "MAX_POOL_2D": _no_activation,
    "CONCATENATION": _concatenation,
    "CONV_2D": _dilation,
    "DEPTHWISE_CONV_2D": _dilation,
    "FULLY_CONNECTED": _linear,
    **dict.fromkeys(("MEAN", "REDUCE_MAX", "REDUCE_MIN"), _reduce),
    "PAD": _pad,
    "PRELU": _prelu,
    "SOFTMAX": _softmax,
    "SQUEEZE": _squeeze,
    "STRIDED_SLICE": _strided_slice,
}
