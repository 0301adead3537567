"""A quantized graph with some of its nodes back in float.

This is how the cost of a block is measured: everything else stays exactly as it was written, with
the same scales, the same rounded weights and the same corrected biases.
"""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir

from edgec.export.quantize.graph import constant_of

_QUANTIZE, _DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"


def restored(quantized: ir.Model, master: ir.Model, nodes: Collection[str]) -> ir.Model:
    """A copy of `quantized` in which the named nodes compute in float.

    They read activations before quantization and the constants of `master`; a graph output that one
    of them writes leaves the graph unquantized. What other nodes read of them stays quantized.

    Args:
        quantized: Q/DQ form of `master`, same node names.
        master: the float graph.
        nodes: names of nodes of `master`.
    """
    copy = quantized.clone()
    originals = {str(node.name): node for node in master.graph}
    constants: dict[str, ir.Value] = {}
    for node in list(copy.graph):
        if node.name not in nodes:
            continue
        original = originals[str(node.name)]
        for index, value in enumerate(node.inputs):
            source = original.inputs[index] if index < len(original.inputs) else None
            if source is not None and constant_of(source) is not None:
                node.replace_input_with(index, _constant(copy, source, constants))
            elif value is not None:
                node.replace_input_with(index, _before_quantization(value))
    for output in list(copy.graph.outputs):
        value = _before_quantization(output)
        producer = value.producer()
        if value is not output and producer is not None and producer.name in nodes:
            _leave_through_identity(output, value)
    for name, value in list(copy.graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del copy.graph.initializers[name]
    return copy


def _before_quantization(value: ir.Value) -> ir.Value:
    """The float value behind a Q/DQ pair (or pairs), else the value itself."""
    dequantize = value.producer()
    if dequantize is None or dequantize.op_type != _DEQUANTIZE:
        return value
    stored = dequantize.inputs[0]
    quantize = None if stored is None else stored.producer()
    if quantize is None or quantize.op_type != _QUANTIZE or quantize.inputs[0] is None:
        return value
    return _before_quantization(quantize.inputs[0])


def _constant(model: ir.Model, source: ir.Value, known: dict[str, ir.Value]) -> ir.Value:
    name = str(source.name)
    if name not in known:
        if name in model.graph.initializers:
            known[name] = model.graph.initializers[name]
        else:
            number = constant_of(source)
            assert number is not None  # the caller asked before
            value = ir.Value(
                name=name,
                type=source.type,
                shape=ir.Shape(number.shape),
                const_value=ir.tensor(number, name=name),
            )
            model.graph.register_initializer(value)
            known[name] = value
    return known[name]


def _leave_through_identity(output: ir.Value, value: ir.Value) -> None:
    dequantize = output.producer()
    assert dequantize is not None
    assert dequantize.graph is not None
    left = ir.Value(name=output.name, type=output.type, shape=output.shape)
    dequantize.graph.insert_after(
        dequantize,
        ir.node("Identity", [value], outputs=[left], name=f"{output.name}_restored"),
    )
    output.name = f"{output.name}_quantized_output"
    output.replace_all_uses_with(left, replace_graph_outputs=True)
