"""A graph as a torch module: any network that can be exported can be differentiated.

Learned rounding, Fisher-weighted range search and trace sensitivity need gradients. They are taken
here from the graph that will be quantized, so that a user's ONNX file gets the same treatment as a
network of the zoo, and the names of tensors are those of the plan.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import onnx_ir as ir
import torch
from torch import Tensor, nn

from edgec.export.errors import UnsupportedError
from edgec.export.quantize.replay import arithmetic, elementwise, views  # noqa: F401  (register)
from edgec.export.quantize.replay.table import OPERATORS, Attributes, Operator

Intercept = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class _Step:
    name: str
    function: Operator
    attributes: Attributes
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    last_use: tuple[str, ...]


class Replay(nn.Module):
    """Executes an ONNX graph of the default domain with torch, on the CPU.

    Float initializers are parameters in `weights` (which require no gradient until the caller asks
    for it); all other constants are buffers. Nodes run in graph order; a value is dropped after
    its last use.
    """

    def __init__(self, model: ir.Model) -> None:
        """Prepare the steps.

        Args:
            model: static shapes, opset 13 or later, no control flow.

        Raises:
            UnsupportedError: EC366, an operator has no replay; names it and its node.
        """
        super().__init__()
        graph = model.graph
        opset = model.opset_imports.get("", 0)
        self.input_names = tuple(v.name or "" for v in graph.inputs)
        self.output_names = tuple(v.name or "" for v in graph.outputs)
        self.weights: dict[str, nn.Parameter] = {}
        self.constants: dict[str, Tensor] = {}
        for position, (name, value) in enumerate(graph.initializers.items()):
            if value.const_value is None or name in self.input_names:
                continue
            tensor = torch.tensor(value.const_value.numpy())
            if tensor.is_floating_point():
                self.weights[name] = nn.Parameter(tensor, requires_grad=False)
                # names of a model may hold dots, which torch does not allow
                self.register_parameter(f"weight_{position}", self.weights[name])
            else:
                self.constants[name] = tensor
        self.steps = tuple(self._steps(graph, opset))

    def forward(
        self,
        feeds: Mapping[str, Tensor],
        *,
        watch: Collection[str] = (),
        intercept: Mapping[str, Intercept] | None = None,
    ) -> dict[str, Tensor]:
        """Run the graph.

        Args:
            feeds: one tensor per graph input.
            watch: names of further values to return.
            intercept: tensor name → function applied to the value (computed, fed or constant)
                before anything reads it: a fake quantizer, a learned rounding, a probe.

        Returns:
            The graph outputs and the watched values by name.

        Raises:
            UnsupportedError: EC366, a node's attributes or types have no replay.
        """
        intercept = intercept or {}
        values: dict[str, Tensor] = {}
        for source in (self.constants, self.weights, feeds):
            for name, tensor in source.items():
                values[name] = intercept[name](tensor) if name in intercept else tensor
        kept = set(self.output_names) | set(watch)
        for step in self.steps:
            arguments = [values[name] if name else None for name in step.inputs]
            try:
                result = step.function(step.attributes, *arguments)
            except NotImplementedError as error:
                raise _unsupported(step.name, str(error)) from error
            results = result if isinstance(result, tuple) else (result,)
            for name, tensor in zip(step.outputs, results, strict=False):
                values[name] = intercept[name](tensor) if name in intercept else tensor
            for name in step.last_use:
                if name not in kept:
                    values.pop(name, None)
        missing = [name for name in watch if name not in values]
        if missing:
            raise KeyError(f"no such value in the graph: {', '.join(missing)}")
        return {name: values[name] for name in (*self.output_names, *watch)}

    def _steps(self, graph: ir.Graph, opset: int) -> list[_Step]:
        nodes = list(graph)
        last: dict[str, int] = {}
        for position, node in enumerate(nodes):
            for value in node.inputs:
                if value is not None:
                    last[value.name or ""] = position
        by_position: dict[int, list[str]] = {}
        for name, position in last.items():
            by_position.setdefault(position, []).append(name)
        steps = []
        for position, node in enumerate(nodes):
            known = node.domain in ("", "ai.onnx") and node.op_type in OPERATORS
            if not known:
                raise _unsupported(node.name or "", f"operator {node.domain}::{node.op_type}")
            try:
                attributes = Attributes.of(node, opset)
            except NotImplementedError as error:
                raise _unsupported(node.name or "", str(error)) from error
            steps.append(
                _Step(
                    node.name or "",
                    OPERATORS[node.op_type],
                    attributes,
                    tuple("" if v is None else v.name or "" for v in node.inputs),
                    tuple(v.name or "" for v in node.outputs),
                    tuple(by_position.get(position, ())),
                )
            )
        return steps


def _unsupported(node: str, what: str) -> UnsupportedError:
    return UnsupportedError(
        "EC366",
        "the graph cannot be replayed for gradients",
        where=node,
        why=f"no replay of {what}",
        fix="use a quantization method without gradients (--calib-method mse)",
    )
