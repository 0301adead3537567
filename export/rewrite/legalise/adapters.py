"""Operators whose form differs between opset 20 and older ones.

An adapter changes a node in place so that it means at the target opset what it meant at 20; it
returns the reason if it cannot.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir

from edgec.export.rewrite.graph import (
    Builder,
    constant,
    int_attr,
    reduce_axes,
    shape_of,
    str_attr,
)

Adapter = Callable[[ir.Node, int], str | None]
"""(node, target opset) → None if done, else why not."""


def set_attribute(node: ir.Node, name: str, value: int | list[int]) -> None:
    """Add or replace an attribute."""
    node.attributes[name] = ir.convenience.convert_attribute(name, value)


def drop_default(node: ir.Node, **defaults: int | str) -> str | None:
    """Remove attributes that older opsets do not know; only if they have their default value."""
    for name, default in defaults.items():
        attribute = node.attributes.get(name)
        if attribute is None:
            continue
        if attribute.value != default:
            return f"attribute {name} = {attribute.value!r}"
        del node.attributes[name]
    return None


def axes_to_attribute(node: ir.Node, opset: int) -> str | None:
    """Reductions below 18: axes are an attribute (ReduceSum has had them as input since 13)."""
    if len(node.inputs) > 1 and node.inputs[1] is not None and constant(node.inputs[1]) is None:
        return "its axes are computed"
    axes = reduce_axes(node)
    if not axes and int_attr(node, "noop_with_empty_axes", 0):
        return "it reduces nothing"
    node.attributes.pop("noop_with_empty_axes", None)
    if len(node.inputs) > 1:
        node.resize_inputs(1)
    if axes:
        set_attribute(node, "axes", list(axes))
    return None


def split_sizes(node: ir.Node, opset: int) -> str | None:
    """Split below 18: sizes instead of num_outputs."""
    if "num_outputs" not in node.attributes:
        return None
    axis = int_attr(node, "axis", 0)
    shapes = [shape_of(output) for output in node.outputs]
    if any(shape is None for shape in shapes):
        return "its sizes are not static"
    del node.attributes["num_outputs"]
    sizes = np.asarray([shape[axis] for shape in shapes if shape is not None], np.int64)
    node.resize_inputs(2)
    node.replace_input_with(1, Builder(node).constant(sizes, "split"))
    return None


def full_pads(node: ir.Node, opset: int) -> str | None:
    """Pad below 18 has no axes; below 19 no wrap mode."""
    if str_attr(node, "mode", "constant") == "wrap":
        return "mode wrap needs opset 19"
    if len(node.inputs) < 4 or node.inputs[3] is None or opset >= 18:
        return None
    axes, pads, shape = constant(node.inputs[3]), constant(node.inputs[1]), shape_of(node.inputs[0])
    if axes is None or pads is None or shape is None:
        return "its pads or axes are computed"
    rank, n = len(shape), len(axes)
    full = np.zeros(2 * rank, np.int64)
    for i, axis in enumerate(axes):
        full[int(axis) % rank] = pads[i]
        full[rank + int(axis) % rank] = pads[n + i]
    node.replace_input_with(1, Builder(node).constant(full, "pads"))
    node.resize_inputs(3)
    return None


def resize(node: ir.Node, opset: int) -> str | None:
    """Resize below 18: no antialias, no axes; below 19 no symmetric half pixels."""
    if str_attr(node, "coordinate_transformation_mode", "half_pixel") == "half_pixel_symmetric":
        return "half_pixel_symmetric needs opset 19"
    if opset >= 18:
        return None
    if "axes" in node.attributes:
        return "axes need opset 18"
    return drop_default(node, antialias=0, keep_aspect_ratio_policy="stretch")


def average_pool(node: ir.Node, opset: int) -> str | None:
    """AveragePool below 19 has no dilations, and counted ceil_mode's overhang differently."""
    if int_attr(node, "ceil_mode", 0):
        return "ceil_mode changed its meaning at opset 19"
    attribute = node.attributes.get("dilations")
    if attribute is not None and any(d != 1 for d in attribute.as_ints()):
        return "dilations need opset 19"
    node.attributes.pop("dilations", None)
    return None


def drop_saturate(node: ir.Node, opset: int) -> str | None:
    """Cast and QuantizeLinear below 19: no float8, so saturate has no meaning."""
    return drop_default(node, saturate=1)


def drop_training_mode(node: ir.Node, opset: int) -> str | None:
    """BatchNormalization below 14 has no training_mode."""
    return drop_default(node, training_mode=0) if opset < 14 else None


def drop_allowzero(node: ir.Node, opset: int) -> str | None:
    """Reshape below 14 has no allowzero."""
    return drop_default(node, allowzero=0) if opset < 14 else None


def grid_sample(node: ir.Node, opset: int) -> str | None:
    """GridSample 16 calls the modes bilinear and bicubic, and knows no 5-D input."""
    if opset < 16:
        return "GridSample needs opset 16"
    if len(shape_of(node.inputs[0]) or ()) != 4:
        return "5-D input needs opset 20"
    mode = {"linear": "bilinear", "cubic": "bicubic"}.get(str_attr(node, "mode", "linear"))
    if mode is not None:
        node.attributes["mode"] = ir.AttrString("mode", mode)
    return None


_REDUCTIONS = (
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSumSquare",
)

ADAPTERS: Mapping[str, tuple[int, Adapter]] = {
    **dict.fromkeys(_REDUCTIONS, (18, axes_to_attribute)),
    "AveragePool": (19, average_pool),
    "BatchNormalization": (15, drop_training_mode),
    "Cast": (19, drop_saturate),
    "CastLike": (19, drop_saturate),
    "GridSample": (20, grid_sample),
    "Pad": (19, full_pads),
    "QuantizeLinear": (19, drop_saturate),
    "Reshape": (19, drop_allowzero),
    "Resize": (19, resize),
    "Split": (18, split_sizes),
}
"""Operator → (below which opset it must be adapted, how)."""

# Between opset 13 and 20 these changed in nothing but the data types they accept; the checker and
# the numerical check see to the types.
SAME_MEANING = frozenset(
    {
        "Add",
        "And",
        "ArgMax",
        "Constant",
        "ConstantOfShape",
        "CumSum",
        "DequantizeLinear",
        "Div",
        "Equal",
        "Expand",
        "GreaterOrEqual",
        "Identity",
        "If",
        "IsInf",
        "IsNaN",
        "LeakyRelu",
        "LessOrEqual",
        "Loop",
        "LpNormalization",
        "Mul",
        "PRelu",
        "Pow",
        "Relu",
        "Scan",
        "Size",
        "Sub",
        "Where",
    }
)
