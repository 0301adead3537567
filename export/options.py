"""Options of `edgec export` and where each value came from.

Precedence: command line > ``EDGEC_*`` environment > ``edgec.toml`` > target > default.
"""

from __future__ import annotations

import math
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from edgec.export.errors import InputError, UsageError
from edgec.models.stages import check_wanted
from edgec.targets.schema import FORMATS, PRECISIONS, Target

CalibrationMethod = Literal["minmax", "percentile", "entropy", "mse", "fisher"]
MIXED = "mixed"
"""The ``--precision`` whose int8 artifact keeps some blocks in float, or on int16."""
INT16X8 = "int16x8"
"""int16 activations and int8 weights, in .tflite files only; no device's own precision."""
AUTO_PLACEMENT = "auto"
PLACEMENT_NAMES = (
    "default", "attention", "skip-arms", "fused-arms", "no-arms", "convolutions", "wide",
    "wide-attention", "linear",
)  # fmt: skip
CALIBRATION_METHODS: tuple[CalibrationMethod, ...] = get_args(CalibrationMethod)


@dataclass(frozen=True)
class ExportOptions:
    """Everything that decides what `edgec export` writes.

    Attributes:
        precision: ``fp32``, ``fp16``, ``int8``, or ``mixed`` (int8 with the blocks in float, or on
            int16, that a budget asks for); by default the target's.
        weights: path, URL, ``pretrained[:TAG]`` or ``random``; None takes published weights when
            they can be had and says so when they cannot.
        calib: folder, zip or npz of calibration images (or tensors), ``none`` for inputs distilled
            from the network, ``random`` for noise; None quantizes nothing.
        calib_limit: how many images at most, drawn with `seed`.
        recipe: name or TOML file of a quantization recipe; the options below take precedence over
            it. By default what was measured to be best for the network's family.
        calib_method: how activation ranges are chosen.
        bias_correction: shift biases so that rounded weights keep the mean output of each channel.
        keep_float: module paths, node names or operator types that int8 leaves in float.
        time_mixes: time int8 .tflite files beside float ones in LiteRT on this machine, and mixes
            of both where int8 is not clearly faster; the report tells.
        fastest_mix: make the int8 .tflite file the mix that is fastest here, if one is measurably
            faster than int8.
        placement: which operators get Q/DQ in a TensorRT graph, a name of
            `edgec.export.quantize.placement.PLACEMENTS`; ``auto`` lets the proxy's plans decide
            where TensorRT for RTX is installed, and is ``default`` elsewhere.
        preprocess: JSON file with the fields of `edgec.models.preprocess.Preprocess`, for networks
            that bring none.
        input_size: (height, width) for image networks.
        shapes: static shapes by input name, for networks of the user's own.
        features: stages whose maps are the outputs instead of classes: ``all``, numbers (``2``), or
            strides (``/16``); zoo and timm networks.
        formats: artifact formats; by default the target's.
        labels: text file with one class name per line.
        max_drop: points of top-1 (labelled data) or agreement (unlabelled) that int8 may lose.
        max_bytes: bytes of weights that a mixed precision may have.
        max_latency: milliseconds that a mixed precision may take, as predicted for the target.
        min_sqnr: decibels of signal over quantization noise that int8 must keep at each output.
        force: keep a bundle that fails the accuracy gate, marked as such.
        ram, flash: budgets in bytes.
        skip_passes: names of rewrite passes to leave out.
        dump_passes: folder for the graph before and after each pass.
        out: output folder; by default ``build/MODEL-TARGET-PRECISION``.
    """

    precision: str | None = None
    weights: str | None = None
    calib: str | None = None
    calib_limit: int = 128
    recipe: str | None = None
    calib_method: CalibrationMethod = "mse"
    bias_correction: bool = True
    keep_float: tuple[str, ...] = ()
    time_mixes: bool = True
    fastest_mix: bool = False
    placement: str = AUTO_PLACEMENT
    preprocess: str | None = None
    input_size: tuple[int, int] | None = None
    shapes: Mapping[str, tuple[int, ...]] | None = None
    features: tuple[str, ...] | None = None
    formats: tuple[str, ...] | None = None
    labels: str | None = None
    max_drop: float | None = None
    max_bytes: int | None = None
    max_latency: float | None = None
    min_sqnr: float | None = None
    force: bool = False
    ram: int | None = None
    flash: int | None = None
    skip_passes: tuple[str, ...] = ()
    dump_passes: str | None = None
    out: str | None = None
    overwrite: bool = False
    cache: bool = True
    seed: int = 0


@dataclass(frozen=True)
class Resolved:
    """Options plus, for each field, where its value came from."""

    options: ExportOptions
    origin: dict[str, str]

    def to_json(self) -> dict[str, dict[str, Any]]:
        """``{field: {"value": …, "origin": …}}``, what ``--show-config`` prints."""
        return {
            f.name: {"value": getattr(self.options, f.name), "origin": self.origin[f.name]}
            for f in fields(ExportOptions)
        }


def resolve(
    flags: Mapping[str, Any],
    target: Target,
    *,
    config: Path | None = None,
    environ: Mapping[str, str] | None = None,
) -> Resolved:
    """Merge all sources of options.

    Args:
        flags: values given on the command line or as keyword arguments; None means not given.
        target: supplies the defaults of `precision` and `formats`.
        config: path of the configuration file; by default ``edgec.toml`` here, if there is one.
        environ: the environment, `os.environ` by default.

    Raises:
        UsageError: unknown option or a value outside its range.
        InputError: the configuration file cannot be read.
    """
    environ = os.environ if environ is None else environ
    names = [f.name for f in fields(ExportOptions)]
    values: dict[str, Any] = {}
    origin = dict.fromkeys(names, "default")

    def put(name: str, value: Any, source: str) -> None:
        try:
            values[name] = _PARSERS[name](value)
        except (ValueError, TypeError, KeyError) as error:
            raise UsageError(
                "EC206",
                f"bad value {value!r} for {name.replace('_', '-')}",
                where=source,
                why=str(error),
                fix="see `edgec export --help`",
            ) from error
        origin[name] = source

    put("precision", target.default_precision, f"target {target.name}")
    put("formats", target.formats, f"target {target.name}")
    table, file = _config_table(config)
    for key, value in table.items():
        name = key.replace("-", "_")
        if name not in names:
            raise UsageError(
                "EC207",
                f"unknown option {key!r} in {file}",
                where=f"{file} [export]",
                fix="options are named like the flags of `edgec export`",
            )
        put(name, value, str(file))
    for name in names:
        variable = f"EDGEC_{name.upper()}"
        if variable in environ:
            put(name, environ[variable], f"environment {variable}")
    for name, value in flags.items():
        if name not in names:
            raise UsageError("EC207", f"unknown option {name!r}", fix=f"one of {', '.join(names)}")
        if value is not None:
            put(name, value, "command line")
    return Resolved(ExportOptions(**values), origin)


def parse_bytes(text: str | int) -> int:
    """``"320K"`` → 327680; suffixes K, M, G are powers of 1024 (KiB and so on are the same)."""
    if isinstance(text, int):
        return text
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMG]?)(?:i?B)?\s*", text, re.IGNORECASE)
    if match is None:
        raise ValueError("write a number of bytes such as 327680, 320K or 1.5M")
    scale = {"": 0, "K": 1, "M": 2, "G": 3}[match[2].upper()]
    return int(float(match[1]) * 1024**scale)


def parse_size(text: str | int | tuple[int, ...] | list[int]) -> tuple[int, int]:
    """``"224"`` → (224, 224); ``"192x256"`` → (192, 256) = (height, width)."""
    if isinstance(text, (tuple, list)):
        parts = [int(p) for p in text]
    else:
        parts = [int(p) for p in str(text).lower().split("x")]
    if len(parts) == 1:
        parts *= 2
    if len(parts) != 2 or not all(0 < p <= 16384 for p in parts):
        raise ValueError("write HEIGHTxWIDTH or one number for a square, each 1 to 16384")
    return parts[0], parts[1]


def parse_shapes(text: Any) -> dict[str, tuple[int, ...]]:
    """``["x=1,3,224,224"]`` or ``{"x": [1, 3, 224, 224]}`` → shapes by input name."""
    if isinstance(text, str):
        text = [text]
    if not isinstance(text, Mapping):
        pairs = [item.rpartition("=") for item in text]
        text = {name: dims.split(",") for name, _, dims in pairs}
    shapes = {name: tuple(int(d) for d in dims) for name, dims in text.items()}
    if not all(name and dims and all(d > 0 for d in dims) for name, dims in shapes.items()):
        raise ValueError("write NAME=1,3,224,224 with positive sizes")
    return shapes


def _config_table(config: Path | None) -> tuple[dict[str, Any], Path]:
    file = config or Path("edgec.toml")
    if config is None and not file.is_file():
        return {}, file
    try:
        data = tomllib.loads(file.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(
            "EC786",
            "cannot read the configuration file",
            where=str(file),
            why=str(error),
            fix="correct the TOML, or leave --config out",
        ) from error
    table = data.get("export", {})
    if not isinstance(table, dict):
        raise InputError(
            "EC786",
            "the configuration file has no table [export]",
            where=str(file),
            fix="write options below a line [export]",
        )
    return table, file


def _one_of(*allowed: str) -> Callable[[Any], str]:
    def parse(value: Any) -> str:
        if value not in allowed:
            raise ValueError(f"one of {', '.join(allowed)}")
        return str(value)

    return parse


def _names(value: Any) -> tuple[str, ...]:
    items = value.split(",") if isinstance(value, str) else value
    if isinstance(items, int):
        items = (items,)
    return tuple(str(item).strip() for item in items if str(item).strip())


def _formats(value: Any) -> tuple[str, ...]:
    return tuple(_one_of(*FORMATS)(item) for item in _names(value))


def _features(value: Any) -> tuple[str, ...]:
    wanted = tuple(str(item).lower() for item in _names(value))
    check_wanted(wanted)
    return wanted


def _flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    words = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
    if str(value).lower() not in words:
        raise ValueError("true or false")
    return words[str(value).lower()]


def _positive(value: Any) -> int:
    if int(value) <= 0:
        raise ValueError("must be positive")
    return int(value)


def _drop(value: Any) -> float:
    if not 0 <= float(value) <= 100:
        raise ValueError("points between 0 and 100")
    return float(value)


def _milliseconds(value: Any) -> float:
    if not 0 < float(value) < math.inf:
        raise ValueError("milliseconds above 0")
    return float(value)


def _decibels(value: Any) -> float:
    if not 0 <= float(value) <= 200:
        raise ValueError("decibels between 0 and 200")
    return float(value)


_PARSERS: dict[str, Callable[[Any], Any]] = {
    "precision": _one_of(*PRECISIONS, MIXED, INT16X8),
    "weights": str,
    "calib": str,
    "calib_limit": _positive,
    "recipe": str,
    "calib_method": _one_of(*CALIBRATION_METHODS),
    "bias_correction": _flag,
    "keep_float": _names,
    "time_mixes": _flag,
    "fastest_mix": _flag,
    "placement": _one_of(AUTO_PLACEMENT, *PLACEMENT_NAMES),
    "preprocess": str,
    "input_size": parse_size,
    "shapes": parse_shapes,
    "features": _features,
    "formats": _formats,
    "labels": str,
    "max_drop": _drop,
    "max_bytes": parse_bytes,
    "max_latency": _milliseconds,
    "min_sqnr": _decibels,
    "force": _flag,
    "ram": parse_bytes,
    "flash": parse_bytes,
    "skip_passes": _names,
    "dump_passes": str,
    "out": str,
    "overwrite": _flag,
    "cache": _flag,
    "seed": int,
}
