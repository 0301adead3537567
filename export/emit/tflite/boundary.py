"""Integer inputs and outputs: networks without the QUANTIZE and DEQUANTIZE at their ends."""

from __future__ import annotations

from edgec.export.emit.tflite.graph import Graph, Node


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


def _rename(node: Node, name: str, output: int) -> None:
    node.outputs[output].name = name
