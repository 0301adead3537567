"""A layer as one matrix product over sampled output positions.

Hundreds of candidate scales are judged per layer. What a candidate does to the output is needed at
a sample of positions only, so the windows of the input that these positions see are cut out once
(im2col), and every candidate costs one rounding and one product of matrices.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from edgec.export.quantize.graph import constant_of
from edgec.export.quantize.qhyvit.pointwise import Pointwise
from edgec.export.quantize.replay.graph import Replay
from edgec.export.rewrite.graph import int_attr, ints, is_op, str_attr


@dataclass
class Layer:
    """A Conv (any spatial rank), Gemm or MatMul with a constant weight.

    Attributes:
        node: its name.
        tensor: name of the weight; `axis` is its output channel axis in the plan (None: one
            scale).
        shape: of the weight as stored.
        weight: float weight as (groups, outputs per group, inputs × window).
        columns: sampled inputs as (groups, inputs × window, n), after `freeze`.
        bias: added to the outputs, (outputs, 1).
        after: the nonlinearity behind the layer, at whose exits errors are measured.
        importance: per exit, squared gradients at the sampled positions, (outputs, n), each
            standing for as many positions as were not sampled; after `freeze`.
        target: per exit, the float values at the same positions.
    """

    node: ir.Node
    tensor: str
    axis: int | None
    shape: tuple[int, ...]
    weight: Tensor
    bias: Tensor
    after: Pointwise
    columns: Tensor = field(default_factory=lambda: torch.empty(0))
    importance: list[Tensor] = field(default_factory=list)
    target: list[Tensor] = field(default_factory=list)
    _columns: list[Tensor] = field(default_factory=list)
    _importance: list[list[Tensor]] = field(default_factory=list)

    @classmethod
    def of(
        cls, node: ir.Node, axis: int | None, replay: Replay, nodes: Sequence[ir.Node]
    ) -> Layer | None:
        """The layer of a node; None if it has another form.

        Args:
            node: the node.
            axis: of the weight's scales.
            replay, nodes: of the whole graph.
        """
        value = node.inputs[1] if len(node.inputs) > 1 else None
        number = constant_of(value)
        if value is None or number is None or not is_op(node, "Conv", "Gemm", "MatMul"):
            return None
        if node.op_type == "Conv":
            if str_attr(node, "auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
                return None
            groups = int_attr(node, "group", 1)
            shaped = number.reshape(groups, number.shape[0] // groups, -1)
        elif number.ndim != 2 or constant_of(node.inputs[0]) is not None:
            return None
        else:
            transposed = node.op_type == "Gemm" and int_attr(node, "transB", 0)
            shaped = (number if transposed else number.T)[None]
        written, bias = _biased(node)
        added = torch.zeros(()) if bias is None else torch.tensor(bias.reshape(-1, 1))
        after = Pointwise.of(replay, nodes, written)
        return cls(node, str(value.name), axis, number.shape, torch.tensor(shaped), added, after)

    @property
    def outputs(self) -> int:
        """Number of output channels."""
        return int(self.weight.shape[0] * self.weight.shape[1])

    def sample(
        self, x: Tensor, squares: Mapping[str, Tensor], count: int, generator: torch.Generator
    ) -> None:
        """Add up to `count` positions of an input and of the squared gradients at the exits."""
        importance = [squares[name] for name in self.after.exits]
        if self.node.op_type != "Conv":
            rows = x.reshape(-1, x.shape[-1])
            chosen = _choose(len(rows), count, generator)
            self._columns.append(rows[chosen].T[None].contiguous())
            share = len(rows) / len(chosen)
            self._importance.append(
                [square.reshape(len(rows), -1)[chosen].T * share for square in importance]
            )
            return
        spatial = importance[0].shape[2:]
        chosen = _choose(len(x) * math.prod(spatial), count, generator)
        place = torch.stack(torch.unravel_index(chosen, (len(x), *spatial)))  # (1 + rank, P)
        columns = self._windows(x, place)  # (P, C·window)
        groups = self.weight.shape[0]
        self._columns.append(columns.reshape(len(chosen), groups, -1).permute(1, 2, 0).contiguous())
        picked = [s.movedim(1, -1).reshape(-1, self.outputs)[chosen].T for s in importance]
        share = len(x) * math.prod(spatial) / len(chosen)
        self._importance.append([square * share for square in picked])

    def _windows(self, x: Tensor, place: Tensor) -> Tensor:
        kernel = self.shape[2:]
        rank = len(kernel)
        strides = ints(self.node, "strides") or (1,) * rank
        dilations = ints(self.node, "dilations") or (1,) * rank
        pads = ints(self.node, "pads") or (0,) * (2 * rank)
        amounts = [p for i in reversed(range(rank)) for p in (pads[i], pads[rank + i])]
        x = F.pad(x, amounts)
        index = []
        for i in range(rank):
            reach = place[1 + i][:, None] * strides[i] + torch.arange(kernel[i]) * dilations[i]
            index.append(reach.reshape([-1, *(kernel[i] if i == j else 1 for j in range(rank))]))
        sample = place[0].reshape(-1, *[1] * rank)
        at: tuple[Tensor, ...] = (sample, *index)
        windows = x.movedim(1, -1)[at]  # (P, *kernel, C)
        return windows.movedim(-1, 1).reshape(place.shape[1], -1)

    def freeze(self) -> None:
        """Join the samples."""
        self.columns = torch.cat(self._columns, dim=2)
        self.importance = [torch.cat(parts, dim=1) for parts in zip(*self._importance, strict=True)]
        self.target = self.after(self.product(self.weight, self.columns))
        self._columns.clear()
        self._importance.clear()

    def product(self, weight: Tensor, columns: Tensor) -> Tensor:
        """Outputs (outputs, n) of a weight and columns of this layer's form."""
        return torch.bmm(weight, columns).reshape(self.outputs, -1).add_(self.bias)

    def errors(self, weight: Tensor, columns: Tensor) -> Tensor:
        """Weighted squared error per output channel, summed over the sampled positions."""
        found = self.after(self.product(weight, columns))
        total = torch.zeros(self.outputs)
        for value, target, importance in zip(found, self.target, self.importance, strict=True):
            total += ((value - target).square_() * importance).sum(1)
        return total

    def rows(self) -> Tensor:
        """The weight as (scales, values): a row per scale."""
        if self.axis is None:
            return self.weight.reshape(1, -1)
        return self.weight.reshape(self.outputs, -1)

    def original(self, rows: Tensor) -> NDArray[np.float32]:
        """Rows as an array of the weight's own shape."""
        array: NDArray[np.float32] = rows.reshape(self.outputs, -1).numpy()
        shape = self.shape
        if self.node.op_type == "Conv" or int_attr(self.node, "transB", 0):
            return array.reshape(shape)
        return np.ascontiguousarray(array.T)


def _biased(node: ir.Node) -> tuple[ir.Value, NDArray[np.float32] | None]:
    """The value behind the bias of a layer, and the bias (a vector)."""
    written = node.outputs[0]
    if node.op_type != "MatMul":
        bias = constant_of(node.inputs[2]) if len(node.inputs) > 2 else None
        return written, bias
    uses = list(written.uses())
    if len(uses) == 1 and is_op(uses[0].node, "Add") and not written.is_graph_output():
        add = uses[0].node
        bias = constant_of(add.inputs[1 - uses[0].idx])
        if bias is not None and bias.size == written.shape[-1]:  # type: ignore[index]
            return add.outputs[0], bias
    return written, None


def _choose(total: int, count: int, generator: torch.Generator) -> Tensor:
    if total <= count:
        return torch.arange(total)
    return torch.randperm(total, generator=generator)[:count].sort().values
