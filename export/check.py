"""``edgec check``: which graphs a MODEL argument stands for, each checked against a target."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir

from edgec.export.bundle import Bundle
from edgec.export.capture.onnx_checks import check_proto, read_proto
from edgec.export.lint.engine import LintReport, check_codes, lint
from edgec.export.options import resolve
from edgec.export.progress import Reporter
from edgec.export.rewrite.engine import run_stages
from edgec.export.rewrite.legalise.flatten_tokens import wants_matrices
from edgec.export.rewrite.legalise.lacking import operators_lacking
from edgec.export.source import capture, describe
from edgec.targets.operators.table import view_rank
from edgec.targets.registry import get_target
from edgec.targets.schema import Target


def check(
    model: str,
    target: str,
    *,
    select: Sequence[str] = (),
    ignore: Sequence[str] = (),
    options: dict[str, Any] | None = None,
    reporter: Reporter | None = None,
) -> dict[str, LintReport]:
    """Check a file, a bundle or a network against a target.

    Args:
        model: an .onnx file, checked as it is; a bundle, all its ONNX artifacts; or anything else
            that `edgec export` takes, captured and rewritten for the target first.
        target: name, alias or path.
        select: codes or their beginnings; all rules without it.
        ignore: rules to leave out.
        options: of the export (``input_size``, ``shapes``, ``features``), for networks to capture.
        reporter: progress.

    Returns:
        Reports by file (as given, or inside the bundle) or name of the network.

    Raises:
        EdgecError: what reading or capturing the network raises; findings raise nothing.
    """
    found = get_target(target)
    check_codes("select", select)
    check_codes("ignore", ignore)
    reporter = reporter or Reporter(quiet=True)
    return {
        name: lint(graph, found, select=select, ignore=ignore)
        for name, graph in _graphs(model, found, options or {}, reporter)
    }


def _graphs(
    model: str, target: Target, options: dict[str, Any], reporter: Reporter
) -> Iterator[tuple[str, ir.Model]]:
    path = Path(model)
    if path.is_dir():
        bundle = Bundle.open(path)
        for artifact in bundle.manifest.artifacts:
            if artifact.format == "onnx" and artifact.status == "built":
                yield artifact.path, read_graph(bundle.file(artifact))
    elif describe(model)[0] == "onnx":
        yield model, read_graph(path)
    else:
        yield float_graph(model, target, options, reporter)


def read_graph(path: Path) -> ir.Model:
    """The graph of an ONNX file as it is, after ONNX's checker has accepted it.

    Raises:
        InputError: not readable, not ONNX, or broken.
    """
    proto = read_proto(path)
    check_proto(proto, path)
    return ir.from_proto(proto)


def float_graph(
    model: str, target: Target, options: Mapping[str, Any], reporter: Reporter
) -> tuple[str, ir.Model]:
    """Name and rewritten float graph of a network, for what does not depend on its weights.

    Raises:
        EdgecError: what capturing or rewriting raises.
    """
    if describe(model)[0] in ("zoo", "timm"):
        # operators and types do not depend on the values of the weights
        options = {**options, "weights": "random"}
    resolved = resolve(dict(options), target).options
    reporter.stages = 2
    with reporter.stage("capture"):
        captured = capture(model, resolved, needs_accuracy=False, reporter=reporter)
    graph = ir.from_proto(ir.to_proto(captured.graph))
    with reporter.stage("rewrite") as tick:
        run_stages(
            graph,
            target_opset=target.runtime.opset,
            lacking=operators_lacking(target.runtime),
            max_rank=view_rank(target.runtime.name, target.runtime.version),
            matrices=wants_matrices(target.runtime),
            skip=resolved.skip_passes,
            on_progress=lambda name, done, total: tick(done, total),
        )
    return captured.name, graph
