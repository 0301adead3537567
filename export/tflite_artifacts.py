"""The .tflite artifacts of an export: written, run in LiteRT where it is installed, judged."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import onnx_ir as ir

import edgec
from edgec.export import as_in_file
from edgec.export.bundle import Artifact
from edgec.export.data import CalibrationData
from edgec.export.emit.onnx_file import serialize
from edgec.export.emit.tflite.delegates.partition import predict
from edgec.export.emit.tflite.flavour import Flavour, flavour_for, scheme_of
from edgec.export.emit.tflite.write import TfliteFile, convert
from edgec.export.errors import EdgecError, InternalError, UnsupportedError
from edgec.export.files import sha256_bytes
from edgec.export.golden import Feeds
from edgec.export.judge import Built, gate
from edgec.export.lint.engine import LintReport
from edgec.export.options import INT16X8, MIXED
from edgec.export.plan import Job, float_tflite
from edgec.export.progress import Reporter
from edgec.export.quantization import Quantization
from edgec.export.quantize.calibrate import Calibration
from edgec.export.quantize.scheme import TFLITE_INT16X8, QuantScheme, get_scheme
from edgec.export.rewrite.legalise.opset import MASTER, ConvertOpset
from edgec.export.tflite_mixes import Ground, Mix, MixTimes, time_mixes
from edgec.models.preprocess import Preprocess
from edgec.runtime.agreement import Agreement, compare
from edgec.runtime.onnx_runner import OnnxRunner
from edgec.targets.operators.table import OperatorTable, select_table, table_versions
from edgec.targets.schema import Target

if TYPE_CHECKING:
    from edgec.runtime.tflite_artifact import TfliteArtifactRunner

NOT_RUN = "not run: ai-edge-litert is not installed (pip install 'edgec[tflite]')"
ROUNDING = 1e-5
"""Difference to the ONNX master, relative to the largest output, that float arithmetic in another
order explains."""
WRONG = 1e-2
"""Difference from which a float file must be wrong."""
STEPS_WRONG = 1e-1
"""The same where the network was quantized before: rounding moves some integers by a step."""


@dataclass(frozen=True)
class Source:
    """What the artifacts are made from.

    Attributes:
        master: the float graph.
        built: its ONNX artifacts, the master first.
        golden: inputs to compare on.
        data, calibration, quantization: of an export with calibration data.
        as_read: the graph of a .tflite file that edgec wrote, before any rewriting.
    """

    job: Job
    master: ir.Model
    built: list[Built]
    golden: list[Feeds]
    preprocess: Preprocess | None
    labels: tuple[str, ...] | None
    data: CalibrationData | None
    calibration: Calibration | None
    quantization: Quantization | None
    blind: bool
    as_read: ir.Model | None = None


def tflite_artifacts(
    source: Source, reporter: Reporter, tick: Callable[[int, int], None]
) -> list[tuple[Artifact, bytes]]:
    """Write ``tflite/model_*.tflite`` in every precision that the export has data for.

    Returns:
        Artifacts with their contents; a single skipped one if the network cannot be written and
        the target, not the user, asked for the format.

    Raises:
        UnsupportedError: EC390 to EC392, EC394, the network cannot be written as TFLite.
        AccuracyGateError: EC480, EC482, int8 lost more than allowed.
        InternalError: EC182, a float file computes something else than the ONNX graph.
    """
    try:
        return _artifacts(source, reporter, tick)
    except UnsupportedError as error:
        asked = not source.job.resolved.origin["formats"].startswith("target")
        asked |= source.job.options.precision == INT16X8
        if asked or error.code not in ("EC390", "EC391", "EC392", "EC394"):
            raise
        reporter.warn(f"no .tflite file: {error.where or 'network'}: {error.why or error.what}")
        why = f"{error.code} {error.what}: {error.where or ''}"
        return [(Artifact("tflite", "tflite", "fp32", "skipped", why=why), b"")]


def _artifacts(
    source: Source, reporter: Reporter, tick: Callable[[int, int], None]
) -> list[tuple[Artifact, bytes]]:
    floats = float_tflite(source.job)
    found = []
    plain: list[Mix] = []
    for number, precision in enumerate(floats):
        file = convert(
            source.master,
            precision=precision,
            flavour=_flavour(source.job, scheme_for(source.job)),
            table=_table(source.job),
            metadata=_metadata(source),
            offline=source.job.target.runtime.name == "tflm",
        )
        artifact = _artifact(precision, file, source.job.target)
        plain.append(Mix(precision, file.content, file.lowered))
        found.append((_judged_float(artifact, file, source), file.content))
        tick(number + 1, len(floats) + 1)
    if source.job.quantized:
        found.append(_as_in_file(source))
    elif source.quantization is not None:
        found.append(_integer(source, plain, reporter, tick))
    if any("not_run" in artifact.checks for artifact, _ in found):
        reporter.warn(f".tflite files were {NOT_RUN}")
    return found


def scheme_for(job: Job) -> QuantScheme:
    """The scheme of int8 .tflite files: the target's, if it is one of TFLite."""
    return get_scheme(scheme_of(job.target.int8_scheme))


def _flavour(job: Job, scheme: QuantScheme) -> Flavour:
    return flavour_for(scheme.name, job.target.runtime.name, job.target.delegates)


def _table(job: Job) -> OperatorTable:
    """Builtins of the target's runtime; of LiteRT where the target names another one."""
    runtime = job.target.runtime
    if runtime.name in ("litert", "tflite-runtime", "tflm"):
        return select_table(runtime.name, runtime.version).table
    return select_table("litert", table_versions("litert")[-1]).table


def _artifact(
    precision: str, file: TfliteFile, target: Target, scheme: str | None = None
) -> Artifact:
    operators = file.lowered.operators
    main, modules = file.lowered.model.main, file.lowered.modules
    return Artifact(
        path=f"tflite/model_{precision}.tflite",
        format="tflite",
        precision=precision,
        status="built",
        scheme=scheme,
        bytes=len(file.content),
        sha256=sha256_bytes(file.content),
        checks={
            "operators": sum(operators.values()),
            "transposes": operators.get("TRANSPOSE", 0),
            "reshapes": operators.get("RESHAPE", 0),
            "requantizations": file.lowered.requantizations,
            **({"float_operators": file.lowered.float_operators()} if "int" in precision else {}),
            "delegates": {d: predict(main, d, modules).to_json() for d in target.delegates},
        },
    )


def _metadata(source: Source) -> Mapping[str, Any]:
    entry: dict[str, Any] = {"producer": f"edgec {edgec.__version__}"}
    if source.preprocess is not None:
        entry["preprocess"] = source.preprocess.to_json()
    if source.labels is not None:
        entry["labels"] = list(source.labels)
    return entry


def _judged_float(artifact: Artifact, file: TfliteFile, source: Source) -> Artifact:
    """Compare a float file with the ONNX master on golden inputs, with and without XNNPACK."""
    runners = _runners(file)
    if runners is None:
        return _with(artifact, not_run=NOT_RUN)
    master = OnnxRunner(source.built[0].data)
    results, relative = _compared(master, runners, source.golden)
    if artifact.precision == "fp32":
        _refuse_wrong(artifact, relative, WRONG)
    return _with(
        artifact,
        vs_fp32=results["xnnpack"].to_json(),
        data="golden inputs",
        relative=relative,
        partitions=runners["xnnpack"].partitions,
        runtime=_runtime(),
    )


def _as_in_file(source: Source) -> tuple[Artifact, bytes]:
    """The one file of a network that came quantized, with the integers it came with.

    A file of edgec's own stays as it is: layouts and forms were chosen when it was written.
    """
    wide = source.job.options.precision == INT16X8
    scheme = TFLITE_INT16X8 if wide else scheme_for(source.job)
    precision: Literal["int8", "int16x8"] = "int16x8" if wide else "int8"
    file = convert(
        source.as_read or source.master,
        precision=precision,
        ends=_ends(source.job),
        flavour=_flavour(source.job, scheme),
        table=_table(source.job),
        metadata=_metadata(source),
    )
    named = as_in_file.scheme_of(precision)
    artifact = _artifact(precision, file, source.job.target, named)
    runners = _runners(file)
    if runners is None:
        return _with(artifact, not_run=NOT_RUN), file.content
    # integer kernels of this CPU may saturate where the file's do not
    master = OnnxRunner(source.built[0].data, emulate=True)
    results, relative = _compared(master, runners, source.golden)
    _refuse_wrong(artifact, relative, STEPS_WRONG)
    artifact = _with(
        artifact,
        vs_source=results["xnnpack"].to_json(),
        data="golden inputs",
        relative=relative,
        vs_qdq={kernels: _steps(found, runners[kernels]) for kernels, found in results.items()},
        partitions=runners["xnnpack"].partitions,
        runtime=_runtime(),
    )
    return artifact, file.content


def _compared(
    master: OnnxRunner, runners: Mapping[str, TfliteArtifactRunner], golden: list[Feeds]
) -> tuple[dict[str, Agreement], dict[str, float]]:
    """Agreement with the ONNX master by kernels, and the difference by its largest output."""
    results = {
        kernels: compare(master.run, runner.run, [(feed, None) for feed in golden])
        for kernels, runner in runners.items()
    }
    size = max(abs(v).max() for feed in golden for v in master.run(feed).values()) or 1.0
    return results, {k: float(f"{found.max_abs / size:.3g}") for k, found in results.items()}


def _refuse_wrong(artifact: Artifact, relative: Mapping[str, float], most: float) -> None:
    if max(relative.values()) > most:
        raise InternalError(
            "EC182",
            "the .tflite file computes something else than the ONNX graph",
            where=artifact.path,
            why=f"relative to the largest output it differs by {max(relative.values()):.2g}",
            fix="leave TFLite out (--format onnx), and please report this with the model",
        )


def _ends(job: Job) -> Literal["float", "integer"]:
    """Microcontrollers have no float at the ends of an integer network."""
    return "integer" if job.target.kind == "mcu" else "float"


def _integer(
    source: Source, plain: list[Mix], reporter: Reporter, tick: Callable[[int, int], None]
) -> tuple[Artifact, bytes]:
    quantization, data = source.quantization, source.data
    assert quantization is not None
    assert source.calibration is not None
    assert data is not None
    precision: Literal["int8", "int16x8"] = "int8"
    scheme, master = scheme_for(source.job), source.master
    if source.job.options.precision == INT16X8:
        precision, scheme = "int16x8", TFLITE_INT16X8
    if source.job.options.precision in (INT16X8, MIXED):
        master = at_opset(master, TFLITE_INT16X8.lowest_opset)

    def written(graph: ir.Model) -> TfliteFile:
        return convert(
            graph,
            precision=precision,
            ends=_ends(source.job),
            flavour=_flavour(source.job, scheme),
            table=_table(source.job),
            metadata=_metadata(source),
            offline=source.job.target.runtime.name == "tflm",
        )

    # what the Edge TPU does not take falls to the CPU, together with all that follows
    wide = None if "edgetpu" in source.job.target.delegates else TFLITE_INT16X8
    own = quantization.in_format(scheme, wide, lambda graph: _can(written, graph))
    graph = own.quantize(master, source.calibration, data, tick)
    file = written(graph)
    kind = ", mixed" if source.job.options.precision == MIXED else ""
    mixes: MixTimes | None = None
    checks: dict[str, Any] = {}
    wanted = source.job.options.time_mixes or source.job.options.fastest_mix
    if wanted and precision == "int8":
        files = [*plain, Mix("int8", file.content, file.lowered)]
        mixes = _mixes(source, scheme, files, reporter)
    if mixes is not None:
        checks["mixes"] = mixes.found
    if mixes is not None and mixes.best is not None and source.job.options.fastest_mix:
        name, split = mixes.best
        checks["mixes"] = mixes.found | {"written": name}
        own = own.divided(split)
        graph = own.quantize(master, source.calibration, data, tick)
        file, kind = written(graph), ", fastest mix"
    artifact = _artifact(precision, file, source.job.target, f"{precision}{kind} ({scheme.name})")
    artifact = _with(artifact, **own.mixed(), **checks)
    runners = _runners(file)
    if runners is None:
        return _with(artifact, not_run=NOT_RUN), file.content
    runner = runners["xnnpack"]
    content = serialize(graph, f"edgec {edgec.__version__}")
    emulated = OnnxRunner(content, emulate=True)
    floats = OnnxRunner(source.built[0].data)
    kept = [(f, None if source.blind else label) for f, label in data.holdout_feeds()]
    found = compare(floats.run, runner.run, kept)
    exact = compare(emulated.run, runner.run, kept)
    builtin = compare(emulated.run, runners["builtin"].run, kept[:32])
    artifact = _with(
        artifact,
        vs_fp32=found.to_json(),
        drop=found.drop,
        data=data.judged_on,
        vs_qdq={"xnnpack": _steps(exact, runner), "builtin": _steps(builtin, runner)},
        partitions=runner.partitions,
        runtime=_runtime(),
    )
    item = Built(artifact, content, 0, LintReport((), ""))
    return gate([source.built[0], item], data, source.job, reporter)[1].artifact, file.content


def _can(write: Callable[[ir.Model], object], graph: ir.Model) -> bool:
    try:
        write(graph)
    except UnsupportedError:
        return False
    return True


def at_opset(model: ir.Model, opset: int) -> ir.Model:
    """A copy at a newer opset, whose operators mean the same as at the master's."""
    copy = ir.from_proto(ir.to_proto(model))
    convert_opset = ConvertOpset()
    convert_opset.target = max(opset, MASTER)
    convert_opset(copy)
    return copy


def _mixes(
    source: Source, scheme: QuantScheme, plain: list[Mix], reporter: Reporter
) -> MixTimes | None:
    """Times of the files and of mixes between float32 and int8; None where they say nothing."""
    from edgec.runtime.tflite_artifact import litert_installed

    if "xnnpack" not in source.job.target.delegates or not litert_installed():
        return None
    assert source.quantization is not None
    assert source.calibration is not None
    ground = Ground(
        source.master,
        source.calibration,
        scheme,
        _flavour(source.job, scheme),
        _table(source.job),
        source.quantization.recipe.keep_float,
    )
    try:
        return time_mixes(plain, ground, source.golden[0])
    except EdgecError as error:
        if source.job.options.fastest_mix:
            raise
        reporter.warn(f"int8 was not timed beside float: {error}")  # all files are there
        return None


def _steps(found: Agreement, runner: TfliteArtifactRunner) -> dict[str, Any]:
    """Largest difference in steps of the outputs' grids, and agreement of the best class."""
    steps = [
        output.max_abs / runner.steps[name]
        for name, output in found.outputs.items()
        if runner.steps.get(name)
    ]
    return {
        "samples": found.samples,
        "max_steps": round(max(steps), 1) if steps else None,
        "top1_agreement": None if found.top1 is None else round(found.top1, 3),
    }


def _runners(file: TfliteFile) -> dict[str, TfliteArtifactRunner] | None:
    from edgec.runtime.tflite_artifact import TfliteArtifactRunner, litert_installed

    if not litert_installed():
        return None
    return {
        "xnnpack": TfliteArtifactRunner(file.content),
        "builtin": TfliteArtifactRunner(file.content, kernels="builtin"),
    }


def _runtime() -> str:
    return f"ai-edge-litert {importlib.metadata.version('ai-edge-litert')}"


def _with(artifact: Artifact, **checks: Any) -> Artifact:
    return replace(artifact, checks={**artifact.checks, **checks})
