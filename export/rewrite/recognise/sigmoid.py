"""y / (1 + Exp(-x)) becomes y · Sigmoid(x); with y = 1 the product is left out."""

from __future__ import annotations

import onnx_ir as ir

from edgec.export.rewrite.base import RewritePass
from edgec.export.rewrite.graph import (
    Builder,
    is_op,
    remove_dead,
    replace_value,
    scalar,
    shape_of,
)


class RecogniseSigmoid(RewritePass):
    """The logistic function with Exp, and SiLU as a division.

    Refuses another constant than 1, and a numerator that broadcasts.
    """

    name = "recognise-sigmoid"
    change = "1 / (1 + Exp(-x)) → Sigmoid; y / (1 + Exp(-x)) → y · Sigmoid(x)"

    def rewrite(self, graph: ir.Graph) -> int:
        count = 0
        for node in graph:
            numerator, denominator = _quotient(node)
            x = _exponent(denominator)
            if x is None or denominator is None:
                continue
            output = node.outputs[0]
            shape, dtype = shape_of(output), output.dtype
            if shape is None or shape != shape_of(x):
                self.refuse(node, "the numerator broadcasts the gate to another shape")
                continue
            builder = Builder(node)
            result = builder.op("Sigmoid", [x], shape=shape, dtype=dtype)
            if numerator is not None and scalar(numerator) != 1.0:
                result = builder.op("Mul", [numerator, result], shape=shape, dtype=dtype)
            replace_value(output, result)
            remove_dead([node])
            count += 1
        return count


def _quotient(node: ir.Node) -> tuple[ir.Value | None, ir.Value | None]:
    """(numerator, denominator) of Div; the numerator of Reciprocal is None."""
    if is_op(node, "Div"):
        return node.inputs[0], node.inputs[1]
    return (None, node.inputs[0]) if is_op(node, "Reciprocal") else (None, None)


def _exponent(value: ir.Value | None) -> ir.Value | None:
    """x if `value` is 1 + Exp(-x)."""
    add = None if value is None else value.producer()
    if add is None or not is_op(add, "Add"):
        return None
    for one, other in (add.inputs, tuple(reversed(add.inputs))):
        exp = other.producer() if scalar(one) == 1.0 and other is not None else None
        if exp is None or not is_op(exp, "Exp") or exp.inputs[0] is None:
            continue
        negative = exp.inputs[0].producer()
        if is_op(negative, "Neg") and negative is not None:
            return negative.inputs[0]
    return None
