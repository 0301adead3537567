"""Which operators compute on integers in TFLite, and what their kernels ask of the grids.

Source: TensorFlow Lite 8-bit quantization specification; the operators' Prepare functions in
tensorflow/lite/kernels.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgec.export.emit.tflite.flavour import Flavour
from edgec.export.quantize.scheme import DATA_MOVEMENT
from edgec.export.tflite.model import Quantization

SAME_GRID = DATA_MOVEMENT | {
    "AveragePool",
    "ReduceMax",
    "ReduceMin",
    "Resize",
    "Pad",
    "Concat",
}
"""Kernels that copy or compare integers (or, pooling and resizing, average them without a change of
scale): output and input have one scale and zero point."""


INTEGER = frozenset(
    {
        "Conv",
        "ConvTranspose",
        "Gemm",
        "Add",
        "Sub",
        "Mul",
        "Sigmoid",
        "Tanh",
        "Softmax",
        "Relu",
        "LeakyRelu",
        "PRelu",
        "HardSwish",
        "LpNormalization",
        "GlobalAveragePool",
        "ReduceMean",
        "ReduceSum",
        "Concat",
        "MatMul",
        "Gelu",
    }
)
"""Operators with a kernel on int8 whose scales are free, apart from `FIXED`."""


ROUNDING = frozenset({"AveragePool", "Resize", "Pad"})
"""Operators of `SAME_GRID` whose results may lie between the integers: they round, which only is
what the Q/DQ graph means if it quantizes the result."""


def computes_on_integers(op: str, flavour: Flavour, dtype: np.dtype[np.generic]) -> bool:
    """Whether `op` between tensors of integers of type `dtype` becomes an integer operator."""
    if op in flavour.composites:
        return True
    return op in INTEGER and op not in flavour.in_float(dtype)


FIXED: Mapping[str, tuple[int, int]] = {
    "Softmax": (8, -128),
    "Sigmoid": (8, -128),
    "Tanh": (7, 0),
    "LpNormalization": (7, 0),
}
"""Operator → (n, zero point) of its int8 output, whose scale is 2⁻ⁿ."""

_FIXED_16 = 15
"""On int16 all of them have the scale 2⁻¹⁵ and zero point 0."""


def fixed_grid(op: str, dtype: np.dtype[np.generic]) -> Quantization:
    """The output grid that the kernel of `op` prescribes."""
    if dtype == np.int16:
        return Quantization.per_tensor(2.0**-_FIXED_16)
    shift, zero = FIXED[op]
    return Quantization.per_tensor(2.0**-shift, zero)


def same_grid(one: Quantization, other: Quantization) -> bool:
    """Whether two grids are the same numbers."""
    return (
        one.axis == other.axis
        and np.array_equal(one.scale, other.scale)
        and np.array_equal(one.zero_point, other.zero_point)
    )


def widened(grid: Quantization) -> Quantization:
    """The int16 grid of 1/128 of the steps of an int8 one, which holds all its numbers."""
    return Quantization.per_tensor(float(grid.scale[0]) / 128)
