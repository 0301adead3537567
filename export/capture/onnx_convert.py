"""Brings a checked ONNX model to the master opset: up with ONNX's converter, down by schema."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx.inliner
import onnx.version_converter
import onnx_ir as ir

from edgec.export.capture import OPSET
from edgec.export.errors import UnsupportedError
from edgec.export.rewrite.graph import Builder, is_op, remove_dead, replace_value
from edgec.export.rewrite.inference import infer_shapes
from edgec.export.rewrite.legalise.decompose import group_normalization

OLDEST = 7
"""Oldest opset that ONNX Runtime still executes and the version converter still reads."""


def opset_of(proto: onnx.ModelProto) -> int:
    """Version of the standard domain (0 if the model uses none)."""
    return max((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), default=0)


def to_master_opset(proto: onnx.ModelProto, path: Path) -> ir.Model:
    """The model at opset `OPSET`, model-local functions inlined; `proto` stays as it is.

    Raises:
        UnsupportedError: the opset is too old or an operator cannot be converted.
    """
    version = opset_of(proto)
    if version > onnx.defs.onnx_opset_version():
        raise UnsupportedError(
            "EC344",
            f"opset {version} is newer than the installed onnx",
            where=str(path),
            why=f"onnx {onnx.__version__} knows opsets up to {onnx.defs.onnx_opset_version()}",
            fix="Update onnx and onnxruntime, or export the model at opset 20.",
        )
    if version < OLDEST:
        raise UnsupportedError(
            "EC344",
            f"opset {version} is too old",
            where=str(path),
            why=f"the oldest that can be converted is {OLDEST}",
            fix="Export the model again at opset 13 or later.",
        )
    try:
        inlined = onnx.inliner.inline_local_functions(proto)
        if version < OPSET:
            inlined = onnx.version_converter.convert_version(inlined, OPSET)
        model = ir.from_proto(inlined)
    except (RuntimeError, ValueError, TypeError, LookupError) as error:
        raise _not_convertible(version, path, str(error) or type(error).__name__) from error
    if version > OPSET:
        infer_shapes(model)
        _lower(model, version, path)
    return model


def _not_convertible(version: int, path: Path, why: str) -> UnsupportedError:
    return UnsupportedError(
        "EC344",
        f"the model cannot be converted from opset {version} to {OPSET}",
        where=str(path),
        why=why.splitlines()[0][:300],
        fix=f"Export the model again at an opset from 13 to {OPSET}.",
    )


def _lower(model: ir.Model, version: int, path: Path) -> None:
    """Down to `OPSET`: most newer definitions only accept more data types.

    A node stays as it is if the older schema has its operator, its attributes (newer ones may go if
    they have their default value) and as many inputs; the numerical check of the capture sees
    whatever this misses.
    """
    for graph in model.graphs():
        for node in graph:
            if node.domain not in ("", "ai.onnx"):
                continue
            if is_op(node, "GroupNormalization"):  # scale per channel since 21, per group before
                result = group_normalization(node, Builder(node), OPSET)
                if result is None:
                    raise _not_convertible(version, path, "GroupNormalization with computed scale")
                replace_value(node.outputs[0], result)
                remove_dead([node])
                continue
            reason = _lower_node(node, version)
            if reason is not None:
                raise _not_convertible(version, path, f"{node.op_type}: {reason}")
        if "" in graph.opset_imports:
            graph.opset_imports[""] = OPSET
    model.opset_imports[""] = OPSET


def _lower_node(node: ir.Node, version: int) -> str | None:
    """Fit `node` to the schema at `OPSET`; the reason if it does not fit."""
    try:
        new = onnx.defs.get_schema(node.op_type, version, "")
        old = onnx.defs.get_schema(node.op_type, OPSET, "")
    except onnx.defs.SchemaError:
        return f"the operator does not exist at opset {OPSET}"
    if new.since_version == old.since_version:
        return None
    if len(node.inputs) > old.max_input:
        return "it has inputs that are newer"
    for name, attribute in list(node.attributes.items()):
        if name in old.attributes:
            continue
        default = new.attributes[name].default_value
        if not default.name or onnx.helper.get_attribute_value(default) != attribute.value:
            return f"attribute {name} is newer"
        del node.attributes[name]
    return None
