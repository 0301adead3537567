"""Multiply-accumulates (MACs) of a graph, by operator and by module of its source.

One MAC is one multiplication with the addition of its product. Counted are convolutions and
matrix products, as in the tables of the papers that call this number "MACs", "MAdds" or (without
the factor of two) "FLOPs". Biases, norms, activations, pooling and element-wise operators are
not. `edgec.profiles.macs_torch` counts the same for a `torch.nn.Module`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from edgec.export.errors import UnsupportedError
from edgec.export.rewrite.graph import MODULE_KEY


@dataclass
class MacCount:
    """MACs of one run of a network.

    Attributes:
        by_module: path of the module that computes (``"stage3.1.eops.0.qk"``) to MACs, in order
            of execution; ``""`` where the path is unknown or the root itself computes.
        by_operator: operator name to MACs.
    """

    by_module: dict[str, int] = field(default_factory=dict)
    by_operator: dict[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        return sum(self.by_operator.values())

    def under(self, prefix: str) -> int:
        """MACs of the module at `prefix` and all its children; ``""`` is the whole network."""
        return sum(
            macs
            for path, macs in self.by_module.items()
            if not prefix or path == prefix or path.startswith(f"{prefix}.")
        )

    def add(self, module: str, operator: str, macs: int) -> None:
        self.by_module[module] = self.by_module.get(module, 0) + macs
        self.by_operator[operator] = self.by_operator.get(operator, 0) + macs


def count_graph_macs(model: ir.Model) -> MacCount:
    """Count the MACs of a graph whose shapes are known.

    Bodies of control flow are counted once, and both branches of an If. Modules are read from
    the nodes' ``edgec.module`` metadata.

    Raises:
        UnsupportedError: a convolution or matrix product has an unknown or symbolic shape.
    """
    count = MacCount()
    for node in model.graph.all_nodes():
        macs = node_macs(node)
        if macs:
            module = node.metadata_props.get(MODULE_KEY, "")
            count.add(module, node.op_type, macs)
    return count


def node_macs(node: ir.Node) -> int:
    """MACs of one node; 0 for operators that are not counted.

    Raises:
        UnsupportedError: its shapes are unknown or symbolic.
    """
    rule = _RULES.get(node.op_type) if node.domain in ("", "ai.onnx") else None
    return 0 if rule is None else rule(node)


def _conv(weight: int) -> Callable[[ir.Node], int]:
    """Rule for a convolution with its kernel (out, in / groups, ...) at input `weight`."""

    def rule(node: ir.Node) -> int:
        _, *taps = _shape(node, node.inputs[weight])
        return math.prod(_shape(node, node.outputs[0])) * math.prod(taps)

    return rule


def _conv_transpose(node: ir.Node) -> int:
    _, *taps = _shape(node, node.inputs[1])  # kernel: (in, out / groups, ...)
    return math.prod(_shape(node, node.inputs[0])) * math.prod(taps)


def _matmul(node: ir.Node) -> int:
    return math.prod(_shape(node, node.outputs[0])) * _shape(node, node.inputs[0])[-1]


def _gemm(node: ir.Node) -> int:
    first = _shape(node, node.inputs[0])
    inner = first[0] if node.attributes.get_int("transA", 0) else first[1]
    return math.prod(_shape(node, node.outputs[0])) * inner


def _einsum(node: ir.Node) -> int:
    """One MAC per point of the iteration space: exact for two operands without shortcuts."""
    if len(node.inputs) < 2:
        return 0
    equation = node.attributes.get_string("equation").replace(" ", "")
    terms = equation.split("->")[0].split(",")
    sizes: dict[str, int] = {}
    for term, value in zip(terms, node.inputs, strict=True):
        shape = _shape(node, value)
        named = len(term.replace("...", ""))
        labels: list[str] = []
        for part in term.replace("...", " ... ").split():
            if part == "...":  # aligned at the right, as broadcasting does
                labels += [f"...{i}" for i in range(len(shape) - named, 0, -1)]
            else:
                labels += part
        for label, size in zip(labels, shape, strict=True):
            sizes[label] = max(sizes.get(label, 1), size)
    return math.prod(sizes.values())


_RULES: dict[str, Callable[[ir.Node], int]] = {
    "Conv": _conv(1),
    "ConvInteger": _conv(1),
    "QLinearConv": _conv(3),
    "ConvTranspose": _conv_transpose,
    "MatMul": _matmul,
    "MatMulInteger": _matmul,
    "QLinearMatMul": _matmul,
    "Gemm": _gemm,
    "Einsum": _einsum,
}


def _shape(node: ir.Node, value: ir.Value | None) -> Sequence[int]:
    shape = value.shape if value is not None else None
    if shape is None or not shape.is_static():
        raise UnsupportedError(
            "EC320",
            f"cannot count the MACs of {node.op_type} node {node.name or '(unnamed)'!r}",
            where=node.metadata_props.get(MODULE_KEY) or None,
            why=f"the shape of {value.name if value is not None else None!r} is "
            + ("unknown" if shape is None else str(shape)),
            fix="fix the input shape and run shape inference first",
        )
    return shape.numpy()
