"""Which operators of a TensorRT graph get Q/DQ, as variants of one scheme.

TensorRT follows the Q/DQ nodes of the graph to the letter (NVIDIA TensorRT developer guide,
"Explicit quantization"), so where they stand decides what it fuses: Q/DQ inside attention break its
fused attention kernels (facebookresearch/dinov2#489), an integer convolution writes out what a
float16 one hands to a SiLU in registers, and a residual addition is part of an integer convolution
only where its other arm is quantized too. Products of few channels (a stem of 12, the head of ten
classes) save next to nothing on integers, cost a conversion on each side, and err most: NVIDIA
ModelOpt leaves out what writes fewer than 16.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from edgec.export.quantize.scheme import QuantScheme

DEFAULT = "default"
CONVOLUTIONS = frozenset({"Conv", "ConvTranspose"})
PRODUCTS = frozenset({"MatMul", "Gemm"})

PLACEMENTS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    # name: what it quantizes, fields of the scheme that differ
    DEFAULT: ("convolutions, linear layers, both arms of residual additions", {}),
    "attention": ("the same, and products inside attention", {"attention": True}),
    "skip-arms": (
        "convolutions, linear layers, the skip arm of residual additions",
        {"residual_arms": "skip"},
    ),
    "fused-arms": (
        "convolutions, linear layers, both arms of additions behind a convolution",
        {"residual_arms": "fused"},
    ),
    "no-arms": ("convolutions and linear layers", {"residual_arms": "none"}),
    "convolutions": (
        "convolutions only",
        {"float_output": CONVOLUTIONS, "residual_arms": "none"},
    ),
    "wide": (
        "the default, without products that write fewer than 16 channels",
        {"least_outputs": 16},
    ),
    "wide-attention": (
        "the same, and products inside attention",
        {"least_outputs": 16, "attention": True},
    ),
    "linear": ("linear layers only", {"float_output": PRODUCTS, "residual_arms": "none"}),
}


def placed(scheme: QuantScheme, name: str) -> QuantScheme:
    """`scheme` with the rules of a placement."""
    return replace(scheme, **PLACEMENTS[name][1])
