"""The numerical check of the rewrite stage: which pass changed what the graph computes."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from edgec.export.errors import InternalError, UnsupportedError
from edgec.export.rewrite import numerics
from edgec.export.rewrite.snapshot import Snapshot

_NUDGES = 4
"""Random nudges of the inputs from which rounding noise is estimated."""
_SEEDS = (11, 12)


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
        max_abs_diff: largest difference from the graph as captured; None where it was not checked,
            or together with a later pass.
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


class Checker:
    """Compares the graph after each pass with the captured one.

    A heavy network (`numerics.is_heavy`) costs seconds to run and is run once, after the last pass:
    if that graph computes what the captured one does, nothing is wrong with what led there. If it
    does not, the graphs after each pass are run in order, to name the pass.

    Attributes:
        active: whether anything can be compared.
        inactive_because: the reason if not.
    """

    def __init__(self, model: ir.Model) -> None:
        self.names = [v.name or "" for v in model.graph.outputs]
        self.before = Snapshot.of(model)
        self.seeds: Sequence[int] = ()
        self.feeds: list[Mapping[str, numerics.Array]] = []
        self.active = numerics.is_deterministic(model)
        self.inactive_because = None if self.active else "the graph draws random numbers"
        self.quantized = numerics.is_quantized(model)
        self.pending: list[tuple[PassRecord, Snapshot]] = []
        if not self.active:
            return
        self.heavy = numerics.is_heavy(model)
        self.seeds = _SEEDS[:1] if self.heavy else _SEEDS
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

    def check(self, model: ir.Model, record: PassRecord) -> None:
        """Check what the pass of `record` made of `model`, now or in `settle`.

        Raises:
            InternalError: EC141, EC142; the pass changed the numbers, or broke the graph.
        """
        if not self.active:
            return
        after = Snapshot.of(model)
        if self.heavy:
            self.pending.append((record, after))
        else:
            self._compare(record, after)

    def settle(self) -> None:
        """Check what was put off.

        Raises:
            InternalError: as `check`.
        """
        if self.pending and not self._agrees(*self.pending[-1]):
            for record, after in self.pending:
                self._compare(record, after)
        self.pending = []

    def _agrees(self, record: PassRecord, after: Snapshot) -> bool:
        """Whether a graph is beyond doubt equal to the captured one."""
        started = time.perf_counter()
        try:
            actual = after.run(self.feeds)
        except Exception:  # `_compare` tells which pass it was, and what happened
            return False
        names = self.names * len(self.feeds)
        if numerics.compare(names, self.reference, actual, quantized=self.quantized) is not None:
            return False
        record.max_abs_diff = _max_abs_diff(self.reference, actual)
        record.check_seconds = time.perf_counter() - started
        return True

    def _compare(self, record: PassRecord, after: Snapshot) -> None:
        started = time.perf_counter()
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
