"""``edgec profile``: from what the user names to static profile, prediction and comparison."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from edgec.export.bundle import Artifact, Bundle
from edgec.export.check import float_graph, read_graph
from edgec.export.errors import InputError, UnsupportedError, UsageError
from edgec.export.progress import Reporter
from edgec.export.source import describe
from edgec.profiles.from_graph import graph_layers, profile_graph
from edgec.profiles.from_tflite import profile_tflite
from edgec.profiles.latency.features import matrix
from edgec.profiles.latency.predict import Anchor, Prediction
from edgec.profiles.latency.target import (
    FEWEST_ANCHORS,
    MOST_ANCHORS,
    Anchors,
    fit_for,
    predict_for,
)
from edgec.profiles.layers import Layer, StaticProfile
from edgec.profiles.side_by_side import by_module
from edgec.targets.registry import get_target
from edgec.targets.schema import Target


def static_profile(
    model: str,
    target: Target | None,
    options: Mapping[str, Any],
    reporter: Reporter,
    *,
    artifact: str | None = None,
) -> StaticProfile:
    """Profile a bundle, a .tflite or .onnx file as it is, or a network captured for the target.

    Args:
        model: what ``edgec export`` takes, or a bundle.
        target: whose rewrites apply to a network; by default those of generic-x86-64.
        options: of the capture (``input_size``, ``shapes``); with any, an .onnx file is captured
            and rewritten like a network.
        artifact: of a bundle: path or precision; by default the int8 ONNX file, where there is one,
            else the master.

    Raises:
        EdgecError: what reading or capturing raises.
    """
    path = Path(model)
    if path.is_dir():
        bundle = Bundle.open(path)
        return _of_artifact(bundle, _artifact(bundle, artifact))
    kind, name = describe(model)
    if kind == "tflite":
        return profile_tflite(path)
    if kind == "onnx" and not any(options.values()):
        return profile_graph(_with_shapes(read_graph(path)), name)
    name, graph = float_graph(model, target or get_target("generic-x86-64"), options, reporter)
    return profile_graph(graph, name)


def _with_shapes(graph: ir.Model) -> ir.Model:
    """The graph with the shapes that follow from those of its inputs."""
    proto = ir.to_proto(graph)
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto, data_prop=True))


def profiled_artifact(model: str, name: str | None) -> str | None:
    """Path of the artifact that `static_profile` takes from a bundle; None for anything else."""
    path = Path(model)
    return _artifact(Bundle.open(path), name).path if path.is_dir() else None


def _artifact(bundle: Bundle, name: str | None) -> Artifact:
    if name is not None:
        return bundle.artifact(name)
    built = [a for a in bundle.manifest.artifacts if a.status == "built" and a.format == "onnx"]
    int8 = [a for a in built if a.precision == "int8"]
    return (int8 or [bundle.artifact()])[0]


def _of_artifact(bundle: Bundle, artifact: Artifact) -> StaticProfile:
    file = bundle.file(artifact)
    if artifact.format == "tflite":
        return profile_tflite(file)
    return profile_graph(read_graph(file), str(bundle.manifest.model.get("name") or "network"))


def predict_artifact(content: bytes, artifact: Artifact, target: Target) -> dict[str, Any]:
    """Latency of an ONNX artifact on a target with one thread, for reports.

    Returns:
        The fields of a `Prediction` with its `line`, the artifact's path, and ``layers``: module,
        name, kind and milliseconds of each, empty where there is no prediction.
    """
    layers: tuple[Layer, ...] = ()
    try:
        layers = graph_layers(ir.from_proto(onnx.load_model_from_string(content)))
        found = predict_for(layers, artifact.precision, target)
    except UnsupportedError as error:  # no number is no reason to fail an export
        found = Prediction(target.name, refused=error.what)
    data = found.to_json()
    times = data.pop("layer_ms")
    rows = [
        {"module": layer.module, "name": layer.name, "kind": layer.kind, "ms": float(f"{ms:.4g}")}
        for layer, ms in zip(layers, times, strict=False)
    ]
    return {**data, "line": found.line(), "artifact": artifact.path, "layers": rows}


def read_anchors(path: Path, stored: str, target: Target, reporter: Reporter) -> Anchors | None:
    """Measurements of the user's own board; None where no constants are fitted for such targets.

    The file is a JSON object: ``device``, ``runtime``, ``threads``, and ``measurements``, a list of
    ``{"model": …, "latency_ms": …}`` where a model is the name of a network that the constants were
    fitted to, or anything that ``edgec profile`` takes.

    Args:
        path: the file.
        stored: precision of the network to predict, e.g. ``"int8"``.
        target: the nearest one to the board.
        reporter: progress of capturing networks.

    Raises:
        InputError: not such a file, or too few or too many measurements (EC732).
        EdgecError: what profiling a model raises.
    """

    def wrong(why: str) -> InputError:
        return InputError("EC732", "the anchors cannot be used", where=str(path), why=why)

    try:
        data = json.loads(path.read_text("utf-8"))
        entries = [(str(e["model"]), float(e["latency_ms"])) for e in data["measurements"]]
        threads = int(data.get("threads", 1))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise wrong(f"{type(error).__name__}: {error}") from error
    if not FEWEST_ANCHORS <= len(entries) <= MOST_ANCHORS:
        raise wrong(f"{len(entries)} measurements; {FEWEST_ANCHORS} to {MOST_ANCHORS} are used")
    if len({model for model, _ in entries}) != len(entries):
        raise wrong("a network is listed twice: keep the fastest of its measurements")
    runtime = str(data.get("runtime", "runtime not named"))
    fit = fit_for(target, stored, threads, runtime)
    if fit is None:
        return None
    measured = []
    for model, latency in entries:
        if not (math.isfinite(latency) and latency > 0):
            raise wrong(f"{model}: {latency} is no latency in milliseconds")
        work = fit.known(threads).get(model)
        if work is None:
            profile = static_profile(model, target, {}, reporter)
            work = matrix(profile.layers, fit.features, fit.merge, threads).sum(axis=0)
        if not np.any(work):
            raise wrong(f"{model}: the network has no layer that takes time")
        measured.append(Anchor(model, np.atleast_2d(work), latency))
    return Anchors(
        fit,
        str(data.get("device", "your board")),
        runtime,
        threads,
        tuple(measured),
    )


def measured_by_module(path: Path, artifact: str | None = None) -> tuple[str, dict[str, float]]:
    """What a record measured for each module: unit and sums.

    Reads the records of ``edgec bench``: the result of `artifact` where there is one, else the
    first that has ``layers``, each with ``module`` and ``ms`` (or ``instructions``).

    Raises:
        InputError: no record, or none with times by layer (EC733).
    """
    try:
        record = json.loads(path.read_text("utf-8"))
        results = [record, *record.get("results", [])]
        tables = [r for r in results if r.get("layers")]
        if not tables:
            raise ValueError("no result has a table of layers")
        same = [r for r in tables if r.get("artifact") == artifact]
        layers = (same or tables)[0]["layers"]
        unit = "ms" if "ms" in layers[0] else "instructions"
        sums: dict[str, float] = {}
        for layer in layers:
            module = str(layer.get("module") or "")
            sums[module] = sums.get(module, 0.0) + float(layer[unit])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            "EC733",
            "the record holds no measurements by layer",
            where=str(path),
            why=f"{type(error).__name__}: {error}",
            fix="measure by layer: edgec bench --save RECORD of an ONNX, C or TensorRT artifact",
        ) from error
    return unit, sums


def side_by_side(
    profile: StaticProfile, layer_ms: tuple[float, ...], measured: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Predicted and measured by module, in the network's order, then what was only measured.

    A measured module may hold several layers of the profile: these are summed under its name.
    """
    times = layer_ms or (None,) * len(profile.layers)
    layers = zip(profile.layers, times, strict=True)
    return by_module([(layer.module, layer.macs, ms) for layer, ms in layers], measured)


def need_target(target: str | None, option: str) -> Target:
    """The target, for an option that makes no sense without one.

    Raises:
        UsageError: it is not given (EC233), or unknown.
    """
    if target is None:
        raise UsageError(
            "EC233",
            f"{option} needs a target",
            where="command line",
            fix="add --target NAME (edgec targets list)",
        )
    return get_target(target)
