"""How operators read their weights."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from edgec.export.rewrite.graph import int_attr


def is_depthwise(node: ir.Node, shape: Sequence[int]) -> bool:
    """One filter per channel: these kernels multiply in 32 bits."""
    return node.op_type == "Conv" and shape[1] == 1 and int_attr(node, "group", 1) == shape[0]


def weight_axis(node: ir.Node, index: int, rank: int) -> int | None:
    """Output-channel axis of a constant operand; None if it has no such axis.

    Conv (M, C/g, …): 0. ConvTranspose (C, M/g, …): 1, only for one group. Gemm B: 0 if transB
    else 1. MatMul B of rank 2: 1. A constant left operand or a stack of matrices: None.
    """
    if node.op_type == "Conv":
        return 0
    if node.op_type == "ConvTranspose":
        return 1 if int_attr(node, "group", 1) == 1 else None
    if node.op_type == "Gemm":
        return 0 if int_attr(node, "transB", 0) else 1
    if node.op_type == "MatMul" and index == 1 and rank == 2:
        return 1
    return None
