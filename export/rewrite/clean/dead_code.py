"""Drop what nothing reads: nodes, initializers, functions, opset imports."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common

from edgec.export.rewrite.base import RewritePass


class RemoveDeadCode(RewritePass):
    """Keep only what a graph output depends on."""

    name = "remove-dead-code"
    change = "unread nodes, initializers, functions, opset imports → (nothing)"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply onnx-ir's removal passes."""
        before = _size(model)
        for step in (
            common.RemoveUnusedNodesPass(),
            common.RemoveUnusedFunctionsPass(),
            common.RemoveUnusedOpsetsPass(),
        ):
            step(model)
        self.matches = before - _size(model)
        return ir.passes.PassResult(model, modified=self.matches > 0)

    def rewrite(self, graph: ir.Graph) -> int:
        raise NotImplementedError("works on the whole model")


def _size(model: ir.Model) -> int:
    nodes = sum(1 for _ in model.graph.all_nodes())
    return nodes + sum(len(g.initializers) for g in model.graphs()) + len(model.functions)
