"""Which nodes of a float16 network stay in float32, and why.

Some have no float16 form in ONNX, some overflow or lose digits in it; what stands between such
nodes joins them where that saves Casts.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx.defs
import onnx_ir as ir

from edgec.export.quantize.calibrate import Calibration
from edgec.export.quantize.graph import constant_of, opset_of
from edgec.export.quantize.scheme import DATA_MOVEMENT

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


class FullPrecision:
    """The choice for one graph.

    Args:
        model: float32 or Q/DQ graph with unique names and typed values; not modified.
        calibration: ranges of its activations, if known.
        keep_io_float32: inputs of the graph come in float32.

    Attributes:
        reasons: the nodes that stay float32, and why.
    """

    def __init__(
        self, model: ir.Model, calibration: Calibration | None, *, keep_io_float32: bool = True
    ) -> None:
        self.reasons: dict[ir.Node, str] = {}
        self._calibration, self._keep_io_float32 = calibration, keep_io_float32
        self._opset = opset_of(model)
        self._nodes = list(model.graph)

    def choose(self) -> None:
        """For the types that ONNX allows and for the values; neighbours join."""
        for node in self._nodes:
            reason = self._unsafe_type(node) or self._unsafe(node)
            if reason:
                self.reasons[node] = reason
        self._join_elementwise()
        self._join_neutral()
        self._join_affine()

    def choose_by_value(self) -> None:
        """For the values alone; `reasons` are in graph order."""
        for node in self._nodes:
            reason = "" if node.op_type in _QUANTIZERS else self._unsafe(node)
            if reason:
                self.reasons[node] = reason
        self._join_elementwise()
        self.reasons = {n: self.reasons[n] for n in self._nodes if n in self.reasons}

    def _unsafe_type(self, node: ir.Node) -> str:
        """Float32 for what ONNX says of the types."""
        if not is_float(node) or node.op_type in _FLOAT32_OPS:
            return ""
        if node.op_type in _GENERATORS:
            return "writes float32 by its attribute"
        if not self._schema_allows(node):
            return f"{node.op_type} has no float16 form in opset {self._opset}"
        return ""

    def _unsafe(self, node: ir.Node) -> str:
        """Float32 for the values."""
        if not is_float(node):
            return ""
        if node.op_type in _FLOAT32_OPS:
            return f"{node.op_type} overflows or loses digits in float16"
        if node.op_type == "Mul" and node.inputs[0] is node.inputs[1]:
            return "a square overflows float16 from 256 on"
        for index, value in enumerate(node.inputs):
            if value is None or value.dtype != ir.DataType.FLOAT:
                continue
            reason = self._bad_constant(value) if self.half_input(node, index) else ""
            if reason:
                return reason
        for value in (*node.inputs, *node.outputs):
            peak = self._peak(value)
            if peak * HEADROOM > FLOAT16_MAX:
                return f"values reach {peak:.4g} in calibration"
        return ""

    def _peak(self, value: ir.Value | None) -> float:
        if self._calibration is None or value is None or value.name is None:
            return 0.0
        extremes = self._calibration.extremes(value.name)
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
        return all(self.half_output(node, i) for i in outputs) and (
            bool(outputs)
            or any(
                self.half_input(node, i)
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

    def half_input(self, node: ir.Node, index: int) -> bool:
        """Whether the operator set lets a node read float16 there."""
        return "tensor(float16)" in self._formal(node, index, output=False)

    def half_output(self, node: ir.Node, index: int) -> bool:
        """Whether the operator set lets a node write float16 there."""
        return "tensor(float16)" in self._formal(node, index, output=True)

    def _producer_reason(self, value: ir.Value | None) -> bool:
        producer = value.producer() if value is not None else None
        return producer is not None and producer in self.reasons

    def _join_elementwise(self) -> None:
        """Arithmetic inside a decomposed normalisation belongs to its island.

        A quotient joins if its denominator comes from an island, anything else if an input
        does and all readers are in islands.
        """
        changed = True
        while changed:
            changed = False
            for node in self._nodes:
                if node.op_type not in _ELEMENTWISE or node in self.reasons:
                    continue
                if node.outputs[0].dtype != ir.DataType.FLOAT:
                    continue
                readers = [use.node for use in node.outputs[0].uses()]
                inside = any(self._producer_reason(v) for v in node.inputs)
                inside = inside and bool(readers) and all(r in self.reasons for r in readers)
                if node.op_type == "Div" and self._producer_reason(node.inputs[1]):
                    self.reasons[node] = "divides by a value computed in float32"
                    changed = True
                elif inside:
                    self.reasons[node] = "between operators in float32"
                    changed = True

    def _join_affine(self) -> None:
        """Gain and bias of a normalisation get the type of its input.

        Where they differ, ONNX Runtime's LayerNormFusion makes an operator of two types and then
        refuses it; casts at both ends, or at none, it knows.
        """
        for node in self._nodes:
            if node in self.reasons or node.op_type not in ("Mul", "Add"):
                continue
            values = [v for v in node.inputs if v is not None and constant_of(v) is None]
            before = values[0].producer() if len(values) == 1 else None
            if before is None or before not in self.reasons:
                continue
            gain = node.op_type == "Mul" and before.op_type == "Div"
            if (gain and self._has_full_input(before)) or self.reasons[before] == _GAIN:
                self.reasons[node] = _GAIN if gain else "bias of a normalisation in float32"

    def _has_full_input(self, quotient: ir.Node) -> bool:
        """Whether what is centred and divided there comes in float32."""
        centred = quotient.inputs[0].producer() if quotient.inputs[0] is not None else None
        if centred is None or centred.op_type != "Sub" or centred.inputs[0] is None:
            return False
        source = centred.inputs[0]
        if source.is_graph_input():
            return self._keep_io_float32
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
                            (full if reader in self.reasons else half).add(value)
            if len(full) > len(half):
                for node in group:
                    self.reasons[node] = "between operators in float32"

    def _is_neutral(self, node: ir.Node) -> bool:
        return (
            node.op_type in _NEUTRAL
            and node not in self.reasons
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


def is_float(node: ir.Node) -> bool:
    """Whether a node reads or writes float32."""
    values = (*node.inputs, *node.outputs)
    return any(v is not None and v.dtype == ir.DataType.FLOAT for v in values)
