"""Constant nodes become initializers, equal initializers become one."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common

from edgec.export.rewrite.base import RewritePass


class LiftConstants(RewritePass):
    """Inline functions, turn Constant nodes into initializers and share equal ones."""

    name = "lift-constants"
    change = "model-local function → its body; Constant node → initializer; equal ones → one"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply onnx-ir's passes in the order in which one enables the next."""
        steps = (
            common.InlinePass(),
            common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
            common.LiftSubgraphInitializersToMainGraphPass(),
            common.NameFixPass(),
            # shapes, axes and scalars; weights that happen to be equal keep their own names
            common.DeduplicateInitializersPass(size_limit=16),
        )
        self.matches = sum(step(model).modified for step in steps)
        return ir.passes.PassResult(model, modified=self.matches > 0)

    def rewrite(self, graph: ir.Graph) -> int:
        raise NotImplementedError("works on the whole model")
