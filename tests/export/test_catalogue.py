"""Every error code is explained, every explanation is used, and classes match numbers."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

from edgec.export import errors
from edgec.export.errors import EdgecError, UsageError
from edgec.export.explain import catalogue, explain


@cache
def raised_codes(root: Path) -> dict[str, set[str]]:
    """Code → names of the error classes it is raised with, read from the sources."""
    found: dict[str, set[str]] = {}
    for folder in ("export", "models", "profiles", "runtime", "targets"):
        for file in (root / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text("utf-8"))):
                if isinstance(node, ast.Call) and node.args:
                    first = node.args[0]
                    if (
                        isinstance(first, ast.Constant)
                        and isinstance(first.value, str)
                        and len(first.value) == 5
                        and first.value.startswith("EC")
                    ):
                        name = getattr(node.func, "id", getattr(node.func, "attr", ""))
                        found.setdefault(first.value, set()).add(name)
    return found


def test_codes_and_catalogue_agree(root: Path) -> None:
    raised = raised_codes(root)
    assert set(raised) == set(catalogue())


def test_the_first_digit_is_the_exit_code(root: Path) -> None:
    for code, classes in raised_codes(root).items():
        for name in classes:
            kind = getattr(errors, name, None)
            if kind is None or not issubclass(kind, EdgecError):
                continue
            digit = 1 if kind.exit_code == 130 else kind.exit_code
            assert code[2] == str(digit), f"{code} is raised as {name}"


def test_every_entry_says_something() -> None:
    for entry in catalogue().values():
        for text in (entry.title, entry.cause, entry.example, entry.fix):
            assert len(text) > 8, entry.code


def test_explain_takes_any_letter_case_and_refuses_unknown_codes() -> None:
    assert explain("ec201").code == "EC201"
    with pytest.raises(UsageError, match="unknown code"):
        explain("EC000")
