"""Conditions that an operator table states in words, as far as they can be checked."""

from __future__ import annotations

import re
from collections.abc import Iterator

import onnx_ir as ir

from edgec.export.lint.base import Context, Hit, input_at
from edgec.export.rewrite.graph import int_attr, ints, str_attr
from edgec.targets.operators.table import DEFAULT_DOMAINS

_CONSTANT = re.compile(
    r"must be (?:an? )?(?:initializers?|build-time constant|constant tensor|resolvable to a const)"
)
_CHOICES = {
    "coordinate_transformation_mode": ("half_pixel", "Supported resize transformation modes:"),
    "mode": ("nearest", "Supported resize modes:"),
    "nearest_mode": ("round_prefer_floor", "Supported nearest modes:"),
}


def broken_restriction(context: Context) -> Iterator[Hit]:
    """E107: the runtime has the operator, but not in this form."""
    for node in context.nodes:
        row = context.table.find(node.domain, node.op_type)
        if row is None or not row.restrictions or node.domain not in DEFAULT_DOMAINS:
            continue
        for broken in _broken(context, node, row.restrictions):
            yield Hit(
                node,
                f"{node.op_type}: {broken}; {context.runtime} does not take that",
                f'the operator table says: "{row.restrictions}"',
            )


def _broken(context: Context, node: ir.Node, text: str) -> Iterator[str]:
    for sentence in re.split(r"\.\s", text):
        if _CONSTANT.search(sentence):
            for name in re.findall(r"`(\w+)`", sentence):
                value = context.input_named(node, name)
                if value is not None and not context.is_constant(value):
                    yield f"its input {name} is not a constant"
    if node.op_type == "Resize":
        yield from _resize(node, text)
    second_output = any(v.name and (v.uses() or v.is_graph_output()) for v in node.outputs[1:])
    if second_output and ("first output" in text or "`Indices` output" in text):
        yield "a further output is used"
    if "`dilations` must be empty or all ones" in text and set(ints(node, "dilations") or ()) - {1}:
        yield "it has dilations"
    first = input_at(node, 0)
    rank = None if first is None or first.shape is None else len(first.shape)
    if "must be 4D" in text and rank not in (None, 4):
        yield f"its input has rank {rank}"


def _resize(node: ir.Node, text: str) -> Iterator[str]:
    mode = str_attr(node, "mode", "nearest")
    for attribute, (default, label) in _CHOICES.items():
        if attribute == "nearest_mode" and mode != "nearest":
            continue
        listed = re.search(rf"{label}([^.:]*)", text)
        value = str_attr(node, attribute, default)
        if listed and value not in re.findall(r"`(\w+)`", listed[1]):
            yield f"{attribute} is {value}"
    if int_attr(node, "antialias", 0) and "Antialiasing is not supported" in text:
        yield "antialias is set"
