"""Convolutions and pools over one axis, as those over two of which the first has one row.

TFLite has kernels for images only. ONNX's (batch, channels, length) becomes (batch, channels, 1,
length); the views on both sides move nothing, and vanish between two such operators.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from edgec.export.emit.tflite.graph import Node, Value
from edgec.export.rewrite.layout import View

OPERATORS = frozenset({"Conv", "ConvTranspose", "AveragePool", "MaxPool"})
_ALONG = {"kernel_shape": 1, "strides": 1, "dilations": 1, "output_padding": 0, "output_shape": 1}
"""Attributes with a number per axis, and what the axis of one row gets."""


def is_one_dimensional(node: Node) -> bool:
    """Whether `node` slides over one axis."""
    return node.op in OPERATORS and len(node.operands[0].shape) == 3


def as_image(node: Node) -> Iterator[Node]:
    """The same on images of one row.

    Raises:
        UnsupportedError: EC390, the weights are computed.
    """
    source, *rest = node.inputs
    assert source is not None
    output = node.outputs[0]
    wide = _image(source)
    yield _view(source, wide, node)
    inputs: list[Value | None] = [wide]
    for index, value in enumerate(rest):
        if index == 0 and value is not None and node.op in ("Conv", "ConvTranspose"):
            if value.const is None:
                raise node.refuse("its weights are computed")
            value = replace(_image(value), const=np.expand_dims(value.const, 2))
        inputs.append(value)
    made = _image(output)
    yield replace(node, inputs=inputs, outputs=[made], attrs=_attributes(node.attrs))
    yield _view(made, output, node)


def _image(value: Value) -> Value:
    batch, channels, length = value.shape
    shape = (batch, channels, 1, length)
    # a scale per channel keeps its axis, which is before the new one
    return Value(f"{value.name}/row", shape, value.dtype, None, value.quantization)


def _view(source: Value, output: Value, reader: Node) -> Node:
    view = View.identity(source.shape).reshape(output.shape)
    return Node("View", f"{output.name}/view", [source], [output], {"view": view}, reader.module)


def _attributes(attrs: dict[str, Any]) -> dict[str, Any]:
    found = dict(attrs)
    for name, neutral in _ALONG.items():
        if name in attrs:
            found[name] = [neutral, *attrs[name]]
    if "pads" in attrs:
        before, after = attrs["pads"]
        found["pads"] = [0, before, 0, after]
    return found
