"""Networks that come in float16, bfloat16 or float64, in float32.

The master graph of an export is float32: quantizers, TFLite and C start from it, and float16
artifacts are made from it with what overflows left wide (`edgec.export.quantize.float16`). Half
floats are exact in float32; doubles are rounded.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

OTHER_FLOATS: dict[int, str] = {
    TensorProto.FLOAT16: "float16",
    TensorProto.BFLOAT16: "bfloat16",
    TensorProto.DOUBLE: "float64",
}
_TYPE_ATTRIBUTES = frozenset(["to", "dtype", "output_dtype", "stash_type"])
"""Attributes that name an element type."""


def widen(proto: onnx.ModelProto) -> tuple[str, ...]:
    """Turn every other float type of a checked model into float32, in place.

    Returns:
        The types that were found, e.g. ``("float16",)``; nothing was changed without any.
    """
    found: set[int] = set()
    for graph in _graphs(proto.graph):
        for value in (*graph.input, *graph.output, *graph.value_info):
            _widen_type(value.type, found)
        for tensor in graph.initializer:
            _widen_tensor(tensor, found)
        for sparse in graph.sparse_initializer:
            _widen_tensor(sparse.values, found)
        for node in graph.node:
            _widen_node(node, found)
    for function in proto.functions:
        for node in function.node:
            _widen_node(node, found)
    return tuple(sorted(OTHER_FLOATS[kind] for kind in found))


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _graphs(inner)


def _widen_node(node: onnx.NodeProto, found: set[int]) -> None:
    for attribute in node.attribute:
        if attribute.HasField("t"):
            _widen_tensor(attribute.t, found)
        for tensor in attribute.tensors:
            _widen_tensor(tensor, found)
        if attribute.name in _TYPE_ATTRIBUTES and attribute.i in OTHER_FLOATS:
            found.add(attribute.i)
            attribute.i = TensorProto.FLOAT


def _widen_type(kind: Any, found: set[int]) -> None:
    if kind.WhichOneof("value") == "tensor_type" and kind.tensor_type.elem_type in OTHER_FLOATS:
        found.add(kind.tensor_type.elem_type)
        kind.tensor_type.elem_type = TensorProto.FLOAT


def _widen_tensor(tensor: onnx.TensorProto, found: set[int]) -> None:
    if tensor.data_type not in OTHER_FLOATS:
        return
    found.add(tensor.data_type)
    wide = np.asarray(numpy_helper.to_array(tensor)).astype(np.float32)
    tensor.CopyFrom(numpy_helper.from_array(wide, tensor.name))
