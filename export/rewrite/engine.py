"""Runs the stages, checks every pass numerically and reports what each one did."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from edgec.export.errors import InternalError, UnsupportedError, UsageError
from edgec.export.rewrite import numerics
from edgec.export.rewrite.base import Options, RewritePass
from edgec.export.rewrite.graph import shape_of
from edgec.export.rewrite.inference import infer_shapes
from edgec.export.rewrite.legalise.opset import MASTER
from edgec.export.rewrite.snapshot import Snapshot, hold_weights, weights_apart
from edgec.export.rewrite.stages import STAGES, all_passes

OnProgress = Callable[[str, int, int], None]
"""Called with (pass name, index, number of passes in one round of all stages)."""

_NUDGES = 4
"""Random nudges of the inputs from which rounding noise is estimated."""
_SEEDS = (11, 12)


@dataclass(frozen=True)
class PassInfo:
    """One line of `edgec export --list-passes`."""

    name: str
    stage: str
    change: str


@dataclass
class PassRecord:
    """What one run of one pass did.

    Attributes:
        name: pass name.
        stage: stage name.
        matches: number of places it changed.
        nodes_before: nodes of the graph, subgraphs included, before the pass.
        nodes_after: the same after it.
        seconds: time of the pass itself.
        check_seconds: time of the numerical check.
        max_abs_diff: largest difference from the graph as captured (None: not checked).
        note: what else the pass reports, e.g. MACs before and after.
    """

    name: str
    stage: str
    matches: int
    nodes_before: int
    nodes_after: int
    seconds: float
    check_seconds: float = 0.0
    max_abs_diff: float | None = None
    note: str = ""


@dataclass
class RewriteReport:
    """What the stage did; `to_json` is ready for a manifest.

    Attributes:
        passes: one record per pass that changed something, in order.
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
    on_progress: OnProgress | None = None,
) -> RewriteReport:
    """Rewrite `model` in place.

    Args:
        model: captured graph, static shapes, opset 20.
        target_opset: opset of the result, 13 to 21.
        verify: execute the graph after every pass that changed it and compare with the captured
            graph on seeded inputs; tolerances in `numerics.RELATIVE_TOLERANCE`.
        skip: names of passes to leave out.
        dump_dir: folder that gets ``NN_pass.onnx`` after every pass that changed the graph.
        max_rank: see `Options`.
        lacking: see `Options`.
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
    if version not in (MASTER, None):
        raise UsageError(
            "EC244",
            f"the stage rewrites graphs at opset {MASTER}, not {version}",
            fix="Read the model with edgec.export.capture.from_onnx.",
        )
    options = Options(target_opset, max_rank, frozenset(lacking))
    report = RewriteReport(target_opset=target_opset, nodes_before=count_nodes(model))
    hold_weights(model)
    checker = _Checker(model, report) if verify else None
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
                record = _run_pass(pass_class(), stage.name, model, options)
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
    _check_model(model)
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


class _Checker:
    """Compares the graph after each pass with the captured one."""

    def __init__(self, model: ir.Model, report: RewriteReport) -> None:
        self.report = report
        self.names = [v.name or "" for v in model.graph.outputs]
        self.before = Snapshot.of(model)
        self.seeds: Sequence[int] = ()
        self.feeds: list[Mapping[str, numerics.Array]] = []
        self.active = numerics.is_deterministic(model)
        self.quantized = numerics.is_quantized(model)
        if not self.active:
            report.not_verified_because = "the graph draws random numbers"
            return
        self.seeds = _SEEDS[:1] if numerics.is_heavy(model) else _SEEDS
        self.feeds = [numerics.seeded_inputs(model, seed) for seed in self.seeds]
        try:
            self.reference = self.before.run(self.feeds)
        except Exception as error:
            custom = sorted({n.domain for n in model.graph.all_nodes() if n.domain})
            raise UnsupportedError(
                "EC343",
                "ONNX Runtime cannot execute the graph, so no rewrite can be checked",
                where=f"operators of {', '.join(custom)}" if custom else None,
                why=str(error).splitlines()[0][:300],
                fix="Remove the operators ONNX Runtime lacks, or switch the check off.",
            ) from error
        report.verified = True

    def check(self, model: ir.Model, record: PassRecord) -> None:
        if not self.active:
            return
        started = time.perf_counter()
        after = Snapshot.of(model)
        names = self.names * len(self.feeds)
        try:
            actual = after.run(self.feeds)
        except Exception as error:
            raise InternalError(
                "EC142",
                f"rewrite pass {record.name} made a graph that does not run",
                where=self._dump(record, after),
                why=str(error).splitlines()[0][:300],
                fix=f"Leave the pass out (--skip-pass {record.name}) and report this folder.",
            ) from error
        mismatch = numerics.compare(names, self.reference, actual, quantized=self.quantized)
        if mismatch is not None:
            mismatch = self._beyond_rounding(names, actual)
        if mismatch is not None:
            raise InternalError(
                "EC141",
                f"rewrite pass {record.name} changed the numbers",
                where=self._dump(record, after),
                why=f"output {mismatch.output}: {mismatch.reason}, allowed {mismatch.allowed:.3g}",
                fix=f"Leave the pass out (--skip-pass {record.name}) and report this folder.",
            )
        record.max_abs_diff = _max_abs_diff(self.reference, actual)
        record.check_seconds = time.perf_counter() - started
        self.before = after

    def _beyond_rounding(
        self, names: list[str], actual: list[numerics.Array]
    ) -> numerics.Mismatch | None:
        """What the last pass did that rounding does not explain.

        A badly conditioned network (random weights, many layers) amplifies rounding; that tells
        about the network and nothing about the pass. So the pass is compared with the graph right
        before it, by how far that graph's outputs move when ONNX Runtime computes in another order
        or the input moves by its last bit. One input may hide it: the largest of all counts for
        each, without the inputs on which the network is chaotic (unless it is on all). From the
        first graph on, all passes together may not differ by more than `numerics.MOST_NOISE`
        tolerances.
        """
        before = self.before.run(self.feeds)
        others = [self.before.run(self.feeds, optimize=True)]
        for seed in range(_NUDGES):
            others.append(self.before.run([numerics.nudged(feed, seed) for feed in self.feeds]))
        moved = [
            max(_max_abs_diff([want], [other[i]]) for other in others)
            for i, want in enumerate(before)
        ]
        outputs = len(moved) // len(self.feeds)
        runs = [slice(i, i + outputs) for i in range(0, len(moved), outputs)]
        telling = [
            run
            for run in runs
            if not numerics.is_chaotic(before[run], moved[run], quantized=self.quantized)
        ] or runs
        noise = [max(moved[run][i] for run in telling) for i in range(outputs)]
        for run in telling:
            mismatch = numerics.compare(
                names[run], before[run], actual[run], quantized=self.quantized, noise=noise
            ) or numerics.compare(
                names[run],
                self.reference[run],
                actual[run],
                quantized=self.quantized,
                noise=[math.inf] * outputs,
            )
            if mismatch is not None:
                return mismatch
        return None

    def _dump(self, record: PassRecord, after: Snapshot) -> str:
        folder = Path(tempfile.mkdtemp(prefix=f"edgec-{record.name}-"))
        (folder / "before.onnx").write_bytes(self.before.to_bytes())
        (folder / "after.onnx").write_bytes(after.to_bytes())
        for seed, feed in zip(self.seeds, self.feeds, strict=True):
            for name, array in feed.items():
                np.save(folder / f"input_{name}_seed{seed}.npy", array)
        return str(folder)


def _max_abs_diff(reference: list[numerics.Array], actual: list[numerics.Array]) -> float:
    worst = 0.0
    for a, b in zip(reference, actual, strict=True):
        if a.dtype.kind == "f" and a.size:
            difference = np.abs(a.astype(np.float64) - b.astype(np.float64))
            worst = max(worst, float(np.nan_to_num(difference, posinf=0.0).max()))
    return worst


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
