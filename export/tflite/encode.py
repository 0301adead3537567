"""A model's bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
from numpy.typing import NDArray

from edgec.export.errors import InputError, UnsupportedError
from edgec.export.files import atomic_write
from edgec.export.tflite.check import check
from edgec.export.tflite.fields import ENUMS, SCALARS, Field
from edgec.export.tflite.model import Model, Operator, Signature, Subgraph, Tensor
from edgec.export.tflite.options import OPTIONS
from edgec.export.tflite.schema import (
    BITS,
    CODES,
    IDENTIFIER,
    OPERATORS,
    PLACEHOLDER,
    TABLES,
    UNION,
    UNION_2,
    option_fields,
)

MAX_BYTES = (1 << 31) - (1 << 20)
"""Offsets in a flatbuffer are 32 bits wide, and its readers take them as signed."""

ALIGNMENT = 16
"""Of the buffers' content in the file, so that a mapped file can be computed on in place."""


def save(model: Model, path: Path) -> None:
    """Write a model to a file, all or nothing.

    Raises:
        InputError: as `encode`, or the file cannot be written.
        UnsupportedError: as `encode`.
    """
    atomic_write(path, encode(model))


def encode(model: Model) -> bytes:
    """The file of a model: the same bytes for the same model.

    Equal contents share one buffer; buffer 0 is the empty one.

    Raises:
        InputError: parts of the model contradict each other (`check.check`), or an option does not
            exist or has a value that it cannot have (EC703).
        UnsupportedError: the file would pass 2 GB (EC300).
    """
    check(model)
    size = sum(t.data.nbytes for s in model.subgraphs for t in s.tensors if t.data is not None)
    if size > MAX_BYTES:
        raise UnsupportedError(
            "EC300",
            f"the file would have {size / 1e9:.2f} GB",
            why="a .tflite file cannot pass 2 GB",
            fix="quantize the weights (--precision int8 or fp16)",
        )
    builder = flatbuffers.Builder(size + (1 << 16))
    root = _write(builder, TABLES["Model"], _raw_model(model))
    builder.Finish(root, file_identifier=IDENTIFIER)
    return bytes(builder.Output())


class _Buffers:
    """Contents in order of first use, each once."""

    def __init__(self) -> None:
        self.contents: list[bytes | None] = [None]
        self._index: dict[bytes, int] = {}

    def add(self, content: bytes) -> int:
        if content not in self._index:
            self._index[content] = len(self.contents)
            self.contents.append(content)
        return self._index[content]


def _raw_model(model: Model) -> dict[str, Any]:
    """The model in the schema's tables, as dicts by field name."""
    buffers = _Buffers()
    codes: dict[tuple[str, str | None, int], int] = {}
    subgraphs = [_raw_subgraph(subgraph, buffers, codes) for subgraph in model.subgraphs]
    metadata = [{"name": n, "buffer": buffers.add(v)} for n, v in model.metadata.items()]
    return {
        "version": model.version,
        "operator_codes": [
            {
                "deprecated_builtin_code": min(CODES[code], PLACEHOLDER),
                "custom_code": custom,
                "version": version,
                "builtin_code": CODES[code],
            }
            for code, custom, version in codes
        ],
        "subgraphs": subgraphs,
        "description": model.description,
        "buffers": [{} if c is None else {"data": c} for c in buffers.contents],
        "metadata": metadata or None,
        "signature_defs": [_raw_signature(s) for s in model.signatures] or None,
    }


def _raw_subgraph(
    subgraph: Subgraph, buffers: _Buffers, codes: dict[tuple[str, str | None, int], int]
) -> dict[str, Any]:
    operators = []
    for operator in subgraph.operators:
        key = (operator.code, operator.custom_code, operator.version)
        operators.append(_raw_operator(operator, codes.setdefault(key, len(codes))))
    return {
        "tensors": [_raw_tensor(tensor, buffers) for tensor in subgraph.tensors],
        "inputs": subgraph.inputs,
        "outputs": subgraph.outputs,
        "operators": operators,
        "name": subgraph.name,
    }


def _raw_tensor(tensor: Tensor, buffers: _Buffers) -> dict[str, Any]:
    raw: dict[str, Any] = {
        "shape": list(tensor.shape),
        "type": tensor.dtype,
        "buffer": 0 if tensor.data is None else buffers.add(_content(tensor.data, tensor.dtype)),
        "name": tensor.name,
        "is_variable": tensor.is_variable,
        "shape_signature": tensor.shape_signature,
        "has_rank": True,
    }
    if tensor.quantization is not None:
        raw["quantization"] = {
            "scale": tensor.quantization.scale,
            "zero_point": tensor.quantization.zero_point,
            "quantized_dimension": tensor.quantization.axis,
        }
    return raw


def _content(data: NDArray[Any], dtype: str) -> bytes:
    if dtype not in BITS:
        return data.tobytes()
    bits = BITS[dtype]
    per_byte = 8 // bits
    flat = data.reshape(-1).view(np.uint8) & np.uint8((1 << bits) - 1)
    flat = np.pad(flat, (0, -flat.size % per_byte)).reshape(-1, per_byte)
    shifts = np.arange(per_byte, dtype=np.uint8) * np.uint8(bits)
    packed: NDArray[np.uint8] = np.bitwise_or.reduce(flat << shifts, axis=1).astype(np.uint8)
    return packed.tobytes()


def _raw_operator(operator: Operator, opcode: int) -> dict[str, Any]:
    raw: dict[str, Any] = {
        "opcode_index": opcode,
        "inputs": operator.inputs,
        "outputs": operator.outputs,
        "custom_options": operator.custom_options or None,
        "mutating_variable_inputs": operator.mutating_variable_inputs,
        "intermediates": operator.intermediates or None,
    }
    fields = option_fields(operator.code)
    unknown = set(operator.options) - {field.name for field in fields}
    if unknown:
        raise InputError(
            "EC703",
            f"{operator.code} has no option {', '.join(map(repr, sorted(unknown)))}",
            why=f"it has {', '.join(field.name for field in fields) or 'none'}",
        )
    table = OPERATORS[operator.code]
    if table is not None:
        kind = "builtin_options" if table in OPTIONS else "builtin_options_2"
        raw[f"{kind}_type"] = UNION[table] if table in OPTIONS else UNION_2[table]
        raw[kind] = (fields, operator.options)
    return raw


def _raw_signature(signature: Signature) -> dict[str, Any]:
    def maps(names: Mapping[str, int]) -> list[dict[str, Any]]:
        return [{"name": name, "tensor_index": index} for name, index in names.items()]

    return {
        "inputs": maps(signature.inputs),
        "outputs": maps(signature.outputs),
        "signature_key": signature.key,
        "subgraph_index": signature.subgraph,
    }


def _write(
    builder: flatbuffers.Builder, fields: tuple[Field, ...], values: Mapping[str, Any]
) -> int:
    """Write a table after everything it refers to; returns its offset."""
    offsets = {}
    # the file grows from its end: the buffers, written first, come last
    for field in sorted(fields, key=lambda f: f.name != "buffers"):
        value = values.get(field.name)
        if value is None or field.kind in ("scalar", "enum"):
            continue
        if field.kind == "string":
            offsets[field.name] = builder.CreateString(value)
        elif field.kind == "vector":
            offsets[field.name] = _vector(builder, value, field.type)
        elif field.kind == "table":
            offsets[field.name] = _write(builder, TABLES[field.type], value)
        elif field.kind == "union":
            offsets[field.name] = _write(builder, *value)
        else:
            items = [_write(builder, TABLES[field.type], item) for item in value]
            builder.StartVector(4, len(items), 4)
            for item in reversed(items):
                builder.PrependUOffsetTRelative(item)
            offsets[field.name] = builder.EndVector()
    builder.StartObject(fields[-1].slot + 1 if fields else 0)
    for field in fields:
        if field.name in offsets:
            builder.PrependUOffsetTRelativeSlot(field.slot, offsets[field.name], 0)
        elif field.kind in ("scalar", "enum") and values.get(field.name) is not None:
            number = _number(field, values[field.name])
            prepend = getattr(builder, f"Prepend{field.scalar.capitalize()}Slot")
            prepend(field.slot, number, field.default)
    return int(builder.EndObject())


def _number(field: Field, value: Any) -> int | float | bool:
    """A scalar's or enumeration member's number, if the field can hold it."""
    if field.kind == "enum":
        members = ENUMS[field.type][1]
        if value in members:
            return members.index(value)
    elif field.type == "float32":
        if isinstance(value, (int, float, np.floating)):
            return float(value)
    elif field.type == "bool":
        if isinstance(value, (bool, np.bool_)):
            return bool(value)
    elif isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        limits = np.iinfo(field.type)
        if limits.min <= value <= limits.max:
            return int(value)
    raise InputError(
        "EC703",
        f"{field.name} cannot be {value!r}",
        why=f"it is one of {', '.join(ENUMS[field.type][1])}"
        if field.kind == "enum"
        else f"it is a number of type {field.type}",
    )


def _vector(
    builder: flatbuffers.Builder, values: bytes | Sequence[Any] | NDArray[Any], kind: str
) -> int:
    if isinstance(values, bytes):
        content, count, width = values, len(values), 1
        alignment = ALIGNMENT
    else:
        code = SCALARS[kind]
        array = np.asarray(values).astype(np.dtype(f"<{code}" if code not in "?bB" else code))
        content, count, width = array.tobytes(), array.size, array.itemsize
        alignment = width
    builder.StartVector(width, count, alignment)
    start = builder.head - len(content)
    builder.head = start
    builder.Bytes[start : start + len(content)] = content
    return int(builder.EndVector())
