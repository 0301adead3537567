"""What a reference kernel is given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from edgec.export.tflite.model import Operator, Tensor


@dataclass(frozen=True)
class Call:
    """One operator call: its options, and its tensors with their content.

    Attributes:
        tensors: the inputs' shapes, types and quantization; None for inputs left out.
        arrays: the inputs' content.
    """

    operator: Operator
    tensors: Sequence[Tensor | None]
    arrays: Sequence[NDArray[Any] | None]
    outputs: Sequence[Tensor]

    @property
    def code(self) -> str:
        """Name of the operator."""
        return self.operator.code

    @property
    def options(self) -> dict[str, Any]:
        """Options of the operator."""
        return self.operator.options

    @property
    def output(self) -> Tensor:
        """The first output."""
        return self.outputs[0]

    def has(self, position: int) -> bool:
        """Whether an optional input is there."""
        return position < len(self.arrays) and self.arrays[position] is not None

    def array(self, position: int) -> NDArray[Any]:
        """Content of an input.

        Raises:
            ValueError: the input is left out.
        """
        found = self.arrays[position] if position < len(self.arrays) else None
        if found is None:
            raise ValueError(f"input {position} is absent")
        return found

    def tensor(self, position: int) -> Tensor:
        """An input's tensor.

        Raises:
            ValueError: the input is left out.
        """
        found = self.tensors[position] if position < len(self.tensors) else None
        if found is None:
            raise ValueError(f"input {position} is absent")
        return found
