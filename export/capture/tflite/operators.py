"""The one table of operators that are translated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from edgec.export.capture.tflite import (
    convolution,
    elementwise,
    linear,
    pooling,
    reduction,
    views,
)
from edgec.export.capture.tflite.context import Context
from edgec.export.capture.tflite.elementwise import activation, same
from edgec.export.capture.tflite.reduction import arg, reduce
from edgec.export.tflite import Operator

OPERATORS: Final[dict[str, Callable[[Context, Operator], None]]] = {
    "CONV_2D": convolution.conv_2d,
    "DEPTHWISE_CONV_2D": convolution.depthwise_conv_2d,
    "TRANSPOSE_CONV": convolution.transpose_conv,
    "FULLY_CONNECTED": linear.fully_connected,
    "BATCH_MATMUL": linear.batch_matmul,
    "EMBEDDING_LOOKUP": linear.embedding_lookup,
    "AVERAGE_POOL_2D": pooling.average_pool_2d,
    "MAX_POOL_2D": pooling.max_pool_2d,
    "RESIZE_BILINEAR": pooling.resize_bilinear,
    "RESIZE_NEAREST_NEIGHBOR": pooling.resize_nearest_neighbor,
    "ADD": same("Add"),
    "SUB": same("Sub"),
    "MUL": same("Mul"),
    "DIV": same("Div"),
    "MAXIMUM": same("Max"),
    "MINIMUM": same("Min"),
    "POW": same("Pow"),
    "ADD_N": elementwise.add_n,
    "SQUARED_DIFFERENCE": elementwise.squared_difference,
    "FLOOR_DIV": elementwise.floor_div,
    "FLOOR_MOD": elementwise.floor_mod,
    "RELU": activation("RELU"),
    "RELU6": activation("RELU6"),
    "RELU_N1_TO_1": activation("RELU_N1_TO_1"),
    "RELU_0_TO_1": activation("RELU_0_TO_1"),
    "PRELU": same("PRelu"),
    "LEAKY_RELU": elementwise.leaky_relu,
    "ELU": same("Elu"),
    "GELU": elementwise.gelu,
    "HARD_SWISH": same("HardSwish"),
    "LOGISTIC": same("Sigmoid"),
    "TANH": same("Tanh"),
    "ABS": same("Abs"),
    "NEG": same("Neg"),
    "EXP": same("Exp"),
    "LOG": same("Log"),
    "SIN": same("Sin"),
    "COS": same("Cos"),
    "SQRT": same("Sqrt"),
    "RSQRT": elementwise.rsqrt,
    "SQUARE": elementwise.square,
    "FLOOR": same("Floor"),
    "CEIL": same("Ceil"),
    "ROUND": same("Round"),
    "SIGN": same("Sign"),
    "EQUAL": same("Equal"),
    "NOT_EQUAL": elementwise.not_equal,
    "GREATER": same("Greater"),
    "GREATER_EQUAL": same("GreaterOrEqual"),
    "LESS": same("Less"),
    "LESS_EQUAL": same("LessOrEqual"),
    "LOGICAL_AND": same("And"),
    "LOGICAL_OR": same("Or"),
    "LOGICAL_NOT": same("Not"),
    "SELECT_V2": same("Where"),
    "CAST": elementwise.cast,
    "QUANTIZE": elementwise.requantize,
    "DEQUANTIZE": elementwise.requantize,
    "MEAN": reduce("ReduceMean"),
    "SUM": reduce("ReduceSum"),
    "REDUCE_PROD": reduce("ReduceProd"),
    "REDUCE_MAX": reduce("ReduceMax"),
    "REDUCE_MIN": reduce("ReduceMin"),
    "ARG_MAX": arg("ArgMax"),
    "ARG_MIN": arg("ArgMin"),
    "SOFTMAX": reduction.softmax,
    "LOG_SOFTMAX": reduction.log_softmax,
    "L2_NORMALIZATION": reduction.l2_normalization,
    "CUMSUM": reduction.cumsum,
    "CONCATENATION": reduction.concatenation,
    "SPLIT": reduction.split,
    "SPLIT_V": reduction.split_v,
    "PAD": reduction.pad,
    "PADV2": reduction.pad,
    "MIRROR_PAD": reduction.mirror_pad,
    "RESHAPE": views.reshape,
    "SQUEEZE": views.reshape,
    "EXPAND_DIMS": views.reshape,
    "TRANSPOSE": views.transpose,
    "PACK": views.pack,
    "UNPACK": views.unpack,
    "SLICE": views.slice_,
    "STRIDED_SLICE": views.strided_slice,
    "GATHER": views.gather,
    "GATHER_ND": views.gather_nd,
    "TILE": views.tile,
    "BROADCAST_TO": views.broadcast_to,
    "FILL": views.fill,
    "SHAPE": views.shape,
    "ZEROS_LIKE": views.zeros_like,
    "REVERSE_V2": views.reverse,
    "SPACE_TO_DEPTH": views.space_to_depth,
    "DEPTH_TO_SPACE": views.depth_to_space,
    "SPACE_TO_BATCH_ND": views.space_to_batch_nd,
    "BATCH_TO_SPACE_ND": views.batch_to_space_nd,
}
"""What writes each operator into the graph."""

SPATIAL: Final = frozenset(
    {
        "CONV_2D",
        "DEPTHWISE_CONV_2D",
        "AVERAGE_POOL_2D",
        "MAX_POOL_2D",
        "RESIZE_BILINEAR",
        "RESIZE_NEAREST_NEIGHBOR",
        "SPACE_TO_DEPTH",
        "DEPTH_TO_SPACE",
    }
)
"""Operators whose first input ONNX takes channels-first."""

KEEPING: Final = frozenset(
    {"QUANTIZE", "DEQUANTIZE", "ADD", "SUB", "MUL", "DIV", "PAD", "PADV2", "CAST", "RELU", "RELU6"}
)
"""Operators that keep the layout of their first input."""

ONE_SCALE: Final = frozenset(
    "AVERAGE_POOL_2D MAX_POOL_2D RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR MAXIMUM MINIMUM SPLIT "
    "SPLIT_V PAD PADV2 MIRROR_PAD RESHAPE SQUEEZE EXPAND_DIMS TRANSPOSE PACK UNPACK SLICE "
    "STRIDED_SLICE GATHER GATHER_ND TILE BROADCAST_TO REVERSE_V2 SPACE_TO_DEPTH DEPTH_TO_SPACE "
    "SPACE_TO_BATCH_ND BATCH_TO_SPACE_ND".split()
)
"""Operators whose integer kernels take it that inputs and outputs have one quantization (TFLite
8-bit quantization specification, "operator specifications")."""
