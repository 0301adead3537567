"""A graph as a torch module: any network that can be exported can be differentiated.

Learned rounding, Fisher-weighted range search and trace sensitivity need gradients. They are taken
here from the graph that will be quantized, so that a user's ONNX file gets the same treatment as a
network of the zoo, and the names of tensors are those of the plan.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgec.export.errors import UnsupportedError
from edgec.export.quantize.replay import (  # noqa: F401  (register)
    arithmetic,
    elementwise,
    integers,
    views,
)
from edgec.export.quantize.replay.fuse import fused
from edgec.export.quantize.replay.table import OPERATORS, Attributes, Operator

Intercept = Callable[[Tensor], Tensor]


def as_tensors(feed: Mapping[str, NDArray[Any]]) -> dict[str, Tensor]:
    """A sample as torch tensors, which share its memory where they can."""
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in feed.items()}


def constantly(value: Tensor) -> Intercept:
    """Put `value` in the place of whatever was computed."""
    return lambda _: value


def tracked(value: Tensor) -> Tensor:
    """An intercept: the value, with gradients to be taken at it."""
    return value if value.requires_grad else value.detach().requires_grad_()


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
            tensor = _tensor(value.const_value)
            if tensor.is_floating_point():
                self.weights[name] = nn.Parameter(tensor, requires_grad=False)
                # names of a model may hold dots, which torch does not allow
                self.register_parameter(f"weight_{position}", self.weights[name])
            else:
                self.constants[name] = tensor
        self.steps = self._steps(graph, opset)

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
            _add(values, source, intercept)
        _execute(self.steps, values, intercept, {*self.output_names, *watch})
        missing = [name for name in watch if name not in values]
        if missing:
            raise KeyError(f"no such value in the graph: {', '.join(missing)}")
        return {name: values[name] for name in (*self.output_names, *watch)}

    def between(self, inputs: Collection[str], outputs: Sequence[str]) -> Segment:
        """The part of the graph that computes `outputs` from `inputs`.

        Args:
            inputs: names of values that will be given; what only they need is not computed.
            outputs: names of values to compute.

        Raises:
            KeyError: an output is not in the graph, or needs a graph input that is not given.
        """
        return Segment(self, inputs, outputs)

    @staticmethod
    def _steps(graph: ir.Graph, opset: int) -> tuple[_Step, ...]:
        nodes = list(graph)
        steps = []
        for node in nodes:
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
                    (),
                )
            )
        return _with_last_use(steps)


class Segment:
    """A part of a `Replay`, called like it; see `Replay.between`.

    It shares the weights of the replay. Integer activations inside cannot be intercepted: rounding
    is one step.
    """

    def __init__(self, replay: Replay, inputs: Collection[str], outputs: Sequence[str]) -> None:
        self.input_names = tuple(inputs)
        self.output_names = tuple(outputs)
        self._replay = replay
        given = set(inputs)
        needed = set(outputs) - given
        chosen = []
        for step in reversed(replay.steps):
            if needed.isdisjoint(step.outputs):
                continue
            chosen.append(step)
            needed.difference_update(step.outputs)
            needed.update(name for name in step.inputs if name and name not in given)
        constant = (replay.constants, replay.weights)
        missing = sorted(n for n in needed if not any(n in source for source in constant))
        if missing:
            raise KeyError(f"not computable from the given values: {', '.join(missing)}")
        self._constants = tuple(sorted(needed))
        constants = {name: source[name] for source in constant for name in source}
        self.steps = _with_last_use(fused(chosen[::-1], constants, set(outputs), _rebuilt))
        self.produced = frozenset(name for step in self.steps for name in step.outputs if name)

    def __call__(
        self,
        feeds: Mapping[str, Tensor],
        *,
        intercept: Mapping[str, Intercept] | None = None,
    ) -> dict[str, Tensor]:
        """The outputs by name; `intercept` as in `Replay.forward`."""
        intercept = intercept or {}
        values: dict[str, Tensor] = {}
        for source in (self._replay.constants, self._replay.weights):
            _add(values, {n: source[n] for n in self._constants if n in source}, intercept)
        _add(values, {name: feeds[name] for name in self.input_names}, intercept)
        _execute(self.steps, values, intercept, set(self.output_names))
        return {name: values[name] for name in self.output_names}

    def batched(
        self,
        feeds: Mapping[str, Tensor],
        *,
        intercept: Mapping[str, Intercept] | None = None,
    ) -> dict[str, Tensor]:
        """As a call, for samples stacked on a new first axis of every feed and output.

        A graph has its batch size written into reshapes, so a larger batch cannot simply be fed;
        the samples are vectorized instead. Random numbers drawn by `intercept` differ per sample.
        """

        def one(sample: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return self(sample, intercept=intercept)

        given = {name: feeds[name] for name in self.input_names}
        result: dict[str, Tensor] = torch.func.vmap(one, randomness="different")(given)
        return result


def _add(
    values: dict[str, Tensor], source: Mapping[str, Tensor], intercept: Mapping[str, Intercept]
) -> None:
    for name, tensor in source.items():
        values[name] = intercept[name](tensor) if name in intercept else tensor


def _execute(
    steps: Sequence[_Step],
    values: dict[str, Tensor],
    intercept: Mapping[str, Intercept],
    kept: Collection[str],
) -> None:
    """Run the steps on `values` in place; values are dropped after their last use."""
    for step in steps:
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


def _rebuilt(step: _Step, function: Operator, inputs: tuple[str, ...]) -> _Step:
    return replace(step, function=function, inputs=inputs)


def _with_last_use(steps: Sequence[_Step]) -> tuple[_Step, ...]:
    last: dict[str, int] = {}
    for position, step in enumerate(steps):
        last.update(dict.fromkeys(step.inputs, position))
    ending: dict[int, list[str]] = {}
    for name, position in last.items():
        ending.setdefault(position, []).append(name)
    return tuple(
        replace(step, last_use=tuple(ending.get(position, ())))
        for position, step in enumerate(steps)
    )


def _tensor(value: ir.TensorProtocol) -> Tensor:
    """torch has no 4-bit integers: they are held in eight."""
    array = value.numpy()
    if value.dtype == ir.DataType.INT4:
        array = array.astype(np.int8)
    elif value.dtype == ir.DataType.UINT4:
        array = array.astype(np.uint8)
    return torch.tensor(array)


def _unsupported(node: str, what: str) -> UnsupportedError:
    return UnsupportedError(
        "EC366",
        "the graph cannot be replayed for gradients",
        where=node,
        why=f"no replay of {what}",
        fix="use a quantization method without gradients (--calib-method mse)",
    )
