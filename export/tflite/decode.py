"""The model in a file's bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgec.export.errors import InputError, UnsupportedError
from edgec.export.tflite.check import MAX_ELEMENTS, MAX_RANK, check
from edgec.export.tflite.model import Model, Operator, Quantization, Signature, Subgraph, Tensor
from edgec.export.tflite.options import OPTIONS
from edgec.export.tflite.reader import Reader, Table
from edgec.export.tflite.schema import (
    BITS,
    DTYPES,
    NAMES,
    OPAQUE,
    OPERATORS,
    TABLES,
    UNION,
    UNION_2,
    VERSION,
    default_options,
    option_fields,
)


def load(path: Path) -> Model:
    """Read a file.

    Raises:
        InputError: it cannot be read, or as `decode`.
        UnsupportedError: as `decode`.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(
            "EC708", "cannot read the TFLite file", where=str(path), why=error.strerror
        ) from error
    return decode(data, str(path))


def decode(data: bytes, where: str | None = None) -> Model:
    """The model that a file's bytes describe.

    No offset, length or index of the file is believed before it is checked, and what is built is
    bounded by `reader.MAX_TABLES` and `reader.MAX_ITEMS`; constants are views of `data`.

    Raises:
        InputError: no TFLite file (EC700), offsets that lead out of it (EC701), more parts than a
            network has (EC702), values that the schema does not know (EC703), and what
            `check.check` finds (EC704 to EC707).
        UnsupportedError: sparse tensors, block-wise scales or content outside of the file (EC301).
    """
    reader = Reader(data, where)
    root = reader.root(TABLES["Model"])
    if root["version"] != VERSION:
        raise InputError(
            "EC700",
            f"it has version {root['version']} of the TFLite format",
            where=where,
            why=f"version {VERSION} is the only one in use",
        )
    buffers = _Buffers(reader, root["buffers"] or [])
    codes = [_operator_code(code, where) for code in root["operator_codes"] or []]
    model = Model(
        subgraphs=[_subgraph(s, buffers, codes, reader) for s in root["subgraphs"] or []],
        description=root["description"] or "",
        metadata={m["name"] or "": buffers.copy(m["buffer"]) for m in root["metadata"] or []},
        signatures=[_signature(s) for s in root["signature_defs"] or []],
        version=root["version"],
    )
    check(model, where)
    return model


class _Buffers:
    """Contents of the buffers, found when asked for."""

    def __init__(self, reader: Reader, raw: list[Table]) -> None:
        self.reader = reader
        self.raw = raw

    def content(self, index: int) -> NDArray[np.uint8] | None:
        """Bytes of a buffer, None if it has none."""
        if not 0 <= index < len(self.raw):
            raise InputError(
                "EC704",
                f"buffer {index} is not one of the {len(self.raw)} buffers",
                where=self.reader.where,
            )
        raw = self.raw[index]
        if raw["offset"] > 1:  # content behind the flatbuffer; 0 and 1 stand for none
            return self.reader.span(raw["offset"], raw["size"])
        data: NDArray[np.uint8] | None = raw["data"]
        return data

    def copy(self, index: int) -> bytes:
        """Bytes of a buffer."""
        content = self.content(index)
        return b"" if content is None else self.reader.copy(content)


def _operator_code(raw: Table, where: str | None) -> tuple[str, str | None, int]:
    # files made before codes passed 127 have the deprecated field only
    code = max(raw["builtin_code"], raw["deprecated_builtin_code"])
    if not 0 <= code < len(NAMES):
        raise InputError(
            "EC703",
            f"operator code {code} is not known",
            where=where,
            why=f"the newest known one is {len(NAMES) - 1}, {NAMES[-1]}",
            fix="the file is corrupt, or made for a newer runtime than edgec knows",
        )
    return NAMES[code], raw["custom_code"], raw["version"]


def _subgraph(
    raw: Table, buffers: _Buffers, codes: list[tuple[str, str | None, int]], reader: Reader
) -> Subgraph:
    return Subgraph(
        tensors=[_tensor(t, buffers, reader.where) for t in raw["tensors"] or []],
        inputs=reader.items(raw["inputs"]),
        outputs=reader.items(raw["outputs"]),
        operators=[_operator(o, codes, reader) for o in raw["operators"] or []],
        name=raw["name"] or "",
    )


def _tensor(raw: Table, buffers: _Buffers, where: str | None) -> Tensor:
    reader = buffers.reader
    name = raw["name"] or ""
    place = f"{where or 'model'}, tensor {name[:80]!r}"
    for part in ("sparsity", "variant_tensors"):
        if raw[part]:
            raise UnsupportedError("EC301", f"the tensor has {part}", where=place)
    if raw["external_buffer"]:
        raise UnsupportedError("EC301", "the content is outside of the file", where=place)
    shape = tuple(reader.items(raw["shape"], MAX_RANK))
    signature = raw["shape_signature"]
    dtype = raw["type"]
    data = buffers.content(raw["buffer"]) if raw["buffer"] else None
    count = 1
    for dimension in shape:
        count *= dimension
    if data is not None and (data.size or count == 0):
        data = _constant(data, shape, count, dtype, reader, place)
    else:
        data = None
    return Tensor(
        name,
        shape,
        dtype,
        data,
        _quantization(raw["quantization"], reader, place),
        None
        if signature is None or not signature.size
        else tuple(reader.items(signature, MAX_RANK)),
        raw["is_variable"],
    )


def _constant(
    data: NDArray[Any],
    shape: tuple[int, ...],
    count: int,
    dtype: str,
    reader: Reader,
    where: str,
) -> NDArray[Any]:
    if dtype in OPAQUE:
        return data
    bits = BITS.get(dtype, 8 * DTYPES[dtype].itemsize)
    if not 0 <= count <= MAX_ELEMENTS or data.size != (count * bits + 7) // 8:
        raise InputError(
            "EC705",
            f"the content has {data.size} bytes",
            where=where,
            why=f"{dtype}{list(shape)} has {max(0, (count * bits + 7) // 8)}",
        )
    if dtype not in BITS and dtype != "BOOL":
        return data.view(DTYPES[dtype]).reshape(shape)
    reader.will_copy(count)
    if dtype == "BOOL":
        data = data != 0
        return data.reshape(shape)
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    flat = ((data[:, None] >> shifts) & np.uint8((1 << bits) - 1)).reshape(-1)[:count]
    if dtype.startswith("UINT"):
        return flat.reshape(shape)
    # move the sign bit to the top and shift it back down with an arithmetic shift
    high = np.uint8(8 - bits)
    signed: NDArray[np.int8] = (flat << high).view(np.int8) >> np.int8(8 - bits)
    return signed.reshape(shape)


def _quantization(raw: Table | None, reader: Reader, where: str) -> Quantization | None:
    if raw is None or raw["scale"] is None or not raw["scale"].size:
        return None
    if raw["details_type"] != "NONE":
        raise UnsupportedError("EC301", f"the tensor has {raw['details_type']}", where=where)
    reader.will_copy(12 * raw["scale"].size)
    scale = raw["scale"].astype(np.float32)
    zero = raw["zero_point"]
    if zero is None or not zero.size:
        zero = np.zeros(1, np.int64)
    if zero.size == 1 and scale.size > 1:
        zero = np.repeat(zero, scale.size)
    return Quantization(scale, zero.astype(np.int64), raw["quantized_dimension"])


def _operator(raw: Table, codes: list[tuple[str, str | None, int]], reader: Reader) -> Operator:
    index = raw["opcode_index"]
    if index >= len(codes):
        raise InputError(
            "EC704",
            f"operator code {index} is not one of the {len(codes)} in the file",
            where=reader.where,
        )
    code, custom, version = codes[index]
    mutating = raw["mutating_variable_inputs"]
    custom_options = raw["custom_options"]
    if raw["large_custom_options_offset"] > 1:
        custom_options = reader.span(
            raw["large_custom_options_offset"], raw["large_custom_options_size"]
        )
    return Operator(
        code,
        reader.items(raw["inputs"]),
        reader.items(raw["outputs"]),
        _options(code, raw, reader),
        version,
        custom,
        b"" if custom_options is None else reader.copy(custom_options),
        reader.items(raw["intermediates"]),
        None if mutating is None else [bool(m) for m in reader.items(mutating)],
    )


def _options(code: str, raw: Table, reader: Reader) -> dict[str, Any]:
    table = OPERATORS[code]
    if table is None:
        return {}
    field, union = (
        ("builtin_options", UNION) if table in OPTIONS else ("builtin_options_2", UNION_2)
    )
    kind, position = raw[f"{field}_type"], raw[field]
    fields = option_fields(code)
    if position is None or not fields:
        return default_options(code)
    if kind != union[table]:
        raise InputError(
            "EC703",
            f"{code} has options of kind {kind}",
            where=reader.where,
            why=f"its kind is {union[table]}, {table}",
        )
    found = reader.table(position, fields)
    return {
        name: reader.items(value) if isinstance(value, np.ndarray) else value
        for name, value in found.items()
    }


def _signature(raw: Table) -> Signature:
    def names(maps: list[Table] | None) -> dict[str, int]:
        return {m["name"] or "": m["tensor_index"] for m in maps or []}

    return Signature(
        raw["signature_key"] or "",
        names(raw["inputs"]),
        names(raw["outputs"]),
        raw["subgraph_index"],
    )
