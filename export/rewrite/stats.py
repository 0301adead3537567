"""What a graph consists of: the figures that tell a lean graph from a bloated one."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import onnx_ir as ir

from edgec.export.rewrite.graph import shape_of
from edgec.export.rewrite.recognise.patterns import counts

SHAPE_ARITHMETIC = frozenset(
    {
        "Cast",
        "CastLike",
        "ConstantOfShape",
        "Expand",
        "Gather",
        "Mod",
        "Range",
        "Shape",
        "Size",
        "Squeeze",
        "Unsqueeze",
    }
)
"""Operators that, on integers or on one-dimensional int64 tensors, only compute shapes."""


@dataclass(frozen=True)
class GraphStats:
    """Figures of one graph, subgraphs included.

    Attributes:
        nodes: nodes without Constant.
        operators: operator → count, most frequent first; other domains as ``domain::operator``.
        transposes: Transpose nodes.
        reshapes: Reshape, Squeeze, Unsqueeze and Flatten nodes.
        selections: Gather, Slice and Split nodes.
        max_rank: highest rank of a node output (0 for a graph without shapes).
        shape_arithmetic: nodes that compute shapes: Shape and Size, and integer nodes.
        initializer_bytes: size of all initializers.
        patterns: kind of recognised pattern → count (`recognise.marks.KINDS`); empty for graphs
            that were not through the rewrite stage.
    """

    nodes: int
    operators: dict[str, int]
    transposes: int
    reshapes: int
    selections: int
    max_rank: int
    shape_arithmetic: int
    initializer_bytes: int
    patterns: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        """JSON-ready dict."""
        return asdict(self)


def graph_stats(model: ir.Model) -> GraphStats:
    """Figures of `model`; ranks need shapes on the values (run shape inference before)."""
    nodes = [node for node in model.graph.all_nodes() if node.op_type != "Constant"]
    operators = Counter(f"{n.domain}::{n.op_type}" if n.domain else n.op_type for n in nodes)
    ranks = [len(s) for n in nodes for v in n.outputs if (s := shape_of(v)) is not None]
    return GraphStats(
        nodes=len(nodes),
        operators=dict(sorted(operators.items(), key=lambda item: (-item[1], item[0]))),
        transposes=operators["Transpose"],
        reshapes=sum(operators[op] for op in ("Reshape", "Squeeze", "Unsqueeze", "Flatten")),
        selections=sum(operators[op] for op in ("Gather", "Slice", "Split")),
        max_rank=max(ranks, default=0),
        shape_arithmetic=sum(_computes_shapes(node) for node in nodes),
        initializer_bytes=sum(
            tensor.nbytes
            for graph in model.graphs()
            for value in graph.initializers.values()
            if (tensor := value.const_value) is not None
        ),
        patterns=counts(model),
    )


def _computes_shapes(node: ir.Node) -> bool:
    if node.op_type in ("Shape", "Size"):
        return True
    value = node.outputs[0]
    integer = value.dtype in (ir.DataType.INT64, ir.DataType.INT32)
    return integer and node.op_type in SHAPE_ARITHMETIC | {"Add", "Sub", "Mul", "Div", "Concat"}
