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

import numpy as np
import onnx
import onnx.defs
import onnx_ir as ir

from edgec.export.errors import UnsupportedError
from edgec.export.quantize.calibrate import Calibration
from edgec.export.quantize.casts import Casts
from edgec.export.quantize.graph import (
    constant_of,
    drop_unused_constants,
    opset_of,
    prepared_copy,
    require_float32,
)
from edgec.export.quantize.scheme import DATA_MOVEMENT
from edgec.export.rewrite.graph import MODULE_KEY

REASON_KEY = "edgec.float32_because"

FLOAT16_MAX = 65504.0
# Calibration sees a sample of the data; values it saw must leave room for larger ones.
HEADROOM = 4.0
# Largest relative error that rounding to float16 may do to a constant. A normal float16 has
# 2^-11; beyond this, values have fallen into the subnormals or to zero.
_CONSTANT_ERROR = 1e-2

# Sums, squares and exponentials inside: float16 overflows or cancels.
_FLOAT32_OPS = frozenset(
    {
        "LayerNormalization",
        "InstanceNormalization",
        "GroupNormalization",
        "RMSNormalization",
        "MeanVarianceNormalization",
        "LpNormalization",
        "Softmax",
        "LogSoftmax",
        "Softplus",
        "ReduceSum",
        "ReduceMean",
        "ReduceL1",
        "ReduceL2",
        "ReduceSumSquare",
        "ReduceLogSum",
        "ReduceLogSumExp",
        "ReduceProd",
        "GlobalLpPool",
        "LpPool",
        "CumSum",
        "Exp",
        "Log",
        "Pow",
        "Sqrt",
        "Reciprocal",
        "Det",
        "Einsum",
    }
)
# These make floats from nothing or from an attribute: cheaper to cast than to rewrite.
_GENERATORS = frozenset(
    {
        "ConstantOfShape",
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
        "EyeLike",
        "Bernoulli",
        "Multinomial",
    }
)
_GAIN = "gain of a normalisation in float32"
_QUANTIZERS = frozenset({"QuantizeLinear", "DequantizeLinear"})
# Precision follows the neighbours.
_NEUTRAL = DATA_MOVEMENT | {"Relu", "Concat", "Neg", "Abs", "Pad", "Max", "Min", "Where"}
_ELEMENTWISE = frozenset({"Add", "Sub", "Mul", "Div"})


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
    finder = Float16Pass(calibration)
    return tuple(str(node.name) for node in finder.unsafe_nodes(prepared_copy(model)))


class Float16Pass(ir.passes.InPlacePass):
    """Choose a precision per node, then insert the fewest Casts that realise it."""

    def __init__(self, calibration: Calibration | None, *, keep_io_float32: bool = True) -> None:
        super().__init__()
        self.calibration = calibration
        self.keep_io_float32 = keep_io_float32

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        self._begin(model)
        for node in self._nodes:
            reason = self._unsafe_type(node) or self._unsafe(node)
            if reason:
                self._reasons[node] = reason
        self._join_elementwise()
        self._join_neutral()
        self._join_affine()
        self._apply(model.graph)
        drop_unused_constants(model)
        return ir.passes.PassResult(model, modified=True)

    def unsafe_nodes(self, model: ir.Model) -> list[ir.Node]:
        """Nodes whose values are not safe in float16; nothing is changed."""
        self._begin(model)
        for node in self._nodes:
            reason = "" if node.op_type in _QUANTIZERS else self._unsafe(node)
            if reason:
                self._reasons[node] = reason
        self._join_elementwise()
        return [node for node in self._nodes if node in self._reasons]

    def _begin(self, model: ir.Model) -> None:
        self._opset = opset_of(model)
        self._nodes = list(model.graph)
        self._reasons: dict[ir.Node, str] = {}

    # --- which nodes stay float32 ----------------------------------------------------------

    def _unsafe_type(self, node: ir.Node) -> str:
        """Float32 for what ONNX says of the types."""
        if not self._is_float(node) or node.op_type in _FLOAT32_OPS:
            return ""
        if node.op_type in _GENERATORS:
            return "writes float32 by its attribute"
        if not self._schema_allows(node):
            return f"{node.op_type} has no float16 form in opset {self._opset}"
        return ""

    def _unsafe(self, node: ir.Node) -> str:
        """Float32 for the values."""
        if not self._is_float(node):
            return ""
        if node.op_type in _FLOAT32_OPS:
            return f"{node.op_type} overflows or loses digits in float16"
        if node.op_type == "Mul" and node.inputs[0] is node.inputs[1]:
            return "a square overflows float16 from 256 on"
        for index, value in enumerate(node.inputs):
            if value is None or value.dtype != ir.DataType.FLOAT:
                continue
            reason = self._bad_constant(value) if self._half_input(node, index) else ""
            if reason:
                return reason
        for value in (*node.inputs, *node.outputs):
            peak = self._peak(value)
            if peak * HEADROOM > FLOAT16_MAX:
                return f"values reach {peak:.4g} in calibration"
        return ""

    def _is_float(self, node: ir.Node) -> bool:
        values = (*node.inputs, *node.outputs)
        return any(v is not None and v.dtype == ir.DataType.FLOAT for v in values)

    def _peak(self, value: ir.Value | None) -> float:
        if self.calibration is None or value is None or value.name is None:
            return 0.0
        extremes = self.calibration.extremes(value.name)
        return 0.0 if extremes is None else max(-extremes[0], extremes[1])

    def _bad_constant(self, value: ir.Value) -> str:
        number = constant_of(value)
        if number is None or number.size == 0:
            return ""
        exact = number.astype(np.float64)
        finite = np.isfinite(exact)  # an infinite mask is infinite in float16, too
        if bool((np.abs(exact[finite]) > FLOAT16_MAX).any()):
            return f"constant {value.name} exceeds the range of float16"
        rounded = exact[finite].astype(np.float16).astype(np.float64)
        difference = np.abs(rounded - exact[finite])
        size = float(np.linalg.norm(exact[finite]))
        if size > 0.0 and float(np.linalg.norm(difference)) > _CONSTANT_ERROR * size:
            return f"constant {value.name} underflows in float16"
        return ""

    def _schema_allows(self, node: ir.Node) -> bool:
        if node.domain not in ("", "ai.onnx"):
            return False
        if node.op_type == "Cast":
            return True
        # Every float input or output that is not pinned to float32 must have a float16 form;
        # one that is pinned, such as Resize's scales, stays as it is.
        outputs = [i for i, v in enumerate(node.outputs) if v.dtype == ir.DataType.FLOAT]
        return all(self._half_output(node, i) for i in outputs) and (
            bool(outputs)
            or any(
                self._half_input(node, i)
                for i, v in enumerate(node.inputs)
                if v is not None and v.dtype == ir.DataType.FLOAT
            )
        )

    def _formal(self, node: ir.Node, index: int, *, output: bool) -> frozenset[str]:
        """Types that the operator set allows at this position."""
        schema = onnx.defs.get_schema(node.op_type, self._opset, "")
        formals = schema.outputs if output else schema.inputs
        formal = formals[min(index, len(formals) - 1)]  # the last one may be variadic
        return frozenset(formal.types)

    def _half_input(self, node: ir.Node, index: int) -> bool:
        return "tensor(float16)" in self._formal(node, index, output=False)

    def _half_output(self, node: ir.Node, index: int) -> bool:
        return "tensor(float16)" in self._formal(node, index, output=True)

    def _producer_reason(self, value: ir.Value | None) -> bool:
        producer = value.producer() if value is not None else None
        return producer is not None and producer in self._reasons

    def _join_elementwise(self) -> None:
        """Arithmetic inside a decomposed normalisation belongs to its island.

        A quotient joins if its denominator comes from an island, anything else if an input
        does and all readers are in islands.
        """
        changed = True
        while changed:
            changed = False
            for node in self._nodes:
                if node.op_type not in _ELEMENTWISE or node in self._reasons:
                    continue
                if node.outputs[0].dtype != ir.DataType.FLOAT:
                    continue
                readers = [use.node for use in node.outputs[0].uses()]
                inside = any(self._producer_reason(v) for v in node.inputs)
                inside = inside and bool(readers) and all(r in self._reasons for r in readers)
                if node.op_type == "Div" and self._producer_reason(node.inputs[1]):
                    self._reasons[node] = "divides by a value computed in float32"
                    changed = True
                elif inside:
                    self._reasons[node] = "between operators in float32"
                    changed = True

    def _join_affine(self) -> None:
        """Gain and bias of a normalisation get the type of its input.

        Where they differ, ONNX Runtime's LayerNormFusion makes an operator of two types and then
        refuses it; casts at both ends, or at none, it knows.
        """
        for node in self._nodes:
            if node in self._reasons or node.op_type not in ("Mul", "Add"):
                continue
            values = [v for v in node.inputs if v is not None and constant_of(v) is None]
            before = values[0].producer() if len(values) == 1 else None
            if before is None or before not in self._reasons:
                continue
            gain = node.op_type == "Mul" and before.op_type == "Div"
            if (gain and self._has_full_input(before)) or self._reasons[before] == _GAIN:
                self._reasons[node] = _GAIN if gain else "bias of a normalisation in float32"

    def _has_full_input(self, quotient: ir.Node) -> bool:
        """Whether what is centred and divided there comes in float32."""
        centred = quotient.inputs[0].producer() if quotient.inputs[0] is not None else None
        if centred is None or centred.op_type != "Sub" or centred.inputs[0] is None:
            return False
        source = centred.inputs[0]
        if source.is_graph_input():
            return self.keep_io_float32
        return self._producer_reason(source)

    def _join_neutral(self) -> None:
        """Per connected group of data movement: the precision that needs fewer Casts."""
        seen: set[ir.Node] = set()
        for start in self._nodes:
            if start in seen or not self._is_neutral(start):
                continue
            group = self._group(start)
            seen.update(group)
            members = set(group)
            full: set[ir.Value] = set()  # values shared with islands
            half: set[ir.Value] = set()
            for node in group:
                for value in node.inputs:
                    if value is None or value.dtype != ir.DataType.FLOAT:
                        continue
                    producer = value.producer()
                    if constant_of(value) is not None or producer in members:
                        continue
                    (full if self._producer_reason(value) else half).add(value)
                for value in node.outputs:
                    for reader in (use.node for use in value.uses()):
                        if reader not in members:
                            (full if reader in self._reasons else half).add(value)
            if len(full) > len(half):
                for node in group:
                    self._reasons[node] = "between operators in float32"

    def _is_neutral(self, node: ir.Node) -> bool:
        return (
            node.op_type in _NEUTRAL
            and node not in self._reasons
            and node.outputs[0].dtype == ir.DataType.FLOAT
        )

    def _group(self, start: ir.Node) -> list[ir.Node]:
        members, queue = {start}, [start]
        while queue:
            node = queue.pop()
            near = [v.producer() for v in node.inputs if v is not None]
            near += [use.node for value in node.outputs for use in value.uses()]
            for other in near:
                if other is not None and other not in members and self._is_neutral(other):
                    members.add(other)
                    queue.append(other)
        return [node for node in self._nodes if node in members]

    # --- surgery ---------------------------------------------------------------------------

    def _apply(self, graph: ir.Graph) -> None:
        casts = Casts(graph)
        outputs = list(graph.outputs)
        for value in graph.inputs:
            if value.dtype == ir.DataType.FLOAT and not self.keep_io_float32:
                value.type = ir.TensorType(ir.DataType.FLOAT16)
        half_nodes = [n for n in self._nodes if self._is_float(n) and n not in self._reasons]
        for node in half_nodes:
            for index, value in enumerate(node.outputs):
                if value.dtype == ir.DataType.FLOAT and self._half_output(node, index):
                    # a new type object: the copy shares the old one with its original
                    value.type = ir.TensorType(ir.DataType.FLOAT16)
            if node.op_type == "Cast" and node.attributes["to"].as_int() == ir.DataType.FLOAT:
                node.attributes["to"] = ir.AttrInt64("to", int(ir.DataType.FLOAT16))
        half = set(half_nodes)
        for node in self._nodes:
            if not self._is_float_now(node):
                continue
            if node in self._reasons:
                node.metadata_props[REASON_KEY] = self._reasons[node]
            for index, read in enumerate(node.inputs):
                if read is None or read.dtype not in (ir.DataType.FLOAT, ir.DataType.FLOAT16):
                    continue
                if node.op_type == "Cast" and node not in self._reasons:
                    continue  # a Cast reads any type
                wants_half = node in half and self._half_input(node, index)
                wanted = ir.DataType.FLOAT16 if wants_half else ir.DataType.FLOAT
                if read.dtype != wanted:
                    node.replace_input_with(index, casts.as_type(read, wanted))
        final = ir.DataType.FLOAT if self.keep_io_float32 else ir.DataType.FLOAT16
        for position, value in enumerate(outputs):
            if value.dtype in (ir.DataType.FLOAT, ir.DataType.FLOAT16) and value.dtype != final:
                casts.give_output(position, value, final)

    def _is_float_now(self, node: ir.Node) -> bool:
        kinds = (ir.DataType.FLOAT, ir.DataType.FLOAT16)
        return any(v is not None and v.dtype in kinds for v in (*node.inputs, *node.outputs))


def _subgraphs(node: ir.Node) -> Iterator[ir.Graph]:
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from attribute.as_graphs()
