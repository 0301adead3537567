"""Judging artifacts: each one is run and compared, and int8 has to pass the accuracy gate."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import onnx
import onnx_ir as ir

from edgec.export.bundle import Artifact
from edgec.export.data import CalibrationData
from edgec.export.diagnose.diagnose import worst_blocks
from edgec.export.emit.onnx_file import serialize
from edgec.export.errors import AccuracyGateError
from edgec.export.golden import Feeds
from edgec.export.lint.engine import LintReport
from edgec.export.options import INT16X8
from edgec.export.plan import Job
from edgec.export.progress import Reporter
from edgec.export.quantize.kernels import count_integer_kernels
from edgec.export.source import Captured
from edgec.runtime.agreement import compare
from edgec.runtime.onnx_runner import OnnxRunner, made_for_elsewhere

MIN_GATE_SAMPLES = 500
"""Hold-out images that the default gate of one point needs: where one image in twenty changes its
class, the standard error of the difference is 0.22 / sqrt(n), one point at 500."""
DEFAULT_MAX_DROP = 1.0
BLAME_SAMPLES = 32
"""Samples from which a failing gate finds the worst blocks."""


@dataclass(frozen=True)
class Built:
    """A serialized ONNX artifact, its entry in the manifest, nodes left in float32, and lint.

    Attributes:
        pinned: nodes that a builder which chooses float16 itself has to keep in float32.
    """

    artifact: Artifact
    data: bytes
    float32_nodes: int
    lint: LintReport
    pinned: tuple[str, ...] = ()


def judged(
    item: Built,
    before: list[Built],
    captured: Captured,
    golden: list[Feeds],
    data: CalibrationData | None,
    job: Job,
) -> Built:
    """Run the artifact; compare the master with its source and the others with the master."""
    runner = OnnxRunner(item.data, emulate=made_for_elsewhere(item.artifact.scheme))
    checks: dict[str, Any] = dict(item.artifact.checks)
    if not before:
        source = OnnxRunner(serialize(captured.graph, ""), emulate=job.quantized)
        found = compare(source.run, runner.run, [(feed, None) for feed in golden])
        checks["vs_source"] = found.to_json()
        checks["data"] = "golden inputs"
    else:
        master = OnnxRunner(before[0].data)
        feeds: Iterable[tuple[Feeds, int | None]] = [(feed, None) for feed in golden]
        kind = "golden inputs"
        if item.artifact.precision == "int8" and data is not None:
            # labels mean nothing to an untrained network: agreement is judged instead
            blind = captured.weights.get("kind") == "random"
            feeds = ((f, None if blind else label) for f, label in data.holdout_feeds())
            kind = data.judged_on
        found = compare(master.run, runner.run, feeds)
        checks["vs_fp32"] = found.to_json()
        checks["drop"] = found.drop
        checks["data"] = kind
        if found.not_finite and not job.options.force:
            raise AccuracyGateError(
                "EC481",
                f"{item.artifact.precision} gives NaN or infinity on {found.not_finite} of "
                f"{found.samples} {kind}, where fp32 does not",
                where=item.artifact.path,
                why="a value left the range of the number format",
                fix="calibrate on typical images (--calib), so that ranges are known, choose "
                "--precision fp32, or keep it with --force",
            )
    if item.artifact.precision == "fp16":
        checks["float32_nodes"] = item.float32_nodes
    if item.artifact.precision == "int8" and job.target.runtime.name == "onnxruntime":
        checks["integer_kernels"] = count_integer_kernels(
            ir.from_proto(onnx.load_model_from_string(item.data))
        )
    return replace(item, artifact=replace(item.artifact, checks=checks))


def gate(
    built: list[Built], data: CalibrationData | None, job: Job, reporter: Reporter
) -> list[Built]:
    """Stop when int8 lost more than allowed.

    Classifiers are gated by the points they lose, and any network by ``--min-sqnr``.

    Raises:
        AccuracyGateError: EC480, EC482; both name the blocks that cost most.
    """
    result = []
    for item in built:
        if "vs_fp32" not in item.artifact.checks:  # the master
            result.append(item)
            continue
        integer = item.artifact.precision in ("int8", INT16X8)
        if integer:
            item = _gate_noise(item, built[0], data, job)
        checks = item.artifact.checks
        drop = checks.get("drop")
        if not integer or drop is None:
            if integer and job.options.max_drop is not None:
                reporter.warn(
                    "--max-drop has no meaning for a network without classes: nothing was "
                    "enforced; use --min-sqnr"
                )
            result.append(item)
            continue
        samples = checks["vs_fp32"]["samples"]
        limit = job.options.max_drop
        held_out = checks["data"].startswith("held-out")
        if limit is None and (samples < MIN_GATE_SAMPLES or not held_out):
            reporter.warn(
                f"{item.artifact.path}: {item.artifact.precision} differs from fp32 by "
                f"{drop:.2f} points on {samples} {checks['data']}: too few held-out images for "
                f"the default gate ({MIN_GATE_SAMPLES}); set --max-drop to enforce one"
            )
            result.append(item)
            continue
        limit = DEFAULT_MAX_DROP if limit is None else limit
        passed = drop <= limit
        if not passed and not job.options.force:
            raise AccuracyGateError(
                "EC480",
                f"{item.artifact.precision} loses {drop:.2f} points on {samples} "
                f"{checks['data']}, more than {limit}",
                where=item.artifact.path,
                why=f"measured against the fp32 graph: {checks['vs_fp32']}"
                + _blamed(item, built[0], data),
                fix="leave these blocks in float (--keep-float), give more or better "
                "calibration images (--calib, --calib-limit), another "
                "--calib-method, a larger --max-drop, or keep it with --force",
            )
        gate = {"gate": "passed" if passed else "failed", "max_drop": limit}
        result.append(replace(item, artifact=replace(item.artifact, checks=checks | gate)))
    return result


def _blamed(item: Built, master: Built, data: CalibrationData | None) -> str:
    """The blocks that cost most, for the message of a gate."""
    if data is None:
        return ""
    floats, integers = (
        ir.from_proto(onnx.load_model_from_string(built.data)) for built in (master, item)
    )
    worst = worst_blocks(floats, integers, list(islice(data.holdout_feeds(), BLAME_SAMPLES)))
    if not worst:
        return ""
    named = ", ".join(f"{c.block.name} ({c.share:.0%})" for c in worst)
    return f"; worst blocks, by their share of the loss: {named}"


def _gate_noise(item: Built, master: Built, data: CalibrationData | None, job: Job) -> Built:
    """Compare every float output's SQNR with ``--min-sqnr``."""
    limit = job.options.min_sqnr
    if limit is None:
        return item
    checks = item.artifact.checks
    outputs = checks["vs_fp32"]["outputs"]
    low = {
        name: found["sqnr_db"]
        for name, found in outputs.items()
        if found["sqnr_db"] is not None and found["sqnr_db"] < limit
    }
    if low and not job.options.force:
        worst = ", ".join(f"{name} {value:.1f} dB" for name, value in low.items())
        raise AccuracyGateError(
            "EC482",
            f"{item.artifact.precision} keeps less than {limit:g} dB at {len(low)} of "
            f"{len(outputs)} outputs",
            where=item.artifact.path,
            why=f"{worst}, against fp32 on {checks['vs_fp32']['samples']} {checks['data']}"
            + _blamed(item, master, data),
            fix="leave these blocks in float (--keep-float), give more or better "
            "calibration data (--calib, --calib-limit), another "
            "--calib-method, a smaller --min-sqnr, or keep it with --force",
        )
    found = {"sqnr_gate": "failed" if low else "passed", "min_sqnr": limit}
    return replace(item, artifact=replace(item.artifact, checks=checks | found))
