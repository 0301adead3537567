"""Programs as JSON, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, TypeVar

from edgec.export.errors import InputError
from edgec.profiles.memory.program import Affine, Buffer, Loop, Overlap, Program, Step
from edgec.profiles.memory.validate import validate

SCHEMA = "edgec.program/1"

Part = TypeVar("Part", Affine, Buffer, Overlap, Step, Loop)


def to_json(program: Program) -> dict[str, Any]:
    """A JSON-ready dict; fields at their defaults are left out."""
    return {
        "schema": SCHEMA,
        "name": program.name,
        "buffers": [_plain(b) for b in program.buffers],
        "body": [_plain(entry) for entry in program.body],
    }


def from_json(data: Any) -> Program:
    """The program of a parsed JSON document, validated.

    Raises:
        InputError: not such a document, or a program that makes no sense.
    """
    try:
        if data["schema"] != SCHEMA:
            raise ValueError(f"schema {data['schema']!r}, not {SCHEMA!r}")
        program = Program(
            str(data["name"]),
            tuple(_build(Buffer, entry) for entry in data["buffers"]),
            tuple(
                _build(Loop, entry) if "body" in entry else _build(Step, entry)
                for entry in data["body"]
            ),
        )
        validate(program)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            "EC752",
            "not a program",
            why=f"{type(error).__name__}: {error}",
            fix="only documents that edgec wrote can be read",
        ) from error
    return program


def _plain(part: Any) -> Any:
    if isinstance(part, Mapping):
        return {str(k): _plain(v) for k, v in part.items()}
    if isinstance(part, tuple):
        return [_plain(v) for v in part]
    if not isinstance(part, Affine | Buffer | Overlap | Step | Loop):
        return part
    found = {}
    for f in fields(part):
        value = getattr(part, f.name)
        default = {} if f.name == "parameters" else f.default
        if default is MISSING or value != default:
            found[f.name] = _plain(value)
    return found


def _build(kind: type[Part], data: Any) -> Part:
    values = dict(data)
    unknown = set(values) - {f.name for f in fields(kind)}
    if unknown:
        raise ValueError(f"unknown field {sorted(unknown)[0]!r} of a {kind.__name__.lower()}")
    for name in ("inputs", "outputs", "scratch"):
        if name in values:
            values[name] = tuple(str(id) for id in values[name])
    for name in ("size", "alignment", "start", "ring", "count", "distance"):
        if name in values and (not isinstance(values[name], int) or values[name] is True):
            raise ValueError(f"{name} = {values[name]!r}")
    if "parameters" in values:
        values["parameters"] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in values["parameters"].items()
        }
    if values.get("rows") is not None:
        first, end = values["rows"]
        values["rows"] = (_build(Affine, first), _build(Affine, end))
    if "overlaps" in values:
        values["overlaps"] = tuple(_build(Overlap, o) for o in values["overlaps"])
    if "body" in values:
        values["body"] = tuple(_build(Step, s) for s in values["body"])
    return kind(**values)
