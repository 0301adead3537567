"""The layers of an ONNX graph, float or with quantizers.

Kernels are joined as runtimes do: a function of single elements joins the kernel that computed its
input when nothing else of another kernel enters it; quantizers and views join as well. Bytes are
those of what is stored: a tensor between QuantizeLinear and DequantizeLinear has one byte per
element although the graph computes in float32.
"""

from __future__ import annotations

import math
from dataclasses import replace

import onnx_ir as ir

from edgec.export.errors import UnsupportedError
from edgec.export.rewrite.graph import MODULE_KEY, constant, shape_of
from edgec.profiles.layers import EXPONENTIAL, Kind, Layer, StaticProfile, window_kind
from edgec.profiles.macs import node_macs
from edgec.profiles.memory.from_onnx import from_onnx
from edgec.profiles.memory.onnx_access import POINTWISE
from edgec.profiles.memory.plan import plan
from edgec.profiles.memory.regions import ANY_RAM

QUANTIZERS = frozenset(["QuantizeLinear", "DequantizeLinear"])
VIEWS = frozenset("Reshape Flatten Squeeze Unsqueeze Identity Dropout Cast".split())
MOVES = frozenset(
    "Concat Transpose Slice Split Pad Gather GatherElements GatherND Expand Tile DepthToSpace "
    "SpaceToDepth ScatterND ScatterElements".split()
)
NORMS = frozenset(
    "LayerNormalization InstanceNormalization GroupNormalization LpNormalization "
    "RMSNormalization LRN".split()
)
POOLS = frozenset(
    "MaxPool AveragePool GlobalAveragePool GlobalMaxPool LpPool ReduceMean ReduceSum ReduceMax "
    "ReduceMin ReduceL2".split()
)
CONVOLUTIONS = frozenset(["Conv", "ConvTranspose", "ConvInteger", "QLinearConv"])
PRODUCTS = frozenset(["MatMul", "Gemm", "MatMulInteger", "QLinearMatMul", "Einsum"])
PLAN_SECONDS = 2.0


def profile_graph(model: ir.Model, name: str) -> StaticProfile:
    """Static profile of a graph.

    Raises:
        UnsupportedError: a shape is not static (EC320, EC332).
    """
    layers = graph_layers(model)
    quantized = any(node.op_type in QUANTIZERS for node in model.graph)
    widest = max((_width(v) for v in model.graph.inputs), default=4)
    program = from_onnx(model, element_bytes=1 if quantized else widest)
    found = plan(program, [ANY_RAM], time_limit=PLAN_SECONDS)
    return StaticProfile(
        name,
        layers,
        found.peak,
        "planned arena" + (", proved minimal for this order" if found.proved else ""),
        "int8" if quantized else {2: "fp16", 4: "fp32"}.get(widest, f"{8 * widest} bits"),
    )


def graph_layers(model: ir.Model) -> tuple[Layer, ...]:
    """The kernels of a graph in its order.

    Raises:
        UnsupportedError: a shape is not static (EC320, EC332).
    """
    lowering = _Lowering()
    for node in model.graph:
        lowering.node(node)
    return tuple(lowering.finished())


class _Lowering:
    """Layers under construction; `owner` tells which one computed a value."""

    def __init__(self) -> None:
        self.layers: list[Layer] = []
        self.results: list[ir.Value] = []
        self.nodes: list[list[str]] = []
        self.constants: list[list[ir.Value]] = []
        self.owner: dict[ir.Value, int] = {}

    def node(self, node: ir.Node) -> None:
        computed = [v for v in node.inputs if v is not None and constant(v) is None]
        computed = [v for v in computed if not self._constant_through_quantizers(v)]
        if not computed:
            return
        out = node.outputs[0]
        owners = {self.owner.get(v) for v in computed}
        kind = node.op_type
        single = len(owners) == 1
        if kind in VIEWS or kind in QUANTIZERS:
            (owner,) = {self.owner.get(computed[0])}
            self._join(owner, node, out)
        elif kind in POINTWISE and single and None not in owners and self._same_size(owners, out):
            self._join(owners.pop(), node, out)
        else:
            self._new(node, computed)

    def finished(self) -> list[Layer]:
        """Layers with what was joined to them."""
        done = []
        for layer, result, nodes, constants in zip(
            self.layers, self.results, self.nodes, self.constants, strict=True
        ):
            found = list(dict.fromkeys(constants))
            done.append(
                replace(
                    layer,
                    nodes=tuple(nodes),
                    out_bytes=layer.out_elems * _width(result),
                    parameters=sum(_elements(v) for v in found),
                    weight_bytes=sum(_elements(v) * _width(v) for v in found),
                )
            )
        return done

    def _join(self, owner: int | None, node: ir.Node, out: ir.Value) -> None:
        if owner is None:
            return  # a view or quantizer of a network input
        self.owner.update(dict.fromkeys(node.outputs, owner))
        self.results[owner] = out
        layer = self.layers[owner]
        joined = 2 * _elements(out) if node.op_type in POINTWISE else 0  # one pass for them all
        self.layers[owner] = replace(
            layer,
            functions=layer.functions + _functions(node),
            joined=max(layer.joined, joined),
        )
        self.nodes[owner].append(node.name or node.op_type)
        if node.op_type not in QUANTIZERS:
            self.constants[owner] += self._constants(node)

    def _new(self, node: ir.Node, computed: list[ir.Value]) -> None:
        index = len(self.layers)
        out = node.outputs[0]
        in_elems = sum(_elements(v) for v in computed)
        layer = Layer(
            name=node.name or out.name or node.op_type,
            operator=node.op_type,
            kind=_kind(node, computed),
            module=node.metadata_props.get(MODULE_KEY, ""),
            macs=node_macs(node),
            in_elems=in_elems,
            out_elems=sum(_elements(v) for v in node.outputs if v.name),
            in_bytes=sum(_elements(v) * _width(v) for v in computed),
            functions=_functions(node),
        )
        if node.op_type in CONVOLUTIONS:
            layer = _window(layer, node)
        elif node.op_type in PRODUCTS:
            layer = _product(layer, node, computed)
        elif node.op_type == "Concat" and node.attributes.get_int("axis", 0) in (1, -3):
            maps = [shape for v in computed if len(shape := _shape(v)) == 4]
            layer = replace(layer, in_ch=math.gcd(*(shape[1] for shape in maps)))
        self.layers.append(layer)
        self.results.append(out)
        self.nodes.append([node.name or node.op_type])
        self.constants.append(self._constants(node))
        self.owner.update(dict.fromkeys(node.outputs, index))

    def _constants(self, node: ir.Node) -> list[ir.Value]:
        """Constant tensors that a node reads, behind their quantizers; no scalars."""
        found = []
        for value in node.inputs:
            if value is None:
                continue
            behind = _behind_quantizer(value)
            array = constant(behind)
            if array is not None and array.ndim and array.dtype.kind in "fiu":
                if array.dtype.kind == "i" and array.dtype.itemsize == 8:
                    continue  # axes, shapes, pads
                found.append(behind)
        return found

    def _constant_through_quantizers(self, value: ir.Value) -> bool:
        behind = _behind_quantizer(value)
        return behind is not value and constant(behind) is not None

    def _same_size(self, owners: set[int | None], out: ir.Value) -> bool:
        (owner,) = owners
        assert owner is not None
        return _elements(self.results[owner]) == _elements(out)


def _functions(node: ir.Node) -> int:
    return _elements(node.outputs[0]) if node.op_type.lower() in EXPONENTIAL else 0


def _behind_quantizer(value: ir.Value) -> ir.Value:
    producer = value.producer()
    while producer is not None and producer.op_type in QUANTIZERS:
        source = producer.inputs[0]
        assert source is not None
        value, producer = source, source.producer()
    return value


def _kind(node: ir.Node, computed: list[ir.Value]) -> Kind:
    kind = node.op_type
    if kind in CONVOLUTIONS:
        weight = _weight(node)
        groups = node.attributes.get_int("group", 1)
        in_ch = _shape(node.inputs[0])[1]
        out_ch = weight[1] * groups if kind == "ConvTranspose" else weight[0]
        return window_kind(weight[2:], groups, in_ch, out_ch)
    if kind in PRODUCTS:
        if len(computed) > 1:
            return "matmul"
        return "linear" if math.prod(_shape(node.outputs[0])[:-1]) == 1 else "1x1"
    if kind in POINTWISE:
        return "elementwise"
    if kind in POOLS:
        return "pool"
    if kind in ("Softmax", "LogSoftmax"):
        return "softmax"
    if kind in NORMS:
        return "norm"
    if kind in ("Resize", "Upsample"):
        return "resize"
    return "move" if kind in MOVES else "other"


def _window(layer: Layer, node: ir.Node) -> Layer:
    weight, source, out = _weight(node), _shape(node.inputs[0]), _shape(node.outputs[0])
    return replace(
        layer,
        weights=math.prod(weight),
        kernel=max(weight[2:], default=1),
        stride=max(node.attributes.get_ints("strides", (1,))),
        in_ch=source[1],
        out_ch=out[1],
        out_hw=math.prod(out[2:]),
        groups=node.attributes.get_int("group", 1),
    )


def _product(layer: Layer, node: ir.Node, computed: list[ir.Value]) -> Layer:
    out = _shape(node.outputs[0])
    rows = math.prod(out[:-1])
    weights = 0
    if len(computed) == 1:
        constants = [_behind_quantizer(v) for v in node.inputs[:2] if v is not None]
        weights = max((_elements(v) for v in constants if constant(v) is not None), default=0)
    return replace(
        layer,
        weights=weights,
        kernel=1 if layer.kind == "1x1" else 0,
        stride=1 if layer.kind == "1x1" else 0,
        in_ch=layer.macs // max(layer.out_elems, 1),
        out_ch=out[-1] if out else 1,
        out_hw=rows,
    )


def _weight(node: ir.Node) -> tuple[int, ...]:
    return _shape(node.inputs[3 if node.op_type == "QLinearConv" else 1])


def _shape(value: ir.Value | None) -> tuple[int, ...]:
    found = shape_of(value)
    if found is None:
        raise UnsupportedError(
            "EC332",
            "the network cannot be profiled without shapes",
            where=None if value is None else value.name,
            why="the shape of a tensor is unknown or symbolic",
            fix="give static input shapes with --shape NAME=1,3,224,224",
        )
    return found


def _elements(value: ir.Value) -> int:
    return math.prod(_shape(value))


def _width(value: ir.Value) -> int:
    """Bytes of one stored element: of the integer behind or in front of quantizers."""
    producer = value.producer()
    if producer is not None and producer.op_type == "DequantizeLinear":
        source = producer.inputs[0]
        assert source is not None
        return _width(source)
    users = {use.node.op_type for use in value.uses()}
    if users == {"QuantizeLinear"}:
        return 1
    dtype = value.dtype
    return 4 if dtype is None else max(dtype.bitwidth // 8, 1)
