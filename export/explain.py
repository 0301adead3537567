"""The catalogues behind ``edgec explain``: one entry per code.

Error codes are kept in ``codes/*.toml``, the rules of ``edgec check`` in ``lint/rules.toml``.
"""

from __future__ import annotations

import tomllib
from dataclasses import asdict, dataclass
from functools import cache
from importlib import resources
from typing import Any

from edgec.export.errors import UsageError


@dataclass(frozen=True)
class Entry:
    """What a code means and what to do about it."""

    code: str
    title: str
    cause: str
    example: str
    fix: str

    def to_json(self) -> dict[str, Any]:
        """All fields, JSON-ready."""
        return asdict(self)


@cache
def catalogue() -> dict[str, Entry]:
    """All error codes, sorted."""
    entries = {}
    for file in resources.files("edgec.export").joinpath("codes").iterdir():
        if file.name.endswith(".toml"):
            for code, fields in tomllib.loads(file.read_text("utf-8")).items():
                if code in entries:
                    raise ValueError(f"{code} is explained twice, again in {file.name}")
                entries[code] = Entry(code=code, **fields)
    return dict(sorted(entries.items()))


@cache
def rule_catalogue() -> dict[str, Entry]:
    """All rules of ``edgec check`` by code, in the order of the file."""
    file = resources.files("edgec.export").joinpath("lint", "rules.toml")
    data = tomllib.loads(file.read_text("utf-8"))
    return {code: Entry(code=code, **fields) for code, fields in data.items()}


def explain(code: str) -> Entry:
    """The entry of an error code or a rule (any letter case).

    Raises:
        UsageError: no such code.
    """
    entry = catalogue().get(code.upper()) or rule_catalogue().get(code.upper())
    if entry is None:
        raise UsageError(
            "EC202", f"unknown code {code!r}", fix="`edgec explain` without a code lists them all"
        )
    return entry
