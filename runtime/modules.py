"""Which of the user's modules an operator of an artifact comes from.

Files for other runtimes keep the names of the values that operators write, sometimes with an ending
for a part of the work (``blocks.0.norm/Add:out/mean``); the ONNX artifacts of the same bundle know
the node that computes each value. An activation that was fused is the last node of an operator, but
the operator is known by the node that multiplies.
"""

from __future__ import annotations

import onnx

from edgec.export.bundle import Bundle
from edgec.export.rewrite.graph import MODULE_KEY

PRODUCTS = {
    "CONV_2D": {"Conv"},
    "DEPTHWISE_CONV_2D": {"Conv"},
    "TRANSPOSE_CONV": {"ConvTranspose"},
    "FULLY_CONNECTED": {"Gemm", "MatMul", "Conv"},
    "BATCH_MATMUL": {"MatMul"},
}
"""TFLite's operators that multiply → the nodes that they compute."""
FUSED = {"Relu", "Clip", "Add", "Identity", "Reshape", "QuantizeLinear", "DequantizeLinear"}
"""Nodes that may end such an operator."""


class ModuleNames:
    """Module paths by the name of a value.

    Args:
        bundle: whose ONNX artifacts tell.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._nodes: dict[str, onnx.NodeProto] = {}
        for artifact in bundle.manifest.artifacts:
            if artifact.format != "onnx" or artifact.status != "built":
                continue
            graph = onnx.load(bundle.file(artifact), load_external_data=False).graph
            for node in graph.node:
                for output in node.output:
                    self._nodes.setdefault(output, node)

    def of(self, value: str, operator: str = "") -> str | None:
        """The module of the operator that writes the value called `value`, or the longest known
        name that it begins with.

        Args:
            value: name of a tensor.
            operator: TFLite's name of the operator.

        Returns:
            None if the value is not known, or computed outside of every module.
        """
        node = self._node(value)
        wanted = PRODUCTS.get(operator, set())
        behind = node
        while behind is not None and wanted and behind.op_type not in wanted:
            made = [self._nodes[name] for name in behind.input if name in self._nodes]
            behind = made[0] if made and behind.op_type in FUSED else None
        found = behind or node
        return None if found is None else _module(found)

    def of_step(self, step: str) -> str | None:
        """The same for a step of a C artifact, ``OPERATOR value``."""
        operator, _, value = step.partition(" ")
        return self.of(value, operator)

    def _node(self, value: str) -> onnx.NodeProto | None:
        for end in range(len(value), 0, -1):
            whole = end == len(value) or not (value[end].isalnum() and value[end - 1].isalnum())
            if whole and value[:end] in self._nodes:
                return self._nodes[value[:end]]
        return None


def _module(node: onnx.NodeProto) -> str | None:
    return next((p.value for p in node.metadata_props if p.key == MODULE_KEY and p.value), None)
