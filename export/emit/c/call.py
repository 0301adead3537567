"""A kernel call: the C function, its constants, the tensors it reads and writes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Table:
    """A constant array that a parameter struct points to; None is a null pointer."""

    data: NDArray[Any] | None


@dataclass(frozen=True, eq=False)
class Scales:
    """``edgec_scales``: mantissa and exponent of each output channel."""

    mantissa: NDArray[np.int64]
    exponent: NDArray[np.int64]


@dataclass(frozen=True)
class Word:
    """An unsigned number of 32 bits."""

    value: int


@dataclass(frozen=True)
class Function:
    """A function of ``runtime/kernels`` that a parameter struct points to."""

    name: str


@dataclass(frozen=True, eq=False)
class Fields:
    """The parameters of another kernel, as a field of that struct."""

    fields: Mapping[str, Parameter]


Parameter = int | float | Word | Function | tuple[int, ...] | Table | Scales | Fields


@dataclass(frozen=True)
class Share:
    """An input that the output may overlap (`edgec.profiles.memory.program.Overlap`).

    Attributes:
        input: which of the call's inputs.
        distance: ``address(input) - address(output) >= distance`` is safe, in bytes.
    """

    input: int
    distance: int


@dataclass(frozen=True)
class Call:
    """One call.

    Attributes:
        kernel: C function; its parameters are a ``struct`` of the same name + ``_params``.
        parameters: fields of that struct.
        inputs: tensor indices of the subgraph, or constants.
        output: index of the tensor that is written.
        shares: inputs that the output may overlap.
        scratch: bytes that the kernel needs while it runs; its last argument.
        macs: multiply-accumulates.
        name: for reports: the operator and the tensor that it writes.
    """

    kernel: str
    parameters: Mapping[str, Parameter]
    inputs: tuple[int | Table, ...]
    output: int
    shares: tuple[Share, ...] = ()
    macs: int = 0
    scratch: int = 0
    name: str = field(default="", compare=False)

    @property
    def functions(self) -> frozenset[str]:
        """What its parameters point to."""
        return frozenset(_functions(self.parameters))

    @property
    def reads(self) -> tuple[int, ...]:
        """Tensors that are read, each once."""
        return tuple(dict.fromkeys(i for i in self.inputs if isinstance(i, int)))


def _functions(parameters: Mapping[str, Parameter]) -> Iterator[str]:
    for parameter in parameters.values():
        if isinstance(parameter, Function):
            yield parameter.name
        elif isinstance(parameter, Fields):
            yield from _functions(parameter.fields)


FILES: Mapping[str, str] = {
    "edgec_conv_s8.c": "conv",
    "edgec_depthwise_s8.c": "depthwise",
    "edgec_matmul_s8.c": "fully_connected fully_connected_row fully_connected_any matmul",
    "edgec_elementwise_s8.c": "add sub mul squared_difference maximum minimum lookup",
    "edgec_reduce_s8.c": "average_pool max_pool mean sum reduce_max reduce_min softmax",
    "edgec_move_s8.c": "strided_copy pad concat gather",
    "edgec_norm_s8.c": "layer_norm l2_norm",
    "edgec_resize_s8.c": "resize_bilinear",
    "edgec_stream_s8.c": "expand_depthwise",
    "edgec_conv_s16.c": "conv depthwise",
    "edgec_matmul_s16.c": "fully_connected matmul",
    "edgec_elementwise_s16.c": "add sub mul maximum minimum rescale interpolate",
    "edgec_reduce_s16.c": "average_pool max_pool mean sum reduce_max reduce_min softmax",
    "edgec_norm_s16.c": "layer_norm l2_norm",
    "edgec_resize_s16.c": "resize_bilinear",
    "edgec_convert_s16.c": "widen narrow",
    "edgec_stream_s16.c": "expand_depthwise",
    "edgec_convert_f32.c": "quantize dequantize quantize_s16 dequantize_s16",
    "edgec_conv_f32.c": "conv depthwise",
    "edgec_matmul_f32.c": "fully_connected matmul",
    "edgec_elementwise_f32.c": "add sub mul div pow maximum minimum squared_difference prelu abs "
    "neg exp log sqrt rsqrt sin cos floor ceil sigmoid tanh gelu gelu_tanh hard_swish relu relu6 "
    "elu leaky_relu",
    "edgec_reduce_f32.c": "average_pool max_pool mean sum reduce_max reduce_min softmax "
    "log_softmax l2_norm layer_norm",
    "edgec_resize_f32.c": "resize_bilinear",
}
"""Files of ``runtime/kernels``, and the kernels in each without prefix and type."""

SOURCES: Mapping[str, str] = {
    f"edgec_{kernel}_{file.removesuffix('.c').rpartition('_')[2]}": file
    for file, kernels in FILES.items()
    for kernel in kernels.split()
}
"""The file that holds each kernel."""

FUNCTIONS: Mapping[str, str] = {"edgec_wide_row_s8": "edgec_wide_s8.c"}
"""The file of each function that kernels call by their parameters."""

CALLED: Mapping[str, tuple[str, ...]] = {
    "edgec_stream_s8.c": ("edgec_conv_s8.c", "edgec_depthwise_s8.c", "edgec_elementwise_s8.c"),
    "edgec_stream_s16.c": ("edgec_conv_s16.c", "edgec_elementwise_s16.c"),
}
"""Files that another one calls."""

WITH_SCRATCH = frozenset(
    {
        "edgec_conv_s8",
        "edgec_depthwise_s8",
        "edgec_expand_depthwise_s8",
        "edgec_fully_connected_s8",
        "edgec_matmul_s8",
        "edgec_conv_s16",
        "edgec_depthwise_s16",
        "edgec_expand_depthwise_s16",
        "edgec_fully_connected_s16",
        "edgec_matmul_s16",
    }
)
"""Kernels whose last argument is scratch, a null pointer where none is needed."""

_SHARED: Mapping[str, str] = {
    "conv_s8": "depthwise_s8",
    "fully_connected_s8": "fully_connected_row_s8 fully_connected_any_s8",
    "binary_s8": "add_s8 sub_s8 mul_s8 squared_difference_s8 maximum_s8 minimum_s8 "
    "add_s16 sub_s16 mul_s16 maximum_s16 minimum_s16",
    "mean_s8": "sum_s8 mean_s16 sum_s16",
    "reduce_s8": "reduce_max_s8 reduce_min_s8 reduce_max_s16 reduce_min_s16",
    "pool_s8": "average_pool_s8 max_pool_s8 average_pool_s16 max_pool_s16",
    "layer_norm_s8": "layer_norm_s16",
    "l2_norm_s8": "l2_norm_s16",
    "resize_bilinear_s8": "resize_bilinear_s16",
    "conv_s16": "depthwise_s16",
    "convert_s16": "widen_s16 narrow_s16",
    "quantize_f32": "dequantize_f32 quantize_s16_f32 dequantize_s16_f32",
    "conv_f32": "depthwise_f32",
    "binary_f32": "add_f32 sub_f32 mul_f32 div_f32 pow_f32 maximum_f32 minimum_f32 "
    "squared_difference_f32 prelu_f32",
    "unary_f32": "abs_f32 neg_f32 exp_f32 log_f32 sqrt_f32 rsqrt_f32 sin_f32 cos_f32 floor_f32 "
    "ceil_f32 sigmoid_f32 tanh_f32 gelu_f32 gelu_tanh_f32 hard_swish_f32 relu_f32 relu6_f32 "
    "elu_f32 leaky_relu_f32",
    "pool_f32": "average_pool_f32 max_pool_f32",
    "reduce_f32": "mean_f32 sum_f32 reduce_max_f32 reduce_min_f32",
    "rows_f32": "softmax_f32 log_softmax_f32 l2_norm_f32",
}
_STRUCTS = {
    f"edgec_{kernel}": f"edgec_{struct}_params"
    for struct, kernels in _SHARED.items()
    for kernel in kernels.split()
}


def struct_of(kernel: str) -> str:
    """C type of a kernel's parameters: named after it, or shared with its like."""
    return _STRUCTS.get(kernel, f"{kernel}_params")


def on_floats(kernel: str) -> bool:
    """Whether a kernel reads or writes floats."""
    return kernel.endswith("_f32")


_CONVERSIONS: Mapping[str, tuple[str | None, str | None]] = {
    "edgec_widen_s16": (None, "int16_t"),
    "edgec_narrow_s16": ("int16_t", None),
    "edgec_quantize_f32": ("float", None),
    "edgec_dequantize_f32": (None, "float"),
    "edgec_quantize_s16_f32": ("float", "int16_t"),
    "edgec_dequantize_s16_f32": ("int16_t", "float"),
}


def elements(kernel: str) -> tuple[str | None, str | None]:
    """C types that a kernel reads and writes; None for int8 and for bytes."""
    if kernel in _CONVERSIONS:
        return _CONVERSIONS[kernel]
    if kernel.endswith("_s16"):
        return "int16_t", "int16_t"
    return ("float", "float") if on_floats(kernel) else (None, None)
