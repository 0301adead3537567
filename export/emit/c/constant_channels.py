"""Channels that are the same for every input are computed once, here.

Batch normalisation leaves channels with tiny scales (a quarter of MLPerf Tiny's person detector),
whose int8 values are constant. What the next convolution adds up from such a channel is a part of
its bias; then neither the channel nor the weights that made it are needed. All of it is integer
arithmetic: results stay the same to the last bit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgec.export.emit.c.frame import Frame, range_of
from edgec.export.emit.c.products import folded_bias, geometry, scales_of
from edgec.export.tflite.model import ABSENT, Operator, Quantization, Subgraph, Tensor
from edgec.export.tflite.reference.fixed_point import Multiplier, zero_of

LINKS: Final = frozenset(
    {"DEPTHWISE_CONV_2D", "AVERAGE_POOL_2D", "MAX_POOL_2D", "RESHAPE", "SQUEEZE"}
)
"""Operators whose channels are those of their input."""


def without_constant_channels(graph: Subgraph) -> Subgraph:
    """The same function with fewer channels; the graph is not modified, its tensors keep their
    indices."""
    return _Search(graph).pruned()


@dataclass(frozen=True)
class _Channels:
    """Which channels of a tensor are constant, and at which integer."""

    constant: NDArray[np.bool_]
    value: NDArray[np.int64]


class _Search:
    def __init__(self, graph: Subgraph) -> None:
        self.graph = graph
        self.tensors: list[Tensor] = list(graph.tensors)
        self.known: dict[int, _Channels] = {}
        self.group = {index: index for index in range(len(self.tensors))}
        self.producer = {op.outputs[0]: op for op in graph.operators}
        self.consumers: dict[int, list[Operator]] = {}
        for op in graph.operators:
            for index in op.inputs:
                if index != ABSENT:
                    self.consumers.setdefault(index, []).append(op)

    def pruned(self) -> Subgraph:
        for op in self.graph.operators:
            self._learn(op)
            if self._links(op):
                first, second = (self._root(i) for i in (op.inputs[0], op.outputs[0]))
                self.group[second] = first
        needed: dict[int, NDArray[np.bool_]] = {}
        for index, tensor in enumerate(self.tensors):
            if tensor.data is None and tensor.shape:
                root = self._root(index)
                own = self._needed(index)
                needed[root] = needed[root] | own if root in needed else own
        kept = {
            index: needed[self._root(index)]
            for index, tensor in enumerate(self.tensors)
            if tensor.data is None and tensor.shape and not needed[self._root(index)].all()
        }
        if not kept:
            return self.graph
        for mask in kept.values():
            mask[0] |= not mask.any()
        operators = [self._narrow(op, kept) for op in self.graph.operators]
        for index, mask in kept.items():
            old = self.tensors[index]
            self.tensors[index] = replace(
                old, shape=(*old.shape[:-1], int(mask.sum())), shape_signature=None
            )
        return replace(self.graph, tensors=self.tensors, operators=operators)

    def _root(self, index: int) -> int:
        while self.group[index] != index:
            index = self.group[index]
        return index

    def _links(self, op: Operator) -> bool:
        """Whether the channels of input and output are the same ones."""
        if op.code not in LINKS or not self._is_int8(op.inputs[0], op.outputs[0]):
            return False
        x, y = (self.tensors[i].shape for i in (op.inputs[0], op.outputs[0]))
        if op.code in ("RESHAPE", "SQUEEZE") and len(x) != len(y):
            # an image of one pixel, as a vector
            return bool(x) and bool(y) and x[-1] == y[-1] == int(np.prod(x)) == int(np.prod(y))
        return bool(x) and bool(y) and x[-1] == y[-1]

    def _is_int8(self, *indices: int) -> bool:
        return all(
            self.tensors[i].dtype == "INT8" and self.tensors[i].data is None for i in indices
        )

    def _frame(self, op: Operator) -> Frame:
        return Frame(self.graph, op, 0, {i: i for i in range(len(self.tensors))})

    def _weights(self, op: Operator) -> NDArray[np.int64] | None:
        """[outputs][taps][inputs] of an operator that can lose channels, None of others.

        A depthwise convolution has one input channel for each output.
        """
        if op.code not in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
            return None
        if not self._is_int8(op.inputs[0], op.outputs[0]):
            return None
        tensor = self.tensors[op.inputs[1]]
        channels = self.tensors[op.inputs[0]].shape[-1]
        bias = op.inputs[2] if len(op.inputs) > 2 else ABSENT
        if tensor.data is None or (bias != ABSENT and self.tensors[bias].data is None):
            return None
        weights = tensor.data.astype(np.int64)
        if op.code == "DEPTHWISE_CONV_2D":
            if weights.shape[3] != channels:
                return None
            return np.moveaxis(weights, 3, 0).reshape(channels, -1, 1)
        if weights.shape[-1] != channels:
            return None  # groups, or rows of several pixels
        if op.code == "FULLY_CONNECTED":
            quantization = tensor.quantization
            if quantization is not None and not quantization.per_channel:
                weights = weights - zero_of(tensor)
        return weights.reshape(len(weights), -1, channels)

    def _folds(self, op: Operator) -> NDArray[np.bool_]:
        """Input channels that are constant in every window: padding is the zero point."""
        x = op.inputs[0]
        channels = self.tensors[x].shape[-1]
        known = self.known.get(x)
        if known is None:
            return np.zeros(channels, np.bool_)
        if op.code == "FULLY_CONNECTED" or not self._pads(op):
            return known.constant
        folds: NDArray[np.bool_] = known.constant & (known.value == zero_of(self.tensors[x]))
        return folds

    def _pads(self, op: Operator) -> bool:
        """Whether windows reach out of the image."""
        sizes, _ = geometry(self._frame(op), op)
        return any(
            sizes[f"pad_{a}"] > 0
            or (sizes[f"out_{a}"] - 1) * sizes[f"stride_{a}"]
            + (sizes[f"k_{a}"] - 1) * sizes[f"dilation_{a}"]
            + 1
            > sizes[f"in_{a}"]
            for a in "hw"
        )

    def _learn(self, op: Operator) -> None:
        """Constant channels of an operator's output."""
        weights = self._weights(op)
        if weights is not None and op.code != "FULLY_CONNECTED":
            self.known[op.outputs[0]] = self._computed(op, weights)
        elif op.code in LINKS and self._links(op) and op.inputs[0] in self.known:
            known = self.known[op.inputs[0]]
            low, high = range_of(
                self.tensors[op.outputs[0]], op.options.get("fused_activation_function", "NONE")
            )
            self.known[op.outputs[0]] = replace(known, value=np.clip(known.value, low, high))

    def _computed(self, op: Operator, weights: NDArray[np.int64]) -> _Channels:
        frame = self._frame(op)
        y = self.tensors[op.outputs[0]]
        depthwise = op.code == "DEPTHWISE_CONV_2D"
        by_output = weights.reshape(len(weights), -1)
        bias = folded_bias(frame, by_output).astype(np.int64)
        folds, known = self._folds(op), self.known.get(op.inputs[0])
        # one value, or all that int8 has
        low = np.full(len(folds), -128, np.int64)
        high = np.full(len(folds), 127, np.int64)
        if known is not None:
            low[folds] = high[folds] = known.value[folds]
        if depthwise:
            low, high = low[:, None, None], high[:, None, None]
        ends = [
            (choose(low * weights, high * weights)).sum(axis=(1, 2)) + bias
            for choose in (np.minimum, np.maximum)
        ]
        scales = scales_of(frame, len(bias))
        multiply = Multiplier(scales.mantissa, scales.exponent)
        limits = range_of(y, op.options["fused_activation_function"])
        first, last = (np.clip(multiply(end) + zero_of(y), *limits) for end in ends)
        return _Channels(first == last, first)

    def _needed(self, index: int) -> NDArray[np.bool_]:
        """Channels of a tensor that an operator other than links reads, or that it must keep."""
        channels = self.tensors[index].shape[-1]
        every = np.ones(channels, np.bool_)
        producer = self.producer.get(index)
        if index in self.graph.outputs or producer is None:
            return every
        made = self._weights(producer) is not None and producer.code != "FULLY_CONNECTED"
        if not made and not self._links(producer):
            return every
        found = np.zeros(channels, np.bool_)
        for op in self.consumers.get(index, []):
            weights = self._weights(op)
            if op.inputs.count(index) > 1:
                return every
            if self._links(op):
                continue
            if weights is None:
                return every
            found |= ~self._folds(op) & weights.any(axis=(0, 1))
        return found

    def _narrow(self, op: Operator, kept: dict[int, NDArray[np.bool_]]) -> Operator:
        """An operator without the channels that its tensors lose."""
        lost_in, lost_out = kept.get(op.inputs[0] if op.inputs else -1), kept.get(op.outputs[0])
        weights = self._weights(op)
        if weights is None or (lost_in is None and lost_out is None):
            return op
        old = self.tensors[op.inputs[1]]
        assert old.data is not None
        data, bias = old.data, self._bias(op, len(weights))
        outputs = np.ones(len(weights), np.bool_) if lost_out is None else lost_out
        depthwise = op.code == "DEPTHWISE_CONV_2D"
        if lost_in is not None and not depthwise:
            gone = ~lost_in & self._folds(op)
            if gone.any():
                x = self.tensors[op.inputs[0]]
                offset = self.known[op.inputs[0]].value[gone] - zero_of(x)
                bias = bias + (weights[:, :, gone].sum(axis=1) * offset).sum(axis=1)
            data = data[..., lost_in]
        data = data[..., outputs] if depthwise else data[outputs]
        inputs = [op.inputs[0], self._add(replace(old, **_content(old, data, outputs)))]
        if len(op.inputs) > 2 or bias.any():
            inputs.append(
                self._add(
                    Tensor(
                        f"{old.name}/bias",
                        (int(outputs.sum()),),
                        "INT32",
                        bias[outputs].astype(np.int32),
                    )
                )
            )
        return replace(op, inputs=inputs)

    def _bias(self, op: Operator, count: int) -> NDArray[np.int64]:
        index = op.inputs[2] if len(op.inputs) > 2 else ABSENT
        data = None if index == ABSENT else self.tensors[index].data
        return np.zeros(count, np.int64) if data is None else data.astype(np.int64)

    def _add(self, tensor: Tensor) -> int:
        self.tensors.append(tensor)
        return len(self.tensors) - 1


def _content(old: Tensor, data: NDArray[Any], outputs: NDArray[np.bool_]) -> dict[str, Any]:
    """Fields of a weight tensor after its outputs were chosen."""
    quantization = old.quantization
    if quantization is not None and quantization.per_channel:
        quantization = Quantization(
            quantization.scale[outputs], quantization.zero_point[outputs], quantization.axis
        )
    return {
        "data": np.ascontiguousarray(data),
        "shape": data.shape,
        "quantization": quantization,
        "shape_signature": None,
    }
