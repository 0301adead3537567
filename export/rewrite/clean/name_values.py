"""Stable, readable names: `<module path>/<operator>` for nodes, their outputs likewise.

Names depend on the graph alone, so two runs give the same bytes, and a viewer shows the network's
own module names.
"""

from __future__ import annotations

from collections import Counter

import onnx_ir as ir
from onnx_ir.passes import common

from edgec.export.rewrite.base import RewritePass
from edgec.export.rewrite.graph import MODULE_KEY, module_of
from edgec.export.rewrite.recognise.marks import PATTERN_KEY

_WEIGHTED = {"Conv", "ConvTranspose", "Gemm", "MatMul", "LayerNormalization", "BatchNormalization"}


class NameValues(RewritePass):
    """Name nodes and values after modules; drop metadata that other tools left."""

    name = "name-values"
    change = "val_312, node_MatMul_77 → stage3.2.proj.conv/Conv"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rename everything except graph inputs and outputs."""
        for graph in model.graphs():
            for node in graph:
                props = node.metadata_props
                for key in [k for k in props if k not in (MODULE_KEY, PATTERN_KEY)]:
                    del props[key]
        changed = self.rewrite(model.graph)
        common.NameFixPass()(model)
        self.matches = changed
        return ir.passes.PassResult(model, modified=changed > 0)

    def rewrite(self, graph: ir.Graph) -> int:
        taken = {v.name for v in (*graph.inputs, *graph.outputs)}
        count: Counter[str] = Counter()
        changed = 0

        def unique(base: str) -> str:
            while True:
                n = count[base]
                count[base] += 1
                name = f"{base}_{n}" if n else base
                if name not in taken:
                    taken.add(name)
                    return name

        plan: list[tuple[ir.Value, str]] = []
        named: set[ir.Value] = set()
        for node in graph:
            module = module_of(node)
            node.name = unique(f"{module}/{node.op_type}" if module else node.op_type)
            for position, value in enumerate(node.inputs):
                if value is None or not value.is_initializer() or value in named:
                    continue
                if value.graph is not graph or value.is_graph_input() or value.is_graph_output():
                    continue
                named.add(value)
                role = _role(node, position)
                plan.append((value, unique(f"{module or node.name}.{role}")))
            for i, value in enumerate(node.outputs):
                if not value.is_graph_output():
                    plan.append((value, unique(f"{node.name}:{i}" if i else f"{node.name}:out")))
        changed = sum(value.name != name for value, name in plan)
        if changed:
            for i, (value, _) in enumerate(plan):  # two steps: a name may be in use further down
                value.name = f"__renamed_{i}"
            for value, name in plan:
                value.name = name
        return changed


def _role(node: ir.Node, position: int) -> str:
    if node.op_type in _WEIGHTED:
        return {1: "weight", 2: "bias"}.get(position, f"input{position}")
    return {
        ("Reshape", 1): "shape",
        ("Expand", 1): "shape",
        ("Slice", 1): "starts",
        ("Slice", 2): "ends",
    }.get((node.op_type, position), f"{node.op_type.lower()}_constant")
