"""Weights in fewer bits: changes of a lowered model that need no calibration."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgec.export.emit.tflite.versions import version
from edgec.export.tflite.model import Model, Operator, Quantization, Subgraph, Tensor
from edgec.export.tflite.schema import tensor_type

SMALLEST = 1024
"""Elements below which weights stay float32: TensorFlow's converter leaves smaller ones, whose
rounding costs more than their bytes."""
_ELEMENTWISE = frozenset({"ADD", "SUB", "MUL", "DIV"})
_HYBRID = frozenset({"CONV_2D", "FULLY_CONNECTED"})
"""Operators on float32 that take int8 weights as they are."""


def half_weights(model: Model) -> int:
    """Store weights as float16 behind DEQUANTIZE, which every runtime folds when it loads.

    Returns:
        How many were converted; those with values that float16 cannot hold stay.
    """
    subgraph = model.main
    heads = [*_halves(subgraph, _weights(subgraph)), *_halves(subgraph, _operands(subgraph))]
    subgraph.operators[:0] = heads
    return len(heads)


def integer_weights(model: Model, *, channel_linear: bool = True) -> int:
    """Store large weights as int8 per channel; activations stay float32.

    CONV_2D and FULLY_CONNECTED take them as they are: kernels quantize the input of each product
    when they run ("dynamic range quantization"). XNNPACK has no such kernels for the other
    operators and would leave the network for each of them: their weights stand behind DEQUANTIZE,
    which runtimes fold when they load, so that only the file gets smaller. So do large operands of
    additions and the like (position embeddings), as float16: they are no weights, and eight bits
    would round them as coarsely as activations.

    Args:
        channel_linear: FULLY_CONNECTED takes a scale per output channel; otherwise one per tensor.

    Returns:
        How many operators were put in front of the others.
    """
    subgraph = model.main
    heads: list[Operator] = []
    for index, uses in _weights(subgraph).items():
        tensor = subgraph.tensors[index]
        codes, axes = {code for code, _ in uses}, {axis for _, axis in uses}
        if tensor.data is None or tensor.elements < SMALLEST or len(axes) != 1:
            continue
        hybrid = bool(codes & _HYBRID)
        if hybrid and _reads(subgraph, index) > sum(code in _HYBRID for code, _ in uses):
            continue
        linear = "FULLY_CONNECTED" in codes
        integers, grid = _rounded(tensor.data, axes.pop() if channel_linear or not linear else None)
        if not hybrid:
            heads.append(_behind_dequantize(subgraph, index, integers, "int8", grid))
            continue
        tensor.data, tensor.dtype, tensor.quantization = integers, "INT8", grid
        for op in subgraph.operators:
            if index in op.inputs and op.code == "FULLY_CONNECTED":
                op.options["asymmetric_quantize_inputs"] = True
    for op in subgraph.operators:
        if op.code in _HYBRID:
            op.version = version(op, subgraph.tensors)
    heads += _halves(subgraph, _operands(subgraph))
    subgraph.operators[:0] = heads
    return len(heads)


def stored_integers(model: Model, known: Mapping[int, tuple[NDArray[Any], Quantization]]) -> int:
    """Store large float constants of an integer network behind DEQUANTIZE: those that come from
    int8 as that, operands of additions and the like as float16.

    Args:
        known: tensor index → its integers, in the order in which it is stored, and their grid.

    Returns:
        How many were converted.
    """
    subgraph = model.main
    heads = [
        _behind_dequantize(subgraph, index, np.ascontiguousarray(data), "int8", grid)
        for index, (data, grid) in known.items()
        if data.dtype == np.int8 and data.size >= SMALLEST
    ]
    heads += _halves(subgraph, _operands(subgraph))
    subgraph.operators[:0] = heads
    return len(heads)


def _halves(subgraph: Subgraph, constants: Iterable[int]) -> Iterator[Operator]:
    """DEQUANTIZE operators that compute these float32 constants from float16, where it can."""
    for index in constants:
        data = subgraph.tensors[index].data
        if data is not None and np.abs(data).max(initial=0.0) <= np.finfo(np.float16).max:
            yield _behind_dequantize(subgraph, index, data.astype(np.float16), "float16")


def _operands(subgraph: Subgraph) -> list[int]:
    """Large float32 constants that only element-wise operators read, in order of first use."""
    found: dict[int, bool] = {}
    for op in subgraph.operators:
        for index in op.inputs:
            found[index] = found.get(index, True) and op.code in _ELEMENTWISE
    tensors = subgraph.tensors
    return [
        index
        for index, elementwise in found.items()
        if elementwise
        and tensors[index].dtype == "FLOAT32"
        and tensors[index].data is not None
        and tensors[index].elements >= SMALLEST
    ]


def _behind_dequantize(
    subgraph: Subgraph,
    index: int,
    data: NDArray[Any],
    suffix: str,
    grid: Quantization | None = None,
) -> Operator:
    """A DEQUANTIZE, not yet in the subgraph, that computes the constant `index` from `data`."""
    tensor = subgraph.tensors[index]
    stored = Tensor(f"{tensor.name}/{suffix}", tensor.shape, tensor_type(data.dtype), data, grid)
    subgraph.tensors.append(stored)
    tensor.data = None
    head = Operator("DEQUANTIZE", [len(subgraph.tensors) - 1], [index])
    head.version = version(head, subgraph.tensors)
    return head


def _rounded(
    weight: NDArray[np.float32], axis: int | None
) -> tuple[NDArray[np.int8], Quantization]:
    """Symmetric int8 of a weight with a scale for each index of `axis`, or one."""
    others = tuple(i for i in range(weight.ndim) if i != axis)
    peak = np.abs(weight).max(axis=others)
    scales = (np.where(peak > 0, peak, 1.0) / 127).astype(np.float32)
    along = [1] * weight.ndim
    if axis is not None:
        along[axis] = -1
    integers = np.clip(np.rint(weight / scales.reshape(along)), -127, 127).astype(np.int8)
    scales = scales.reshape(-1)
    zeros = np.zeros(scales.shape, np.int64)
    return integers, Quantization(scales, zeros, 0 if axis is None or scales.size == 1 else axis)


def _reads(subgraph: Subgraph, index: int) -> int:
    return sum(op.inputs.count(index) for op in subgraph.operators)


def _weights(subgraph: Subgraph) -> dict[int, list[tuple[str, int]]]:
    """Float32 constants that are weights, in order of first use: of which operators, and the axis
    of the output channels there."""
    found: dict[int, list[tuple[str, int]]] = {}
    for op in subgraph.operators:
        for index, axis in _weights_of(op, subgraph):
            tensor = subgraph.tensors[index]
            if tensor.dtype == "FLOAT32" and tensor.data is not None:
                found.setdefault(index, []).append((op.code, axis))
    return found


def _weights_of(op: Operator, subgraph: Subgraph) -> Iterator[tuple[int, int]]:
    if op.code in ("CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV"):
        yield op.inputs[1], 0
    elif op.code == "DEPTHWISE_CONV_2D":
        yield op.inputs[1], 3
    elif op.code == "BATCH_MATMUL":
        for place, name in enumerate(("adj_x", "adj_y")):
            index = op.inputs[place]
            rank = len(subgraph.tensors[index].shape)
            yield index, rank - (2 if bool(op.options.get(name)) == bool(place) else 1)
