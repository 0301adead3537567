"""What the reader of the lowered model executes, and which forms to choose for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Flavour:
    """A consumer of lowered models.

    Attributes:
        name: for messages.
        composites: ONNX operators that stay one custom operator each instead of being spelled out
            in builtins: LayerNormalization, InstanceNormalization, GroupNormalization.
        integer_gelu: the runtime has GELU on int8 (builtin version 2); otherwise it computes in
            float between DEQUANTIZE and QUANTIZE.
        integer_batch_matmul: products of two int8 activations are integer.
        norms: how norms of integer inputs compute: ``"float"`` between DEQUANTIZE and QUANTIZE,
            because int8 MEAN, SUB and SQUARED_DIFFERENCE would round the mean and the variance to 8
            bits each; composites take integers as they are.
        max_rank: most dimensions of a TRANSPOSE.
    """

    name: str = "litert"
    composites: frozenset[str] = frozenset()
    integer_gelu: bool = True
    integer_batch_matmul: bool = True
    norms: Literal["float", "composite"] = "float"
    max_rank: int = 6


LITERT = Flavour()
C = Flavour(
    name="c",
    composites=frozenset({"LayerNormalization", "InstanceNormalization", "GroupNormalization"}),
    norms="composite",
)
