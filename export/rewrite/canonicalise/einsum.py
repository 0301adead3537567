"""Einsum as Transpose, Reshape, ReduceSum and MatMul.

Exporters keep torch.einsum of attention as one operator, which no integer kernel, no TFLite builtin
and no recogniser of attention knows. Every product of two tensors without repeated letters is one
batched MatMul (the scheme is that of opt_einsum and of torch's own decomposition).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgec.export.rewrite.base import RewritePass
from edgec.export.rewrite.graph import (
    Builder,
    is_op,
    remove_dead,
    replace_value,
    shape_of,
    str_attr,
)


class LowerEinsum(RewritePass):
    """Write Einsum of one or two tensors in plain operators.

    Refuses three and more operands, repeated letters in one operand (diagonals), and ellipses that
    stand for different axes.
    """

    name = "lower-einsum"
    change = "Einsum → ReduceSum, Transpose, Reshape, MatMul"

    def rewrite(self, graph: ir.Graph) -> int:
        count = 0
        for node in graph:
            if not is_op(node, "Einsum"):
                continue
            equation = _parse(node)
            if equation is None:
                continue
            replace_value(node.outputs[0], _lowered(Builder(node), node, equation))
            remove_dead([node])
            count += 1
        return count


@dataclass(frozen=True)
class _Equation:
    """Letters of each operand and of the result, and the size of each letter."""

    operands: tuple[str, ...]
    result: str
    sizes: Mapping[str, int]


def _parse(node: ir.Node) -> _Equation | None:
    text = str_attr(node, "equation", "").replace(" ", "")
    shapes = [shape_of(value) for value in node.inputs]
    if any(shape is None for shape in shapes) or not 1 <= len(shapes) <= 2:
        return None
    left, arrow, result = text.partition("->")
    terms = left.split(",")
    if len(terms) != len(shapes):
        return None
    ranks = [len(shape or ()) for shape in shapes]
    hidden = {r - len(t) + 3 for t, r in zip(terms, ranks, strict=True) if "..." in t}
    if len(hidden) > 1:
        return None
    free = [chr(0xE000 + number) for number in range(16)]  # letters that no equation has
    dots = "".join(free[: hidden.pop()]) if hidden else ""
    terms = [term.replace("...", dots) for term in terms]
    if not arrow:
        once = sorted(c for c in set("".join(terms)) - set(dots) if "".join(terms).count(c) == 1)
        result = dots + "".join(once)
    result = result.replace("...", dots)
    sizes: dict[str, int] = {}
    for term, shape in zip(terms, shapes, strict=True):
        assert shape is not None
        if len(term) != len(shape) or len(set(term)) != len(term) or re.search(r"[.,]", term):
            return None
        for letter, size in zip(term, shape, strict=True):
            if sizes.setdefault(letter, size) != size:
                return None  # an axis of one that is broadcast
    if len(set(result)) != len(result) or not set(result) <= set(sizes):
        return None
    return _Equation(tuple(terms), result, sizes)


def _lowered(builder: Builder, node: ir.Node, equation: _Equation) -> ir.Value:
    values, terms = [], []
    for index, (value, term) in enumerate(zip(node.inputs, equation.operands, strict=True)):
        assert value is not None
        others = set(equation.result).union(
            *equation.operands[:index], *equation.operands[index + 1 :]
        )
        kept = "".join(letter for letter in term if letter in others)
        values.append(_summed(builder, value, term, kept, equation.sizes))
        terms.append(kept)
    if len(values) == 1:
        return builder.transpose(values[0], [terms[0].index(c) for c in equation.result])
    a, b = terms
    batch = [c for c in equation.result if c in a and c in b]
    rows = [c for c in equation.result if c in a and c not in b]
    columns = [c for c in equation.result if c in b and c not in a]
    inner = [c for c in a if c in b and c not in equation.result]
    sizes = equation.sizes

    def grouped(value: ir.Value, term: str, *groups: Sequence[str]) -> ir.Value:
        """Axes in the order of `groups`, the batch as it is and each other group as one axis."""
        order = [*batch, *(c for group in groups for c in group)]
        value = builder.transpose(value, [term.index(c) for c in order])
        lengths = [math.prod(sizes[c] for c in group) for group in groups]
        return builder.reshape(value, [*(sizes[c] for c in batch), *lengths])

    left = grouped(values[0], a, rows, inner)
    right = grouped(values[1], b, inner, columns)
    shape = [*(sizes[c] for c in batch), math.prod(sizes[c] for c in rows)]
    shape.append(math.prod(sizes[c] for c in columns))
    # without a sum the axis between is one element long, and broadcasting does it
    kind = "MatMul" if inner else "Mul"
    product = builder.op(kind, [left, right], shape=shape, dtype=values[0].dtype)
    order = [*batch, *rows, *columns]
    apart = builder.reshape(product, [sizes[c] for c in order])
    return builder.transpose(apart, [order.index(c) for c in equation.result])


def _summed(
    builder: Builder, value: ir.Value, term: str, kept: str, sizes: Mapping[str, int]
) -> ir.Value:
    """`value` summed over the letters that nothing else has."""
    axes = [index for index, letter in enumerate(term) if letter not in kept]
    if not axes:
        return value
    constant = builder.constant(np.asarray(axes, np.int64), "einsum_axes")
    return builder.op(
        "ReduceSum",
        [value, constant],
        shape=[sizes[letter] for letter in kept],
        dtype=value.dtype,
        keepdims=0,
    )
