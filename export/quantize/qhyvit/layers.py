"""A layer as one matrix product over sampled output positions.

Hundreds of candidate scales are judged per layer. What a candidate does to the output is needed at
a sample of positions only, so the windows of the input that these positions see are cut out once
(im2col), and every candidate costs one rounding and one product of matrices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgec.export.quantize.graph import constant_of
from edgec.export.quantize.products import Product
from edgec.export.quantize.qhyvit.pointwise import Pointwise
from edgec.export.quantize.replay.graph import Replay
from edgec.export.rewrite.graph import is_op


@dataclass
class Layer:
    """A Conv (any spatial rank), Gemm or MatMul with a constant weight.

    Attributes:
        product: the node, and the weight's layouts.
        tensor: name of the weight; `axis` is its output channel axis in the plan (None: one
            scale).
        weight: float weight as (groups, outputs per group, inputs × window).
        columns: sampled inputs as (groups, inputs × window, n), after `freeze`.
        bias: added to the outputs, (outputs, 1).
        after: the nonlinearity behind the layer, at whose exits errors are measured.
        importance: per exit, squared gradients at the sampled positions, (outputs, n), each
            standing for as many positions as were not sampled; after `freeze`.
        target: per exit, the float values at the same positions.
    """

    product: Product
    tensor: str
    axis: int | None
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
        product = Product.of(node)
        if product is None or constant_of(node.inputs[0]) is not None:
            return None
        value, number = node.inputs[1], constant_of(node.inputs[1])
        assert value is not None
        assert number is not None  # a product has a constant weight
        written, bias = _biased(node)
        added = torch.zeros(()) if bias is None else torch.tensor(bias.reshape(-1, 1))
        after = Pointwise.of(replay, nodes, written)
        weight = torch.tensor(product.rows(number))
        return cls(product, str(value.name), axis, weight, added, after)

    @property
    def node(self) -> ir.Node:
        """The layer in the graph."""
        return self.product.node

    @property
    def outputs(self) -> int:
        """Number of output channels."""
        return int(self.weight.shape[0] * self.weight.shape[1])

    def sample(
        self, x: Tensor, squares: Mapping[str, Tensor], count: int, generator: torch.Generator
    ) -> None:
        """Add up to `count` positions of an input and of the squared gradients at the exits."""
        array = x.numpy()
        total = self.product.places(array)
        chosen = _choose(total, count, generator)
        patches = torch.from_numpy(self.product.patches_at(array, chosen.numpy()))
        self._columns.append(patches.mT.contiguous())
        channels = 1 if self.node.op_type == "Conv" else -1
        share = total / len(chosen)
        self._importance.append(
            [
                squares[name].movedim(channels, -1).reshape(-1, self.outputs)[chosen].T * share
                for name in self.after.exits
            ]
        )

    def freeze(self) -> None:
        """Join the samples."""
        self.columns = torch.cat(self._columns, dim=2)
        self.importance = [torch.cat(parts, dim=1) for parts in zip(*self._importance, strict=True)]
        self.target = self.after(self.outputs_of(self.weight, self.columns))
        self._columns.clear()
        self._importance.clear()

    def outputs_of(self, weight: Tensor, columns: Tensor) -> Tensor:
        """Outputs (outputs, n) of a weight and columns of this layer's form."""
        return torch.bmm(weight, columns).reshape(self.outputs, -1).add_(self.bias)

    def errors(self, weight: Tensor, columns: Tensor) -> Tensor:
        """Weighted squared error per output channel, summed over the sampled positions."""
        found = self.after(self.outputs_of(weight, columns))
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
        return self.product.weight(rows.reshape(self.weight.shape).numpy())


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
