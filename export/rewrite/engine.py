"""Runs the stages, checks every pass numerically and reports what each one did."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from edgec.export.errors import InternalError, UsageError
from edgec.export.rewrite import numerics
from edgec.export.rewrite.base import Options, RewritePass
from edgec.export.rewrite.check import Checker, PassRecord
from edgec.export.rewrite.graph import shape_of
from edgec.export.rewrite.inference import infer_shapes
from edgec.export.rewrite.legalise.opset import MASTER, WIDE_MASTER
from edgec.export.rewrite.snapshot import hold_weights, weights_apart
from edgec.export.rewrite.stages import STAGES, all_passes

OnProgress = Callable[[str, int, int], None]
"""Called with (pass name, index, number of passes in one round of all stages)."""


@dataclass(frozen=True)
class PassInfo:
    """One line of `edgec export --list-passes`."""

    name: str
    stage: str
    change: str


@dataclass
class RewriteReport:
    """What the stage did; `to_json` is ready for a manifest.

    Attributes:
        passes: one record per pass that changed something, in order.
        refusals: pass name → (node, why not) of places that look like its pattern and were left
            alone, as of its last run; nodes have the names they had then.
        nodes_before: nodes of the captured graph.
        nodes_after: nodes of the result.
        seconds: whole stage.
        target_opset: opset of the result.
        verified: whether the numbers were compared.
        not_verified_because: the reason if they were not.
    """

    target_opset: int
    nodes_before: int
    nodes_after: int = 0
    seconds: float = 0.0
    verified: bool = False
    not_verified_because: str | None = None
    passes: list[PassRecord] = field(default_factory=list)
    refusals: dict[str, list[tuple[str, str]]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """JSON-ready dict."""
        return asdict(self)


def list_passes() -> list[PassInfo]:
    """All passes with a one-line "before → after", in the order of their first run."""
    return [PassInfo(p.name, stage, p.change) for stage, p in all_passes()]


def run_stages(
    model: ir.Model,
    *,
    target_opset: int,
    verify: bool = True,
    skip: Collection[str] = (),
    dump_dir: Path | None = None,
    max_rank: int = 5,
    lacking: Collection[str] = (),
    matrices: bool = False,
    on_progress: OnProgress | None = None,
) -> RewriteReport:
    """Rewrite `model` in place.

    Args:
        model: captured graph, static shapes, opset 20, or 21 if it has 16-bit quantizers.
        target_opset: opset of the result, 13 to 21; with 16-bit quantizers 21 in any case.
        verify: execute the graph after every pass that changed it and compare with the captured
            graph on seeded inputs (see `Checker`).
        skip: names of passes to leave out.
        dump_dir: folder that gets ``NN_pass.onnx`` after every pass that changed the graph.
        max_rank: see `Options`.
        lacking: see `Options`.
        matrices: see `Options`.
        on_progress: see `OnProgress`.

    Returns:
        The report.

    Raises:
        UsageError: unknown pass name or opset.
        UnsupportedError: the graph cannot be executed for the check, or an operator cannot be
            expressed at the target opset.
        InternalError: a pass changed the numbers or made an invalid graph; names the pass and the
            folder with the graphs before and after it and the inputs.
    """
    started = time.perf_counter()
    _check_options(target_opset, skip)
    version = model.opset_imports.get("")
    if version not in (MASTER, WIDE_MASTER, None):
        raise UsageError(
            "EC244",
            f"the stage rewrites graphs at opset {MASTER} or {WIDE_MASTER}, not {version}",
            fix="Read the model with edgec.export.capture.from_onnx.",
        )
    if version == WIDE_MASTER:
        target_opset = max(target_opset, WIDE_MASTER)
    options = Options(target_opset, max_rank, frozenset(lacking), matrices)
    report = RewriteReport(target_opset=target_opset, nodes_before=count_nodes(model))
    hold_weights(model)
    checker = Checker(model) if verify else None
    if checker is not None:
        report.verified = checker.active
        report.not_verified_because = checker.inactive_because
    total = sum(len(stage.passes) for stage in STAGES)
    index = dumped = 0
    if dump_dir is not None:
        dump_dir.mkdir(parents=True, exist_ok=True)
    for stage in STAGES:
        for round_number in range(stage.repeat):
            modified = False
            for position, pass_class in enumerate(stage.passes):
                if on_progress is not None and round_number == 0:
                    on_progress(pass_class.name, index + position, total)
                if pass_class.name in skip:
                    continue
                rewrite = pass_class()
                try:
                    record = _run_pass(rewrite, stage.name, model, options)
                except Exception:
                    if checker is not None:
                        checker.settle()  # it may have stumbled over what an earlier pass did
                    raise
                report.refusals[rewrite.name] = rewrite.refusals
                if not record.matches:
                    continue
                modified = True
                report.passes.append(record)
                if checker is not None and not pass_class.annotates:
                    checker.check(model, record)
                if dump_dir is not None:
                    dumped += 1
                    path = dump_dir / f"{dumped:02d}_{record.name}.onnx"
                    path.write_bytes(numerics.serialize(model))
            if not modified:
                break
        index += len(stage.passes)
    if checker is not None:
        checker.settle()
    _check_model(model)
    report.refusals = {name: found for name, found in report.refusals.items() if found}
    report.nodes_after = count_nodes(model)
    report.seconds = time.perf_counter() - started
    return report


def count_nodes(model: ir.Model) -> int:
    """Nodes of the graph and its subgraphs, without Constant."""
    return sum(node.op_type != "Constant" for node in model.graph.all_nodes())


def _check_options(target_opset: int, skip: Collection[str]) -> None:
    names = [p.name for p in list_passes()]
    unknown = sorted(set(skip) - set(names))
    if unknown:
        raise UsageError(
            "EC240",
            f"no rewrite pass is called {', '.join(unknown)}",
            why=f"there are: {', '.join(names)}",
            fix="List them with --list-passes.",
        )
    if not 13 <= target_opset <= 21:
        raise UsageError(
            "EC244",
            f"opset {target_opset} is no possible target",
            fix="Choose one from 13 to 21.",
        )


def _run_pass(rewrite: RewritePass, stage: str, model: ir.Model, options: Options) -> PassRecord:
    before = count_nodes(model)
    started = time.perf_counter()
    rewrite.configure(options)
    rewrite(model)
    if rewrite.matches:
        common.NameFixPass()(model)
        if any(_untyped(node) for node in model.graph.all_nodes()):
            infer_shapes(model)
    seconds = time.perf_counter() - started
    return PassRecord(
        rewrite.name,
        stage,
        rewrite.matches,
        before,
        count_nodes(model) if rewrite.matches else before,
        seconds,
        note=rewrite.note,
    )


def _untyped(node: ir.Node) -> bool:
    return any(v.dtype is None or shape_of(v) is None for v in node.outputs if v.name)


def _check_model(model: ir.Model) -> None:
    """The result must be a valid ONNX model at its opset."""
    with weights_apart(model) as weights:
        proto = ir.to_proto(model)
    _declare_as_inputs(proto.graph, weights)
    try:
        onnx.checker.check_model(proto)
    except onnx.checker.ValidationError as error:
        raise InternalError(
            "EC142",
            "the rewritten graph is not valid ONNX",
            why=str(error).splitlines()[0][:300],
            fix="Please report this with the model.",
        ) from error


def _declare_as_inputs(graph: onnx.GraphProto, names: Collection[str]) -> None:
    """Typed inputs instead of these initializers: the checker would copy their data to look at."""
    kept = []
    for tensor in graph.initializer:
        if tensor.name in names:
            graph.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            )
        else:
            kept.append(tensor)
    del graph.initializer[:]
    graph.initializer.extend(kept)
