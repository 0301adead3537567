"""``edgec eval --explain``: from the float network to the artifact, and which blocks lost it."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

import onnx
import onnx_ir as ir

from edgec.export.bundle import Artifact, Bundle, Manifest
from edgec.export.data import open_samples
from edgec.export.diagnose.blocks import Block, find_blocks
from edgec.export.diagnose.contributions import Contribution, Judge, Judgement, contributions
from edgec.export.diagnose.restore import restored
from edgec.export.errors import UsageError
from edgec.runtime.onnx_runner import OnnxRunner, made_for_elsewhere

MOST_SAMPLES = 128
"""Samples by default: every block costs a run of all of them."""
MOST_KEPT = 4
"""Blocks that a suggestion leaves float at most: more of them, and int8 is not the answer."""
ENOUGH = 0.5
"""Part of the cost that a suggestion aims to take away."""


def diagnose(
    bundle: Bundle,
    data: str,
    *,
    limit: int | None = None,
    threads: int = 1,
    tick: Callable[[int, int | None], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Where an int8 artifact differs from the float network, and what to do.

    Args:
        bundle: with an int8 ONNX artifact.
        data: as for `evaluate_bundle`.
        limit: use at most this many samples; `MOST_SAMPLES` by default.
        threads: of the run of the artifact itself.
        tick: called with blocks done and their number.

    Returns:
        A JSON-ready record: ``chain`` (each step against the float network), ``blocks`` (worst
        first) and ``fix`` (None where leaving blocks float does not help).

    Raises:
        UsageError: the bundle holds no int8 artifact.
        InputError: unusable data.
    """
    manifest = bundle.manifest
    artifact = _int8(bundle)
    master = _read(bundle, bundle.artifact("fp32"))
    quantized = _read(bundle, artifact)
    samples = open_samples(data, manifest.inputs, manifest.preprocess, limit=limit or MOST_SAMPLES)
    judge = Judge(master, list(islice(samples, limit or MOST_SAMPLES)))
    emulated = judge.judge(quantized)
    blocks = find_blocks(master)
    found = contributions(judge, quantized, blocks, tick)
    worst = sorted(found, key=lambda c: -c.share)
    return {
        "artifact": artifact.path,
        "source": samples.items.source,
        "count": len(judge.samples),
        "noun": samples.noun,
        "cost": _cost_name(manifest),
        "chain": _chain(bundle, artifact, judge, emulated, threads),
        "blocks": [_row(contribution) for contribution in worst],
        "fix": _fix(judge, quantized, worst, emulated, manifest),
    }


def worst_blocks(
    master: ir.Model, quantized: ir.Model, samples: Sequence[Any], most: int = 3
) -> list[Contribution]:
    """The blocks with the largest own cost, worst first; for messages."""
    judge = Judge(master, samples)
    found = contributions(judge, quantized, find_blocks(master))
    worst = sorted(found, key=lambda c: -c.share)
    return [c for c in worst[:most] if c.share > 0]


def _int8(bundle: Bundle) -> Artifact:
    for artifact in bundle.manifest.artifacts:
        built = artifact.format == "onnx" and artifact.status == "built"
        if built and artifact.precision == "int8":
            return artifact
    raise UsageError(
        "EC216",
        "the bundle has no int8 artifact to explain",
        where=str(bundle.path),
        fix="export with --precision int8 and --calib",
    )


def _read(bundle: Bundle, artifact: Artifact) -> ir.Model:
    return ir.from_proto(onnx.load(bundle.file(artifact)))


def _cost_name(manifest: Manifest) -> str:
    shapes = [t.shape for t in manifest.outputs]
    scores = len(shapes) == 1 and len(shapes[0]) == 2 and shapes[0][0] == 1 and shapes[0][1] >= 2
    return "KL divergence" if scores else "noise/signal"


def _chain(
    bundle: Bundle, artifact: Artifact, judge: Judge, emulated: Judgement, threads: int
) -> list[dict[str, Any]]:
    """Each step from the source to the artifact."""
    checks = bundle.artifact("fp32").checks
    rewritten = checks.get("vs_source") or {}
    steps: list[dict[str, Any]] = [
        {
            "step": "rewritten graph, float",
            "against": "captured graph, at export",
            "max_abs": rewritten.get("max_abs"),
        },
        {"step": "int8 as written", "against": "rewritten graph", **_numbers(emulated)},
    ]
    if made_for_elsewhere(artifact.scheme):
        steps.append({"step": "int8 on its kernels", "against": "not run: made for another CPU"})
    else:
        native = judge.judge(OnnxRunner(bundle.file(artifact), threads=threads))
        steps.append(
            {"step": "int8 on this CPU's kernels", "against": "rewritten graph", **_numbers(native)}
        )
    return steps


def _numbers(judgement: Judgement) -> dict[str, Any]:
    found = judgement.agreement.to_json()
    names = ("max_abs", "top1", "top1_reference", "top1_agreement", "sqnr_db")
    return {name: found[name] for name in names} | {"cost": float(f"{judgement.cost:.4g}")}


def _row(contribution: Contribution) -> dict[str, Any]:
    alone = contribution.alone
    sqnr = contribution.sqnr_db
    return {
        "block": contribution.block.name,
        "nodes": len(contribution.block.nodes),
        "integer_nodes": contribution.integer_nodes,
        "sqnr_db": None if sqnr is None else round(sqnr, 2),
        "share": round(contribution.share, 4),
        "alone": None if alone is None else _numbers(alone),
    }


def _fix(
    judge: Judge,
    quantized: ir.Model,
    worst: Sequence[Contribution],
    emulated: Judgement,
    manifest: Manifest,
) -> dict[str, Any] | None:
    """The fewest worst blocks whose return to float takes `ENOUGH` of the cost away, measured."""
    kept: list[Block] = []
    best: tuple[list[Block], Judgement] | None = None
    for contribution in worst[:MOST_KEPT]:
        if contribution.share <= 0:
            break
        kept.append(contribution.block)
        names = [name for block in kept for name in block.nodes]
        judged = judge.judge(restored(quantized, judge.master, names))
        if judged.cost < (emulated.cost if best is None else best[1].cost):
            best = list(kept), judged
        if judged.cost <= (1 - ENOUGH) * emulated.cost:
            break
    if best is None:
        return None
    blocks, judged = best
    already = tuple(manifest.options.get("keep_float", {}).get("value") or ())
    entries = [*already, *(entry for block in blocks for entry in block.keep_float)]
    return {
        "keep_float": entries,
        "blocks": [block.name for block in blocks],
        "before": _numbers(emulated),
        **_numbers(judged),
        "command": export_command(manifest, keep_float=entries),
    }


_FLAGS = {"formats": "format", "skip_passes": "skip-pass", "shapes": "shape"}
_GIVEN = ("command line", "environment")


def export_command(manifest: Manifest, *, keep_float: Sequence[str] | None = None) -> str:
    """The command that made a bundle, or one like it that leaves these blocks float.

    Files are named without their folders, as the manifest does.
    """
    suffix = {"onnx": ".onnx", "pt2": ".pt2", "tflite": ".tflite"}.get(
        str(manifest.model.get("source")), ""
    )
    target = manifest.target.get("asked_for") or manifest.target["name"]
    words = ["edgec", "export", "--model", f"{manifest.model['name']}{suffix}", "--target", target]
    for name, entry in manifest.options.items():
        if name != "keep_float" and str(entry["origin"]).startswith(_GIVEN):
            words += _flag(name, entry["value"])
    if keep_float is None:
        keep_float = manifest.options.get("keep_float", {}).get("value") or ()
    for item in keep_float:
        words += ["--keep-float", item]
    return shlex.join(words)


def _flag(name: str, value: Any) -> list[str]:
    if name == "bias_correction":
        return [] if value else ["--no-bias-correction"]
    flag = f"--{_FLAGS.get(name, name).replace('_', '-')}"
    if value is None or value is False:
        return []
    if value is True:
        return [flag]
    if name == "shapes":
        return [w for key, dims in value.items() for w in (flag, f"{key}={_joined(dims)}")]
    if name == "skip_passes":
        return [word for item in value for word in (flag, str(item))]
    if name == "input_size":
        return [flag, "x".join(map(str, value))]
    return [flag, _joined(value) if isinstance(value, (list, tuple)) else str(value)]


def _joined(values: Sequence[Any]) -> str:
    return ",".join(map(str, values))
