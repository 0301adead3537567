"""Puts operators and tensors into a subgraph: values in their stored orders, constants once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from edgec.export.emit.tflite.flavour import Flavour
from edgec.export.emit.tflite.graph import Array, Node, Shape, Value
from edgec.export.emit.tflite.layout import Layout
from edgec.export.emit.tflite.layouts import Config
from edgec.export.emit.tflite.perms import (
    Move,
    Perm,
    identity,
    inverse,
    move_cost,
    same_data,
    stored_shape,
)
from edgec.export.emit.tflite.versions import version
from edgec.export.tflite.model import Operator, Quantization, Subgraph, Tensor
from edgec.export.tflite.schema import tensor_type


class Emitter:
    """The subgraph that is being written.

    Args:
        layout: the config of every node.
        flavour: who will execute the model.
    """

    def __init__(self, layout: Layout, flavour: Flavour) -> None:
        self.layout = layout
        self.flavour = flavour
        self.subgraph = Subgraph([], [], [], [])
        self.node: Node | None = None
        self._there: dict[Value, dict[Perm, int]] = {}
        self._constants: dict[tuple[object, ...], int] = {}
        self._names: set[str] = set()
        self.integers_of: dict[int, tuple[Array, Quantization]] = {}
        self.sources: list[Node | None] = []

    # --- tensors -----------------------------------------------------------------------------

    def shape(self, index: int) -> Shape:
        """Shape of a tensor."""
        return self.subgraph.tensors[index].shape

    def tensor(
        self,
        name: str,
        shape: Sequence[int],
        dtype: np.dtype[Any],
        quantization: Quantization | None = None,
        data: Array | None = None,
    ) -> int:
        """Index of a new tensor; `name` gets a number if it is taken."""
        unique, number = name, 1
        while unique in self._names:
            unique, number = f"{name}_{number}", number + 1
        self._names.add(unique)
        self.subgraph.tensors.append(
            Tensor(unique, tuple(shape), tensor_type(dtype), data, quantization)
        )
        return len(self.subgraph.tensors) - 1

    def like(self, index: int, suffix: str, shape: Sequence[int] | None = None) -> int:
        """A new tensor of the type and grid of another one."""
        tensor = self.subgraph.tensors[index]
        shape = tensor.shape if shape is None else shape
        return self.tensor(
            f"{self._base()}/{suffix}", shape, tensor.numpy_dtype, tensor.quantization
        )

    def temporary(self, suffix: str, shape: Sequence[int]) -> int:
        """A new float32 tensor inside the current operator."""
        return self.tensor(f"{self._base()}/{suffix}", shape, np.dtype(np.float32))

    def constant(self, array: Array, name: str, quantization: Quantization | None = None) -> int:
        """A constant; equal ones are stored once. int64 becomes int32 unless it is a bias."""
        array = np.ascontiguousarray(array).reshape(np.shape(array))
        if array.dtype == np.int64 and quantization is None:
            info = np.iinfo(np.int32)
            array = np.clip(array, info.min, info.max).astype(np.int32)
        grid: tuple[object, ...] = ()
        if quantization is not None:
            grid = (
                quantization.scale.tobytes(),
                quantization.zero_point.tobytes(),
                quantization.axis,
            )
        digest = hashlib.sha256(array.tobytes()).digest()
        key = (array.dtype.str, array.shape, digest, grid)
        if key not in self._constants:
            self._constants[key] = self.tensor(name, array.shape, array.dtype, quantization, array)
        return self._constants[key]

    def weight(
        self,
        value: Value,
        arrange: Callable[[Array], Array],
        grid: Callable[[Value], Quantization | None],
    ) -> int:
        """A constant as an operator stores it, and the integers that it comes from.

        Args:
            arrange: its numbers in the order of the file.
            grid: their quantization in that order.
        """
        assert value.const is not None
        index = self.constant(arrange(value.const), value.name, grid(value))
        stored = value.integers
        if stored is not None and stored.const is not None:
            known = grid(stored)
            assert known is not None
            self.integers_of[index] = (arrange(stored.const), known)
        return index

    def integers(self, values: Sequence[int], what: str) -> int:
        """An int32 vector that an operator reads, e.g. a permutation."""
        return self.constant(np.asarray(values, np.int32), f"{what}/{'_'.join(map(str, values))}")

    def number(self, value: float, what: str, rank: int) -> int:
        """A float32 number with as many axes as what it is combined with."""
        return self.constant(np.full((1,) * rank, value, np.float32), f"{what}/{value:g}")

    def pads(self, amounts: Array) -> int:
        """What PAD adds before and behind each axis: shape (rank, 2)."""
        amounts = np.asarray(amounts, np.int32)
        return self.constant(amounts, f"pads/{'_'.join(map(str, amounts.ravel()))}")

    def filler(self, level: Array, like: int) -> int:
        """The number that PADV2 pads with, as tensor `like` stores it."""
        grid = self.subgraph.tensors[like].quantization
        return self.constant(level, f"filler/{level:g}", grid)

    # --- values ------------------------------------------------------------------------------

    def get(self, value: Value, perm: Perm) -> int:
        """The tensor that holds `value` in the order `perm`; copied there if it has to be."""
        there = self._there.setdefault(value, {})
        if perm in there:
            return there[perm]
        if value.const is not None:
            there[perm] = self._constant_of(value, perm)
            return there[perm]
        source = min(sorted(there), key=lambda known: move_cost(value.shape, known, perm))
        index, shape = there[source], stored_shape(value.shape, perm)
        if shape == self.shape(index) and same_data(value.shape, source, perm):
            there[perm] = index  # only ones changed places
            return index
        result = self.tensor(
            f"{value.name}/{'x'.join(map(str, shape))}", shape, value.dtype, value.quantization
        )
        if same_data(value.shape, source, perm):
            self.reshape(index, shape, result)
        else:
            back = inverse(source)
            self._emit("TRANSPOSE", [index, self.integers([back[p] for p in perm], "perm")], result)
        there[perm] = result
        return result

    def _constant_of(self, value: Value, perm: Perm) -> int:
        """A constant in the order `perm`."""
        return self.weight(
            value,
            lambda array: array.transpose(perm),
            lambda known: stored_grid(known.quantization, perm),
        )

    def input(self, index: int) -> int:
        """The tensor of an operand of the current node, in the order of its config."""
        node, config = self._current()
        value = node.inputs[index]
        assert value is not None
        return self.get(value, config.inputs[index])

    def output(self, index: int = 0) -> int:
        """A new tensor for an output of the current node, in the order of its config."""
        node, config = self._current()
        value, perm = node.outputs[index], config.outputs[index]
        made = self.tensor(
            value.name, stored_shape(value.shape, perm), value.dtype, value.quantization
        )
        self._there.setdefault(value, {})[perm] = made
        return made

    def place(self, value: Value, perm: Perm, index: int) -> None:
        """Let a tensor that exists hold `value` in the order `perm`."""
        self._there.setdefault(value, {})[perm] = index

    def _current(self) -> tuple[Node, Config]:
        assert self.node is not None
        return self.node, self.layout[self.node]

    def _base(self) -> str:
        assert self.node is not None
        return self.node.outputs[0].name

    # --- operators ---------------------------------------------------------------------------

    def op(self, code: str, inputs: Sequence[int], output: int, **options: Any) -> int:
        """One operator with one output; returns the output."""
        self._emit(code, inputs, output, **options)
        return output

    def multi(
        self, code: str, inputs: Sequence[int], outputs: Sequence[int], **options: Any
    ) -> None:
        """One operator with several outputs."""
        operator = Operator(code, list(inputs), list(outputs), options)
        operator.version = version(operator, self.subgraph.tensors)
        self.subgraph.operators.append(operator)
        self.sources.append(self.node)

    def custom(self, name: str, inputs: Sequence[int], output: int, options: bytes) -> int:
        """One operator that is no builtin."""
        operator = Operator(
            "CUSTOM", list(inputs), [output], custom_code=name, custom_options=options
        )
        self.subgraph.operators.append(operator)
        self.sources.append(self.node)
        return output

    def _emit(self, code: str, inputs: Sequence[int], output: int, **options: Any) -> None:
        self.multi(code, inputs, [output], **options)

    def reshape(self, source: int, shape: Sequence[int], target: int | None = None) -> int:
        """RESHAPE; the target is made if none is given."""
        if target is None:
            target = self.like(source, "reshaped", shape)
        shape_tensor = self.integers(tuple(shape), "shape")
        return self.op("RESHAPE", [source, shape_tensor], target, new_shape=[int(d) for d in shape])

    def transpose(self, source: int, perm: Perm, target: int | None = None) -> int:
        """TRANSPOSE; the target is made if none is given."""
        shape = stored_shape(self.shape(source), perm)
        if target is None:
            target = self.like(source, "transposed", shape)
        return self.op("TRANSPOSE", [source, self.integers(perm, "perm")], target)

    def move(self, source: int, moves: Sequence[Move], target: int) -> int:
        """The operators of a view; `moves` have at least one."""
        todo: list[tuple[str, Any]] = []
        for steps in moves:
            parts = zip(
                ("reshape", "transpose", "reshape"),
                (steps.before, steps.perm, steps.after),
                strict=True,
            )
            todo += [(kind, argument) for kind, argument in parts if argument is not None]
        for number, (kind, argument) in enumerate(todo):
            end = target if number == len(todo) - 1 else None
            source = getattr(self, kind)(source, argument, end)
        return source


def stored_grid(grid: Quantization | None, perm: Perm) -> Quantization | None:
    """A grid whose axis follows the stored order."""
    if grid is None or not grid.per_channel or perm == identity(len(perm)):
        return grid
    return Quantization(grid.scale, grid.zero_point, inverse(perm)[grid.axis])
