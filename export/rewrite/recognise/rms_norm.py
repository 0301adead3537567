"""RMS normalization (Zhang and Sennrich, 2019) gets one spelling and a mark.

x / Sqrt(ReduceMean(x · x) + ε): ONNX has an operator for it (RMSNormalization) only from opset 23
on. Pow becomes a product, because integer kernels have none, and a division replaces Reciprocal and
product, because it is one node less.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from edgec.export.rewrite.graph import (
    Builder,
    constant,
    int_attr,
    is_op,
    reduce_axes,
    remove_dead,
    replace_value,
    scalar,
    shape_of,
    sole_user,
)
from edgec.export.rewrite.recognise.layer_norm import centred
from edgec.export.rewrite.recognise.marks import MarkingPass, kinds_of


@dataclass(frozen=True)
class _Match:
    x: ir.Value
    square: ir.Node
    mean: ir.Node
    add: ir.Node
    root: ir.Node
    quotient: ir.Node


class RecogniseRmsNorm(MarkingPass):
    """x divided by (or times the reciprocal of) the root of its own mean square (· γ).

    Refuses the mean square of another tensor (then it is a variance or a gate), a dropped axis, and
    a computed ε.
    """

    name = "recognise-rms-norm"
    change = "x · Reciprocal(Sqrt(ReduceMean(Pow(x, 2)) + ε)) → x / Sqrt(ReduceMean(x · x) + ε)"

    def rewrite(self, graph: ir.Graph) -> int:
        count = 0
        for node in graph:
            if not is_op(node, "Sqrt", "Pow") or "rms_norm" in kinds_of(node):
                continue
            match = _match(node)
            if match is None:
                continue
            if isinstance(match, str):
                self.refuse(node, match)
                continue
            nodes = _canonical(match)
            gain = sole_user(nodes[-1].outputs[0])
            if gain is not None and is_op(gain, "Mul") and _has_constant(gain):
                nodes.append(gain)
            self.marker.mark("rms_norm", nodes)
            count += 1
        return count


def _has_constant(node: ir.Node) -> bool:
    return any(constant(v) is not None for v in node.inputs)


def _producer(value: ir.Value | None) -> ir.Node | None:
    return None if value is None else value.producer()


def _match(root: ir.Node) -> _Match | str | None:
    """The pattern around its square root (Sqrt, or Pow by ±1/2); None if it is no such root."""
    power = 0.5 if root.op_type == "Sqrt" else scalar(root.inputs[1])
    add = _producer(root.inputs[0])
    if power not in (0.5, -0.5) or add is None or not is_op(add, "Add"):
        return None
    epsilon, mean = scalar(add.inputs[1]), _producer(add.inputs[0])
    if epsilon is None:
        epsilon, mean = scalar(add.inputs[0]), _producer(add.inputs[1])
    if mean is None or not is_op(mean, "ReduceMean"):
        return None
    square = _producer(mean.inputs[0])
    x = None if square is None else _squared(square)
    if square is None or x is None:
        return None
    quotient = _divided(root, x, power)
    if quotient is None:
        return "what is divided by the root is not the tensor that was squared"
    if centred(x) is not None:
        return "the tensor is centred: this is a variance"
    if epsilon is None:
        return "ε is computed"
    if not int_attr(mean, "keepdims", 1) or not reduce_axes(mean):
        return "the reduced axis is dropped or computed"
    if shape_of(x) is None or shape_of(x) != shape_of(quotient.outputs[0]):
        return "the shape is not static"
    return _Match(x, square, mean, add, root, quotient)


def _squared(node: ir.Node) -> ir.Value | None:
    if is_op(node, "Pow") and scalar(node.inputs[1]) == 2.0:
        return node.inputs[0]
    same = is_op(node, "Mul") and node.inputs[0] is node.inputs[1]
    return node.inputs[0] if same else None


def _divided(root: ir.Node, x: ir.Value, power: float) -> ir.Node | None:
    """The node that divides x by the root, if only that reads the root."""
    node, inverted = sole_user(root.outputs[0]), power < 0
    if not inverted and _inverts(node):
        assert node is not None
        node, inverted = sole_user(node.outputs[0]), True
    if node is None or node.graph is not root.graph:
        return None
    if inverted:
        return node if is_op(node, "Mul") and x in node.inputs else None
    return node if is_op(node, "Div") and node.inputs[0] is x else None


def _inverts(node: ir.Node | None) -> bool:
    """Reciprocal, or 1 divided by something."""
    if node is None or is_op(node, "Reciprocal"):
        return node is not None
    return is_op(node, "Div") and scalar(node.inputs[0]) == 1.0


def _canonical(match: _Match) -> list[ir.Node]:
    """The five nodes in the one spelling; those that have it already stay."""
    x, square, root, quotient = match.x, match.square, match.root, match.quotient
    if is_op(square, "Pow"):
        result = Builder(square).op("Mul", [x, x], shape=shape_of(x), dtype=x.dtype)
        replace_value(square.outputs[0], result)
        remove_dead([square])
        square = _made(result)
    if is_op(root, "Sqrt") and is_op(quotient, "Div"):
        return [square, match.mean, match.add, root, quotient]
    builder = Builder(quotient, root)
    sums = match.add.outputs[0]
    result = builder.op("Sqrt", [sums], shape=shape_of(sums), dtype=sums.dtype)
    root = _made(result)
    result = builder.op("Div", [x, result], shape=shape_of(x), dtype=x.dtype)
    replace_value(quotient.outputs[0], result)
    remove_dead([quotient])
    return [square, match.mean, match.add, root, _made(result)]


def _made(value: ir.Value) -> ir.Node:
    node = value.producer()
    assert node is not None
    return node
