"""Types and shapes of all values."""

from __future__ import annotations

import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from edgec.export.rewrite.snapshot import weights_apart

_SMALL = 1024
"""Initializers up to this many bytes take part in data propagation; weights cannot matter."""

_SAME_TYPE = frozenset({"GroupNormalization"})


def infer_shapes(model: ir.Model) -> None:
    """ONNX shape inference with data propagation, written into the values of `model`.

    Computed afresh, because one stale annotation makes ONNX's inference give up; what it cannot
    determine (custom operators) keeps the annotation it had. Names are made unique on the way.
    """
    common.NameFixPass()(model)
    seeded: dict[str, onnx.ValueInfoProto] = {}
    while True:
        found = _infer(_without_annotations(model, seeded))
        if found is None:
            return
        more = _missed_by_onnx(model, found)
        if not more.keys() - seeded.keys():
            break
        seeded.update(more)
    inputs = {id(v) for v in model.graph.inputs}
    for node in model.graph.all_nodes():
        for value in node.outputs:
            proto = found.get(value.name or "")
            if proto is None or id(value) in inputs:
                continue
            kind = ir.serde.deserialize_type_proto_for_type(proto)
            shape = ir.serde.deserialize_type_proto_for_shape(proto)
            if kind is not None:
                value.type = kind
            if shape is not None:
                value.shape = shape


def _missed_by_onnx(
    model: ir.Model, found: dict[str, onnx.TypeProto]
) -> dict[str, onnx.ValueInfoProto]:
    """Outputs of operators that ONNX has no inference for, though they keep their input's type."""
    more: dict[str, onnx.ValueInfoProto] = {}
    types = dict(found)
    for value in model.graph.inputs:
        if value.name and value.type is not None:
            types[value.name] = ir.to_proto(value).type
    for node in model.graph.all_nodes():
        if node.op_type not in _SAME_TYPE or node.domain not in ("", "ai.onnx"):
            continue
        x, name = node.inputs[0], node.outputs[0].name or ""
        known = types.get(x.name or "") if x is not None else None
        if known is not None and not found.get(name, onnx.TypeProto()).HasField("tensor_type"):
            more[name] = onnx.ValueInfoProto(name=name, type=known)
    return more


def _types_of(inferred: onnx.ModelProto) -> dict[str, onnx.TypeProto]:
    found: dict[str, onnx.TypeProto] = {}
    pending = [inferred.graph]
    while pending:
        graph = pending.pop()
        values = (*graph.value_info, *graph.output)
        found.update({v.name: v.type for v in values if v.type.WhichOneof("value")})
        for node in graph.node:
            for attribute in node.attribute:
                pending += [attribute.g] if attribute.HasField("g") else []
                pending += attribute.graphs
    return found


def _without_annotations(
    model: ir.Model, seeded: dict[str, onnx.ValueInfoProto]
) -> onnx.ModelProto:
    """The model as protobuf, without inner shapes and without the data of large initializers."""
    with weights_apart(model):
        proto: onnx.ModelProto = ir.to_proto(model)
    constants: set[str] = set()
    pending = [proto.graph]
    while pending:
        inner = pending.pop()
        small = [
            t
            for t in inner.initializer
            if t.data_location != onnx.TensorProto.EXTERNAL and t.ByteSize() <= _SMALL
        ]
        constants |= {t.name for t in inner.initializer}
        kept = [v for v in inner.value_info if v.name in constants]
        del inner.initializer[:]
        inner.initializer.extend(small)
        del inner.value_info[:]
        inner.value_info.extend(kept)
        for node in inner.node:
            inner.value_info.extend(seeded[o] for o in node.output if o in seeded)
            for attribute in node.attribute:
                pending += [attribute.g] if attribute.HasField("g") else []
                pending += attribute.graphs
    return proto


def _infer(proto: onnx.ModelProto) -> dict[str, onnx.TypeProto] | None:
    """Name → type of every value, or None if the graph contradicts itself."""
    try:
        return _types_of(
            onnx.shape_inference.infer_shapes(proto, strict_mode=False, data_prop=True)
        )
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError):
        return None
