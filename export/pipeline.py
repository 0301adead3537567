"""The export pipeline: capture, rewrite, quantize, emit, check, write one bundle.

Each step is a function of data the step before returned; `run_job` reads as the list of steps.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from dataclasses import replace
from importlib import metadata
from itertools import groupby
from pathlib import Path
from typing import Any

import onnx_ir as ir

import edgec
from edgec.export import as_in_file
from edgec.export.budget import check_budgets
from edgec.export.bundle import Artifact, Bundle, Manifest, TensorInfo
from edgec.export.c_artifacts import CArtifact, c_artifact
from edgec.export.capture import CAPTURE_DIFFERENCE
from edgec.export.data import (
    CalibrationData,
    distilled_calibration,
    load_calibration,
    load_preprocess,
)
from edgec.export.datasets.tensors import NO_DATA
from edgec.export.diagnose.diagnose import export_command
from edgec.export.emit.onnx_file import serialize
from edgec.export.emit.tensorrt.proxy import ask_proxy, proxy_python
from edgec.export.emit.tensorrt.recipe import is_strongly_typed, write_build_bundle
from edgec.export.errors import InternalError
from edgec.export.files import atomic_folder, dump_json, sha256_bytes, sha256_file, write_texts
from edgec.export.golden import golden_feeds, write_golden
from edgec.export.judge import Built, gate, judged
from edgec.export.labels import read_labels, shipped_labels
from edgec.export.lint.engine import lint, refuse_errors
from edgec.export.options import MIXED, CalibrationMethod
from edgec.export.page.describe import page
from edgec.export.page.render import render
from edgec.export.plan import Job, prepare
from edgec.export.profile import predict_artifact
from edgec.export.progress import Reporter
from edgec.export.quantization import Quantization, choose_quantization
from edgec.export.quantize.calibrate import Calibration, calibrate
from edgec.export.quantize.float16 import float32_by_value, float32_islands, to_float16
from edgec.export.report import headline, make_report, text_report
from edgec.export.rewrite.engine import RewriteReport, run_stages
from edgec.export.rewrite.legalise.flatten_tokens import wants_matrices
from edgec.export.rewrite.legalise.lacking import operators_lacking
from edgec.export.rewrite.recognise.marks import KINDS
from edgec.export.rewrite.stats import GraphStats, graph_stats
from edgec.export.source import Captured, capture
from edgec.export.tflite.marks import is_marked
from edgec.export.tflite_artifacts import Source, tflite_artifacts
from edgec.models.stages import Stage
from edgec.profiles.activations import activation_peak_bytes
from edgec.profiles.macs import count_graph_macs
from edgec.targets.operators.table import view_rank

FUSIBLE_ATTENTION = ("attention", "window_attention")
"""Patterns that TensorRT has one kernel for."""


def compile_model(model: Any, *, target: str, **options: Any) -> Bundle:
    """The pipeline behind `edgec.compile`; quiet, errors are raised."""
    shape = options.pop("input_shape", None)
    if shape is not None:
        options["shapes"] = {"input": tuple(shape)}
    job = prepare(model, target, options)
    return run_job(job, Reporter(quiet=True))[0]


def run_job(job: Job, reporter: Reporter) -> tuple[Bundle, dict[str, Any]]:
    """Carry out an export.

    Args:
        job: from `edgec.export.plan.prepare`.
        reporter: progress and warnings.

    Returns:
        The bundle on disk and its report.

    Raises:
        EdgecError: one of its subclasses; no partial bundle is left.
    """
    options = job.options
    reporter.stages = 3 + (options.calib is not None) + len(job.precisions)
    reporter.stages += len({"tflite", "c"} & set(options.formats or ()))
    with reporter.stage("capture"):
        captured = capture(
            job.model, options, needs_accuracy=options.calib is not None, reporter=reporter
        )
        inputs, outputs = tensor_infos(captured.graph)
        outputs = with_stages(outputs, captured.stages)
        preprocess = load_preprocess(options.preprocess, inputs) or captured.preprocess
        labels = _labels(job, captured, outputs)
    with reporter.stage("rewrite") as tick:
        difference = captured.graph.metadata_props.pop(CAPTURE_DIFFERENCE, None)
        before = graph_stats(captured.graph)
        master = _copy(captured.graph)
        rewriting = run_stages(
            master,
            target_opset=job.target.runtime.opset,
            lacking=operators_lacking(job.target.runtime),
            max_rank=view_rank(job.target.runtime.name, job.target.runtime.version),
            matrices=wants_matrices(job.target.runtime),
            skip=options.skip_passes,
            dump_dir=Path(options.dump_passes) if options.dump_passes else None,
            on_progress=lambda name, done, total: tick(done, total),
        )
        for record in rewriting.passes:
            reporter.detail(
                f"  {record.stage}/{record.name}: {record.matches} places, "
                f"{record.nodes_before} to {record.nodes_after} nodes"
                + (f", {record.note}" if record.note else "")
            )
        for name, refusals in rewriting.refusals.items():
            for node, reason in refusals:
                reporter.detail(f"  {name} left {node} alone: {reason}")
    data: CalibrationData | None = None
    calibration = None
    quantization: Quantization | None = None
    if options.calib is not None:
        with reporter.stage("calibrate") as tick:
            if options.calib == NO_DATA:
                data = distilled_calibration(options, captured.graph, preprocess, tick)
            else:
                data = load_calibration(options, inputs, preprocess)
            for warning in data.warnings:
                reporter.warn(warning)
            quantization = choose_quantization(job, captured, master)
            master = quantization.prepare(master, data)
            calibration = _statistics(
                master,
                data,
                quantization.recipe.calib_method,
                lambda done: tick(done, data.fit_count),
            )
            quantization.place(master, calibration, data, tick)
    golden = golden_feeds(inputs, data, options.seed)
    # float16 needs to know which values overflow, if only from two inputs
    ranges = calibration
    if ranges is None and ("fp16" in job.precisions or job.quantized):
        ranges = calibrate(master, golden)
    built: list[Built] = []
    for precision in job.precisions:
        with reporter.stage(f"build {precision}") as tick:
            item = _build(precision, master, ranges, data, quantization, job, reporter, tick)
            built.append(judged(item, built, captured, golden, data, job))
    built = gate(built, data, job, reporter)
    lowered: list[tuple[Artifact, bytes]] = []
    source = Source(
        job,
        master,
        built,
        golden,
        preprocess,
        labels,
        data,
        calibration,
        quantization,
        captured.weights.get("kind") == "random",
        captured.graph if is_marked(captured.graph.graph.inputs) else None,
    )
    if "tflite" in (options.formats or ()):
        with reporter.stage("build tflite") as tick:
            lowered = tflite_artifacts(source, reporter, tick)
    embedded: list[CArtifact] = []
    if "c" in (options.formats or ()):
        with reporter.stage("build c") as tick:
            embedded.append(c_artifact(_for_c(source, captured), reporter, tick))
    facts = graph_facts(before, master, rewriting)
    facts["capture_max_abs"] = None if difference is None else float(difference)
    artifacts = [b.artifact for b in built] + [artifact for artifact, _ in lowered]
    artifacts += [c.artifact for c in embedded]
    check_budgets(options, artifacts, facts, options.precision or "")
    with reporter.stage("write"), atomic_folder(job.out, overwrite=options.overwrite) as folder:
        (folder / "onnx").mkdir()
        for item in built:
            (folder / item.artifact.path).write_bytes(item.data)
        for artifact, content in lowered:
            if artifact.status == "built":
                (folder / artifact.path).parent.mkdir(exist_ok=True)
                (folder / artifact.path).write_bytes(content)
        for c in embedded:
            write_texts(folder / c.artifact.path, c.files)
        write_golden(folder / "golden", golden, built[0].data, quantized=job.quantized)
        if "tensorrt" in (options.formats or ()):
            pinned = {item.artifact.precision: item.pinned for item in built}
            write_build_bundle(folder / "tensorrt", job.target, artifacts, inputs, outputs, pinned)
            artifacts.append(_tensorrt_artifact(job, _ask_proxy(job, folder, facts, reporter)))
        manifest = Manifest(
            edgec_version=edgec.__version__,
            headline=headline(_title(captured), job.target.name, captured.weights, artifacts),
            model=captured.model,
            target=job.target.to_json() | {"asked_for": job.asked_target},
            weights=captured.weights,
            inputs=inputs,
            outputs=outputs,
            artifacts=tuple(artifacts),
            preprocess=preprocess,
            labels=labels,
            calibration=None if data is None else _provenance(data, quantization),
            options=_portable_options(job),
            tools=_tools(),
            files={},
        )
        # the manifest travels: no local paths, so equal inputs give equal bytes anywhere
        report = make_report(manifest, facts, reporter.warnings, _predicted(job, built))
        (folder / "lint.json").write_text(dump_json(lint_record(job, built)), "utf-8")
        (folder / "report.json").write_text(dump_json(report), "utf-8")
        (folder / "report.txt").write_text(text_report(report), "utf-8")
        html = render(page([(report, export_command(manifest), {})]))
        (folder / "report.html").write_text(html, "utf-8")
        files = {
            path.relative_to(folder).as_posix(): sha256_file(path)
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
        manifest = replace(manifest, files=files)
        (folder / "manifest.json").write_text(dump_json(manifest.to_json()), "utf-8")
        (folder / "log.txt").write_text("\n".join([*reporter.log, ""]), "utf-8")
    return Bundle.open(job.out), report


def tensor_infos(graph: ir.Model) -> tuple[tuple[TensorInfo, ...], tuple[TensorInfo, ...]]:
    """Inputs and outputs of a graph with static shapes."""

    def info(value: ir.Value) -> TensorInfo:
        if value.shape is None or value.dtype is None or not value.shape.is_static():
            raise InternalError(
                "EC180",
                f"{value.name!r} has no static shape after capture",
                fix="please report this with the model",
            )
        return TensorInfo(value.name or "", tuple(value.shape.numpy()), value.dtype.numpy().name)

    return (
        tuple(info(value) for value in graph.graph.inputs),
        tuple(info(value) for value in graph.graph.outputs),
    )


def with_stages(
    outputs: tuple[TensorInfo, ...], stages: tuple[Stage, ...]
) -> tuple[TensorInfo, ...]:
    """Stage outputs with their stride and channels; other outputs as they are."""
    if not stages:
        return outputs
    return tuple(
        replace(output, stride=stage.stride, channels=stage.channels)
        for output, stage in zip(outputs, stages, strict=True)
    )


def _statistics(
    master: ir.Model,
    data: CalibrationData,
    method: CalibrationMethod,
    on_progress: Callable[[int], None],
) -> Calibration:
    """Activation statistics by `method`; the gradients of ``fisher`` need torch."""
    if method == "fisher":
        from edgec.export.quantize.fisher import fisher_calibrate

        return fisher_calibrate(master, data.fit_feeds(), on_progress=on_progress)
    return calibrate(master, data.fit_feeds(), method=method, on_progress=on_progress)


def _for_c(source: Source, captured: Captured) -> Source:
    """The source with operators whole that the runtime lacks: the C kernels have them."""
    job = source.job
    lacking = operators_lacking(job.target.runtime)
    if not lacking:
        return source
    master = _copy(captured.graph)
    run_stages(
        master,
        target_opset=job.target.runtime.opset,
        max_rank=view_rank(job.target.runtime.name, job.target.runtime.version),
        skip=job.options.skip_passes,
    )
    if not any(node.op_type in lacking for node in master.graph):
        return source
    if source.data is None or source.quantization is None:
        return replace(source, master=master)
    master = replace(source.quantization, notes=[]).prepare(master, source.data)
    method = source.quantization.recipe.calib_method
    calibration = _statistics(master, source.data, method, lambda done: None)
    return replace(source, master=master, calibration=calibration)


def _provenance(data: CalibrationData, quantization: Quantization | None) -> dict[str, Any]:
    """Data, ranges and recipe, for the manifest."""
    assert quantization is not None
    found = data.to_json(quantization.recipe.calib_method)
    return found | {"recipe": quantization.to_json()}


def _predicted(job: Job, built: list[Built]) -> dict[str, Any]:
    """Predicted latency of the int8 artifact, or of the master where there is none."""
    chosen = next((b for b in built if b.artifact.precision == "int8"), built[0])
    return predict_artifact(chosen.data, chosen.artifact, job.target)


def graph_facts(before: GraphStats, master: ir.Model, rewriting: RewriteReport) -> dict[str, Any]:
    """What the report says about the float graph: size, operators, MACs, memory, passes."""
    stats = graph_stats(master)
    return {
        "nodes_before": before.nodes,
        "nodes": stats.nodes,
        "operators": stats.operators,
        "transposes": stats.transposes,
        "reshapes": stats.reshapes,
        "shape_arithmetic": stats.shape_arithmetic,
        "max_rank": stats.max_rank,
        "patterns": [
            {"kind": kind, "title": KINDS[kind], "count": count}
            for kind, count in stats.patterns.items()
        ],
        "macs": count_graph_macs(master).total,
        "parameters": sum(
            v.const_value.size
            for v in master.graph.initializers.values()
            if v.const_value is not None and v.const_value.dtype.is_floating_point()
        ),
        "activation_peak_bytes": activation_peak_bytes(master.graph),
        "passes": [
            {
                "stage": record.stage,
                "name": record.name,
                "matches": record.matches,
                "nodes_before": record.nodes_before,
                "nodes_after": record.nodes_after,
            }
            for record in rewriting.passes
        ],
    }


def lint_record(job: Job, built: list[Built]) -> dict[str, Any]:
    """Content of ``lint.json``: what ``edgec check`` says about each ONNX artifact."""
    return {
        "schema": "edgec.lint/1",
        "edgec_version": edgec.__version__,
        "target": job.target.name,
        "artifacts": {item.artifact.path: item.lint.to_json() for item in built},
    }


def _copy(model: ir.Model) -> ir.Model:
    return ir.from_proto(ir.to_proto(model))


def _build(
    precision: str,
    master: ir.Model,
    calibration: Calibration | None,
    data: CalibrationData | None,
    quantization: Quantization | None,
    job: Job,
    reporter: Reporter,
    tick: Callable[[int, int], None],
) -> Built:
    """The ONNX artifact of one precision, checked against the rules of the target's runtime."""
    graph, kept = master, 0
    pinned: tuple[str, ...] = ()
    typed = is_strongly_typed(job.target)
    scheme = as_in_file.scheme_of(precision) if job.quantized else None
    if precision == "fp16":
        graph = to_float16(master, calibration=calibration)
        kept = len(float32_islands(graph))
        pinned = () if typed else float32_by_value(master, calibration)
    elif precision == "int8":
        if not job.quantized:
            assert calibration is not None
            assert quantization is not None
            assert data is not None
            scheme = f"int8{_mixed(job)} ({quantization.scheme.name})"
            graph = quantization.quantize(master, calibration, data, tick)
        if typed:  # what is not int8 is to be float16 there
            graph = to_float16(graph, calibration=calibration)
            kept = len(float32_islands(graph))
        elif "tensorrt" in job.target.formats:
            pinned = float32_by_value(graph, calibration)
    path = f"onnx/model{'' if precision == 'fp32' else '_' + precision}.onnx"
    report = lint(graph, job.target)
    refuse_errors(report, path, job.target)
    for code, findings in groupby(report.of("warning"), key=lambda found: found.code):
        first, *more = findings
        others = f" (and {len(more)} more places)" if more else ""
        reporter.warn(f"{path}: {code} {first.where}: {first.message}{others}")
    content = serialize(graph, f"edgec {edgec.__version__}")
    artifact = Artifact(
        path=path,
        format="onnx",
        precision=precision,
        status="built",
        scheme=scheme,
        bytes=len(content),
        sha256=sha256_bytes(content),
        checks={"lint": report.counts()},
    )
    return Built(artifact, content, kept, report, pinned)


def _mixed(job: Job) -> str:
    return ", mixed" if job.options.precision == MIXED else ""


def _labels(
    job: Job, captured: Captured, outputs: tuple[TensorInfo, ...]
) -> tuple[str, ...] | None:
    if job.options.labels is not None:
        return read_labels(Path(job.options.labels))
    spec = captured.spec
    if spec is not None:
        labels = shipped_labels(spec.labels)
        if len(outputs) == 1 and outputs[0].shape == (1, len(labels)):
            return labels
    if captured.labels is not None and any(
        output.shape == (1, len(captured.labels)) for output in outputs
    ):
        return captured.labels
    return None


def _title(captured: Captured) -> str:
    """The network's name, and what it returns where that is not what it was published with."""
    if not captured.stages:
        return captured.name
    numbers = ", ".join(str(stage.number) for stage in captured.stages)
    return f"{captured.name} (feature maps of stage{'s' * (len(captured.stages) > 1)} {numbers})"


def _ask_proxy(
    job: Job, folder: Path, facts: dict[str, Any], reporter: Reporter
) -> dict[str, Any] | None:
    """What NVIDIA's compiler says of the written graphs, where it is installed."""
    python = proxy_python()
    if python is None:
        return None
    recipe = json.loads((folder / "tensorrt" / "recipe.json").read_text("utf-8"))
    models = {e["name"]: folder / "tensorrt" / e["onnx"] for e in recipe["engines"]}
    attentions = sum(p["count"] for p in facts["patterns"] if p["kind"] in FUSIBLE_ATTENTION)
    answer = ask_proxy(python, job.target, models, attentions)
    for precision, plan in answer["engines"].items():
        if not plan["built"]:
            reporter.warn(
                f"{answer['compiler']} (a proxy) refuses the {precision} graph: "
                + "; ".join(plan["errors"][:2])
            )
    (folder / "tensorrt" / "proxy.json").write_text(dump_json(answer), "utf-8")
    return answer


def _tensorrt_artifact(job: Job, proxy: dict[str, Any] | None) -> Artifact:
    return Artifact(
        path="tensorrt",
        format="tensorrt",
        precision=job.options.precision or "",
        status="bundle",
        why=f"the engine is built on the device: python3 tensorrt/build_engine.py "
        f"(TensorRT {job.target.runtime.version})",
        checks={} if proxy is None else {"proxy": proxy},
    )


def _portable_options(job: Job) -> dict[str, dict[str, Any]]:
    """Options with origin; places on this machine are reduced to their last part."""
    options = job.resolved.to_json()
    for name in ("calib", "weights", "preprocess", "labels", "dump_passes", "recipe"):
        value = options[name]["value"]
        if isinstance(value, str) and "://" not in value:
            options[name] = options[name] | {"value": Path(value).name}
    for name in ("out", "overwrite", "cache"):
        options.pop(name)
    return options


def _tools() -> dict[str, str]:
    names = ("torch", "onnx", "onnx-ir", "onnxscript", "onnxruntime", "numpy", "pillow")
    return {"python": platform.python_version()} | {n: metadata.version(n) for n in names}
