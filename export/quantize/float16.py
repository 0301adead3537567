"""Half precision by casts in the graph: every operator's type is explicit.

TensorRT's strongly typed networks (the only kind from version 11 on) take precision from the
graph, and weakly typed ones must not be left to choose half precision for a LayerNorm: x² of
activations around 10³ overflows float16 (65504) and the whole output turns to NaN
(NVIDIA/TensorRT issue 2564). Operators that overflow or lose digits inside stay in float32
*islands* between Casts; everything else computes in float16.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from edgec.export.errors import UnsupportedError
from edgec.export.quantize.calibrate import Calibration
from edgec.export.quantize.casts import Casts
from edgec.export.quantize.full_precision import FullPrecision, is_float
from edgec.export.quantize.graph import (
    drop_unused_constants,
    opset_of,
    prepared_copy,
    require_float32,
)
from edgec.export.rewrite.graph import MODULE_KEY

REASON_KEY = "edgec.float32_because"


@dataclass(frozen=True)
class Island:
    """A node kept in float32, and why."""

    node: str
    op_type: str
    module: str
    reason: str


def to_float16(
    model: ir.Model, *, keep_io_float32: bool = True, calibration: Calibration | None = None
) -> ir.Model:
    """Return a float16 copy of a float32 graph, opset >= 13.

    Args:
        model: float graph, or a Q/DQ graph (from opset 19 on its scales become float16 too;
            before, Q/DQ are float32 by their definition). Not modified.
        keep_io_float32: inputs and outputs keep their type, with a Cast behind or before them.
        calibration: ranges of the activations; nodes that write or read values beyond
            65504 / 4 then stay float32. Without it, only the operators known to be unsafe do.

    Every node left in float32 carries the reason in its metadata; `float32_islands` lists them.

    Raises:
        UnsupportedError: EC360 not a float32 graph, EC362 opset below 13, EC365 control flow.
    """
    if opset_of(model) < 13:
        raise UnsupportedError(
            "EC362",
            f"opset {opset_of(model)} is too old for float16",
            why="several operators got float16 in opset 13",
            fix="convert the model up first (edgec does so when it loads an ONNX file)",
        )
    require_float32(model)
    for node in model.graph:
        if any(True for _ in _subgraphs(node)):
            raise UnsupportedError(
                "EC365",
                "control flow cannot be converted to float16",
                where=f"{node.op_type} {node.name}",
                fix="export with static shapes, so that branches and loops are resolved",
            )
    copy = prepared_copy(model)
    Float16Pass(calibration, keep_io_float32=keep_io_float32)(copy)
    return copy


def float32_islands(model: ir.Model) -> list[Island]:
    """Nodes that `to_float16` left in float32, in graph order."""
    return [
        Island(
            str(node.name),
            node.op_type,
            node.metadata_props.get(MODULE_KEY, ""),
            node.metadata_props[REASON_KEY],
        )
        for node in model.graph
        if REASON_KEY in node.metadata_props
    ]


def float32_by_value(model: ir.Model, calibration: Calibration | None) -> tuple[str, ...]:
    """Names of the nodes that `to_float16` keeps in float32 for the values they compute, in graph
    order: a builder that chooses float16 itself has to be told of them.

    What is float32 in ONNX by definition (the float side of Q/DQ before opset 19), and what only
    moves data between such nodes, is left out: what a runtime makes of these is its own affair.
    """
    full = FullPrecision(prepared_copy(model), calibration)
    full.choose_by_value()
    return tuple(str(node.name) for node in full.reasons)


class Float16Pass(ir.passes.InPlacePass):
    """Choose a precision per node, then insert the fewest Casts that realise it."""

    def __init__(self, calibration: Calibration | None, *, keep_io_float32: bool = True) -> None:
        super().__init__()
        self.calibration = calibration
        self.keep_io_float32 = keep_io_float32

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        full = FullPrecision(model, self.calibration, keep_io_float32=self.keep_io_float32)
        full.choose()
        self._apply(model.graph, full)
        drop_unused_constants(model)
        return ir.passes.PassResult(model, modified=True)

    def _apply(self, graph: ir.Graph, full: FullPrecision) -> None:
        casts = Casts(graph)
        outputs = list(graph.outputs)
        for value in graph.inputs:
            if value.dtype == ir.DataType.FLOAT and not self.keep_io_float32:
                value.type = ir.TensorType(ir.DataType.FLOAT16)
        nodes = list(graph)
        half_nodes = [n for n in nodes if is_float(n) and n not in full.reasons]
        for node in half_nodes:
            for index, value in enumerate(node.outputs):
                if value.dtype == ir.DataType.FLOAT and full.half_output(node, index):
                    # a new type object: the copy shares the old one with its original
                    value.type = ir.TensorType(ir.DataType.FLOAT16)
            if node.op_type == "Cast" and node.attributes["to"].as_int() == ir.DataType.FLOAT:
                node.attributes["to"] = ir.AttrInt64("to", int(ir.DataType.FLOAT16))
        half = set(half_nodes)
        for node in nodes:
            if not _is_float_now(node):
                continue
            if node in full.reasons:
                node.metadata_props[REASON_KEY] = full.reasons[node]
            for index, read in enumerate(node.inputs):
                if read is None or read.dtype not in (ir.DataType.FLOAT, ir.DataType.FLOAT16):
                    continue
                if node.op_type == "Cast" and node not in full.reasons:
                    continue  # a Cast reads any type
                wants_half = node in half and full.half_input(node, index)
                wanted = ir.DataType.FLOAT16 if wants_half else ir.DataType.FLOAT
                if read.dtype != wanted:
                    node.replace_input_with(index, casts.as_type(read, wanted))
        final = ir.DataType.FLOAT if self.keep_io_float32 else ir.DataType.FLOAT16
        for position, value in enumerate(outputs):
            if value.dtype in (ir.DataType.FLOAT, ir.DataType.FLOAT16) and value.dtype != final:
                casts.give_output(position, value, final)


def _is_float_now(node: ir.Node) -> bool:
    kinds = (ir.DataType.FLOAT, ir.DataType.FLOAT16)
    return any(v is not None and v.dtype in kinds for v in (*node.inputs, *node.outputs))


def _subgraphs(node: ir.Node) -> Iterator[ir.Graph]:
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from attribute.as_graphs()
