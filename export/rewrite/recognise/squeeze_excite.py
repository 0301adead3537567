"""Squeeze-and-excitation (Hu et al., 2018) is found and marked.

A map is averaged over its pixels, the averages pass through linear operators and activations and
end in a gate between 0 and 1, and the gate scales the channels of the very same map. One linear
operator (effective SE, ECA) or two, with or without BatchNorm, as convolutions or as matrices.
"""

from __future__ import annotations

import math

import onnx_ir as ir

from edgec.export.rewrite.graph import constant, is_op, reduce_axes, shape_of
from edgec.export.rewrite.linear import match_linear
from edgec.export.rewrite.recognise.marks import MarkingPass, kinds_of
from edgec.export.rewrite.view_nodes import as_view

_ACTIVATIONS = (
    *("Relu", "Clip", "Sigmoid", "HardSigmoid", "HardSwish", "Gelu", "Elu", "LeakyRelu", "PRelu"),
    *("Tanh", "Erf", "Mul", "Add", "Sub", "Div", "BatchNormalization", "LayerNormalization"),
    *("QuantizeLinear", "DequantizeLinear", "Cast", "Max", "Min"),
)
_MAX_NODES = 32


class RecogniseSqueezeExcite(MarkingPass):
    """x · gate(mean(x)), marked from the mean to the product.

    Refuses a gate computed from another tensor, a gate without linear operator, and a gate that
    does not come from a sigmoid or hard sigmoid.
    """

    name = "recognise-squeeze-excite"
    change = "x · Sigmoid(W₂ act(W₁ mean(x))) → the same, marked as squeeze-excite"
    annotates = True

    def rewrite(self, graph: ir.Graph) -> int:
        count = 0
        for node in graph:
            if not is_op(node, "Mul") or "squeeze_excite" in kinds_of(node):
                continue
            for x, gate in (node.inputs, tuple(reversed(node.inputs))):
                if not _is_gate_of(gate, x):
                    continue
                found = _match(x, gate)
                if isinstance(found, str):
                    self.refuse(node, found)
                    continue
                self.marker.mark("squeeze_excite", [*found, node])
                count += 1
                break
        return count


def _is_gate_of(gate: ir.Value | None, x: ir.Value | None) -> bool:
    """One number per image and channel of the map x."""
    small, large = shape_of(gate), shape_of(x)
    if small is None or large is None or len(large) < 3 or constant(gate) is not None:
        return False
    if len(small) != len(large) or math.prod(large) == math.prod(small):
        return False
    return small[:2] == large[:2] and set(small[2:]) == {1}


def _match(x: ir.Value | None, gate: ir.Value | None) -> list[ir.Node] | str:
    """All nodes from the pooling of x to the gate."""
    nodes: list[ir.Node] = []
    pending = [gate]
    linear = squashed = pooled = False
    while pending:
        value = pending.pop()
        if value is x:
            return "the gate reads the map itself, not its mean"
        node = None if value is None else value.producer()
        if node is None:
            return "the gate is computed from another tensor"
        if node in nodes:
            continue
        if len(nodes) == _MAX_NODES:
            return "the gate takes more operators than a squeeze-excite"
        nodes.append(node)
        if _pools(node):
            if node.inputs[0] is not x:
                return "the gate is computed from another tensor"
            pooled = True
            continue
        if not linear and is_op(node, "Sigmoid", "HardSigmoid", "Clip"):
            squashed = True
        if match_linear(node) is not None:
            linear = True
        elif as_view(node) is None and not is_op(node, *_ACTIVATIONS):
            return f"{node.op_type} on the way to the gate"
        pending += [v for v in node.inputs if v is not None and constant(v) is None]
    if not pooled or not linear:
        return "there is no linear operator between mean and gate"
    return nodes if squashed else "the gate is not squashed between 0 and 1"


def _pools(node: ir.Node) -> bool:
    """Whether `node` takes the mean over all pixels of a map."""
    shape = shape_of(node.inputs[0]) if node.inputs else None
    if shape is None or len(shape) < 3:
        return False
    if is_op(node, "GlobalAveragePool"):
        return True
    return is_op(node, "ReduceMean") and reduce_axes(node) == tuple(range(2, len(shape)))
