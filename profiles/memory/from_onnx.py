"""A graph as a program to plan: one step per kernel, fused as an embedded library would fuse it.

- Views (Reshape, Flatten, ...) and, by default, transposes are read in place by the kernels.
- So are images that a Pad has made larger, by convolutions and maxima, which can pad themselves.
- A function of single elements of one tensor (activations, BatchNormalization, products with
  constants, quantizers, and chains of these such as a GELU written out) joins the kernel that
  produced the tensor when nothing else needs it.
- The outputs of a Split along the outermost axis are parts of its input's buffer.

Bytes are those of the artifact, by `element_bytes`, not of the float graph. The steps name ONNX
operators and cannot be executed; they are for planning and for the arena map.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import cast

import onnx_ir as ir

from edgec.export.rewrite.graph import MODULE_KEY, constant
from edgec.profiles.memory.onnx_access import (
    POINTWISE,
    distance,
    elements,
    folded_pads,
    geometry,
    shape_of,
)
from edgec.profiles.memory.program import Buffer, Kind, Overlap, Program, Step

VIEWS = frozenset("Reshape Flatten Squeeze Unsqueeze Identity Dropout Cast".split())
PRODUCTS = frozenset(["Conv", "Gemm", "MatMul", "ConvTranspose", "QLinearConv", "QLinearMatMul"])
FUSES_INTO = PRODUCTS | frozenset(
    "AveragePool GlobalAveragePool ReduceMean BatchNormalization LayerNormalization Add Sub Mul "
    "Div Resize Concat".split()
)
# between channels-first and channels-last; in memory images are always channels-last
LAYOUT = ((0, 2, 1), (0, 2, 3, 1), (0, 3, 1, 2))


def from_onnx(
    model: ir.Model, *, element_bytes: int = 1, absorb_transposes: bool = True
) -> Program:
    """The program of a graph in its given order.

    Args:
        model: static shapes; float or with quantizers.
        element_bytes: of activations in the artifact: 1 for int8, 4 for float32. Integer tensors
            that index or compare count the same.
        absorb_transposes: False gives every Transpose a step and a buffer of its own.

    Raises:
        UnsupportedError: a shape is not static.
    """
    return _Lowering(model.graph, element_bytes, absorb_transposes).run()


@dataclass(frozen=True)
class _Value:
    """What stands for an ONNX value in the program.

    Attributes:
        buffer: whose bytes it is, or is a function of.
        pending: the nodes of that function, not computed yet.
        moved: transposes between buffer and value; a kernel that reads through them does not read
            in order of address.
        padded: the value as it was before a Pad, and the rows and columns put before it.
    """

    buffer: str
    pending: tuple[ir.Node, ...] = ()
    moved: tuple[tuple[int, ...], ...] = ()
    padded: tuple[ir.Value, tuple[int, int]] | None = None


class _Lowering:
    def __init__(self, graph: ir.Graph, element_bytes: int, absorb_transposes: bool) -> None:
        self.graph = graph
        self.element_bytes = element_bytes
        self.absorb_transposes = absorb_transposes
        self.outputs = set(graph.outputs)
        self.buffers: dict[str, Buffer] = {}
        self.steps: list[Step] = []
        self.values: dict[ir.Value, _Value] = {}
        self.weights: dict[ir.Value, str] = {}
        self.names: dict[str, int] = {}

    def run(self) -> Program:
        for value in self.graph.inputs:
            if not value.is_initializer():
                self.values[value] = _Value(self._buffer(value, "input"))
        for node in self.graph:
            self._node(node)
        for value in self.graph.outputs:
            if value in self.values:
                root = self._root(self._materialise(value))
                if self.buffers[root].kind == "activation":
                    self.buffers[root] = replace(self.buffers[root], kind="output")
        steps = tuple(self._with_overlaps(step) for step in self.steps)
        used = {self._root(i) for s in steps for i in (*s.inputs, *s.outputs)}
        used |= {i for s in steps for i in (*s.inputs, *s.outputs)}
        buffers = tuple(b for b in self.buffers.values() if b.id in used or b.kind == "input")
        return Program(self.graph.name or "network", buffers, steps)

    def _node(self, node: ir.Node) -> None:
        inputs = [v for v in node.inputs if v is not None and v in self.values]
        if not inputs:
            return  # computed from constants
        out = node.outputs[0]
        kind = node.op_type
        first = self.values[inputs[0]]
        if kind in VIEWS:
            self.values[out] = first
        elif kind == "Transpose" and (self.absorb_transposes or _moves_nothing(node)):
            perm = _perm(node)
            free = _moves_nothing(node) or perm in LAYOUT
            self.values[out] = first if free else replace(first, moved=(*first.moved, perm))
        elif kind == "Pad" and (before := folded_pads(node)) is not None:
            buffer = self._materialise(inputs[0])
            self.values[out] = _Value(buffer, moved=first.moved, padded=(inputs[0], before))
        elif kind in POINTWISE and self._same_elements(out, inputs):
            chain = [n for v in inputs for n in self.values[v].pending]
            self.values[out] = replace(first, pending=tuple(dict.fromkeys((*chain, node))))
        elif kind == "Split" and _outermost(node):
            self._parts(node, inputs[0])
        else:
            self._step(node, inputs)

    def _step(self, node: ir.Node, inputs: list[ir.Value]) -> None:
        sources = tuple(dict.fromkeys(self._materialise(v) for v in inputs))
        moved = any(self.values[v].moved for v in inputs)
        outputs = []
        for value in node.outputs:
            if value.name and (value.uses() or value in self.outputs):
                id = self._buffer(value, "activation", node)
                self.values[value] = _Value(id)
                outputs.append(id)
        if outputs:
            self.steps.append(
                Step(
                    node.op_type,
                    (*sources, *self._constants(node)),
                    tuple(outputs),
                    parameters={} if moved else geometry(node, inputs, self._padded(node)),
                    name=node.name or "",
                    module=node.metadata_props.get(MODULE_KEY, ""),
                )
            )

    def _padded(self, node: ir.Node) -> tuple[ir.Value, tuple[int, int]] | None:
        first = node.inputs[0]
        return self.values[first].padded if first is not None and first in self.values else None

    def _constants(self, node: ir.Node) -> list[str]:
        """Buffers of the weights that a step reads."""
        found = []
        for position, value in enumerate(node.inputs):
            array = constant(value)
            if value is None or array is None or array.ndim == 0 or value in self.values:
                continue
            id = self.weights.get(value)
            if id is None:
                id = self.weights[value] = self._name(value.name or "constant")
                # an int8 kernel adds its bias in 32 bits
                bias = node.op_type in PRODUCTS and position == 2
                width = 4 if bias else self.element_bytes
                self.buffers[id] = Buffer(id, max(array.size * width, 1), kind="constant")
            found.append(id)
        return found

    def _same_elements(self, out: ir.Value, inputs: list[ir.Value]) -> bool:
        """Whether every element of `out` depends on one element of one buffer, in its order."""
        sources = {(self.values[v].buffer, self.values[v].moved) for v in inputs}
        return len(sources) == 1 and all(elements(v) == elements(out) for v in inputs)

    def _materialise(self, value: ir.Value) -> str:
        """The buffer that holds a value, after adding the step that computes it if need be."""
        found = self.values[value]
        if not found.pending:
            return found.buffer
        last = found.pending[-1]
        source = self.buffers[found.buffer]
        maker = next((n for n, s in enumerate(self.steps) if found.buffer in s.outputs), None)
        alone = source.kind == "activation" and self._only_for(found.buffer, found.pending)
        id = self._buffer(value, "activation", last)
        if maker is not None and alone and self.steps[maker].kernel in FUSES_INTO:
            step = self.steps[maker]
            outputs = tuple(id if o == found.buffer else o for o in step.outputs)
            self.steps[maker] = replace(step, outputs=outputs)
            del self.buffers[found.buffer]
        else:
            self.steps.append(
                Step(
                    last.op_type,
                    (found.buffer,),
                    (id,),
                    parameters={"in_place": True},
                    name=last.name or "",
                    module=last.metadata_props.get(MODULE_KEY, ""),
                )
            )
        for other, was in list(self.values.items()):
            # the value itself and its views
            if was.buffer == found.buffer and was.pending == found.pending:
                self.values[other] = _Value(id, moved=was.moved)
        return id

    def _only_for(self, buffer: str, chain: Iterable[ir.Node]) -> bool:
        """Whether the bytes of a buffer are read by these nodes only."""
        nodes = set(chain)
        views = [v for v, f in self.values.items() if f.buffer == buffer and not f.pending]
        makers = {v.producer() for v in views}
        for value, found in self.values.items():
            if found.buffer != buffer or set(found.pending) in (set(), nodes):
                continue
            # another function of the bytes: fine as long as it only leads to this one
            leads = set(found.pending) <= nodes and all(u.node in nodes for u in value.uses())
            if not leads or value in self.outputs:
                return False
        return not any(buffer in s.inputs for s in self.steps) and all(
            v not in self.outputs and all(u.node in nodes or u.node in makers for u in v.uses())
            for v in views
        )

    def _parts(self, node: ir.Node, source: ir.Value) -> None:
        parent = self._materialise(source)
        start = 0
        for value in node.outputs:
            size = elements(value) * self.element_bytes
            id = self._name(value.name or "part")
            self.buffers[id] = Buffer(id, size, parent=parent, start=start)
            self.values[value] = _Value(id, moved=self.values[source].moved)
            start += size

    def _with_overlaps(self, step: Step) -> Step:
        """The step with the overlaps that its kernel allows; `liveness` sees which inputs die."""
        if len(step.outputs) != 1:
            return step
        out = self.buffers[step.outputs[0]]
        found = []
        for id in step.inputs:
            source = self.buffers[id]
            if source.kind == "constant":
                continue
            apart = distance(step, source, out, self.element_bytes)
            if apart is not None and apart < out.size:
                found.append(Overlap(out.id, id, apart))
        return replace(step, overlaps=tuple(found))

    def _root(self, id: str) -> str:
        while (parent := self.buffers[id].parent) is not None:
            id = parent
        return id

    def _buffer(self, value: ir.Value, kind: str, node: ir.Node | None = None) -> str:
        id = self._name(value.name or "value")
        module = node.metadata_props.get(MODULE_KEY, "") if node is not None else ""
        size = max(elements(value) * self.element_bytes, 1)
        self.buffers[id] = Buffer(id, size, kind=cast(Kind, kind), module=module)
        return id

    def _name(self, name: str) -> str:
        count = self.names.get(name, 0)
        self.names[name] = count + 1
        return name if count == 0 else f"{name}#{count}"


def _perm(node: ir.Node) -> tuple[int, ...]:
    rank = len(shape_of(node.inputs[0]))
    return tuple(node.attributes.get_ints("perm", tuple(range(rank))[::-1]))


def _moves_nothing(node: ir.Node) -> bool:
    """Whether a Transpose moves axes of one element only."""
    shape = shape_of(node.inputs[0])
    moved = [axis for axis in _perm(node) if shape[axis] != 1]
    return moved == sorted(moved)


def _outermost(node: ir.Node) -> bool:
    """Whether the outputs of a Split follow each other in memory."""
    shape = shape_of(node.inputs[0])
    axis = node.attributes.get_int("axis", 0) % len(shape)
    # the channels of an image are the innermost axis in memory
    return len(shape) != 4 and math.prod(shape[:axis]) == 1
