"""How the tables of the schema are written down: fields, scalar types, enumerations."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

SCALARS: Final[dict[str, str]] = {
    "bool": "?",
    "int8": "b",
    "uint8": "B",
    "int16": "h",
    "uint16": "H",
    "int32": "i",
    "uint32": "I",
    "int64": "q",
    "uint64": "Q",
    "float32": "f",
}
"""Scalar types and their letter in `struct`; all little-endian."""

ENUMS: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    name: (width, tuple(members.split()))
    for name, (width, members) in {
        "TensorType": (
            "int8",
            "FLOAT32 FLOAT16 INT32 UINT8 INT64 STRING BOOL INT16 COMPLEX64 INT8 FLOAT64 "
            "COMPLEX128 UINT64 RESOURCE VARIANT UINT32 UINT16 INT4 BFLOAT16 INT2 UINT4 "
            "FLOAT8_E4M3FN FLOAT8_E5M2",
        ),
        "Activation": ("int8", "NONE RELU RELU_N1_TO_1 RELU6 TANH SIGN_BIT"),
        "Padding": ("int8", "SAME VALID"),
        "MirrorPadMode": ("int8", "REFLECT SYMMETRIC"),
        "WeightsFormat": ("int8", "DEFAULT SHUFFLED4x16INT8"),
        "LSHProjectionType": ("int8", "UNKNOWN SPARSE DENSE"),
        "CombinerType": ("int8", "SUM MEAN SQRTN"),
        "LSTMKernelType": ("int8", "FULL BASIC"),
        "ReduceWindowFunction": ("int32", "UNSUPPORTED ADD MUL MINIMUM MAXIMUM ALL ANY"),
        "RngAlgorithm": ("int8", "DEFAULT PHILOX THREEFRY"),
        "CustomOptionsFormat": ("int8", "FLEXBUFFERS"),
        "ComparisonDirection": ("uint32", "EQ NE GE GT LE LT"),
        "ComparisonType": ("uint32", "NOTYPE FLOAT FLOAT_TOTAL_ORDER SIGNED UNSIGNED"),
        "QuantizationDetails": (
            "uint8",
            "NONE CustomQuantization BlockwiseQuantization MultiAxisQuantization",
        ),
    }.items()
}
"""Enumerations: scalar type that stores them, and members in the order of their values."""

Kind = Literal["scalar", "enum", "string", "vector", "table", "tables", "union"]


@dataclass(frozen=True)
class Field:
    """One field of a table.

    Attributes:
        slot: position in the vtable.
        kind: scalar, enumeration, string, vector of scalars, table, vector of tables, or a union,
            whose table is told by the field before it.
        type: scalar type, enumeration, element type or table name; empty for strings and unions.
        default: value of an absent scalar or enumeration (as its number).
    """

    name: str
    slot: int
    kind: Kind
    type: str
    default: int | float = 0

    @property
    def scalar(self) -> str:
        """Scalar type that stores a scalar, an enumeration or a vector's element."""
        return ENUMS[self.type][0] if self.kind == "enum" else self.type


def tables(texts: Mapping[str, str]) -> dict[str, tuple[Field, ...]]:
    """Read table definitions.

    Args:
        texts: by table name, ``name:type`` or ``name:type=default`` for each slot in order;
            ``-`` is a slot whose field was withdrawn, ``[type]`` a vector, ``union`` a union.
    """
    return {name: tuple(_fields(text)) for name, text in texts.items()}


def _fields(text: str) -> list[Field]:
    found = []
    for slot, entry in enumerate(text.split()):
        if entry == "-":
            continue
        match = re.fullmatch(r"(\w+):(\[?)(\w+)\]?(?:=(-?[\d.]+))?", entry)
        if match is None:
            raise ValueError(f"not a field: {entry!r}")
        name, vector, kind, default = match.groups()
        number = 0 if default is None else int(default)
        if vector:
            field = Field(name, slot, "vector" if kind in SCALARS else "tables", kind)
        elif kind in SCALARS:
            field = Field(name, slot, "scalar", kind, number)
        elif kind in ENUMS:
            field = Field(name, slot, "enum", kind, number)
        elif kind in ("string", "union"):
            field = Field(name, slot, "string" if kind == "string" else "union", "")
        else:
            field = Field(name, slot, "table", kind)
        found.append(field)
    return found
