"""Findings as text and as SARIF 2.1.0 (OASIS standard), which code hosts and editors show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import edgec
from edgec.export.explain import rule_catalogue
from edgec.export.lint.base import SEVERITIES, Finding
from edgec.export.lint.engine import LintReport

_LEVELS = {"error": "error", "warning": "warning", "hint": "note"}
_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


def text(reports: Mapping[str, LintReport]) -> str:
    """Lines for people: one finding per two lines, then a count.

    Args:
        reports: by file or network checked.
    """
    lines = [f"note: {note}" for note in dict.fromkeys(r.note for r in reports.values()) if note]
    for name, report in reports.items():
        for found in report.findings:
            lines.append(f"{name}: {found.code} {found.severity}: {found.message}")
            lines.append(f"  where: {found.where}")
            lines.append(f"  fix: {found.fix}")
    counts = {s: sum(len(r.of(s)) for r in reports.values()) for s in SEVERITIES.values()}
    total = ", ".join(f"{n} {s}{'' if n == 1 else 's'}" for s, n in counts.items())
    files = f"{len(reports)} graph{'' if len(reports) == 1 else 's'}"
    return "\n".join([*lines, f"{files} checked: {total}", ""])


def sarif(reports: Mapping[str, LintReport]) -> dict[str, Any]:
    """One SARIF log; node and module are logical locations of the artifact."""
    catalogue = rule_catalogue()
    used = sorted({f.code for report in reports.values() for f in report.findings})
    rules = [
        {
            "id": code,
            "shortDescription": {"text": catalogue[code].title},
            "fullDescription": {"text": catalogue[code].cause},
            "help": {"text": catalogue[code].fix},
            "defaultConfiguration": {"level": _LEVELS[SEVERITIES[code[0]]]},
        }
        for code in used
    ]
    results = [
        _result(name, found, used.index(found.code))
        for name, report in reports.items()
        for found in report.findings
    ]
    driver = {"name": "edgec", "version": edgec.__version__, "rules": rules}
    return {
        "$schema": _SCHEMA,
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "results": results}],
    }


def _result(name: str, found: Finding, index: int) -> dict[str, Any]:
    location: dict[str, Any] = {"physicalLocation": {"artifactLocation": {"uri": name}}}
    logical = []
    if found.node:
        logical.append({"name": found.node, "kind": "element"})
    if found.module:
        logical.append({"fullyQualifiedName": found.module, "kind": "module"})
    if logical:
        location["logicalLocations"] = logical
    return {
        "ruleId": found.code,
        "ruleIndex": index,
        "level": _LEVELS[found.severity],
        "message": {"text": f"{found.message}. Fix: {found.fix}"},
        "locations": [location],
    }
