"""From an ONNX graph to TFLite operators in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx_ir as ir

from edgec.export.emit.tflite.emitter import Emitter
from edgec.export.emit.tflite.flavour import LITERT, Flavour
from edgec.export.emit.tflite.graph import Array, Graph
from edgec.export.emit.tflite.layout import assign, boundary
from edgec.export.emit.tflite.multiplied import split_multiplied
from edgec.export.emit.tflite.normalise import canonical, merge_views
from edgec.export.emit.tflite.operators.table import LOWERINGS
from edgec.export.emit.tflite.perms import stored_shape
from edgec.export.emit.tflite.ratios import widen_small_operands
from edgec.export.emit.tflite.read import read_graph
from edgec.export.emit.tflite.stored import keep_stored
from edgec.export.tflite.check import check
from edgec.export.tflite.model import Model, Quantization, Signature

SIGNATURE = "serving_default"
RULES = {op: entry.rule for op, entry in LOWERINGS.items()}


@dataclass(frozen=True)
class Lowered:
    """A lowered network and what the report says about it.

    Attributes:
        model: one subgraph, one signature; inputs and outputs of four axes are NHWC.
        modules: source module of each operator, None where it is not known.
        nodes: name of the node that each operator computes a part of; conversions may have their
            own, None where there is none.
        operators: number of operators by code.
        requantizations: QUANTIZE operators from integers to integers, see `Graph`.
        integers: float constants by tensor that come from integers: these and their grid.
    """

    model: Model
    modules: tuple[str | None, ...]
    nodes: tuple[str | None, ...]
    operators: dict[str, int]
    requantizations: int
    integers: Mapping[int, tuple[Array, Quantization]] = field(default_factory=dict)

    def float_operators(self) -> dict[str, int]:
        """Number of operators that compute in float, by code: what keeps a quantized network from
        integer kernels, together with the conversions around it."""
        graph = self.model.main
        codes = [
            op.code
            for op in graph.operators
            if op.code != "DEQUANTIZE" and graph.tensors[op.outputs[0]].dtype == "FLOAT32"
        ]
        return {code: codes.count(code) for code in sorted(set(codes))}


def lower(graph: ir.Model, flavour: Flavour = LITERT) -> Lowered:
    """Lower a float or Q/DQ graph.

    Args:
        graph: static shapes, opset 13 or newer; not modified.
        flavour: forms that the reader of the model executes.

    Raises:
        UnsupportedError: EC390 an operator, EC391 a construct that TFLite cannot express.
    """
    return emit(prepare(graph, flavour), flavour)


def prepare(graph: ir.Model, flavour: Flavour) -> Graph:
    """The normalised graph, in the forms of `flavour`."""
    found = canonical(read_graph(graph, flavour))
    if not keep_stored(found, RULES):
        if flavour.one_filter:
            split_multiplied(found, always=flavour.only_one_filter)
        merge_views(found)
    if flavour.least_ratio is not None:
        widen_small_operands(found, flavour.least_ratio)
    return found


def emit(graph: Graph, flavour: Flavour) -> Lowered:
    """Choose layouts and write the operators of a normalised graph."""
    for node in graph.nodes:
        lowering = LOWERINGS.get(node.op)
        if lowering is None:
            raise node.refuse("no builtin operator computes it")
        obstacle = lowering.obstacle(node)
        if obstacle:
            raise node.refuse(obstacle)
    layout = graph.layout or assign(graph, RULES)
    emitter = Emitter(layout, flavour)
    inputs, outputs = [], []
    for value in graph.inputs:
        perm = boundary(value)
        index = emitter.tensor(
            value.name, stored_shape(value.shape, perm), value.dtype, value.quantization
        )
        emitter.place(value, perm, index)
        inputs.append(index)
    for node in graph.nodes:
        emitter.node = node
        LOWERINGS[node.op].emit(emitter, node)
    emitter.node = None
    for value in graph.outputs:
        outputs.append(emitter.get(value, boundary(value)))
    subgraph = emitter.subgraph
    subgraph.inputs, subgraph.outputs, subgraph.name = inputs, outputs, "main"
    model = Model(
        [subgraph],
        signatures=[
            Signature(
                SIGNATURE,
                {v.name: i for v, i in zip(graph.inputs, inputs, strict=True)},
                dict(zip(graph.output_names, outputs, strict=True)),
            )
        ],
    )
    check(model, "lowered model")
    counts = Counter(operator.code for operator in subgraph.operators)
    return Lowered(
        model,
        tuple(None if node is None else node.module for node in emitter.sources),
        tuple(None if node is None else node.name for node in emitter.sources),
        dict(sorted(counts.items())),
        graph.requantizations,
        emitter.integers_of,
    )
