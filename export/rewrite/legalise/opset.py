"""From the master opset 20 to the opset and the operators of the target's runtime."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from edgec.export.errors import UnsupportedError
from edgec.export.rewrite.base import Options, RewritePass
from edgec.export.rewrite.graph import Builder, module_of, remove_dead, replace_value
from edgec.export.rewrite.legalise.adapters import ADAPTERS, SAME_MEANING
from edgec.export.rewrite.legalise.decompose import DECOMPOSITIONS

MASTER = 20

WIDE_MASTER = 21
"""Opset of captured graphs with 16-bit quantizers, which ONNX has from here on."""


class ConvertOpset(RewritePass):
    """Decompose or adapt every operator whose definition differs at the target opset.

    An operator that is neither known to mean the same, nor adaptable, nor decomposable is refused
    by name: relabelling it could change the numbers silently.
    """

    name = "convert-opset"
    change = "opset 20 → the target's; Gelu, LayerNormalization, … → primitives where missing"

    def __init__(self) -> None:
        super().__init__()
        self.target = MASTER
        self.lacking: frozenset[str] = frozenset()

    def configure(self, options: Options) -> None:
        self.target = options.target_opset
        self.lacking = options.lacking

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Convert all graphs, then the opset import and the IR version that goes with it."""
        self.matches = sum(self.rewrite(graph) for graph in list(model.graphs()))
        if self.target != model.opset_imports.get(""):
            self.matches += 1
            for graph in model.graphs():
                if "" in graph.opset_imports:
                    graph.opset_imports[""] = self.target
            model.opset_imports[""] = self.target
            ids = [onnx.helper.make_opsetid(d, v) for d, v in model.opset_imports.items()]
            model.ir_version = onnx.helper.find_min_ir_version_for(ids, ignore_unknown=True)
        return ir.passes.PassResult(model, modified=self.matches > 0)

    def rewrite(self, graph: ir.Graph) -> int:
        total = sum(self._convert(node) for node in graph if node.domain in ("", "ai.onnx"))
        # what replaces an operator may be lacking itself: Gelu's Erf
        while again := [n for n in graph if n.domain == "" and n.op_type in self.lacking]:
            total += sum(self._convert(node) for node in again)
        return total

    def _convert(self, node: ir.Node) -> int:
        since, decompose = DECOMPOSITIONS.get(node.op_type, (0, None))
        if decompose is not None and (self.target < since or node.op_type in self.lacking):
            result = decompose(node, Builder(node), self.target)
            if result is None:
                raise self._unsupported(node, "its attributes or inputs have no older form")
            replace_value(node.outputs[0], result)
            remove_dead([node])
            return 1
        if self.target >= MASTER:
            return 0  # opset 21 only added data types
        changed, adapt = ADAPTERS.get(node.op_type, (0, None))
        if adapt is not None and self.target < changed:
            reason = adapt(node, self.target)
            if reason is not None:
                raise self._unsupported(node, reason)
            return 1
        self._require_same_meaning(node)
        return 0

    def _require_same_meaning(self, node: ir.Node) -> None:
        if node.op_type in SAME_MEANING or node.op_type in ADAPTERS:
            return
        version = _since(node.op_type, MASTER)
        if version is not None and _since(node.op_type, self.target) != version:
            raise self._unsupported(node, f"its definition changed at opset {version}")

    def _unsupported(self, node: ir.Node, why: str) -> UnsupportedError:
        return UnsupportedError(
            "EC342",
            f"{node.op_type} cannot be expressed at opset {self.target}",
            where=module_of(node) or node.name,
            why=why,
            fix="Use a target with a newer runtime, or replace the operator in the network.",
        )


def _since(op_type: str, opset: int) -> int | None:
    try:
        return int(onnx.defs.get_schema(op_type, opset, "").since_version)
    except onnx.defs.SchemaError:
        return None
