"""What a reference kernel is given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from edgec.export.tflite.model import Tensor

Values = Sequence[NDArray[Any] | None]
"""The inputs' arrays; None for those left out."""


@dataclass(frozen=True)
class Frame:
    """The tensors of one operator call: shapes, types, quantization."""

    inputs: Sequence[Tensor | None]
    outputs: Sequence[Tensor]
