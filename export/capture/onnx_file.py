"""Capture of an ONNX file: read, refuse what is broken, convert to the master opset, fix shapes.

Nothing from the file is executed before the protobuf has been parsed, its tensors have been
measured and ONNX's own checker has accepted it; external data is only read from the model's folder.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx
import onnx_ir as ir

from edgec.export.capture import OPSET, WIDENED
from edgec.export.capture.onnx_checks import bad_graph, check_proto, check_values, read_proto
from edgec.export.capture.onnx_convert import to_master_opset
from edgec.export.capture.widen import widen
from edgec.export.errors import InternalError, UnsupportedError, UsageError
from edgec.export.rewrite import numerics
from edgec.export.rewrite.graph import shape_of
from edgec.export.rewrite.stages import tidy

_LOG = logging.getLogger(__name__)


def from_onnx(
    path: str | Path,
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    verify: bool = True,
    float32: bool = False,
) -> ir.Model:
    """Read `path` into the master graph.

    Args:
        path: .onnx file of any IR version, ai.onnx opset 7 or later.
        shapes: full shapes of inputs whose dimensions the file leaves open; an open first
            dimension (the batch) defaults to 1.
        verify: compare with the graph in the file on two seeded inputs, in ONNX Runtime.
        float32: turn other float types into it, inputs and outputs included; which there were is
            in the metadata (`WIDENED`).

    Returns:
        The graph at opset 20, static shapes, functions inlined. Operators of other domains are left
        alone; `custom_operators` lists them.

    Raises:
        InputError: the file or its content is broken.
        UsageError: unknown input in `shapes`, or dimensions left open.
        UnsupportedError: opset too old, conversion impossible, not executable for the check, or
            inputs and outputs that are no tensors.
        InternalError: conversion changed the numbers.
    """
    path = Path(path)
    proto = read_proto(path)
    check_proto(proto, path)
    widened = widen(proto) if float32 else ()
    _drop_initializer_inputs(proto)
    _require_tensors(proto, path)
    fix_input_shapes(proto, shapes or {}, path)
    model = to_master_opset(proto, path)
    for value in model.graph.outputs:
        if value not in model.graph.inputs:
            value.shape = None  # annotations of dynamic models are recomputed
    tidy(model)
    model.ir_version = 10
    check_values(model, path)
    _require_static(model, path)
    custom = custom_operators(model)
    if custom:
        _LOG.warning("%s: operators outside ai.onnx are left alone: %s", path, ", ".join(custom))
    if verify:
        verify_conversion(proto, model, path)
    if widened:
        model.metadata_props[WIDENED] = " and ".join(widened)
    return model


def custom_operators(model: ir.Model) -> list[str]:
    """Operators outside the standard domain as ``domain::type``, sorted."""
    return sorted(
        {
            f"{node.domain}::{node.op_type}"
            for node in model.graph.all_nodes()
            if node.domain not in ("", "ai.onnx")
        }
    )


def _drop_initializer_inputs(proto: onnx.ModelProto) -> None:
    """IR versions below 4 list every initializer as an input too; here they are constants."""
    names = {t.name for t in proto.graph.initializer}
    kept = [v for v in proto.graph.input if v.name not in names]
    if len(kept) != len(proto.graph.input):
        del proto.graph.input[:]
        proto.graph.input.extend(kept)
    proto.ir_version = max(proto.ir_version, 4)


def _require_tensors(proto: onnx.ModelProto, path: Path) -> None:
    """Inputs and outputs are tensors of numbers or booleans.

    Raises:
        UnsupportedError: one is text, a sequence, a map or optional.
    """
    for kind, values in (("input", proto.graph.input), ("output", proto.graph.output)):
        for value in values:
            found = value.type.WhichOneof("value")
            text = found == "tensor_type" and (
                value.type.tensor_type.elem_type == onnx.TensorProto.STRING
            )
            if found != "tensor_type" or text:
                what = "text" if text else str(found or "of unknown type").removesuffix("_type")
                raise UnsupportedError(
                    "EC348",
                    f"the {kind} {value.name!r} is no tensor of numbers",
                    where=str(path),
                    why=f"it is {what}",
                    fix="Cut the model behind (or before) it, so that only tensors go in and out.",
                )


def fix_input_shapes(
    proto: onnx.ModelProto, shapes: Mapping[str, Sequence[int]], path: Path
) -> None:
    """Write static input shapes into `proto`; a symbol fixed once is fixed everywhere.

    Raises:
        UsageError: unknown name, contradiction with a fixed dimension, or dimensions left open.
    """
    inputs = {v.name: v for v in proto.graph.input}
    for name in shapes:
        if name not in inputs:
            raise UsageError(
                "EC241",
                f"the model has no input {name!r}",
                where=str(path),
                why=f"its inputs are {', '.join(inputs) or '(none)'}",
                fix="Use one of these names.",
            )
    symbols: dict[str, int] = {}
    for name, value in inputs.items():
        _fix_one(name, value, shapes.get(name), symbols, path)
    for value in inputs.values():
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in symbols:
                dim.dim_value = symbols[dim.dim_param]
    for value in inputs.values():
        dims = value.type.tensor_type.shape.dim
        if value.name not in shapes and len(dims) > 1 and not dims[0].HasField("dim_value"):
            if dims[0].dim_param:
                symbols.setdefault(dims[0].dim_param, 1)
            dims[0].dim_value = 1
    _require_fixed(inputs, path)
    constants = {tensor.name for tensor in proto.graph.initializer}
    for graph_value in (*proto.graph.output, *proto.graph.value_info):
        if graph_value.name not in constants:  # their shapes do not follow from the inputs'
            graph_value.type.tensor_type.ClearField("shape")


def _fix_one(
    name: str,
    value: onnx.ValueInfoProto,
    shape: Sequence[int] | None,
    symbols: dict[str, int],
    path: Path,
) -> None:
    if shape is None:
        return
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        for size in shape:
            tensor.shape.dim.add().dim_value = int(size)
    dims = tensor.shape.dim
    if len(dims) != len(shape):
        raise UsageError(
            "EC241",
            f"input {name!r} has rank {len(dims)}, not {len(shape)}",
            where=str(path),
            fix=f"Give it as --shape {name}={_example(value)}.",
        )
    for dim, size in zip(dims, shape, strict=True):
        fixed = dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else None
        if fixed is not None and fixed != size:
            raise UsageError(
                "EC241",
                f"input {name!r} is fixed to {_describe(value)}, not {tuple(shape)}",
                where=str(path),
                fix="Keep the dimensions that the model fixes.",
            )
        if dim.dim_param:
            symbols[dim.dim_param] = int(size)
        dim.dim_value = int(size)


def _require_fixed(inputs: Mapping[str, onnx.ValueInfoProto], path: Path) -> None:
    open_inputs = [
        value
        for value in inputs.values()
        if value.type.HasField("tensor_type")
        and (
            not value.type.tensor_type.HasField("shape")
            or any(
                not d.HasField("dim_value") or d.dim_value < 0
                for d in value.type.tensor_type.shape.dim
            )
        )
    ]
    if open_inputs:
        raise UsageError(
            "EC245",
            "the model leaves input dimensions open",
            where=str(path),
            why="; ".join(f"{v.name} is {_describe(v)}" for v in open_inputs),
            fix="Fix them, e.g. "
            + " ".join(f"--shape {v.name}={_example(v)}" for v in open_inputs),
        )


def _describe(value: onnx.ValueInfoProto) -> str:
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return "of unknown rank"
    dims = [
        str(d.dim_value) if d.HasField("dim_value") and d.dim_value >= 0 else d.dim_param or "?"
        for d in tensor.shape.dim
    ]
    return f"({', '.join(dims)})"


def _example(value: onnx.ValueInfoProto) -> str:
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return "1,3,224,224"
    guesses = [1, 3, 224, 224] if len(tensor.shape.dim) == 4 else [1] * len(tensor.shape.dim)
    return ",".join(
        str(d.dim_value) if d.HasField("dim_value") and d.dim_value > 0 else str(guess)
        for d, guess in zip(tensor.shape.dim, guesses, strict=True)
    )


def _require_static(model: ir.Model, path: Path) -> None:
    """Every value of the main graph has a static shape."""
    custom = {n for n in model.graph if n.domain not in ("", "ai.onnx")}
    for node in model.graph:
        if node in custom or any(v is not None and v.producer() in custom for v in node.inputs):
            continue
        for value in node.outputs:
            if isinstance(value.type, ir.TensorType) and shape_of(value) is None:
                raise UnsupportedError(
                    "EC345",
                    f"the shape of {value.name!r} depends on the data",
                    where=f"{path}, node {node.name} ({node.op_type})",
                    why=f"shape inference ends at {value.shape}",
                    fix="Cut the model before this node.",
                )


def verify_conversion(proto: onnx.ModelProto, model: ir.Model, path: Path) -> None:
    """The master graph computes what the graph in the file computes.

    Raises:
        InputError: the file's graph contradicts itself, e.g. in the channels of a convolution.
        UnsupportedError: ONNX Runtime lacks an operator of the file's graph.
        InternalError: the numbers differ.
    """
    if not numerics.is_deterministic(model):
        return
    feeds = [numerics.seeded_inputs(model, seed) for seed in (1, 2)]
    try:
        want = numerics.run(numerics.onnx_bytes(proto), feeds)
    except Exception as error:
        custom = custom_operators(model)
        reason = str(error).splitlines()[0][:300]
        if not custom and "NOT_IMPLEMENTED" not in reason:
            # every operator is known, so it is the graph that contradicts itself
            raise bad_graph(path, "the graph cannot be executed", reason) from error
        raise UnsupportedError(
            "EC343",
            "ONNX Runtime cannot execute the model",
            where=f"{path}: {', '.join(custom)}" if custom else str(path),
            why=reason,
            fix="Replace the operators ONNX Runtime lacks.",
        ) from error
    try:
        got = numerics.run(numerics.serialize(model), feeds)
    except Exception as error:
        raise UnsupportedError(
            "EC344",
            f"the model could not be converted to opset {OPSET}",
            where=str(path),
            why=str(error).splitlines()[0][:300],
            fix="Export the model again at opset 13 or later.",
        ) from error
    names = [v.name or "" for v in model.graph.outputs] * len(feeds)
    mismatch = numerics.compare(names, want, got)
    if mismatch is not None:
        raise InternalError(
            "EC140",
            f"conversion to opset {OPSET} changed the numbers",
            where=f"{path}, output {mismatch.output}",
            why=f"{mismatch.reason}, allowed {mismatch.allowed:.3g}",
            fix="Please report this with the model.",
        )
