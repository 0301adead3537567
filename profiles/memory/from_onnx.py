"""A graph as a program to plan: one step per kernel, fused as an embedded library would fuse it.

- Views (Reshape, Flatten, ...) and, by default, transposes are read in place by the kernels.
- A function of single elements of one tensor (activations, BatchNormalization, products with
  constants, quantizers, and chains of these such as a GELU written out) joins the kernel that
  produced the tensor when nothing else needs it.
- What is left of Split and Slice along the outermost axis are parts of their input's buffer.

Bytes are those of the artifact, by `element_bytes`, not of the float graph. The steps name ONNX
operators and cannot be executed; they are for planning and for the arena map.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import onnx_ir as ir

from edgec.export.errors import UnsupportedError
from edgec.export.rewrite.graph import MODULE_KEY, constant
from edgec.profiles.memory import overlap
from edgec.profiles.memory.program import Buffer, Overlap, Program, Step

VIEWS = frozenset("Reshape Flatten Squeeze Unsqueeze Identity Dropout Cast".split())
POINTWISE = frozenset(
    "Relu LeakyRelu PRelu Clip Sigmoid HardSigmoid HardSwish Tanh Gelu Erf Exp Log Sqrt Reciprocal "
    "Neg Abs Elu Selu Celu Softplus Softsign Mish Swish Add Sub Mul Div Pow Min Max Where Not "
    "Floor Ceil Round Sign Sin Cos BatchNormalization QuantizeLinear DequantizeLinear Equal Less "
    "Greater And Or LessOrEqual GreaterOrEqual Mod".split()
)
ROW_WISE = frozenset(
    "Softmax LogSoftmax LayerNormalization RMSNormalization LpNormalization Hardmax".split()
)
PRODUCTS = frozenset(["Conv", "Gemm", "MatMul", "QLinearConv", "QLinearMatMul"])
FUSES_INTO = PRODUCTS | frozenset(
    "AveragePool GlobalAveragePool ReduceMean BatchNormalization LayerNormalization Add Sub Mul "
    "Div ConvTranspose Resize Concat".split()
)


@dataclass
class _Value:
    """What stands for an ONNX value in the program."""

    buffer: str
    pointwise: tuple[ir.Node, ...] = ()  # not computed yet


@dataclass
class _Builder:
    element_bytes: int
    transposes_absorbed: bool
    buffers: dict[str, Buffer] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    values: dict[ir.Value, _Value] = field(default_factory=dict)
    names: dict[str, int] = field(default_factory=dict)


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
    b = _Builder(element_bytes, absorb_transposes)
    return _Lowering(b, model.graph).run()


class _Lowering:
    def __init__(self, b: _Builder, graph: ir.Graph) -> None:
        self.b = b
        self.graph = graph
        self.outputs = set(graph.outputs)
        self.weights: dict[ir.Value, str] = {}

    def run(self) -> Program:
        for value in self.graph.inputs:
            if not value.is_initializer():
                self.b.values[value] = _Value(self._buffer(value, "input"))
        for node in self.graph:
            self._node(node)
        for value in self.graph.outputs:
            found = self.b.values.get(value)
            if found is None:
                continue
            id = self._materialise(value)
            old = self.b.buffers[self._root(id)]
            if old.kind == "activation":
                self.b.buffers[old.id] = replace(old, kind="output")
        steps = _with_overlaps(self.b)
        used = {i for s in steps for i in (*s.inputs, *s.outputs, *s.scratch)}
        used |= {self._root(i) for i in used}
        buffers = tuple(b for b in self.b.buffers.values() if b.id in used or b.kind == "input")
        return Program(self.graph.name or "network", buffers, tuple(steps))

    def _node(self, node: ir.Node) -> None:
        inputs = [v for v in node.inputs if v is not None and v in self.b.values]
        if not inputs:
            return  # computed from constants
        value = node.outputs[0]
        kind = node.op_type
        if kind in VIEWS or (kind == "Transpose" and self._absorbed(node)):
            self.b.values[value] = self.b.values[inputs[0]]
        elif kind in POINTWISE and self._same_source(value, inputs):
            first = self.b.values[inputs[0]]
            chains = [n for v in inputs for n in self.b.values[v].pointwise]
            self.b.values[value] = _Value(first.buffer, tuple(dict.fromkeys((*chains, node))))
        elif kind in ("Split", "Slice") and self._outermost(node):
            self._parts(node, inputs[0])
        else:
            self._step(node, inputs)

    def _step(self, node: ir.Node, inputs: list[ir.Value]) -> None:
        sources = tuple(dict.fromkeys(self._materialise(v) for v in inputs))
        outputs = []
        for value in node.outputs:
            if value.name and (value.uses() or value in self.outputs):
                id = self._buffer(value, "activation", node)
                self.b.values[value] = _Value(id)
                outputs.append(id)
        if outputs:
            self.b.steps.append(
                Step(
                    node.op_type,
                    (*sources, *self._constants(node)),
                    tuple(outputs),
                    parameters=_geometry(node, inputs),
                    name=node.name or "",
                    module=node.metadata_props.get(MODULE_KEY, ""),
                )
            )

    def _constants(self, node: ir.Node) -> list[str]:
        """Buffers of the weights that a step reads."""
        found = []
        for position, value in enumerate(node.inputs):
            array = constant(value)
            if value is None or array is None or array.ndim == 0 or value in self.b.values:
                continue
            id = self.weights.get(value)
            if id is None:
                id = self.weights[value] = self._name(value.name or "constant")
                # an int8 kernel adds its bias in 32 bits
                bias = node.op_type in PRODUCTS and position == 2
                width = 4 if bias else self.b.element_bytes
                self.b.buffers[id] = Buffer(id, max(array.size * width, 1), kind="constant")
            found.append(id)
        return found

    def _same_source(self, value: ir.Value, inputs: list[ir.Value]) -> bool:
        """Whether the node is a function of single elements of one tensor of its own size."""
        found = {self.b.values[v].buffer for v in inputs}
        if len(found) != 1 or len(value.producer().outputs) != 1:  # type: ignore[union-attr]
            return False
        return all(_elements(v) == _elements(value) for v in inputs)

    def _materialise(self, value: ir.Value) -> str:
        """The buffer that holds a value, after adding the step that computes it if need be."""
        found = self.b.values[value]
        if not found.pointwise:
            return found.buffer
        last = found.pointwise[-1]
        source = self.b.buffers[found.buffer]
        producer = next((n for n, s in enumerate(self.b.steps) if found.buffer in s.outputs), None)
        alone = source.kind == "activation" and self._only_for(found.buffer, found.pointwise)
        id = self._buffer(value, "activation", last)
        if producer is not None and alone and self.b.steps[producer].kernel in FUSES_INTO:
            step = self.b.steps[producer]
            self.b.steps[producer] = replace(
                step, outputs=tuple(id if o == found.buffer else o for o in step.outputs)
            )
            del self.b.buffers[found.buffer]
        else:
            self.b.steps.append(
                Step(
                    last.op_type,
                    (found.buffer,),
                    (id,),
                    parameters={"elements": _elements(value)},
                    name=last.name or "",
                    module=last.metadata_props.get(MODULE_KEY, ""),
                )
            )
        for other, was in list(self.b.values.items()):
            # reshaped aliases of the same value
            if was == found:
                self.b.values[other] = _Value(id)
        return id

    def _only_for(self, buffer: str, chain: Iterable[ir.Node]) -> bool:
        """Whether the bytes of a buffer are read by these nodes only."""
        nodes = set(chain)
        aliases = [v for v, f in self.b.values.items() if f.buffer == buffer and not f.pointwise]
        views = {v.producer() for v in aliases}
        taken = any(buffer in s.inputs for s in self.b.steps)
        return not taken and all(
            v not in self.outputs and all(u.node in nodes or u.node in views for u in v.uses())
            for v in aliases
        )

    def _absorbed(self, node: ir.Node) -> bool:
        return self.b.transposes_absorbed or _moves_unit_axes_only(node)

    def _outermost(self, node: ir.Node) -> bool:
        """Whether the parts of a Split or Slice are contiguous in the input (channels last)."""
        shape = _shape(node.inputs[0])
        if node.op_type != "Split" or len(shape) == 4:
            return False
        axis = node.attributes.get_int("axis", 0) % len(shape)
        return math.prod(shape[:axis]) == 1

    def _parts(self, node: ir.Node, source: ir.Value) -> None:
        parent = self._materialise(source)
        start = 0
        for value in node.outputs:
            size = _elements(value) * self.b.element_bytes
            id = self._name(value.name or "part")
            self.b.buffers[id] = Buffer(id, size, parent=parent, start=start)
            self.b.values[value] = _Value(id)
            start += size

    def _root(self, id: str) -> str:
        while (parent := self.b.buffers[id].parent) is not None:
            id = parent
        return id

    def _buffer(self, value: ir.Value, kind: str, node: ir.Node | None = None) -> str:
        id = self._name(value.name or "value")
        self.b.buffers[id] = Buffer(
            id,
            max(_elements(value) * self.b.element_bytes, 1),
            kind=kind,  # type: ignore[arg-type]
            module=node.metadata_props.get(MODULE_KEY, "") if node is not None else "",
        )
        return id

    def _name(self, name: str) -> str:
        count = self.b.names.get(name, 0)
        self.b.names[name] = count + 1
        return name if count == 0 else f"{name}#{count}"


def _moves_unit_axes_only(node: ir.Node) -> bool:
    shape = _shape(node.inputs[0])
    perm = node.attributes.get_ints("perm", list(range(len(shape)))[::-1])
    moved = [axis for axis in perm if shape[axis] != 1]
    return moved == sorted(moved)


def _with_overlaps(b: _Builder) -> list[Step]:
    """The steps with the overlaps that their kernels allow; `liveness` sees whether inputs die."""
    found = []
    for step in b.steps:
        overlaps = []
        if len(step.outputs) == 1:
            out = step.outputs[0]
            for source in step.inputs:
                if b.buffers[source].kind == "constant":
                    continue
                distance = _distance(step, b.buffers[source], b.buffers[out], b.element_bytes)
                if distance is not None and distance < b.buffers[out].size:
                    overlaps.append(Overlap(out, source, distance))
        found.append(replace(step, overlaps=tuple(overlaps)))
    return found


def _distance(step: Step, source: Buffer, out: Buffer, width: int) -> int | None:
    """Least address of the input over the output's; None when the kernel reads in any order."""
    p = step.parameters
    if step.kernel in POINTWISE or step.kernel in ROW_WISE:
        return overlap.elementwise() if source.size == out.size else None
    if "window" in p:
        values = p["window"]
        assert isinstance(values, tuple)
        n = [int(v) for v in values]
        return overlap.window(
            overlap.Window(
                (n[0], n[1]),
                (n[2], n[3]),
                n[4],
                n[5],
                (n[6], n[7]),
                (n[8], n[9]),
                (n[10], n[11]),
                (n[12], n[13]),
                depthwise=bool(n[14]),
            ),
            width,
        )
    if "rows" in p:
        values = p["rows"]
        assert isinstance(values, tuple)
        into, onto, count = (int(v) for v in values)
        return overlap.rows(into * width, onto * width, count)
    return None


def _geometry(node: ir.Node, inputs: list[ir.Value]) -> dict[str, tuple[int, ...]]:
    """What `_distance` needs, for kernels whose order of accesses is known."""
    first = node.inputs[0]
    if first is None or first not in inputs or len(inputs) != 1:
        return {}
    shape, out = _shape(first), _shape(node.outputs[0])
    kind = node.op_type
    pool = kind in ("MaxPool", "AveragePool", "LpPool")
    if (kind == "Conv" or pool) and len(shape) == 4 and shape[0] == 1:
        if kind == "Conv":
            weight = _shape(node.inputs[1])
            kernel = weight[2:]
            group = node.attributes.get_int("group", 1)
            if group not in (1, shape[1]):
                return {}
        else:
            kernel = tuple(node.attributes.get_ints("kernel_shape", (1, 1)))
            group = shape[1]
        stride = tuple(node.attributes.get_ints("strides", (1, 1)))
        dilation = tuple(node.attributes.get_ints("dilations", (1, 1)))
        pads = tuple(node.attributes.get_ints("pads", (0, 0, 0, 0)))
        if node.attributes.get_string("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
            return {}
        depthwise = int(group == shape[1])
        return {
            "window": (
                *shape[2:], *out[2:], shape[1], out[1], *kernel, *stride, *pads[:2], *dilation,
                depthwise,
            )
        }  # fmt: skip
    if kind in ("MatMul", "Gemm") and constant(node.inputs[1]) is not None:
        if kind == "Gemm" and node.attributes.get_int("transA", 0) == 1:
            return {}
        return {"rows": (shape[-1], out[-1], math.prod(out[:-1]))}
    return {}


def _shape(value: ir.Value | None) -> tuple[int, ...]:
    shape = value.shape if value is not None else None
    if shape is None or not shape.is_static():
        raise UnsupportedError(
            "EC350",
            "cannot plan the memory of a network whose shapes are not known",
            where=value.name if value is not None else None,
            why="its shape is " + ("unknown" if shape is None else str(shape)),
            fix="give static input shapes with --shape NAME=1,3,224,224",
        )
    return tuple(int(d) for d in shape.numpy())


def _elements(value: ir.Value) -> int:
    return math.prod(_shape(value))
