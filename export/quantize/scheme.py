"""What each runtime's integer kernels take, as data.

A `QuantScheme` says which operators run on integers, where quantizers go, and what the integer
grids look like. The planner (`edgec.export.quantize.plan`) reads it; there is no code per target.

Sources: ONNX QuantizeLinear/DequantizeLinear; ONNX Runtime's QDQ selectors
(onnxruntime/core/optimizer/qdq_transformer); NVIDIA TensorRT developer guide, "Explicit
quantization", and `NvInfer.h` (IQuantizeLayer); TensorFlow Lite 8-bit quantization specification.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from edgec.export.errors import UsageError

IntegerType = Literal["uint8", "int8"]

# Pure data movement: every output value is one of the input values (or a constant zero pad),
# so input and output can use one scale and zero point.
DATA_MOVEMENT = frozenset(
    {
        "Reshape",
        "Transpose",
        "Flatten",
        "Squeeze",
        "Unsqueeze",
        "Slice",
        "Split",
        "Gather",
        "Expand",
        "Tile",
        "DepthToSpace",
        "SpaceToDepth",
        "MaxPool",
        "GlobalMaxPool",
        "Identity",
    }
)


@dataclass(frozen=True)
class QuantScheme:
    """Rules for placing quantizers, and their integer grids.

    Attributes:
        name: key in `SCHEMES`.
        activation: integer type of activations; the full range of the type is used, except that
            symmetric grids leave out -128.
        symmetric: activations have zero point 0 (int8) and a range symmetric about zero.
        per_channel: weights have a scale per output channel; otherwise one per tensor.
        integer_bias: biases of Conv and Gemm become int32 with scale s_x·s_w. False leaves them
            float.
        kernels: operators with an integer kernel that also *writes* integers: inputs and output
            are quantized, and every consumer reads the quantized value.
        float_output: operators with a kernel that reads integers and writes float; only the
            inputs are quantized.
        opportunistic: operators of `kernels` that are worth quantizing only when an input
            already is (they move or merge data but bring no integer arithmetic themselves).
        same_scale: operators whose output reuses the quantization parameters of their input.
        absorbed: activations that the preceding kernel performs by saturating at its output
            range; no quantizer comes between the two.
        residual_arms: what to quantize at an Add of two activations that is not in `kernels`:
            ``"both"`` arms, only the ``"skip"`` arm (the other one comes from a weighted
            operator that can fuse with the Add), or ``"none"``.
        attention: quantize products of two activations (MatMul without a constant).
        constant_operands: quantize Add, Mul, … with a constant operand, whose constant then
            becomes an integer tensor as well. False computes them in float.
        bounds: operator → (low, high) that its output cannot leave; ranges are cut to it.
        fixed: operator → (low, high) that the runtime prescribes for its output.
        min_opset: lowest default-domain opset with the Q/DQ forms used.
    """

    name: str
    activation: IntegerType
    symmetric: bool
    per_channel: bool = True
    integer_bias: bool = True
    kernels: frozenset[str] = frozenset()
    float_output: frozenset[str] = frozenset()
    opportunistic: frozenset[str] = frozenset()
    same_scale: frozenset[str] = DATA_MOVEMENT
    absorbed: frozenset[str] = frozenset()
    residual_arms: Literal["both", "skip", "none"] = "none"
    attention: bool = True
    constant_operands: bool = False
    bounds: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    fixed: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    min_opset: int = 13

    @property
    def dtype(self) -> np.dtype[np.uint8] | np.dtype[np.int8]:
        """numpy dtype of quantized activations."""
        return np.dtype(np.uint8) if self.activation == "uint8" else np.dtype(np.int8)

    @property
    def limits(self) -> tuple[int, int]:
        """Smallest and largest integer of the activation grid."""
        if self.activation == "uint8":
            return 0, 255
        return (-127, 127) if self.symmetric else (-128, 127)

    @property
    def levels(self) -> int:
        """Number of integers of the activation grid."""
        low, high = self.limits
        return high - low + 1


_UNIT = (0.0, 1.0)
_BOUNDS = {"Softmax": _UNIT, "Sigmoid": _UNIT, "HardSigmoid": _UNIT}

ORT_X86 = QuantScheme(
    name="ort-x86",
    activation="uint8",
    symmetric=False,
    kernels=frozenset(
        {
            "Conv",
            "Add",
            "Mul",
            "Sigmoid",
            "LeakyRelu",
            "AveragePool",
            "GlobalAveragePool",
            "Concat",
        }
    ),
    float_output=frozenset({"MatMul", "Gemm"}),
    opportunistic=frozenset({"Sigmoid", "Concat", "AveragePool", "GlobalAveragePool", "LeakyRelu"}),
    absorbed=frozenset({"Relu", "Clip"}),
    bounds=_BOUNDS,
)

# The same kernels with signed activations, which Arm's dot product instructions prefer.
ORT_ARM = replace(ORT_X86, name="ort-arm", activation="int8")

TENSORRT = QuantScheme(
    name="tensorrt",
    activation="int8",
    symmetric=True,
    integer_bias=False,
    float_output=frozenset({"Conv", "ConvTranspose", "MatMul", "Gemm"}),
    residual_arms="both",
    # Q/DQ inside attention breaks TensorRT's fused multi-head attention kernels
    attention=False,
    same_scale=frozenset(),
    bounds=_BOUNDS,
)

SCHEMES: Mapping[str, QuantScheme] = {s.name: s for s in (ORT_X86, ORT_ARM, TENSORRT)}


def get_scheme(name: str) -> QuantScheme:
    """The scheme called `name`.

    Raises:
        UsageError: EC264, no such scheme.
    """
    if name not in SCHEMES:
        raise UsageError(
            "EC264",
            f"unknown quantization scheme {name!r}",
            fix=f"choose one of {', '.join(sorted(SCHEMES))}",
        )
    return SCHEMES[name]
