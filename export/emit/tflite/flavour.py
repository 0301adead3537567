"""What the reader of the lowered model executes, and which forms to choose for it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class Flavour:
    """A consumer of lowered models.

    Attributes:
        name: for messages.
        composites: ONNX operators that stay one custom operator each instead of being spelled out
            in builtins: LayerNormalization, InstanceNormalization, GroupNormalization. Spelled out
            they compute in float, between DEQUANTIZE and QUANTIZE in integer networks: int8 MEAN
            and SQUARED_DIFFERENCE would round mean and variance to 8 bits each. Composites take
            integers as they are.
        float_operators: operators that compute in float between DEQUANTIZE and QUANTIZE although
            the runtime has an integer kernel, because another one is faster; ``MatMul`` means
            products of two activations. For int8.
        wide_float_operators: operators that have no kernel for int16.
        channel_linear: FULLY_CONNECTED takes int8 weights with a scale per output channel
            (version 12, TensorFlow 2.17); otherwise such a layer is a 1×1 CONV_2D.
        max_rank: most dimensions of a TRANSPOSE, at least 4.
        least_ratio: smallest scale of an operand over that of the sum that an integer addition
            takes; None where any will do.
        most_joined: operands of a CONCATENATION; more are joined in groups. None where any number
            will do.
        longest_softmax: elements of a row that an int8 SOFTMAX takes; longer ones compute in
            float. None where any number will do.
        one_filter: depthwise convolutions are fast with one filter per channel only.
        only_one_filter: no kernel takes depthwise convolutions with several filters per channel.
        folds_dequantize: a DEQUANTIZE of a constant is computed once, when the file is loaded.
        fused_pads: a PAD that only one convolution reads costs nothing.
    """

    name: str = "litert"
    composites: frozenset[str] = frozenset()
    float_operators: frozenset[str] = frozenset()
    wide_float_operators: frozenset[str] = frozenset({"HardSwish", "LpNormalization"})
    channel_linear: bool = True
    max_rank: int = 6
    least_ratio: float | None = None
    most_joined: int | None = None
    longest_softmax: int | None = None
    one_filter: bool = False
    only_one_filter: bool = False
    folds_dequantize: bool = False
    fused_pads: bool = False

    def in_float(self, dtype: np.dtype[np.generic]) -> frozenset[str]:
        """Operators that compute in float between integers of a type."""
        return self.wide_float_operators if dtype == np.int16 else self.float_operators


LITERT = Flavour(
    float_operators=frozenset(
        {
            "Softmax",
            "Gelu",
            "HardSwish",
            "LpNormalization",
            "ReduceSum",
            "AveragePool",
            "MatMul",
        }
    ),
    least_ratio=2.0**-10,
    most_joined=5,
    one_filter=True,
    folds_dequantize=True,
    fused_pads=True,
)
"""LiteRT with the XNNPACK delegate; the operators that it has no integer kernel for compute in
float, which costs conversions but keeps the network in one piece (see `scheme.TFLITE`). The L2
norm, which it does not have at all, is spelled out."""

INTEGER = Flavour(name="integer", max_rank=5, longest_softmax=511)
"""Every operator on integers that has a kernel for them: Edge TPU, TensorFlow Lite Micro. Where the
exponentials of a row sum up to 512, the plain kernels shift 32 bits by 32 or more, which ends
LiteRT's process (gemmlowp's fixed point, `reference/softmax.py`)."""

C = Flavour(
    name="c",
    max_rank=5,
    composites=frozenset({"LayerNormalization", "InstanceNormalization", "GroupNormalization"}),
    wide_float_operators=frozenset(),
)
"""Our own microcontroller backend."""

INTEGER_16 = Flavour(
    name="int16x8", float_operators=frozenset({"HardSwish", "LpNormalization"}), max_rank=5
)
"""int16 activations: every operator on integers that LiteRT has a kernel of that type for."""

FLAVOURS = {"tflite": LITERT, "tflite-full": INTEGER, "tflite-int16x8": INTEGER_16}
"""Quantization scheme → flavour that keeps its operators as they are meant."""


def flavour_for(scheme: str, runtime: str, delegates: Collection[str] = ()) -> Flavour:
    """The flavour for graphs of a quantization scheme on a runtime (`Runtime.name`) with delegates.

    The GPU delegate has no tensors of more than four dimensions and no depthwise convolutions with
    several filters per channel (TensorFlow's gpu_compatibility.cc): each one divides the network.
    """
    flavour = FLAVOURS.get(scheme, LITERT)
    if "gpu" in delegates:
        flavour = replace(flavour, max_rank=4, only_one_filter=flavour.one_filter)
    if runtime == "tflite-runtime":  # its last release is from TensorFlow 2.14
        # GELU on int16 is newer
        wide = flavour.wide_float_operators | {"Gelu"}
        flavour = replace(flavour, channel_linear=False, wide_float_operators=wide)
        if flavour.name == INTEGER_16.name:
            return replace(flavour, float_operators=wide)
    return flavour


def scheme_of(int8_scheme: str | None) -> str:
    """The scheme of a target's .tflite files, given its `int8_scheme`, which may be another
    format's."""
    return int8_scheme if int8_scheme in FLAVOURS else "tflite"
