"""The operator table of the replay, and what its functions are given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor

Inputs = Sequence[Tensor | None]
Result = Tensor | tuple[Tensor, ...]
Operator = Callable[..., Result]

OPERATORS: dict[str, Operator] = {}
"""Operator of the default domain → function of (attributes, *inputs); one per operator."""


@dataclass(frozen=True)
class Attributes:
    """Attributes of a node as Python values, and what else its meaning depends on.

    Attributes:
        values: name → int, float, str, tuple of them, or Tensor.
        opset: version of the default domain.
        outputs: how many outputs the node has.
    """

    values: dict[str, Any]
    opset: int
    outputs: int

    def get(self, name: str, default: Any = None) -> Any:
        """The attribute, or `default` if the node does not set it."""
        return self.values.get(name, default)

    @classmethod
    def of(cls, node: ir.Node, opset: int) -> Attributes:
        """Read the attributes of `node`."""
        values: dict[str, Any] = {}
        for name, attribute in node.attributes.items():
            match attribute.type:
                case ir.AttributeType.INT:
                    values[name] = attribute.as_int()
                case ir.AttributeType.FLOAT:
                    values[name] = attribute.as_float()
                case ir.AttributeType.STRING:
                    values[name] = attribute.as_string()
                case ir.AttributeType.INTS:
                    values[name] = tuple(attribute.as_ints())
                case ir.AttributeType.FLOATS:
                    values[name] = tuple(attribute.as_floats())
                case ir.AttributeType.TENSOR:
                    values[name] = torch.tensor(attribute.as_tensor().numpy())
                case _:
                    raise NotImplementedError(f"attribute {name} of type {attribute.type.name}")
        return cls(values, opset, len(node.outputs))


def operator(*names: str) -> Callable[[Operator], Operator]:
    """Register a function under the names of the operators that it executes."""

    def register(function: Operator) -> Operator:
        for name in names:
            assert name not in OPERATORS, f"{name} has two implementations"
            OPERATORS[name] = function
        return function

    return register


def to_ints(given: Tensor) -> list[int]:
    """A 1-D shape, axes, pads, … tensor as Python integers."""
    return [int(v) for v in given.reshape(-1).tolist()]


def axes_of(a: Attributes, given: Tensor | None, rank: int) -> list[int]:
    """Non-negative axes from an input (newer opsets) or the attribute; empty without both."""
    axes = to_ints(given) if given is not None else list(a.get("axes", ()))
    return [axis % rank for axis in axes]
