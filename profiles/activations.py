"""Peak memory of activations when a graph runs node by node in its given order."""

from __future__ import annotations

import onnx_ir as ir


def activation_peak_bytes(graph: ir.Graph) -> int:
    """Bytes of simultaneously live tensors at the worst node.

    A tensor lives from the node that writes it to the last node that reads it; network inputs
    live from the start, outputs to the end. No in-place execution and no aliasing of reshapes is
    assumed, and weights are not counted, so this is what a simple runtime needs, and an upper
    bound for a planner that keeps the order.

    Raises:
        ValueError: a value without a static shape.
    """
    nodes = list(graph)
    end = len(nodes)
    last: dict[ir.Value, int] = dict.fromkeys(graph.inputs, 0)
    for index, node in enumerate(nodes):
        for value in node.inputs:
            if value is not None and value.const_value is None:
                last[value] = index
        for value in node.outputs:
            last.setdefault(value, index)
    for value in graph.outputs:
        last[value] = end
    freed: dict[int, list[ir.Value]] = {}
    for value, index in last.items():
        freed.setdefault(index, []).append(value)
    live = sum(_bytes(value) for value in graph.inputs)
    peak = live
    for index, node in enumerate(nodes):
        if node.op_type != "Constant":
            live += sum(_bytes(value) for value in node.outputs)
        peak = max(peak, live)
        for value in freed.get(index, ()):
            producer = value.producer()
            if producer is None or producer.op_type != "Constant":
                live -= _bytes(value)
    return peak


def _bytes(value: ir.Value) -> int:
    if not value.name and not value.uses():
        return 0
    if value.shape is None or value.dtype is None or not value.shape.is_static():
        raise ValueError(f"value {value.name!r} has no static shape")
    size = 1
    for dim in value.shape.numpy():
        size *= dim
    # 4-bit types are packed two to a byte
    return (size * value.dtype.bitwidth + 7) // 8
