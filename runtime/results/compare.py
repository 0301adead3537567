"""Two results side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgec.export.errors import InputError, UsageError
from edgec.runtime.results.figures import summarize
from edgec.runtime.results.store import Store, stored_path

REPORT = "report.json"


def find_record(text: str, store: str | None) -> dict[str, Any]:
    """The record that a user names: a bundle's folder, a JSON file, or a number in the store.

    Raises:
        InputError: EC710 no record there, EC712 nothing stored.
        UsageError: EC234 no such number.
    """
    path = Path(text)
    if text.isdecimal() and not path.exists():
        with Store.open(stored_path(store), create=False) as opened:
            return opened.record(int(text))
    file = path / REPORT if path.is_dir() else path
    try:
        found = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            "EC710",
            "no record of a measurement or an export can be read",
            where=str(file),
            why=str(error),
            fix="give a bundle, the file that edgec bench --save wrote, or a number of "
            "edgec bench --list",
        ) from error
    if isinstance(found, dict) and found.get("schema") == "edgec.export/1":
        found = found.get("report")  # what edgec export --json printed
    if not isinstance(found, dict):
        found = {"schema": None}
    summarize(found)
    return found


def compare_records(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, Any]:
    """What differs between two records of one kind.

    Returns:
        JSON-ready: ``a`` and ``b`` (kind, model, target, device), ``figures`` (artifact, name, a,
        b, ratio b / a; None for what only one of them has) and ``operators`` (type, a, b) where
        their numbers differ.

    Raises:
        UsageError: EC235, they are of different kinds.
    """
    left, right = summarize(a), summarize(b)
    if left.kind != right.kind:
        raise UsageError(
            "EC235",
            f"a record of kind {left.kind} cannot be compared with one of kind {right.kind}",
            fix="compare two measurements, two simulated runs or two bundles",
        )
    ours = {(f.artifact, f.name): f.value for f in left.figures}
    theirs = {(f.artifact, f.name): f.value for f in right.figures}
    figures = [
        {
            "artifact": key[0],
            "name": key[1],
            "a": ours.get(key),
            "b": theirs.get(key),
            "ratio": _ratio(ours.get(key), theirs.get(key)),
        }
        for key in dict.fromkeys((*ours, *theirs))
    ]
    return {
        "a": _head(left),
        "b": _head(right),
        "figures": figures,
        "operators": _operators(a, b),
    }


def _head(summary: Any) -> dict[str, str]:
    return {k: v for k, v in vars(summary).items() if k != "figures"}


def _ratio(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None or a == 0 else round(b / a, 4)


def _operators(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[dict[str, Any]]:
    ours, theirs = ((r.get("graph") or {}).get("operators") or {} for r in (a, b))
    return [
        {"operator": name, "a": ours.get(name, 0), "b": theirs.get(name, 0)}
        for name in sorted({*ours, *theirs})
        if ours.get(name, 0) != theirs.get(name, 0)
    ]
