"""Between graph nodes and `layout.View`: read a node as a view, print a view as nodes."""

from __future__ import annotations

import onnx_ir as ir

from edgec.export.rewrite.graph import Builder, int_attr, ints, is_op, shape_of, str_attr
from edgec.export.rewrite.layout import Step, View, plan

_RESHAPES = ("Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity")


def extend(view: View, node: ir.Node) -> View | None:
    """`view`, then `node`; None if the node is no view or does not compose."""
    shape = shape_of(node.outputs[0])
    if shape is None or len(node.outputs) != 1:
        return None
    if is_op(node, *_RESHAPES):
        return view.reshape(shape)
    if is_op(node, "Transpose"):
        rank = len(shape)
        return view.transpose(ints(node, "perm") or tuple(reversed(range(rank))))
    if is_op(node, "SpaceToDepth"):
        return view.space_to_depth(int_attr(node, "blocksize", 1))
    if is_op(node, "DepthToSpace"):
        return view.depth_to_space(int_attr(node, "blocksize", 1), str_attr(node, "mode", "DCR"))
    return None


def as_view(node: ir.Node | None) -> View | None:
    """The view that `node` alone applies to its first input, or None."""
    shape = shape_of(node.inputs[0]) if node is not None and node.inputs else None
    if node is None or shape is None or 0 in shape:
        return None
    return extend(View.identity(shape), node)


def emit(builder: Builder, value: ir.Value, view: View, max_rank: int) -> ir.Value:
    """Nodes that apply `view` to `value`."""
    for step in plan(view, max_rank):
        if step.op == "Reshape":
            value = builder.reshape(value, step.shape)
        elif step.op == "Transpose":
            value = builder.transpose(value, step.argument)
        else:
            value = builder.op(
                step.op, [value], shape=step.shape, dtype=value.dtype, blocksize=step.argument[0]
            )
    return value


def as_step(node: ir.Node) -> Step:
    """The step that `node`, a view, prints as; for comparing costs."""
    shape = shape_of(node.outputs[0]) or ()
    if node.op_type == "Transpose":
        return Step("Transpose", ints(node, "perm") or tuple(reversed(range(len(shape)))), shape)
    if node.op_type in ("SpaceToDepth", "DepthToSpace"):
        return Step(node.op_type, (int_attr(node, "blocksize", 1),), shape)
    return Step("Reshape", shape, shape)
