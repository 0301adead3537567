"""Runs the rules on a graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
from onnx_ir.passes import common

from edgec.export.errors import UnsupportedError, UsageError
from edgec.export.lint.base import SEVERITIES, Context, Finding, Severity, finding
from edgec.export.lint.rules import RULES
from edgec.export.rewrite.inference import infer_shapes
from edgec.targets.operators.table import OperatorTable, select_table, table_runtimes
from edgec.targets.schema import Target


@dataclass(frozen=True)
class LintReport:
    """Findings of one graph.

    Attributes:
        findings: by rule, then in graph order.
        note: how the operator table relates to the runtime's version; empty where it fits exactly.
    """

    findings: tuple[Finding, ...]
    note: str

    def of(self, severity: Severity) -> tuple[Finding, ...]:
        """Findings of one severity."""
        return tuple(f for f in self.findings if f.severity == severity)

    def counts(self) -> dict[str, int]:
        """``{"errors": …, "warnings": …}``."""
        found = Counter(f.severity for f in self.findings)
        return {"errors": found["error"], "warnings": found["warning"]}

    def to_json(self) -> dict[str, Any]:
        """JSON-ready dict."""
        return {
            "table_note": self.note,
            **self.counts(),
            "findings": [f.to_json() for f in self.findings],
        }


def lint(
    model: ir.Model, target: Target, *, select: Sequence[str] = (), ignore: Sequence[str] = ()
) -> LintReport:
    """Check a graph against what the target's runtime executes.

    Args:
        model: any ONNX graph, float or with Q/DQ; not modified.
        target: the device.
        select: codes, or beginnings of codes such as ``"E"`` or ``"W2"``; all rules without it.
        ignore: the same, rules to leave out; wins over `select`.

    Raises:
        UsageError: EC206, an entry of `select` or `ignore` that no code begins with.
        UnsupportedError: EC388, there is no operator table for the target's runtime.
    """
    check_codes("select", select)
    check_codes("ignore", ignore)
    runtime = target.runtime
    try:
        selected = select_table(runtime.name, runtime.version)
    except KeyError as error:
        raise UnsupportedError(
            "EC388",
            f"there is no operator table for {runtime.name}",
            where=f"target {target.name}",
            fix=f"runtimes with tables: {', '.join(table_runtimes())}",
        ) from error
    findings = run_rules(model, target, selected.table, select=select, ignore=ignore)
    return LintReport(findings, selected.note)


def run_rules(
    model: ir.Model,
    target: Target,
    table: OperatorTable,
    *,
    select: Sequence[str] = (),
    ignore: Sequence[str] = (),
) -> tuple[Finding, ...]:
    """Findings by an operator table of one's own; arguments as for `lint`."""
    copy = model.clone()
    common.InlinePass()(copy)
    for node in copy.graph.all_nodes():
        # findings need names that the user can look up in the file
        node.name = node.name or next((v.name for v in node.outputs if v.name), None)
    infer_shapes(copy)
    context = Context(copy, target, table)
    return tuple(
        finding(rule.code, hit)
        for rule in RULES
        if target.runtime.name in rule.runtimes
        and (not select or rule.code.startswith(tuple(select)))
        and not (ignore and rule.code.startswith(tuple(ignore)))
        for hit in rule.check(context)
    )


def check_codes(option: str, codes: Sequence[str]) -> None:
    """Refuse codes that mean nothing.

    Raises:
        UsageError: EC206.
    """
    for code in codes:
        if not code or not any(rule.code.startswith(code) for rule in RULES):
            raise UsageError(
                "EC206",
                f"bad value {code!r} for {option}",
                why="no rule's code begins like that",
                fix=f"codes begin with {', '.join(SEVERITIES)}; `edgec explain` lists them",
            )


def refuse_errors(report: LintReport, path: str, target: Target) -> None:
    """Stop if the graph breaks a rule that the runtime would refuse.

    Args:
        report: of the graph.
        path: the artifact, for the message.
        target: the device.

    Raises:
        UnsupportedError: EC387, naming the first findings.
    """
    errors = report.of("error")
    if not errors:
        return
    shown = "; ".join(f"{f.code} {f.where}: {f.message}" for f in errors[:3])
    more = f"; and {len(errors) - 3} more" if len(errors) > 3 else ""
    raise UnsupportedError(
        "EC387",
        f"{target.name} would refuse the graph: {len(errors)} error{'s' * (len(errors) > 1)}",
        where=path,
        why=shown + more,
        fix=errors[0].fix,
    )
