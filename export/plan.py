"""What an export would do: options resolved and checked before any work starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from edgec.export.as_in_file import as_in_file, quantized_as
from edgec.export.errors import UnsupportedError, UsageError
from edgec.export.files import refuse_existing
from edgec.export.options import (
    AUTO_PLACEMENT,
    INT16X8,
    MIXED,
    ExportOptions,
    Resolved,
    resolve,
)
from edgec.export.quantize.recipes.recipe import get_recipe
from edgec.export.source import describe, wanted_stages
from edgec.models.stages import Stage
from edgec.targets.registry import get_target
from edgec.targets.schema import Target

WRITTEN_FORMATS = ("onnx", "tensorrt", "tflite", "c")


@dataclass(frozen=True)
class Job:
    """Everything an export needs to know, checked.

    Attributes:
        model: ``--model`` as given, or a torch.nn.Module.
        name: short name for folders.
        asked_target: the name the user gave (maybe an alias).
        precisions: what will be built, fp32 master first.
        stages: what ``--features`` asks for, as far as it is known without loading the network.
        out: the bundle's folder.
        quantized: the network comes quantized, so int8 or int16x8 is its only precision and its
            graph the master.
    """

    model: Any
    name: str
    asked_target: str
    target: Target
    resolved: Resolved
    precisions: tuple[str, ...]
    out: Path
    stages: tuple[Stage, ...] = ()
    quantized: bool = False

    @property
    def options(self) -> ExportOptions:
        """The resolved options."""
        return self.resolved.options


def prepare(
    model: Any, target: str, flags: Mapping[str, Any], *, config: Path | None = None
) -> Job:
    """Resolve and check names and options; quick, reads no network.

    Raises:
        UsageError: unknown names, options that contradict each other, or an existing output.
        UnsupportedError: the target does not execute the precision or format asked for.
        InputError: a model path that does not exist, a broken configuration or target file.
    """
    found = get_target(target)
    resolved = resolve(flags, found, config=config)
    stored = quantized_as(model)
    quantized = stored is not None
    if stored is not None:
        resolved = as_in_file(resolved, stored)
    options = resolved.options
    name = describe(model)[1] if isinstance(model, str) else type(model).__name__
    stages = wanted_stages(model, options)
    if options.features is not None:
        name += "-features"
    assert options.precision is not None
    assert options.formats is not None
    wanted = "int8" if options.precision in (MIXED, INT16X8) else options.precision
    wide = options.precision == INT16X8
    if wide and not quantized and not {"tflite", "c"} & set(options.formats):
        raise UsageError(
            "EC284",
            "int16x8 is a precision of .tflite files and of C only",
            why=f"the formats are {', '.join(options.formats)}",
            fix="--format tflite, --format c, or --precision int8",
        )
    if wanted not in found.precisions:
        raise UnsupportedError(
            "EC382",
            f"{found.name} does not execute {options.precision}",
            why=f"its runtime runs {', '.join(found.precisions)} there",
            fix="choose one of these with --precision, or another target",
        )
    unwritten = [f for f in options.formats if f not in WRITTEN_FORMATS]
    if unwritten:
        raise UnsupportedError(
            "EC383",
            f"format {unwritten[0]!r} is not written yet",
            fix=f"--format {','.join(WRITTEN_FORMATS)}",
        )
    if "tflite" in options.formats and found.runtime.name == "tensorrt":
        raise UnsupportedError(
            "EC393",
            f"no .tflite file is made for {found.name}",
            why="its GPU runs TensorRT engines, not TFLite operators",
            fix="leave tflite out of --format, or choose a CPU or microcontroller target",
        )
    if "tensorrt" in options.formats and found.runtime.name != "tensorrt":
        raise UnsupportedError(
            "EC384",
            f"{found.name} has no TensorRT",
            why=f"its runtime is {found.runtime.name}",
            fix="leave --format out, or choose a Jetson target",
        )
    if options.placement not in (AUTO_PLACEMENT, "default") and found.runtime.name != "tensorrt":
        raise UsageError(
            "EC271",
            f"--placement {options.placement} has no meaning for {found.name}",
            why=f"its runtime is {found.runtime.name}; only TensorRT follows Q/DQ to the letter",
            fix="leave --placement out, or leave parts in float with --keep-float",
        )
    formats = options.formats
    integers = wanted == "int8" and (quantized or options.calib is not None)
    if "c" in formats and not integers:
        asked = not resolved.origin["formats"].startswith("target")
        if asked and options.precision == "fp16":
            raise UsageError(
                "EC282",
                f"no C is written in {options.precision}",
                why="the C kernels compute on int8, int16 or float32",
                fix="--precision int8 or int16x8 with --calib, or --precision fp32",
            )
        if wanted != "fp32":
            formats = tuple(f for f in formats if f != "c")
    if wanted == "int8" and options.calib is None and not quantized:
        raise UsageError(
            "EC214",
            f"{options.precision} needs calibration images",
            why="activation ranges come from real data; random data would give wrong ones silently",
            fix="add --calib FOLDER (a few dozen typical images) or --calib FILE.npz (arrays named "
            "like the inputs); --calib none distils inputs from the network, without a measure of "
            "accuracy; --calib random is for structural tests",
        )
    budgets = {
        "--max-drop": options.max_drop,
        "--max-bytes": options.max_bytes,
        "--max-latency": options.max_latency,
    }
    given = [name for name, value in budgets.items() if value is not None]
    if options.precision == MIXED and len(given) > 1:
        raise UsageError(
            "EC217",
            f"--precision mixed has {len(given)} budgets",
            why=" and ".join(given),
            fix="give one of them",
        )
    for name in given:
        if name != "--max-drop" and options.precision != MIXED:
            raise UsageError(
                "EC217",
                f"{name} is a budget of --precision mixed only",
                fix="add --precision mixed; --flash limits the size of any artifact",
            )
    if options.recipe is not None:
        get_recipe(options.recipe)  # a wrong name is told now, not after the capture
    precisions = [stored or "fp32"]
    if "fp16" in found.precisions and options.precision != "fp32" and not quantized:
        precisions.append("fp16")
    if options.calib is not None:
        if found.int8_scheme is None:
            raise UnsupportedError(
                "EC385",
                f"{found.name} gains nothing from int8",
                why="; ".join(found.notes),
                fix="leave --calib out",
            )
        if options.precision != INT16X8:
            precisions.append("int8")
    if options.fastest_mix:
        _require_mixes(options, found, precisions, quantized=quantized)
    out = Path(options.out or f"build/{name}-{found.name}-{options.precision}")
    refuse_existing(out, overwrite=options.overwrite)
    formats = tuple(dict.fromkeys(("onnx", *formats)))
    resolved = replace(resolved, options=replace(options, out=str(out), formats=formats))
    return Job(model, name, target, found, resolved, tuple(precisions), out, stages, quantized)


def _require_mixes(
    options: ExportOptions, target: Target, precisions: Sequence[str], *, quantized: bool
) -> None:
    """``--fastest-mix`` has something to choose from.

    Raises:
        UsageError: EC285, it has not.
    """
    from edgec.runtime.tflite_artifact import litert_installed

    reasons = {
        "the network came quantized": quantized,
        "no int8 is written": "int8" not in precisions,
        "--precision mixed chooses by accuracy, size or prediction": options.precision == MIXED,
        f"the formats are {', '.join(options.formats or ())}": "tflite"
        not in (options.formats or ()),
        f"{target.name} does not run .tflite files with XNNPACK": "xnnpack" not in target.delegates,
        "ai-edge-litert is not installed": not litert_installed(),
    }
    why = [reason for reason, holds in reasons.items() if holds]
    if why:
        raise UsageError(
            "EC285",
            "--fastest-mix has nothing to choose from",
            why="; ".join(why),
            fix="--precision int8 --calib DATA --format tflite on a target like raspberry-pi-5, "
            "with pip install 'edgec[tflite]'",
        )


def float_tflite(job: Job) -> tuple[Literal["fp32", "fp16", "dyn8"], ...]:
    """Precisions of .tflite files that need no calibration.

    TensorFlow Lite Micro has neither float16 constants nor products of float32 and int8.
    """
    if job.quantized:
        return ()
    return ("fp32",) if job.target.kind == "mcu" else ("fp32", "fp16", "dyn8")


def dry_run(job: Job) -> dict[str, Any]:
    """The steps that `run_job` would take, as text and data."""
    options = job.options
    alias = f" ({job.asked_target})" if job.asked_target != job.target.name else ""
    steps = [
        f"target: {job.target.name}{alias}, {job.target.title}",
        f"weights: {options.weights or 'published ones, if they can be had'}",
        f"capture: {'quantized' if job.quantized else 'float'} ONNX graph, checked against its "
        "source",
        f"outputs: {_outputs(job)}",
        f"rewrite: lean graph, lowered to opset {job.target.runtime.opset}, each pass checked",
    ]
    if "tflite" in (options.formats or ()):
        steps.append("lower: NHWC, TFLite builtin operators; run in LiteRT where it is installed")
    if options.calib is not None:
        steps.append(
            f"calibrate: up to {options.calib_limit} samples of {options.calib}, "
            f"recipe {options.recipe or 'of the family'}; int8 by scheme {job.target.int8_scheme}"
        )
    files = [f"onnx/model{'' if p == 'fp32' else '_' + p}.onnx" for p in job.precisions]
    if "tensorrt" in (options.formats or ()):
        files += ["tensorrt/recipe.json", "tensorrt/build_engine.py", "tensorrt/run_bench.py"]
    if "tflite" in (options.formats or ()):
        integer = options.precision == INT16X8 or "int8" in job.precisions
        kinds = (
            *float_tflite(job),
            *((INT16X8 if options.precision == INT16X8 else "int8",) if integer else ()),
        )
        files += [f"tflite/model_{kind}.tflite" for kind in kinds]
    if "c" in (options.formats or ()):
        steps.append("emit: C kernels on one arena, planned for the target's memories")
        files.append("c/")
    steps.append(f"write: {job.out}: {', '.join(files)}, golden data, manifest, report")
    return {"out": str(job.out), "precisions": list(job.precisions), "files": files, "steps": steps}


def _outputs(job: Job) -> str:
    if job.stages:
        return "maps of the stages " + ", ".join(map(str, job.stages))
    if job.options.features is not None:
        return f"maps of the stages {', '.join(job.options.features)}"
    return "those of the network"
