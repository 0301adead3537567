"""Refusal of broken ONNX files: one clear error each, before native code sees them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError, EncodeError  # type: ignore[import-untyped]

from edgec.export.errors import InputError
from edgec.export.rewrite.graph import constant, shape_of

MAX_BYTES = (1 << 31) - 1
"""Protobuf's limit for one message."""

_MAX_NESTING = 16
# An infinity is the normal spelling of "no bound" or "masked out": as a scalar, or read by these.
_INFINITY_READERS = frozenset({"Clip", "Where", "Max", "Min", "Pad"})


def read_proto(path: Path) -> onnx.ModelProto:
    """Parse the file and load its external data.

    Raises:
        InputError: missing, unreadable, too large, not ONNX, truncated, or external data that is
            missing or lies outside the model's folder.
    """
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise InputError(
                "EC747",
                f"the model is {size / 2**30:.1f} GiB large",
                where=str(path),
                why="protobuf cannot hold more than 2 GiB",
                fix="Use a smaller network.",
            )
        data = path.read_bytes()
    except OSError as error:
        raise InputError(
            "EC740",
            "the model cannot be read",
            where=str(path),
            why=error.strerror or str(error),
            fix="Check the path and the permissions.",
        ) from error
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except (DecodeError, RecursionError) as error:
        raise _not_onnx(path, data, "its protobuf ends early or is damaged") from error
    if not proto.HasField("graph") or not proto.ir_version or not proto.opset_import:
        raise _not_onnx(path, data, "it has no graph, IR version or opset")
    _load_external_data(proto, path)
    return proto


def _not_onnx(path: Path, data: bytes, why: str) -> InputError:
    head = data[:64].lstrip()
    if not data:
        why = "the file is empty"
    elif head.startswith(b"version https://git-lfs"):
        why = "it is a Git LFS pointer, not the file itself"
    elif head[:1] == b"<":
        why = "it is a web page or XML"
    elif data.startswith(b"PK\x03\x04"):
        why = "it is a zip archive, perhaps a torch checkpoint"
    elif data[4:8] == b"TFL3":
        why = "it is a TFLite model"
    elif all(32 <= byte < 127 or byte in b"\r\n\t" for byte in data[:256]):
        why = "it is a text file"
    return InputError(
        "EC741",
        "not a valid ONNX file",
        where=str(path),
        why=why,
        fix="Download or export the file again.",
    )


def bad_graph(path: Path, what: str, why: str | None = None) -> InputError:
    return InputError(
        "EC742",
        what,
        where=str(path),
        why=why,
        fix="Run onnx.checker.check_model in the tool that wrote the file.",
    )


def _graphs(graph: onnx.GraphProto, depth: int = 0) -> Iterator[onnx.GraphProto]:
    """`graph` and the subgraphs of its nodes."""
    if depth > _MAX_NESTING:
        raise RecursionError("subgraphs are nested too deeply")
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _graphs(attribute.g, depth + 1)
            for inner in attribute.graphs:
                yield from _graphs(inner, depth + 1)


def _tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    for graph in _graphs(proto.graph):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield sparse.values
            yield sparse.indices
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    yield attribute.t
                yield from attribute.tensors
    for function in proto.functions:
        for node in function.node:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    yield attribute.t


def _load_external_data(proto: onnx.ModelProto, path: Path) -> None:
    """Bring external tensors into `proto`; only files in the model's own folder are opened."""
    folder = path.resolve().parent
    total = 0
    try:
        external = [t for t in _tensors(proto) if t.data_location == onnx.TensorProto.EXTERNAL]
    except RecursionError as error:
        raise bad_graph(path, "subgraphs are nested too deeply") from error
    if not proto.graph.output:
        raise bad_graph(path, "the graph has no outputs")
    for tensor in external:
        fields = {entry.key: entry.value for entry in tensor.external_data}
        location = fields.get("location", "")
        target = (folder / location).resolve()
        name = f"{path}, tensor {tensor.name!r}"
        if not location or Path(location).is_absolute() or not target.is_relative_to(folder):
            raise InputError(
                "EC746",
                "external data outside the model's folder",
                where=name,
                why=f"its location is {location!r}",
                fix="Keep the data file beside the model, under the name recorded in it.",
            )
        try:
            offset, length = int(fields.get("offset", 0)), int(fields.get("length", -1))
            if offset < 0 or (length < 0 and "length" in fields):
                raise ValueError("negative offset or length")
            with target.open("rb") as stream:
                stream.seek(offset)
                data = stream.read(length if length >= 0 else MAX_BYTES)
        except (OSError, ValueError) as error:
            raise InputError(
                "EC746",
                "external data cannot be read",
                where=name,
                why=str(error),
                fix=f"Keep {location} beside the model.",
            ) from error
        total += len(data)
        if total > MAX_BYTES or (length >= 0 and len(data) != length):
            raise InputError(
                "EC746" if total <= MAX_BYTES else "EC747",
                "external data is too short" if total <= MAX_BYTES else "the model is too large",
                where=name,
                why=f"{location} ends after {offset + len(data)} bytes",
                fix="Copy the data file again.",
            )
        tensor.raw_data = data
        tensor.data_location = onnx.TensorProto.DEFAULT
        del tensor.external_data[:]


def check_proto(proto: onnx.ModelProto, path: Path) -> None:
    """Structure first in Python, then ONNX's checker.

    Raises:
        InputError: tensor sizes, names, order of nodes or anything ONNX's rules forbid.
    """
    try:
        for tensor in _tensors(proto):
            _check_tensor(tensor, path)
        _check_order(proto.graph, set(), path, 0)
    except RecursionError as error:
        raise bad_graph(path, "subgraphs are nested too deeply") from error
    try:
        onnx.checker.check_model(proto)
    except (onnx.checker.ValidationError, EncodeError, ValueError, RuntimeError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise bad_graph(
            path, "the graph breaks ONNX's rules", lines[0][:300] if lines else None
        ) from error
    if any(t.data_type == onnx.TensorProto.UNDEFINED for t in proto.graph.initializer):
        raise bad_graph(path, "an initializer has no data type")


def _check_tensor(tensor: onnx.TensorProto, path: Path) -> None:
    """Declared size and stored size agree."""
    where = f"tensor {tensor.name!r}"
    if any(d < 0 for d in tensor.dims):
        raise bad_graph(path, f"{where} has a negative dimension")
    count = math.prod(tensor.dims)
    try:
        dtype = ir.DataType(tensor.data_type)
        bits = 0 if dtype in (ir.DataType.STRING, ir.DataType.UNDEFINED) else dtype.bitwidth
    except (ValueError, TypeError) as error:
        raise bad_graph(path, f"{where} has the unknown data type {tensor.data_type}") from error
    if count * bits // 8 > MAX_BYTES:
        raise bad_graph(path, f"{where} claims {count} elements")
    if tensor.HasField("raw_data") and len(tensor.raw_data) != (count * bits + 7) // 8:
        raise bad_graph(
            path,
            f"{where} holds {len(tensor.raw_data)} bytes",
            f"{list(tensor.dims)} of {dtype.name} need {(count * bits + 7) // 8}",
        )
    if not tensor.HasField("raw_data"):
        try:
            onnx.numpy_helper.to_array(tensor)
        except Exception as error:
            raise bad_graph(path, f"{where} cannot be read", str(error)[:300]) from error


def _check_order(graph: onnx.GraphProto, outer: set[str], path: Path, depth: int) -> None:
    """Every name is defined once, before its use."""
    if depth > _MAX_NESTING:
        raise RecursionError("subgraphs are nested too deeply")
    known = set(outer) | {v.name for v in graph.input} | {t.name for t in graph.initializer}
    known |= {s.values.name for s in graph.sparse_initializer}
    produced = {name for node in graph.node for name in node.output if name}
    for node in graph.node:
        label = f"node {node.name!r} ({node.op_type})"
        for name in node.input:
            if not name or name in known:
                continue
            if name not in produced:
                raise bad_graph(path, f"{label} reads {name!r}, which nothing defines")
            if _depends_on_itself(graph, node):
                raise bad_graph(path, f"the graph has a cycle through {label}")
            raise bad_graph(path, f"{label} reads {name!r} before it is computed")
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                _check_order(inner, known, path, depth + 1)
        for name in node.output:
            if name and name in known:
                raise bad_graph(path, f"{name!r} is defined twice, again by {label}")
            known.add(name)
    for value in graph.output:
        if value.name not in known:
            raise bad_graph(path, f"nothing computes the output {value.name!r}")


def _depends_on_itself(graph: onnx.GraphProto, start: onnx.NodeProto) -> bool:
    makers = {name: node for node in graph.node for name in node.output if name}
    seen: set[int] = set()
    pending = [start]
    while pending:
        for name in pending.pop().input:
            node = makers.get(name)
            if node is start:
                return True
            if node is not None and id(node) not in seen:
                seen.add(id(node))
                pending.append(node)
    return False


def check_values(model: ir.Model, path: Path) -> None:
    """Weights are finite and nothing is empty.

    Empty 1-D tensors are the normal spelling of "not given" (Resize's roi, a scalar's shape).

    Raises:
        InputError: NaN or infinity in a weight, or a zero-sized dimension.
    """
    for graph in model.graphs():
        for value in graph.initializers.values():
            array = constant(value)
            if array is None:
                continue
            if 0 in array.shape and array.ndim > 1:
                raise _empty(value.name, array.shape, path)
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                readers = {use.node.op_type for use in value.uses()}
                bound = array.size == 1 or readers <= _INFINITY_READERS
                if np.isnan(array).any() or not bound:
                    kind = "NaN" if np.isnan(array).any() else "infinity"
                    raise InputError(
                        "EC744",
                        f"the weight {value.name!r} holds {kind}",
                        where=str(path),
                        why=f"{int((~np.isfinite(array)).sum())} of {array.size} values",
                        fix="Use an earlier checkpoint.",
                    )
    for value in model.graph.inputs:
        if 0 in (shape_of(value) or ()):
            raise _empty(value.name, shape_of(value), path)
    for node in model.graph:
        for value in node.outputs:
            shape = shape_of(value)
            if shape is not None and 0 in shape and len(shape) > 1:
                raise _empty(value.name, shape, path)


def _empty(name: str | None, shape: tuple[int, ...] | None, path: Path) -> InputError:
    return InputError(
        "EC745",
        f"the tensor {name!r} has no elements",
        where=str(path),
        why=f"its shape is {shape}",
        fix="Use a larger input.",
    )
