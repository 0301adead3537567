"""Weights in fewer bits: changes of a lowered float model that need no calibration."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from edgec.export.emit.tflite.versions import version
from edgec.export.tflite.model import Model, Operator, Quantization, Subgraph, Tensor
from edgec.export.tflite.schema import tensor_type

WEIGHT_INPUT = {"CONV_2D": 1, "DEPTHWISE_CONV_2D": 1, "FULLY_CONNECTED": 1, "TRANSPOSE_CONV": 1}
"""Operators with weights, and which input these are."""
_CHANNELS = {"CONV_2D": 0, "FULLY_CONNECTED": 0}
SMALLEST = 1024
"""Elements below which weights stay float32: TensorFlow's converter leaves smaller ones, whose
rounding costs more than their bytes."""


def half_weights(model: Model) -> int:
    """Store weights as float16 behind DEQUANTIZE, which every runtime folds when it loads.

    Returns:
        How many were converted; those with values that float16 cannot hold stay.
    """
    subgraph = model.main
    heads: list[Operator] = []
    renamed: dict[int, int] = {}
    for index in _weights(subgraph, WEIGHT_INPUT):
        tensor = subgraph.tensors[index]
        if tensor.data is None or np.abs(tensor.data).max(initial=0.0) > np.finfo(np.float16).max:
            continue
        half = Tensor(
            f"{tensor.name}/float16",
            tensor.shape,
            tensor_type(np.dtype(np.float16)),
            tensor.data.astype(np.float16),
        )
        subgraph.tensors.append(half)
        renamed[index] = len(subgraph.tensors) - 1
        tensor.data = None
        head = Operator("DEQUANTIZE", [renamed[index]], [index])
        head.version = version(head, subgraph.tensors)
        heads.append(head)
    subgraph.operators[:0] = heads
    return len(heads)


def integer_weights(model: Model, *, channel_linear: bool = True) -> int:
    """Store large weights of CONV_2D and FULLY_CONNECTED as int8 per channel.

    Activations stay float32; kernels quantize the input of each product when they run ("dynamic
    range quantization"). Depthwise weights stay: they are few, and XNNPACK would leave the network
    for each of these kernels.

    Args:
        channel_linear: FULLY_CONNECTED takes a scale per output channel; otherwise one per tensor.

    Returns:
        How many were converted.
    """
    subgraph = model.main
    count = 0
    for index in _weights(subgraph, _CHANNELS):
        users = [op for op in subgraph.operators if index in op.inputs]
        tensor = subgraph.tensors[index]
        axes = {_CHANNELS.get(op.code) for op in users}
        if tensor.data is None or tensor.elements < SMALLEST or len(axes) != 1 or None in axes:
            continue
        axis = axes.pop()
        assert axis is not None
        linear = users[0].code == "FULLY_CONNECTED"
        integers, scales = _rounded(tensor.data, axis if channel_linear or not linear else None)
        tensor.data, tensor.dtype = integers, tensor_type(integers.dtype)
        tensor.quantization = Quantization(
            scales, np.zeros(scales.shape, np.int64), axis if scales.size > 1 else 0
        )
        count += 1
        for op in users:
            if op.code == "FULLY_CONNECTED":
                op.options["asymmetric_quantize_inputs"] = True
    for op in subgraph.operators:
        if op.code in _CHANNELS:
            op.version = version(op, subgraph.tensors)
    return count


def _rounded(
    weight: NDArray[np.float32], axis: int | None
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    others = tuple(i for i in range(weight.ndim) if i != axis)
    peak = np.abs(weight).max(axis=others)
    scales = (np.where(peak > 0, peak, 1.0) / 127).astype(np.float32)
    along = [1] * weight.ndim
    if axis is not None:
        along[axis] = -1
    integers = np.clip(np.rint(weight / scales.reshape(along)), -127, 127).astype(np.int8)
    return integers, scales.reshape(-1)


def _weights(subgraph: Subgraph, codes: Iterable[str]) -> list[int]:
    """Float32 constants that are weights of these operators, in order of first use."""
    wanted = set(codes)
    found = [op.inputs[WEIGHT_INPUT[op.code]] for op in subgraph.operators if op.code in wanted]
    return [
        index
        for index in dict.fromkeys(found)
        if subgraph.tensors[index].dtype == "FLOAT32" and subgraph.tensors[index].data is not None
    ]
