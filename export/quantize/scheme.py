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
import onnx_ir as ir

from edgec.export.errors import UsageError
from edgec.export.quantize.graph import is_excluded

IntegerType = Literal["uint8", "int8"]

WEIGHT_BITS = (8, 6, 4)
ACTIVATION_BITS = (8, 6, 16)
# first opset whose Q/DQ take int4 and 16-bit integers
INT4_OPSET = 21

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
        weight: integer type of weights; uint8 stores the same symmetric integers plus 128.
        pair_safe: limit weights so that the sum of two u8·s8 products fits 16 bits. x86 without
            VNNI multiplies with vpmaddubsw, which saturates there silently (ONNX Runtime
            documentation, "Quantize ONNX models", S8S8/U8S8 and reduce_range).
        integer_bias: biases of Conv and Gemm become int32 with scale s_x·s_w. False leaves them
            float.
        kernels: operators with an integer kernel that also *writes* integers: inputs and output
            are quantized, and every consumer reads the quantized value.
        float_output: operators with a kernel that reads integers and writes float; only the
            inputs are quantized.
        one_output_type: a kernel of `float_output` writes either float or integers, for all its
            readers: if an integer kernel is among them, the output is quantized for all.
        opportunistic: operators of `kernels` that are worth quantizing only when an input
            already is (they move or merge data but bring no integer arithmetic themselves).
        eager: names of nodes that are quantized all the same, behind float ones too.
        stored: node names, operator types or module paths whose weights are integers,
            dequantized, although their products stay float.
        same_scale: operators whose output reuses the quantization parameters of their input.
        shared_concat: tensors that only a Concat reads take its output's parameters, as its kernel
            needs them; otherwise the writer of the file requantizes them.
        absorbed: activations that the preceding kernel performs by saturating at its output
            range; no quantizer comes between the two.
        residual_arms: what to quantize at an Add of two activations that is not in `kernels`:
            ``"both"`` arms, only the ``"skip"`` arm (the other one comes from a weighted
            operator that can fuse with the Add), both where there is such an operator
            (``"fused"``), or ``"none"``.
        attention: quantize products of two activations (MatMul without a constant).
        stacks: quantize products of an activation and a stack of constant matrices. False computes
            them in float; the matrices are integers all the same, dequantized.
        longest_softmax: elements of a row that a softmax on a `fixed` grid takes; longer ones stay
            float. None takes any.
        constant_operands: quantize Add, Mul, … with a constant operand, whose constant then
            becomes an integer tensor as well. False computes them in float.
        largest_depthwise: taps of a depthwise kernel (height × width) above which it stays float;
            None quantizes all.
        least_outputs: output channels below which a convolution or a product with a constant stays
            float; 0 quantizes all.
        bounds: operator → (low, high) that its output cannot leave; ranges are cut to it.
        fixed: operator → (low, high) that the runtime prescribes for its output.
        min_opset: lowest default-domain opset with the Q/DQ forms used.
        weight_bits: 8, 6 or 4; integers are symmetric, ±127, ±31 or ±7. Four bits are stored as
            int4 from opset 21 on, and as int8 below.
        weight_bits_of: node name, operator type or module path → bits of the weights there; of
            several that match, the longest (the most specific one) counts.
        activation_bits: 8, 6 or 16. Six bits are emulated: the integers of the 8-bit type are cut
            to 64 levels between QuantizeLinear and DequantizeLinear, because QuantizeLinear
            saturates only at the limits of its type. Sixteen need opset 21.
        wide: rules of the nodes in `wide_nodes`, whose activations have 16 bits; None where the
            runtime has no kernels for them beside those of 8 bits.
        wide_nodes: names of these nodes. Between them and the others tensors are requantized.
    """

    name: str
    activation: IntegerType
    symmetric: bool
    per_channel: bool = True
    weight: IntegerType = "int8"
    pair_safe: bool = False
    integer_bias: bool = True
    kernels: frozenset[str] = frozenset()
    float_output: frozenset[str] = frozenset()
    one_output_type: bool = False
    opportunistic: frozenset[str] = frozenset()
    eager: frozenset[str] = frozenset()
    stored: frozenset[str] = frozenset()
    same_scale: frozenset[str] = DATA_MOVEMENT
    shared_concat: bool = False
    absorbed: frozenset[str] = frozenset()
    residual_arms: Literal["both", "skip", "fused", "none"] = "none"
    attention: bool = True
    stacks: bool = True
    longest_softmax: int | None = None
    constant_operands: bool = False
    largest_depthwise: int | None = None
    least_outputs: int = 0
    bounds: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    fixed: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    min_opset: int = 13
    weight_bits: int = 8
    weight_bits_of: Mapping[str, int] = field(default_factory=dict)
    activation_bits: int = 8
    wide: QuantScheme | None = None
    wide_nodes: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        for bits in (self.weight_bits, *self.weight_bits_of.values()):
            if bits not in WEIGHT_BITS:
                raise _no_such_width("weights", bits, WEIGHT_BITS)
        if self.activation_bits not in ACTIVATION_BITS:
            raise _no_such_width("activations", self.activation_bits, ACTIVATION_BITS)

    def of(self, node: str) -> QuantScheme:
        """The rules of a node."""
        return self if self.wide is None or node not in self.wide_nodes else self.wide

    def in_width(self, wide: bool) -> QuantScheme:
        """The `wide` rules, or these."""
        return self.wide if wide and self.wide is not None else self

    @property
    def dtype(self) -> np.dtype[np.integer]:
        """numpy dtype of quantized activations."""
        unsigned = self.activation == "uint8"
        if self.activation_bits == 16:
            return np.dtype(np.uint16 if unsigned else np.int16)
        return np.dtype(np.uint8 if unsigned else np.int8)

    @property
    def limits(self) -> tuple[int, int]:
        """Smallest and largest integer of the activation grid."""
        count = 2**self.activation_bits
        if self.activation == "uint8":
            return 0, count - 1
        return 1 - count // 2 if self.symmetric else -count // 2, count // 2 - 1

    @property
    def cut(self) -> bool:
        """Whether activations have fewer levels than their integer type, symmetry apart."""
        return self.activation_bits < 8

    @property
    def emulated(self) -> bool:
        """Whether no runtime has kernels for these widths: for comparison, not for export."""
        return self.activation_bits != 8 or {self.weight_bits, *self.weight_bits_of.values()} != {8}

    @property
    def few_bits(self) -> bool:
        """Whether some grid has fewer than eight bits."""
        return min(self.activation_bits, self.weight_bits, *self.weight_bits_of.values(), 8) < 8

    @property
    def lowest_opset(self) -> int:
        """`min_opset`, or what the widths need."""
        wide = self.activation_bits == 16 or bool(self.wide_nodes)
        return max(self.min_opset, INT4_OPSET if wide else 0)

    def weight_limit(self, node: ir.Node) -> int:
        """Largest magnitude of an integer weight of `node`: 2^(bits - 1) - 1."""
        bits = self.weight_bits
        for entry in sorted(self.weight_bits_of, key=len):
            if is_excluded(node, (entry,)):
                bits = self.weight_bits_of[entry]
        return int(2 ** (bits - 1) - 1)

    def with_bits(self, weights: int = 8, activations: int = 8) -> QuantScheme:
        """The same placement on other grids, named as in the literature: ``ort-x86-w4a8``.

        Raises:
            UsageError: EC268, no such width.
        """
        if (weights, activations) == (8, 8):
            return replace(self, weight_bits=8, activation_bits=8)
        return replace(
            self,
            name=f"{self.name}-w{weights}a{activations}",
            weight_bits=weights,
            activation_bits=activations,
        )

    def with_integer_bias(self) -> QuantScheme:
        """The same with integer biases, which a plan lists: to find all biases of layers."""
        return replace(self, integer_bias=True)

    @property
    def levels(self) -> int:
        """Number of integers of the activation grid."""
        low, high = self.limits
        return high - low + 1


_UNIT = (0.0, 1.0)
_BOUNDS = {"Softmax": _UNIT, "Sigmoid": _UNIT, "HardSigmoid": _UNIT}

# Right on every x86: without VNNI, full 8-bit weights silently saturate in 16 bits.
ORT_X86 = QuantScheme(
    name="ort-x86",
    activation="uint8",
    symmetric=False,
    pair_safe=True,
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
    one_output_type=True,
    opportunistic=frozenset({"Sigmoid", "Concat", "AveragePool", "GlobalAveragePool", "LeakyRelu"}),
    absorbed=frozenset({"Relu", "Clip"}),
    bounds=_BOUNDS,
)

# The same with all eight bits of the weights: products of two unsigned integers do not saturate,
# but their kernels are slower.
ORT_X86_U8 = replace(ORT_X86, name="ort-x86-u8", weight="uint8", pair_safe=False)

# For machines known to have AVX512-VNNI or AVX-VNNI, whose products are exact.
ORT_X86_VNNI = replace(ORT_X86, name="ort-x86-vnni", pair_safe=False)

# The same kernels with signed activations, which Arm's dot product instructions prefer.
ORT_ARM = replace(ORT_X86, name="ort-arm", activation="int8", pair_safe=False)

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

# TensorFlow Lite 8-bit quantization specification, with an integer kernel wherever there is one.
# Softmax, sigmoid, tanh and the L2 norm write on grids that the specification fixes; norms have no
# integer kernel and stay float. Concatenated tensors share a grid in TFLite: the writer of the
# .tflite file requantizes where they do not.
TFLITE_FULL = QuantScheme(
    name="tflite-full",
    activation="int8",
    symmetric=False,
    kernels=frozenset(
        {
            "Conv",
            "ConvTranspose",
            "MatMul",
            "Gemm",
            "Add",
            "Sub",
            "Mul",
            "Sigmoid",
            "Tanh",
            "Softmax",
            "LpNormalization",
            "Gelu",
            "HardSwish",
            "LeakyRelu",
            "Relu",
            "GlobalAveragePool",
            "ReduceMean",
            "ReduceSum",
            "Concat",
        }
    ),
    opportunistic=frozenset({"Concat", "Relu"}),
    absorbed=frozenset({"Relu", "Clip"}),
    same_scale=DATA_MOVEMENT | {"AveragePool", "Resize", "Pad", "ReduceMax", "ReduceMin"},
    constant_operands=True,
    shared_concat=True,
    fixed={
        "Softmax": (0.0, 255 / 256),
        "Sigmoid": (0.0, 255 / 256),
        "Tanh": (-1.0, 127 / 128),
        "LpNormalization": (-1.0, 127 / 128),
    },
    # a row of 512 equal elements is zeros on a grid of 1/256; TFLite's plain kernel ends the
    # process there (see `flavour.INTEGER`)
    longest_softmax=511,
)

# What LiteRT's XNNPACK delegate executes fast: it has no integer softmax, GELU, HardSwish, L2 norm,
# average pooling, product of two activations or with a stack of matrices, and leaves the network
# for each of them; its integer depthwise convolution is made for up to 25 taps. LiteRT's own
# integer product takes several times as long as the float one. Between operators in float, those
# without products would only bring conversions.
TFLITE = replace(
    TFLITE_FULL,
    name="tflite",
    kernels=TFLITE_FULL.kernels - {"Softmax", "Gelu", "HardSwish", "LpNormalization", "ReduceSum"},
    opportunistic=TFLITE_FULL.kernels - {"Conv", "ConvTranspose", "MatMul", "Gemm"},
    same_scale=TFLITE_FULL.same_scale - {"AveragePool"},
    attention=False,
    stacks=False,
    longest_softmax=None,
    largest_depthwise=25,
)


# The same with int16 activations, for networks that eight bits hurt: grids are symmetric, biases
# int64, softmax, sigmoid and tanh write on 2⁻¹⁵ (TensorFlow Lite, "16-bit activations with 8-bit
# weights"). HARD_SWISH and L2_NORMALIZATION have no kernel for them.
TFLITE_INT16X8 = replace(
    TFLITE_FULL,
    name="tflite-int16x8",
    symmetric=True,
    activation_bits=16,
    kernels=TFLITE_FULL.kernels - {"HardSwish", "LpNormalization"},
    fixed=dict.fromkeys(("Softmax", "Sigmoid", "Tanh"), (-1.0, 32767 / 32768)),
)

# Our own C kernels for int16 activations: HardSwish and the L2 norm are integer too, and the norm's
# output is on the grid that softmax, sigmoid and tanh have.
C_INT16X8 = replace(
    TFLITE_INT16X8,
    name="c-int16x8",
    kernels=TFLITE_FULL.kernels,
    fixed=dict.fromkeys(TFLITE_FULL.fixed, (-1.0, 32767 / 32768)),
)


def _no_such_width(what: str, bits: int, known: tuple[int, ...]) -> UsageError:
    return UsageError(
        "EC268",
        f"{what} cannot be quantized to {bits} bits",
        fix=f"choose one of {', '.join(map(str, sorted(known)))}",
    )


SCHEMES: Mapping[str, QuantScheme] = {
    s.name: s for s in (ORT_X86, ORT_X86_U8, ORT_X86_VNNI, ORT_ARM, TENSORRT, TFLITE, TFLITE_FULL)
}
"""Schemes of eight bits, which graphs of any opset from their `min_opset` on take."""

WIDE_SCHEMES: Mapping[str, QuantScheme] = {s.name: s for s in (TFLITE_INT16X8, C_INT16X8)}
"""Schemes that runtimes have kernels for although their Q/DQ need `INT4_OPSET`."""


def get_scheme(name: str) -> QuantScheme:
    """The scheme called `name`.

    Raises:
        UsageError: EC264, no such scheme.
    """
    known = {**SCHEMES, **WIDE_SCHEMES}
    if name not in known:
        raise UsageError(
            "EC264",
            f"unknown quantization scheme {name!r}",
            fix=f"choose one of {', '.join(sorted(known))}",
        )
    return known[name]


def require_executable(scheme: QuantScheme) -> None:
    """Refuse to export for a device what only an emulation runs.

    Raises:
        UsageError: EC267, the scheme is emulated.
    """
    if scheme.emulated and scheme not in WIDE_SCHEMES.values():
        raise UsageError(
            "EC267",
            f"scheme {scheme.name} is emulated and cannot be exported",
            why="no kernel of the target's runtime computes with these bit widths; the scheme "
            "exists to compare accuracy with the literature",
            fix="use the 8-bit scheme of the target",
        )
