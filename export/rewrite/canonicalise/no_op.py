"""Drop operators that return their input.

Identity, Dropout at inference, Cast to the same type, Reshape/Expand/Tile to the same shape,
Transpose by the identity, Slice of everything, Pad by zero, Concat/Sum/Max/Min/Mean of one tensor,
Split into one part, + 0, - 0, × 1, ÷ 1, ^ 1, Clip without bounds, reductions over axes of length 1.
"""

from __future__ import annotations

import onnx_ir as ir

from edgec.export.rewrite.base import RewritePass
from edgec.export.rewrite.graph import (
    constant,
    int_attr,
    ints,
    is_op,
    reduce_axes,
    remove_dead,
    replace_value,
    scalar,
    shape_of,
)

_VIEWS = frozenset({"Reshape", "Expand", "Tile", "Slice", "Squeeze", "Unsqueeze", "Flatten"})
_SINGLE_INPUT = frozenset({"Concat", "Sum", "Max", "Min", "Mean"})
_NEUTRAL = {"Add": 0.0, "Sub": 0.0, "Mul": 1.0, "Div": 1.0, "Pow": 1.0}
_REDUCTIONS = frozenset({"ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd"})


class RemoveNoOps(RewritePass):
    """Let the readers of a no-op read its input."""

    name = "remove-no-ops"
    change = "Identity, Dropout, same-type Cast, same-shape view, + 0, × 1, … → (nothing)"

    def rewrite(self, graph: ir.Graph) -> int:
        count = 0
        for node in graph:
            source = _source(node)
            if source is None or not _removable(node, source):
                continue
            replace_value(node.outputs[0], source)
            remove_dead([node])
            count += 1
        return count


def _removable(node: ir.Node, source: ir.Value) -> bool:
    """A graph output needs a node that produces it: at most one can pass through."""
    if any(v.uses() or v.is_graph_output() for v in node.outputs[1:]):
        return False
    if not node.outputs[0].is_graph_output():
        return True
    same_graph = source.producer() is not None and source.graph is node.graph
    return same_graph and not source.is_graph_output()


def _source(node: ir.Node) -> ir.Value | None:
    """The input that `node` returns unchanged, or None."""
    if node.domain not in ("", "ai.onnx") or not node.inputs:
        return None
    x, op = node.inputs[0], node.op_type
    if x is None:
        return None
    if op == "Identity":
        return x
    if op == "Dropout":
        training = node.inputs[2] if len(node.inputs) > 2 else None
        return x if training is None or scalar(training) == 0.0 else None
    same_type = x.dtype is not None and x.dtype == node.outputs[0].dtype
    shape = shape_of(x)
    same_shape = shape is not None and shape == shape_of(node.outputs[0])
    if op in ("Cast", "CastLike"):
        return x if same_type else None
    if op in _SINGLE_INPUT:
        return x if len(node.inputs) == 1 else None
    if op == "Split":
        return x if len(node.outputs) == 1 and same_shape else None
    if op == "Clip":
        return x if all(v is None for v in node.inputs[1:]) and not node.attributes else None
    if op == "Transpose":
        perm = ints(node, "perm")
        return x if perm is not None and perm == tuple(range(len(perm))) else None
    if op in _NEUTRAL:
        return _neutral_operand(node)
    if not same_shape:
        return None
    if op in _VIEWS:
        return x if op != "Slice" or _forward(node) else None
    if op == "Pad":
        return x if _pads_nothing(node) else None
    if op in _REDUCTIONS:
        return x if _trivial_reduction(node, shape or ()) else None
    return None


def _forward(node: ir.Node) -> bool:
    steps = constant(node.inputs[4]) if len(node.inputs) > 4 else None
    if len(node.inputs) > 4 and node.inputs[4] is not None and steps is None:
        return False
    return steps is None or bool((steps > 0).all())


def _pads_nothing(node: ir.Node) -> bool:
    """All are zero; what is cut on one side and added on the other leaves the shape, too."""
    if "pads" in node.attributes:  # opset 10 and before
        return not any(ints(node, "pads") or ())
    pads = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    return pads is not None and not pads.any()


def _trivial_reduction(node: ir.Node, shape: tuple[int, ...]) -> bool:
    axes = reduce_axes(node)
    if axes is None or not int_attr(node, "keepdims", 1):
        return False
    if not axes:
        return bool(int_attr(node, "noop_with_empty_axes", 0)) or all(d == 1 for d in shape)
    return all(shape[a] == 1 for a in axes)


def _neutral_operand(node: ir.Node) -> ir.Value | None:
    """The other operand where one is the neutral element and broadcasting changes nothing."""
    neutral, output = _NEUTRAL[node.op_type], shape_of(node.outputs[0])
    if len(node.inputs) != 2:
        return None
    left, right = node.inputs
    candidates = [(left, right)]
    if is_op(node, "Add", "Mul"):
        candidates.append((right, left))
    for kept, other in candidates:
        array = constant(other)
        if array is None or kept is None or not array.size or not (array == neutral).all():
            continue
        if shape_of(kept) == output and kept.dtype == node.outputs[0].dtype:
            return kept
    return None
