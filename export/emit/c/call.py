"""A kernel call: the C function, its constants, the tensors it reads and writes."""

from __future__ import annotations

from collections.abc import Mapping
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


Parameter = int | Word | tuple[int, ...] | Table | Scales


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
    def reads(self) -> tuple[int, ...]:
        """Tensors that are read, each once."""
        return tuple(dict.fromkeys(i for i in self.inputs if isinstance(i, int)))


SOURCES: Mapping[str, str] = {
    "edgec_conv_s8": "edgec_conv_s8.c",
    "edgec_depthwise_s8": "edgec_depthwise_s8.c",
    "edgec_fully_connected_s8": "edgec_matmul_s8.c",
    "edgec_fully_connected_asymmetric_s8": "edgec_matmul_s8.c",
    "edgec_matmul_s8": "edgec_matmul_s8.c",
    "edgec_add_s8": "edgec_elementwise_s8.c",
    "edgec_sub_s8": "edgec_elementwise_s8.c",
    "edgec_mul_s8": "edgec_elementwise_s8.c",
    "edgec_squared_difference_s8": "edgec_elementwise_s8.c",
    "edgec_maximum_s8": "edgec_elementwise_s8.c",
    "edgec_minimum_s8": "edgec_elementwise_s8.c",
    "edgec_lookup_s8": "edgec_elementwise_s8.c",
    "edgec_average_pool_s8": "edgec_reduce_s8.c",
    "edgec_max_pool_s8": "edgec_reduce_s8.c",
    "edgec_mean_s8": "edgec_reduce_s8.c",
    "edgec_sum_s8": "edgec_reduce_s8.c",
    "edgec_softmax_s8": "edgec_reduce_s8.c",
    "edgec_strided_copy_s8": "edgec_move_s8.c",
    "edgec_pad_s8": "edgec_move_s8.c",
    "edgec_concat_s8": "edgec_move_s8.c",
    "edgec_gather_s8": "edgec_move_s8.c",
    "edgec_layer_norm_s8": "edgec_norm_s8.c",
    "edgec_l2_norm_s8": "edgec_norm_s8.c",
    "edgec_resize_bilinear_s8": "edgec_resize_s8.c",
}
"""The file of ``runtime/kernels`` that holds each kernel."""

WITH_SCRATCH = frozenset(
    {"edgec_conv_s8", "edgec_depthwise_s8", "edgec_fully_connected_s8", "edgec_matmul_s8"}
)
"""Kernels whose last argument is scratch, a null pointer where none is needed."""

STRUCTS: Mapping[str, str] = {
    "edgec_depthwise_s8": "edgec_conv_s8_params",
    "edgec_fully_connected_asymmetric_s8": "edgec_fully_connected_s8_params",
    "edgec_add_s8": "edgec_binary_s8_params",
    "edgec_sub_s8": "edgec_binary_s8_params",
    "edgec_mul_s8": "edgec_binary_s8_params",
    "edgec_squared_difference_s8": "edgec_binary_s8_params",
    "edgec_maximum_s8": "edgec_binary_s8_params",
    "edgec_minimum_s8": "edgec_binary_s8_params",
    "edgec_sum_s8": "edgec_mean_s8_params",
    "edgec_average_pool_s8": "edgec_pool_s8_params",
    "edgec_max_pool_s8": "edgec_pool_s8_params",
}
"""Parameter structs that several kernels share; the others are named after their kernel."""


def struct_of(kernel: str) -> str:
    """C type of a kernel's parameters."""
    return STRUCTS.get(kernel, f"{kernel}_params")
