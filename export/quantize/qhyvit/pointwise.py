"""The nonlinearity behind a tensor, applied to any sample of its values.

A squared gradient tells what a *small* error costs. Clipping makes large ones: where SiLU is flat,
at −8 say, the gradient vanishes, and yet −3 in its place is another result. Errors are therefore
measured behind the elementwise functions that follow a tensor, where convolutions, sums and
products read it: up to there the error is exact, and only behind is it taken as small.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir
import torch
from torch import Tensor

from edgec.export.quantize.graph import constant_of
from edgec.export.quantize.replay.graph import Replay

_FUNCTIONS = frozenset({
    "Abs", "Add", "Celu", "Clip", "Div", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish",
    "Identity", "LeakyRelu", "Mish", "Mul", "Neg", "Pow", "Relu", "Selu", "Sigmoid", "Softplus",
    "Sqrt", "Sub", "Tanh",
})  # fmt: skip


@dataclass(frozen=True)
class Pointwise:
    """A function of single values.

    Attributes:
        start: the tensor whose values it takes.
        exits: the tensors that something else reads, `start` itself possibly among them.
        steps: indices of the replay's steps that compute them.
    """

    replay: Replay
    start: str
    exits: tuple[str, ...]
    steps: tuple[int, ...]

    @classmethod
    def of(cls, replay: Replay, nodes: Sequence[ir.Node], value: ir.Value) -> Pointwise:
        """What follows `value` in a graph whose nodes are those of the replay, in order."""
        inside = {value}
        exits = dict.fromkeys([str(value.name)] if value.is_graph_output() else [])
        steps = []
        for i, node in enumerate(nodes):
            read = [v for v in node.inputs if v is not None and v in inside]
            if not read:
                continue
            if _is_function(node) and all(
                v is None or v in inside or constant_of(v) is not None for v in node.inputs
            ):
                steps.append(i)
                inside.add(node.outputs[0])
                if node.outputs[0].is_graph_output():
                    exits[str(node.outputs[0].name)] = None
            else:
                exits.update(dict.fromkeys(str(v.name) for v in read))
        return cls(replay, str(value.name), tuple(exits), tuple(steps))

    def __call__(self, values: Tensor) -> list[Tensor]:
        """One tensor per exit, each of the shape of `values`."""
        known: dict[str, Tensor] = {self.start: values}
        with torch.no_grad():
            for i in self.steps:
                step = self.replay.steps[i]
                arguments = [self._find(known, name) for name in step.inputs]
                known[step.outputs[0]] = step.function(step.attributes, *arguments)  # type: ignore[assignment]
        return [known[name] for name in self.exits]

    def _find(self, known: dict[str, Tensor], name: str) -> Tensor | None:
        if not name or name in known:
            return known[name] if name else None
        constant = self.replay.weights.get(name)
        # scalars of any rank broadcast without changing the shape
        return (self.replay.constants[name] if constant is None else constant).reshape(())


def _is_function(node: ir.Node) -> bool:
    constants = [c for v in node.inputs if (c := constant_of(v)) is not None]
    return node.op_type in _FUNCTIONS and node.domain == "" and all(c.size == 1 for c in constants)
