"""Reads flatbuffer tables from bytes of unknown origin.

The format is described in the FlatBuffers documentation, "FlatBuffers internals". Every offset,
vector length and vtable is checked against the file before it is followed. A small file can still
describe much, because several offsets may lead to one place; so what is built is counted and
bounded.
"""

from __future__ import annotations

import struct
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgec.export.errors import InputError
from edgec.export.tflite.fields import ENUMS, SCALARS, Field
from edgec.export.tflite.schema import IDENTIFIER, TABLES, default

MAX_TABLES: Final = 100_000
"""Tables in one file: a network has two or three for each tensor and operator."""

MAX_ITEMS: Final = 4_000_000
"""Characters and list entries in one file, together."""

MAX_COPIES: Final = 8
"""What is copied or unpacked from a file, in multiples of its size (2-bit weights take four)."""

Table = dict[str, Any]
"""Values by field name: numbers, names of enumeration members, strings, vectors as read-only views,
tables as dicts, and of unions the position of the table. None where a field that is no number is
absent."""

_WIDTH = {name: struct.calcsize(f"<{code}") for name, code in SCALARS.items()}


class Reader:
    """Checked access to one file.

    Args:
        data: the file.
        where: its name, for messages.
    """

    def __init__(self, data: bytes, where: str | None) -> None:
        self.data = data
        self.where = where
        self._tables = 0
        self._items = 0
        self._copied = 0

    def root(self, fields: tuple[Field, ...]) -> Table:
        """The root table.

        Raises:
            InputError: no TFLite file (EC700), or as `table`.
        """
        if len(self.data) < 8 or self.data[4:8] != IDENTIFIER:
            raise InputError(
                "EC700",
                "not a TFLite file",
                where=self.where,
                why=f"bytes 4 to 7 are not {IDENTIFIER.decode()!r}",
                fix="give a .tflite file of TensorFlow Lite or LiteRT",
            )
        return self.table(self._number(0, "uint32"), fields)

    def table(self, position: int, fields: tuple[Field, ...]) -> Table:
        """The table at a position.

        Raises:
            InputError: it, or what it refers to, leads out of the file (EC701), is too much (EC702)
                or is not known to the schema (EC703).
        """
        self._tables += 1
        if self._tables > MAX_TABLES:
            raise self._too_much(f"more than {MAX_TABLES:,} tables")
        vtable = position - self._number(position, "int32")
        size = self._number(vtable, "uint16")
        length = self._number(vtable + 2, "uint16")
        if size < 4 or length < 4:
            raise self._broken(f"the table at byte {position} has no layout")
        self._inside(vtable, size)
        self._inside(position, length)
        values = {}
        for field in fields:
            entry = 4 + 2 * field.slot
            offset = self._number(vtable + entry, "uint16") if entry + 2 <= size else 0
            if offset == 0:
                values[field.name] = default(field)
                continue
            width = _WIDTH[field.scalar] if field.kind in ("scalar", "enum") else 4
            if offset < 4 or offset + width > length:
                raise self._broken(f"{field.name} of the table at byte {position} is outside of it")
            values[field.name] = self._value(position + offset, field)
        return values

    def items(self, vector: NDArray[Any] | None, limit: int = MAX_ITEMS) -> list[Any]:
        """A vector's elements as a list; empty for an absent one.

        Raises:
            InputError: more than `limit` elements, or too many in the file (EC702).
        """
        if vector is None:
            return []
        if vector.size > limit:
            raise self._too_much(f"a list of {vector.size:,} entries")
        self._spend(vector.size)
        found: list[Any] = vector.tolist()
        return found

    def copy(self, vector: NDArray[np.uint8]) -> bytes:
        """A vector's bytes.

        Raises:
            InputError: too many in the file (EC702).
        """
        self.will_copy(vector.size)
        return vector.tobytes()

    def will_copy(self, size: int) -> None:
        """Account for `size` bytes of new memory.

        Raises:
            InputError: too many for the file (EC702).
        """
        self._copied += size
        if self._copied > MAX_COPIES * len(self.data) + (1 << 20):
            raise self._too_much("one content in many places")

    def span(self, start: int, size: int) -> NDArray[np.uint8]:
        """Bytes of the file.

        Raises:
            InputError: they are not all in it (EC701).
        """
        self._inside(start, size)
        return np.frombuffer(self.data, np.uint8, size, start)

    def _value(self, position: int, field: Field) -> Any:
        if field.kind in ("scalar", "enum"):
            number = self._number(position, field.scalar)
            if field.kind == "scalar":
                return number
            members = ENUMS[field.type][1]
            if not 0 <= number < len(members):
                raise InputError(
                    "EC703",
                    f"{field.name} has the value {number}",
                    where=self.where,
                    why=f"the known ones are 0 to {len(members) - 1}, {', '.join(members)}",
                    fix="the file is corrupt, or made for a newer runtime than edgec knows",
                )
            return members[number]
        target = position + self._number(position, "uint32")
        if field.kind == "union":
            return target
        if field.kind == "table":
            return self.table(target, TABLES[field.type])
        count = self._number(target, "uint32")
        if field.kind == "string":
            self._inside(target + 4, count)
            self._spend(count)
            return self.data[target + 4 : target + 4 + count].decode("utf-8", "replace")
        if field.kind == "vector":
            self._inside(target + 4, count * _WIDTH[field.type])
            code = np.dtype(f"<{SCALARS[field.type]}")
            return np.frombuffer(self.data, code, count, target + 4)
        self._inside(target + 4, 4 * count)
        inner = TABLES[field.type]
        starts = range(target + 4, target + 4 + 4 * count, 4)
        return [self.table(start + self._number(start, "uint32"), inner) for start in starts]

    def _number(self, position: int, kind: str) -> Any:
        self._inside(position, _WIDTH[kind])
        return struct.unpack_from(f"<{SCALARS[kind]}", self.data, position)[0]

    def _inside(self, start: int, size: int) -> None:
        if start < 0 or start + size > len(self.data):
            raise self._broken(f"it refers to {size} bytes at byte {start}")

    def _spend(self, count: int) -> None:
        self._items += count
        if self._items > MAX_ITEMS:
            raise self._too_much(f"names and lists of more than {MAX_ITEMS:,} entries")

    def _broken(self, why: str) -> InputError:
        return InputError(
            "EC701",
            "the TFLite file is corrupt",
            where=self.where,
            why=f"{why}; the file has {len(self.data)} bytes",
            fix="copy or download the file again",
        )

    def _too_much(self, why: str) -> InputError:
        return InputError(
            "EC702", "the TFLite file describes too much", where=self.where, why=f"it has {why}"
        )
