"""Runs the main subgraph, operator by operator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from numpy.typing import NDArray

from edgec.export.errors import UnsupportedError
from edgec.export.tflite.model import ABSENT, Model
from edgec.export.tflite.names import input_names, output_names
from edgec.export.tflite.reference import moves, pointwise, products, tables
from edgec.export.tflite.reference.call import Call
from edgec.export.tflite.reference.hard_swish import hard_swish
from edgec.export.tflite.reference.rsqrt import l2_normalization, rsqrt
from edgec.export.tflite.reference.softmax import softmax

Kernel = Callable[[Call], NDArray[Any] | list[NDArray[Any]]]

KERNELS: Final[dict[str, Kernel]] = {
    "CONV_2D": products.conv_2d,
    "DEPTHWISE_CONV_2D": products.depthwise_conv_2d,
    "FULLY_CONNECTED": products.fully_connected,
    "BATCH_MATMUL": products.batch_matmul,
    "ADD": pointwise.add,
    "SUB": pointwise.add,
    "MUL": pointwise.mul,
    "SQUARED_DIFFERENCE": pointwise.squared_difference,
    "AVERAGE_POOL_2D": pointwise.average_pool_2d,
    "MAX_POOL_2D": pointwise.max_pool_2d,
    "MEAN": pointwise.mean,
    "SOFTMAX": softmax,
    "SUM": pointwise.sum_,
    "L2_NORMALIZATION": l2_normalization,
    "LOGISTIC": tables.logistic,
    "TANH": tables.tanh,
    "GELU": tables.gelu,
    "RESIZE_BILINEAR": pointwise.resize_bilinear,
    "SPLIT": moves.split,
    "SPLIT_V": moves.split,
    "SLICE": moves.slice_,
    "PACK": moves.pack,
    "UNPACK": moves.unpack,
    "GATHER": moves.gather,
    "MAXIMUM": moves.extreme,
    "MINIMUM": moves.extreme,
    "REDUCE_MAX": moves.extreme,
    "REDUCE_MIN": moves.extreme,
    "RESIZE_NEAREST_NEIGHBOR": moves.resize_nearest_neighbor,
    "SPACE_TO_DEPTH": moves.space_to_depth,
    "DEPTH_TO_SPACE": moves.depth_to_space,
    "HARD_SWISH": hard_swish,
    "RSQRT": rsqrt,
    "NEG": pointwise.neg,
    "QUANTIZE": pointwise.quantize,
    "DEQUANTIZE": pointwise.dequantize,
    "RELU": pointwise.relu,
    "RELU6": pointwise.relu,
    "RESHAPE": moves.reshape,
    "SQUEEZE": moves.reshape,
    "EXPAND_DIMS": moves.reshape,
    "TRANSPOSE": moves.transpose,
    "PAD": moves.pad,
    "PADV2": moves.pad,
    "STRIDED_SLICE": moves.strided_slice,
    "BROADCAST_TO": moves.broadcast_to,
    "TILE": moves.tile,
    "CONCATENATION": moves.concatenation,
}
"""The operators of int8 networks with convolutions, attention and spelled-out LayerNorm, which may
also be float."""


def run(
    model: Model, feeds: Mapping[str, NDArray[Any]], kernels: Mapping[str, Kernel] = KERNELS
) -> dict[str, NDArray[Any]]:
    """Outputs by name, as `runtime.litert_runner.LiteRTRunner` with its reference kernels.

    Args:
        feeds: arrays of the file's types by input name.
        kernels: by operator, for runtimes whose kernels compute something else.

    Raises:
        UnsupportedError: an operator or a form of it has no kernel here (EC306).
    """
    values = run_all(model, feeds, kernels)
    names = output_names(model)
    return {name: values[i] for name, i in zip(names, model.main.outputs, strict=True)}


def run_all(
    model: Model, feeds: Mapping[str, NDArray[Any]], kernels: Mapping[str, Kernel] = KERNELS
) -> dict[int, NDArray[Any]]:
    """Every computed or given tensor by its index; arguments and errors as `run`."""
    main = model.main
    values = {i: t.data for i, t in enumerate(main.tensors) if t.data is not None}
    for name, index in zip(input_names(model), main.inputs, strict=True):
        values[index] = feeds[name]
    for position, operator in enumerate(main.operators):
        call = Call(
            operator,
            [None if i == ABSENT else main.tensors[i] for i in operator.inputs],
            [None if i == ABSENT else values[i] for i in operator.inputs],
            [main.tensors[i] for i in operator.outputs],
        )
        place = f"operator {position} {operator.code}"
        if operator.code not in kernels:
            raise UnsupportedError("EC306", "no reference kernel for the operator", where=place)
        try:
            result = kernels[operator.code](call)
        except ValueError as error:
            raise UnsupportedError(
                "EC306", "no reference kernel for this form", where=place, why=str(error) or None
            ) from error
        results = result if isinstance(result, list) else [result]
        for index, tensor, value in zip(operator.outputs, call.outputs, results, strict=True):
            values[index] = value.astype(tensor.numpy_dtype)
    return values
