"""What the rules of delegates ask of an operator and its tensors."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

from edgec.export.tflite.model import ABSENT, Operator, Tensor


@dataclass(frozen=True)
class Call:
    """An operator with its tensors.

    Attributes:
        inputs: optional ones that are left out are not among them.
        constant: for each input, whether it is known when the model is loaded.
    """

    operator: Operator
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    constant: tuple[bool, ...]

    @staticmethod
    def of(operator: Operator, tensors: list[Tensor], folded: Set[int] = frozenset()) -> Call:
        """The call of `operator`, whose indices refer to `tensors`.

        Args:
            folded: tensors without data that are computed from constants when the model is loaded.
        """
        present = [i for i in operator.inputs if i != ABSENT]
        return Call(
            operator,
            tuple(tensors[i] for i in present),
            tuple(tensors[i] for i in operator.outputs),
            tuple(tensors[i].data is not None or i in folded for i in present),
        )

    @property
    def code(self) -> str:
        """The builtin's name."""
        return self.operator.code

    @property
    def computed(self) -> tuple[Tensor, ...]:
        """Inputs that are no constants."""
        return tuple(t for t, known in zip(self.inputs, self.constant, strict=True) if not known)

    @property
    def data(self) -> Tensor:
        """The input whose type names the kernel: the first one, of SPLIT and TRANSPOSE_CONV
        another."""
        place = {"SPLIT": 1, "TRANSPOSE_CONV": 2, "SELECT_V2": 1}.get(self.code, 0)
        return self.inputs[place]

    @property
    def axes(self) -> tuple[int, ...] | None:
        """Reduced axes, not negative; None if they are computed."""
        found = self.inputs[1].data
        rank = len(self.inputs[0].shape)
        if found is None:
            return None
        return tuple(sorted(int(a) % rank if rank else 0 for a in found.reshape(-1)))

    @property
    def activation(self) -> str:
        """The fused activation; ``"NONE"`` without one."""
        return str(self.operator.options.get("fused_activation_function", "NONE"))
