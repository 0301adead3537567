"""From the master opset 20 to the opset of the target's runtime, down or up."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir

from edgec.export.errors import UnsupportedError
from edgec.export.rewrite.base import Options, RewritePass
from edgec.export.rewrite.graph import (
    Builder,
    constant,
    is_op,
    module_of,
    remove_dead,
    replace_value,
    shape_of,
)
from edgec.export.rewrite.legalise.adapters import ADAPTERS, SAME_MEANING
from edgec.export.rewrite.legalise.decompose import DECOMPOSITIONS, per_channel

MASTER = 20


class ConvertOpset(RewritePass):
    """Decompose or adapt every operator whose definition differs at the target opset.

    An operator that is neither known to mean the same, nor adaptable, nor decomposable is refused
    by name: relabelling it could change the numbers silently.
    """

    name = "convert-opset"
    change = (
        "opset 20 → the target's; Gelu, LayerNormalization, … → their definition below 20, 17, …"
    )

    def __init__(self) -> None:
        super().__init__()
        self.target = MASTER

    def configure(self, options: Options) -> None:
        self.target = options.target_opset

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Convert all graphs, then the opset import and the IR version that goes with it."""
        self.matches = 0
        if self.target != model.opset_imports.get(""):
            self.matches = 1 + sum(self.rewrite(graph) for graph in list(model.graphs()))
            for graph in model.graphs():
                if "" in graph.opset_imports:
                    graph.opset_imports[""] = self.target
            model.opset_imports[""] = self.target
            ids = [onnx.helper.make_opsetid(d, v) for d, v in model.opset_imports.items()]
            model.ir_version = onnx.helper.find_min_ir_version_for(ids, ignore_unknown=True)
        return ir.passes.PassResult(model, modified=self.matches > 0)

    def rewrite(self, graph: ir.Graph) -> int:
        return sum(self._convert(node) for node in graph if node.domain in ("", "ai.onnx"))

    def _convert(self, node: ir.Node) -> int:
        if self.target > MASTER:
            return _raise_group_norm(node) if is_op(node, "GroupNormalization") else 0
        since, decompose = DECOMPOSITIONS.get(node.op_type, (0, None))
        if decompose is not None and self.target < since:
            result = decompose(node, Builder(node), self.target)
            if result is None:
                raise self._unsupported(node, "its attributes or inputs have no older form")
            replace_value(node.outputs[0], result)
            remove_dead([node])
            return 1
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


def _raise_group_norm(node: ir.Node) -> int:
    """GroupNormalization takes one scale per channel from opset 21 on, one per group before."""
    shape = shape_of(node.inputs[0])
    for index in (1, 2):
        array = constant(node.inputs[index])
        if array is None or shape is None:
            raise UnsupportedError(
                "EC342",
                "GroupNormalization with computed scale cannot be raised to opset 21",
                where=module_of(node) or node.name,
            )
        value = Builder(node).constant(np.ascontiguousarray(per_channel(array, shape)), "scale")
        node.replace_input_with(index, value)
    return 1
