"""Integer inputs and outputs: networks without the QUANTIZE and DEQUANTIZE at their ends.

Where some ends would be int8 and others int16, all are int16: programs prepare and read one type.
"""

from __future__ import annotations

import numpy as np

from edgec.export.emit.tflite.graph import Graph, Node, Value
from edgec.export.emit.tflite.grids import widened


def integer_ends(graph: Graph) -> None:
    """Let inputs that are only quantized, and outputs that are only dequantized, be integers.

    An end whose float value is used otherwise stays float.
    """
    readers = graph.readers()
    for index, value in enumerate(graph.inputs):
        users = readers.get(value, [])
        if len(users) != 1 or value in graph.outputs:
            continue
        node = users[0]
        if node.op == "Quantize" and not value.quantized:
            _rename(node, value.name, 0)
            graph.inputs[index] = node.outputs[0]
            graph.nodes.remove(node)
    producers = {output: node for node in graph.nodes for output in node.outputs}
    readers = graph.readers()
    for index, value in enumerate(graph.outputs):
        producer = producers.get(value)
        if producer is None or producer.op != "Dequantize" or readers.get(value):
            continue
        source = producer.operands[0]
        source.name = value.name
        graph.outputs[index] = source
        graph.nodes.remove(producer)
    if {v.dtype.name for v in (*graph.inputs, *graph.outputs)} >= {"int8", "int16"}:
        _widen(graph)


def _widen(graph: Graph) -> None:
    """Make int8 ends int16, of the same numbers."""
    for index, value in enumerate(graph.inputs):
        if value.dtype == np.int8 and value.quantization is not None:
            graph.inputs[index] = made = _twin(value)
            value.name = f"{value.name}/narrow"
            graph.nodes.insert(0, Node("Quantize", f"{made.name}/narrow", [made], [value]))
    for index, value in enumerate(graph.outputs):
        if value.dtype == np.int8 and value.quantization is not None:
            graph.outputs[index] = made = _twin(value)
            value.name = f"{value.name}/narrow"
            graph.nodes.append(Node("Quantize", f"{made.name}/wide", [value], [made]))


def _twin(value: Value) -> Value:
    assert value.quantization is not None
    grid = widened(value.quantization)
    return Value(value.name, value.shape, np.dtype(np.int16), None, grid)


def _rename(node: Node, name: str, output: int) -> None:
    node.outputs[output].name = name
