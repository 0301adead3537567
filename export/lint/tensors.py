"""Tensors: rank, data type, open dimensions."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from edgec.export.lint.base import (
    DEQUANTIZE,
    QUANTIZE,
    Context,
    Hit,
    input_at,
    is_standard,
    producer,
    readers,
)
from edgec.targets.operators.table import DEFAULT_DOMAINS

MAX_RANK = 8
"""TensorRT's ``Dims::MAX_DIMS`` (NvInferRuntimeBase.h)."""

NATIVE_INT64 = (9,)
"""First TensorRT version that does not cast int64 to int32 (onnx-tensorrt docs/Changelog.md)."""

# Types that these take say nothing about what flows through the network.
_UNCHECKED = frozenset(
    {
        "Constant",
        "ConstantOfShape",
        "Cast",
        "CastLike",
        "Range",
        "Shape",
        "Size",
        "If",
        "Loop",
        "Scan",
        QUANTIZE,
        DEQUANTIZE,
    }
)
_TENSORRT_NEVER = frozenset("double int16 uint16 uint32 uint64 string complex64 complex128".split())


def rank_too_high(context: Context) -> Iterator[Hit]:
    """E103: more dimensions than the runtime, or its kernels of the operator, take."""
    fix = "merge dimensions that move together; `edgec export` does so for window partitions"
    if context.table.runtime == "tensorrt":
        for value in context.values:
            if value.shape is not None and len(value.shape) > MAX_RANK:
                yield Hit(
                    value.producer() or value,
                    f"{value.name!r} has {len(value.shape)} dimensions; {context.runtime} holds "
                    f"at most {MAX_RANK}",
                    fix,
                )
        return
    for node in context.nodes:
        row = context.table.find(node.domain, node.op_type)
        ranks = [len(v.shape) for v in (*node.inputs, *node.outputs) if v is not None and v.shape]
        if row is not None and row.max_rank is not None and max(ranks, default=0) > row.max_rank:
            yield Hit(
                node,
                f"{node.op_type} works on {max(ranks)} dimensions; {context.runtime} takes at "
                f"most {row.max_rank} there",
                fix,
            )


def data_type(context: Context) -> Iterator[Hit]:
    """E104: a data type that the runtime, or its operator, does not take."""
    if context.table.runtime == "tensorrt":
        yield from _tensorrt_boundary(context)
    for node in context.nodes:
        yield from _node_type(context, node)


def open_dimension(context: Context) -> Iterator[Hit]:
    """E106: an input with open dimensions, for which an engine needs an optimization profile."""
    for value in context.model.graph.inputs:
        if value.name in context.model.graph.initializers or not isinstance(
            value.type, ir.TensorType | None
        ):
            continue
        if value.shape is None:
            shape = "an unknown shape"
        elif value.shape.is_static():
            continue
        else:
            shape = f"the open shape ({', '.join(str(d) for d in value.shape)})"
        yield Hit(
            value,
            f"input {value.name!r} has {shape}; {context.runtime} builds no engine without an "
            "optimization profile",
            f"fix it at export: --shape {value.name}=1,3,224,224",
        )


def type_name(value: ir.Value | None) -> str | None:
    """Data type in lower case, None where it is not known."""
    return None if value is None or value.dtype is None else value.dtype.name.lower()


def _tensorrt_boundary(context: Context) -> Iterator[Hit]:
    old = context.target.runtime.version_tuple < NATIVE_INT64
    graph = context.model.graph
    for kind, values in (("input", graph.inputs), ("output", graph.outputs)):
        for value in values:
            dtype = type_name(value)
            if value.name in graph.initializers:
                continue
            if dtype in _TENSORRT_NEVER or (old and dtype == "int64"):
                why = "is cast to int32" if dtype == "int64" else "is not supported"
                yield Hit(
                    value,
                    f"{kind} {value.name!r} is {dtype}, which {why} in {context.runtime}",
                    f"give the network an {'int32' if 'int' in str(dtype) else 'float32'} {kind}",
                )


def _node_type(context: Context, node: ir.Node) -> Iterator[Hit]:
    first = input_at(node, 0)
    dtype = _kernel_type(context, node)
    tensorrt = context.table.runtime == "tensorrt"
    if tensorrt:
        wide = next((t for v in node.outputs if (t := type_name(v)) in _TENSORRT_NEVER), None)
        if wide is not None:
            yield Hit(
                node,
                f"{node.op_type} computes in {wide}, which {context.runtime} does not support",
                "compute in float32 (or int32)",
            )
            return
    if dtype is None or node.op_type in _UNCHECKED or (dtype in _TENSORRT_NEVER and tensorrt):
        return
    row = context.table.find(node.domain, node.op_type)
    if row is None or node.domain not in DEFAULT_DOMAINS:
        return
    allowed = row.types_at(context.version_of(node))
    if not allowed or dtype in allowed:
        return
    if _is_tflite(context) and type_name(first) in allowed:
        # without an integer kernel the operator computes in float between the two conversions
        return
    if tensorrt and dtype == "int64" and "int32" in allowed | _shape_types(context, node):
        return
    if tensorrt and context.is_constant(first):
        return
    if not tensorrt and dtype == "float16":
        # ONNX Runtime puts Casts around what it has no half-precision kernel for
        return
    yield Hit(
        node,
        f"{node.op_type} of {context.runtime} takes {', '.join(sorted(allowed))}, not {dtype}",
        "cast before and after it, or compute in float32",
    )


def _is_tflite(context: Context) -> bool:
    """Whether ONNX operators become builtins of a .tflite file."""
    return bool(context.table.builtins)


def _kernel_type(context: Context, node: ir.Node) -> str | None:
    """Data type of the kernel that executes `node`: that of its first input.

    In the files of TFLite runtimes an operator between DequantizeLinear and QuantizeLinear is one
    integer operator.
    """
    first = input_at(node, 0)
    before = producer(first)
    if not _is_tflite(context) or not is_standard(before, DEQUANTIZE) or before is None:
        return type_name(first)
    after = [reader for value in node.outputs for reader, _ in readers(value)]
    if after and all(is_standard(reader, QUANTIZE) for reader in after):
        return type_name(input_at(before, 0))
    return type_name(first)


def _shape_types(context: Context, node: ir.Node) -> frozenset[str]:
    """Shape arithmetic on int64 vectors is evaluated when the engine is built, in any type."""
    small = all(v.shape is not None and len(v.shape) <= 1 for v in node.outputs)
    return frozenset({"int32"}) if small else frozenset()
