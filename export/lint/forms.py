"""Half-precision hazards, and operators written out though the runtime has them."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from edgec.export.lint.base import Context, Hit, array_of, input_at, is_standard, producer, readers
from edgec.export.rewrite.graph import scalar

_SUMS = (
    "Softmax",
    "LogSoftmax",
    "ReduceSum",
    "ReduceMean",
    "ReduceL1",
    "ReduceL2",
    "ReduceProd",
    "ReduceSumSquare",
    "ReduceLogSum",
    "ReduceLogSumExp",
)


def layer_norm_in_float16(context: Context) -> Iterator[Hit]:
    """W301: squares of a written-out LayerNorm overflow half precision."""
    for node in _variances(context):
        if node.outputs[0].dtype == ir.DataType.FLOAT16:
            yield Hit(
                node,
                "a LayerNorm written out in float16: the square of a value above 255 is infinite",
                "keep these nodes in float32, or use LayerNormalization",
            )


def sum_in_float16(context: Context) -> Iterator[Hit]:
    """W302: sums and exponentials in half precision."""
    squares = {n.outputs[0] for n in _variances(context)}
    for node in context.of_type(*_SUMS):
        value = input_at(node, 0)
        if value is not None and value.dtype == ir.DataType.FLOAT16 and value not in squares:
            yield Hit(
                node,
                f"{node.op_type} in float16 loses digits, and infinity comes at 65504",
                "cast to float32 before it and back behind it",
            )


def layer_norm_written_out(context: Context) -> Iterator[Hit]:
    """I401: the runtime has LayerNormalization, and the graph spells it in small operators."""
    if _has(context, "LayerNormalization", 17):
        for node in _variances(context):
            yield Hit(
                node,
                f"a LayerNorm is written out; {context.runtime} has LayerNormalization (opset 17)",
                "raise the opset to 17; `edgec export` recognises the pattern",
            )


def gelu_written_out(context: Context) -> Iterator[Hit]:
    """I402: the runtime has Gelu, and the graph spells it with Erf."""
    if not _has(context, "Gelu", 20):
        return
    for node in context.of_type("Erf"):
        for user, _ in readers(node.outputs[0]):
            if is_standard(user, "Add") and any(scalar(v) == 1.0 for v in user.inputs):
                yield Hit(
                    node,
                    f"a GELU is written out; {context.runtime} has Gelu (opset 20)",
                    "raise the opset to 20; `edgec export` recognises the pattern",
                )
                break


def _has(context: Context, op_type: str, version: int) -> bool:
    row = context.table.find("", op_type)
    return context.target.runtime.opset >= version and row is not None and row.executes(version)


def _variances(context: Context) -> Iterator[ir.Node]:
    """Nodes that square x - mean(x) for a mean of it: the variance of a normalisation."""
    for node in context.of_type("Mul", "Pow"):
        first, second = input_at(node, 0), input_at(node, 1)
        power = array_of(second) if node.op_type == "Pow" else None
        square = first is second or (power is not None and power.size == 1 and power.item() == 2)
        centred = producer(first)
        if not square or not is_standard(centred, "Sub"):
            continue
        assert centred is not None
        mean = producer(input_at(centred, 1))
        averaged = any(is_standard(user, "ReduceMean") for user, _ in readers(node.outputs[0]))
        if is_standard(mean, "ReduceMean") and averaged:
            yield node
