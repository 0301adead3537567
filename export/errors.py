"""Errors that edgec raises on purpose.

::

    EdgecError                 what, where, why, fix; a code for `edgec explain`
    ├── InternalError          exit 1    a bug in edgec (e.g. a rewrite changed the numbers)
    ├── UsageError             exit 2    options that contradict each other or do not exist
    ├── UnsupportedError       exit 3    model or operator that the target or edgec cannot take
    ├── AccuracyGateError      exit 4    accuracy fell by more than --max-drop
    ├── BudgetError            exit 5    RAM, flash or latency budget exceeded
    ├── MissingToolError       exit 6    a program, package, device or server is not there
    ├── InputError             exit 7    a file or its content is broken
    └── InterruptedByUser      exit 130  Ctrl-C

A code is ``EC`` + first digit of the exit code's class + two digits; each one has an entry in
``export/codes/*.toml`` (title, cause, example, fix), which a test enforces in both directions.
"""

from __future__ import annotations

from typing import Any, ClassVar


class EdgecError(Exception):
    """Root of all errors raised on purpose.

    Args:
        code: catalogue code, e.g. ``"EC787"``.
        what: one sentence, what went wrong.
        where: file, node, option or layer it happened at.
        why: the reason, if it is known.
        fix: what the user can do next.
    """

    exit_code: ClassVar[int] = 1

    def __init__(
        self,
        code: str,
        what: str,
        *,
        where: str | None = None,
        why: str | None = None,
        fix: str | None = None,
    ) -> None:
        super().__init__(what)
        self.code = code
        self.what = what
        self.where = where
        self.why = why
        self.fix = fix

    def __str__(self) -> str:
        lines = [f"{self.code}: {self.what}"]
        lines += [
            f"  {label}: {text}"
            for label, text in (("where", self.where), ("why", self.why), ("fix", self.fix))
            if text
        ]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """The fields as a JSON-ready dict (what ``--json`` prints on failure)."""
        return {
            "code": self.code,
            "exit_code": self.exit_code,
            "what": self.what,
            "where": self.where,
            "why": self.why,
            "fix": self.fix,
        }


class InternalError(EdgecError):
    """A check inside edgec failed: a bug, with what is needed to reproduce it."""

    exit_code = 1


class UsageError(EdgecError):
    """Options or names that do not exist or contradict each other."""

    exit_code = 2


class UnsupportedError(EdgecError):
    """A valid model that edgec or the target cannot take."""

    exit_code = 3


class AccuracyGateError(EdgecError):
    """Accuracy or agreement fell by more than allowed."""

    exit_code = 4


class BudgetError(EdgecError):
    """A RAM, flash or latency budget is exceeded."""

    exit_code = 5


class MissingToolError(EdgecError):
    """A program, package, device, server or resource that is needed is not there."""

    exit_code = 6


class InputError(EdgecError):
    """A file, or what is in it, is broken or does not fit."""

    exit_code = 7


class InterruptedByUser(EdgecError):
    """Ctrl-C; nothing half-written is left."""

    exit_code = 130
