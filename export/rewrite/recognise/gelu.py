"""GELU, spelled out with Erf or Tanh (Hendrycks and Gimpel, 2016), becomes Gelu.

Matched by hand from the Erf or Tanh outwards: seven commutative operators in three associations
would make some six hundred patterns.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from edgec.export.rewrite.base import RewritePass
from edgec.export.rewrite.graph import (
    Builder,
    is_op,
    remove_dead,
    replace_value,
    scalar,
    shape_of,
    sole_user,
)


class RecogniseGelu(RewritePass):
    """0.5·x·(1 + erf(x/√2)) and 0.5·x·(1 + tanh(√(2/π)·(x + 0.044715·x³))), however associated.

    Refuses other constants (beyond float rounding) and an Erf or Tanh that something else reads.
    """

    name = "recognise-gelu"
    change = "0.5·x·(1 + Erf(x/√2)) or its tanh form → Gelu"

    def rewrite(self, graph: ir.Graph) -> int:
        count = 0
        for node in graph:
            x = _erf_argument(node) or _tanh_argument(node)
            last = None if x is None else _product(node, x)
            if x is None or last is None:
                continue
            attributes = {"approximate": "tanh"} if node.op_type == "Tanh" else {}
            output = last.outputs[0]
            result = Builder(last).op(
                "Gelu", [x], shape=shape_of(output), dtype=output.dtype, **attributes
            )
            replace_value(output, result)
            remove_dead([last])
            count += 1
        return count


def _near(number: float | None, target: float) -> bool:
    return number is not None and bool(np.isclose(number, target, rtol=1e-3))


def _operands(value: ir.Value | None, op_type: str) -> Iterator[tuple[ir.Value, ir.Value]]:
    """Both orders of the operands of the commutative operator that computes `value`."""
    node = None if value is None else value.producer()
    if node is not None and is_op(node, op_type) and len(node.inputs) == 2:
        left, right = node.inputs
        if left is not None and right is not None:
            yield left, right
            yield right, left


def _erf_argument(node: ir.Node) -> ir.Value | None:
    """x if `node` is Erf(x/√2)."""
    if not is_op(node, "Erf") or node.inputs[0] is None:
        return None
    inner = node.inputs[0].producer()
    if inner is not None and is_op(inner, "Div") and _near(scalar(inner.inputs[1]), 2**0.5):
        return inner.inputs[0]
    for x, factor in _operands(node.inputs[0], "Mul"):
        if _near(scalar(factor), 2**-0.5):
            return x
    return None


def _tanh_argument(node: ir.Node) -> ir.Value | None:
    """x if `node` is Tanh(√(2/π)·(x + 0.044715·x³))."""
    if not is_op(node, "Tanh"):
        return None
    for total, root in _operands(node.inputs[0], "Mul"):
        if not _near(scalar(root), (2 / np.pi) ** 0.5):
            continue
        for x, bent in _operands(total, "Add"):
            for cube, factor in _operands(bent, "Mul"):
                if _near(scalar(factor), 0.044715) and _is_cube(cube, x):
                    return x
    return None


def _is_cube(value: ir.Value, x: ir.Value) -> bool:
    node = value.producer()
    if node is not None and is_op(node, "Pow"):
        return node.inputs[0] is x and scalar(node.inputs[1]) == 3.0
    return any(
        one is x and left is x and right is x
        for one, square in _operands(value, "Mul")
        for left, right in _operands(square, "Mul")
    )


def _product(node: ir.Node, x: ir.Value) -> ir.Node | None:
    """The node that completes 0.5·x·(1 + f), f being the result of `node`."""
    add = sole_user(node.outputs[0])
    if add is None or not is_op(add, "Add"):
        return None
    if not any(scalar(other) == 1.0 for _, other in _operands(add.outputs[0], "Add")):
        return None
    total = add.outputs[0]
    first = sole_user(total)
    if first is None or not is_op(first, "Mul"):
        return None
    other = first.inputs[1] if first.inputs[0] is total else first.inputs[0]
    if any(v is x and scalar(half) == 0.5 for v, half in _operands(other, "Mul")):
        return first
    second = sole_user(first.outputs[0])
    if second is None or not is_op(second, "Mul"):
        return None
    last = second.inputs[1] if second.inputs[0] is first.outputs[0] else second.inputs[0]
    if (other is x and scalar(last) == 0.5) or (scalar(other) == 0.5 and last is x):
        return second
    return None
