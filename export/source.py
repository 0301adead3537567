"""From ``--model`` and ``--weights`` to a captured float graph."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from edgec.export.cache import StageCache
from edgec.export.errors import InputError, MissingToolError, UsageError
from edgec.export.files import sha256_file
from edgec.export.options import ExportOptions
from edgec.export.progress import Reporter
from edgec.models.preprocess import Preprocess
from edgec.models.registry import ModelSpec, config_spec, get_spec, list_models
from edgec.models.stages import Stage, select_stages

if TYPE_CHECKING:
    import onnx_ir as ir
    from torch import nn

    from edgec.models.download import Progress
    from edgec.models.weights import WeightsInfo

Loaded = TypeVar("Loaded")

MASTER_OPSET = 20
"""Opset of the float master graph; artifacts for older runtimes are converted down from it."""


NO_WEIGHTS = ("EC221", "EC620", "EC621", "EC624")
"""Errors that say that there are no weights to be had, rather than that the request is wrong."""


@dataclass(frozen=True)
class Captured:
    """A float graph at `MASTER_OPSET` and what is known about where it came from.

    Attributes:
        graph: static shapes, module path on each node.
        name: short name, safe as part of a file name.
        model: facts for the manifest.
        weights: facts for the manifest; ``kind`` is ``"random"`` for untrained parameters.
        preprocess: how images become the input, where that is known.
        labels: names of the classes, where the file has them.
        spec: the registry entry of a zoo network.
        stages: with ``--features``, the stages whose maps are the outputs, in their order.
    """

    graph: ir.Model
    name: str
    model: dict[str, Any]
    weights: dict[str, Any]
    preprocess: Preprocess | None = None
    spec: ModelSpec | None = None
    stages: tuple[Stage, ...] = ()
    labels: tuple[str, ...] | None = None


def describe(model: str) -> tuple[str, str]:
    """Kind (``zoo``, ``config``, ``timm``, ``onnx``, ``pt2``, ``tflite``, ``factory``), short name.

    Raises:
        InputError: it is a path, and no file is there.
        UsageError: it is neither a path nor a zoo name.
    """
    if model.startswith("timm:"):
        return "timm", _short(model.removeprefix("timm:"))
    path = Path(model)
    if path.suffix in (".onnx", ".pt2", ".tflite"):
        _must_exist(path)
        return path.suffix[1:], _short(path.stem)
    if path.suffix == ".json":
        _must_exist(path)
        return "config", _short(path.stem)
    file, colon, function = model.rpartition(":")
    if colon and file.endswith(".py"):
        _must_exist(Path(file))
        return "factory", _short(function)
    get_spec(model)
    return "zoo", model


def wanted_stages(model: Any, options: ExportOptions) -> tuple[Stage, ...]:
    """The stages that ``--features`` asks for, as far as they are known before loading anything.

    Raises:
        UsageError: the network has no such stages (EC227), or brings no stages (EC280).
        InputError: as `describe`.
    """
    if options.features is None:
        return ()
    kind, name = describe(model) if isinstance(model, str) else ("module", "a torch module")
    if kind == "timm":
        return ()  # timm knows
    if kind not in ("zoo", "config"):
        raise UsageError(
            "EC280",
            "--features applies to zoo and timm networks",
            where=str(model) if kind != "module" else None,
            why="which values of another network are its stage outputs is not known",
            fix="let the network return its feature maps: several outputs are fine",
        )
    spec = get_spec(name) if kind == "zoo" else config_spec(Path(model))
    return select_stages(spec.stages, options.features, network=name)


def capture(
    model: Any, options: ExportOptions, *, needs_accuracy: bool, reporter: Reporter
) -> Captured:
    """Load the network and capture it as a float ONNX graph.

    Args:
        model: zoo name, path, ``file.py:factory`` or a `torch.nn.Module`.
        options: weights, input size, shapes, seed, cache.
        needs_accuracy: True when calibration follows, so that untrained parameters would make its
            result meaningless unless they were asked for.
        reporter: warnings go there.
    """
    stages = wanted_stages(model, options)
    if not isinstance(model, str):
        return _from_module(model, options)
    kind, name = describe(model)
    if kind in ("zoo", "config"):
        from edgec.models.factory import build, build_config

        spec = get_spec(name) if kind == "zoo" else config_spec(Path(model))
        network = build(name) if kind == "zoo" else build_config(Path(model))
        return _from_zoo(
            spec, network, stages, options, needs_accuracy=needs_accuracy, reporter=reporter
        )
    if kind == "timm":
        return _from_timm(model, name, options, needs_accuracy=needs_accuracy, reporter=reporter)
    if options.weights is not None:
        raise UsageError(
            "EC208",
            "--weights applies to zoo networks only",
            why=f"{model} brings its own parameters",
            fix="leave --weights out",
        )
    if kind == "onnx":
        return _from_onnx(Path(model), name, options, reporter)
    if kind == "tflite":
        return _from_tflite(Path(model), name, options)
    if kind == "pt2":
        from edgec.export.capture import from_exported_program

        graph = from_exported_program(Path(model))
        facts = {"source": "pt2", "sha256": sha256_file(Path(model))}
    else:
        from edgec.export.capture import from_factory

        graph = from_factory(model, _factory_shape(options))
        facts = {"source": "factory", "sha256": sha256_file(Path(model.rpartition(":")[0]))}
    return Captured(graph, name, {"name": name, **facts}, {"kind": "own"})


def _from_zoo(
    spec: ModelSpec,
    network: nn.Module,
    stages: tuple[Stage, ...],
    options: ExportOptions,
    *,
    needs_accuracy: bool,
    reporter: Reporter,
) -> Captured:
    from edgec.models.features import NOTE, Backbone
    from edgec.models.weights import load_weights

    name = spec.name
    if options.shapes:
        raise UsageError(
            "EC209", "--shape applies to networks of your own", fix="use --input-size for the zoo"
        )
    if options.input_size is not None:
        spec = replace(
            spec,
            input_shape=(spec.input_shape[0], *options.input_size),
            preprocess=replace(spec.preprocess, size=options.input_size),
        )

    def load(weights: str) -> WeightsInfo:
        with download_progress(name, reporter) as progress:
            return load_weights(network, spec, weights, seed=options.seed, progress=progress)

    info = _or_random(load, name, options, needs_accuracy=needs_accuracy, reporter=reporter)
    key = StageCache.key(
        "capture",
        spec=spec.to_json(),
        state=_state_hash(network),
        opset=MASTER_OPSET,
        stages=[stage.name for stage in stages],
    )
    cache = StageCache(enabled=options.cache)
    graph = cache.load_graph(key)
    if graph is None:
        source = Backbone(network, stages) if stages else network
        graph = _from_torch(source, spec.input_shape, stages)
        cache.store_graph(key, graph)
    model: dict[str, Any] = {
        "source": "zoo",
        "name": name,
        "family": spec.family,
        "title": spec.title,
        "input_shape": list(spec.input_shape),
    }
    weights = _portable(info.to_json())
    if stages:
        weights["note"] = "; ".join(filter(None, (weights["note"], NOTE)))
    else:  # these are about the classifier
        model |= {
            "params": spec.params,
            "macs": spec.macs,
            "accuracy": [vars(a) for a in spec.accuracy],
        }
    preprocess = replace(spec.preprocess_for(info.tag), size=spec.input_shape[1:])
    return Captured(graph, name, model, weights, preprocess, spec, stages)


def _from_torch(
    network: nn.Module, input_shape: tuple[int, ...], stages: tuple[Stage, ...]
) -> ir.Model:
    """Capture a network, or a backbone whose nodes keep the module paths of the plain network."""
    from edgec.export.capture import from_torch
    from edgec.export.rewrite.graph import MODULE_KEY
    from edgec.models.features import PREFIX

    names = [stage.name for stage in stages] or None
    graph = from_torch(network, input_shape, output_names=names, opset=MASTER_OPSET)
    if stages:
        for node in graph.graph.all_nodes():
            path = node.metadata_props.get(MODULE_KEY)
            if path is not None:
                node.metadata_props[MODULE_KEY] = path.removeprefix(PREFIX)
    return graph


def _from_timm(
    model: str, name: str, options: ExportOptions, *, needs_accuracy: bool, reporter: Reporter
) -> Captured:
    from edgec.models import timm_bridge

    asked = model.removeprefix(timm_bridge.PREFIX)

    def load(weights: str) -> timm_bridge.TimmNetwork:
        return timm_bridge.load(
            asked,
            weights,
            seed=options.seed,
            input_size=options.input_size,
            features=options.features,
        )

    found = _or_random(load, asked, options, needs_accuracy=needs_accuracy, reporter=reporter)
    graph = _from_torch(found.network, found.input_shape, found.stages)
    facts: dict[str, Any] = {
        "source": "timm",
        "name": name,
        "title": asked,
        "input_shape": list(found.input_shape),
    }
    if not found.stages:
        facts["params"] = found.params
    weights = _portable(found.weights)
    return Captured(graph, name, facts, weights, found.preprocess, stages=found.stages)


def _or_random(
    load: Callable[[str], Loaded],
    name: str,
    options: ExportOptions,
    *,
    needs_accuracy: bool,
    reporter: Reporter,
) -> Loaded:
    """Load published weights, or say loudly that there are none.

    Without --weights, unreachable or unpublished weights need not stop a structural export;
    anything that is about accuracy must not go on with noise.
    """
    try:
        return load(options.weights or "pretrained")
    except (MissingToolError, UsageError) as error:
        if options.weights is not None or error.code not in NO_WEIGHTS:
            raise
        if needs_accuracy:
            error.fix = "give --weights PATH, or --weights random for a structural test"
            raise
        reason = error.what
    reporter.warn(
        f"no published weights for {name} could be had ({reason}): the parameters are RANDOM; "
        "use --weights PATH for a network that can see"
    )
    return load("random")


@contextmanager
def download_progress(name: str, reporter: Reporter) -> Iterator[Progress | None]:
    """A progress bar for weights that have to be downloaded, unless the reporter is quiet."""
    from edgec.models.download import terminal_progress

    if reporter.quiet:
        yield None
        return
    reporter.clear_line()
    with terminal_progress(f"weights of {name}") as progress:
        yield progress


def _from_onnx(path: Path, name: str, options: ExportOptions, reporter: Reporter) -> Captured:
    from edgec.export.capture import WIDENED, from_onnx

    shapes = dict(options.shapes or {})
    if options.input_size is not None and not shapes:
        shapes = image_input(path, options.input_size)
    graph = from_onnx(path, shapes=shapes or None, float32=True)
    facts = {"source": "onnx", "name": name, "sha256": sha256_file(path)}
    widened = graph.metadata_props.pop(WIDENED, None)
    if widened is not None:
        facts["floats"] = widened
        reporter.warn(
            f"{path.name} computes in {widened}: inputs, outputs and weights are float32 from here "
            "on; --precision fp16 makes float16 of it where the target executes that"
        )
    return Captured(graph, name, facts, {"kind": "own"})


def _from_tflite(path: Path, name: str, options: ExportOptions) -> Captured:
    from edgec.export.capture import from_tflite
    from edgec.export.data import stored_preprocess
    from edgec.export.rewrite.graph import shape_of
    from edgec.export.tflite import load
    from edgec.export.tflite.marks import own_entry

    if options.shapes or options.input_size is not None:
        raise UsageError(
            "EC224",
            "--shape and --input-size do not apply to .tflite files",
            where=str(path),
            why="their shapes are fixed",
            fix="leave them out, or convert the network again for another size",
        )
    facts = {"source": "tflite", "name": name, "sha256": sha256_file(path)}
    file = load(path)
    graph = from_tflite(file, where=str(path))
    entry = own_entry(file) or {}
    shapes = [tuple(shape_of(value) or ()) for value in graph.graph.inputs]
    preprocess = stored_preprocess(entry.get("preprocess"), shapes)
    labels = entry.get("labels")
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        labels = None
    return Captured(
        graph,
        name,
        facts,
        {"kind": "own"},
        preprocess,
        labels=None if labels is None else tuple(labels),
    )


def image_input(path: Path, size: tuple[int, int]) -> dict[str, tuple[int, ...]]:
    """Shape (1, channels, height, width) of the one image input of an ONNX file.

    Raises:
        UsageError: the file has no single input of rank 4 with a known number of channels.
    """
    from edgec.export.capture.onnx_checks import read_proto

    graph = read_proto(path).graph
    held = {t.name for t in graph.initializer}
    inputs = [i for i in graph.input if i.name not in held]
    if len(inputs) == 1:
        dims = inputs[0].type.tensor_type.shape.dim
        if len(dims) == 4 and dims[1].dim_value > 0:
            return {inputs[0].name: (1, dims[1].dim_value, *size)}
    names = ", ".join(repr(i.name) for i in inputs)
    raise UsageError(
        "EC215",
        "--input-size needs a network with one image input (batch, channels, height, width)",
        where=str(path),
        why=f"its inputs are {names}",
        fix="give full shapes with --shape NAME=1,3,224,224",
    )


def _portable(weights: dict[str, Any]) -> dict[str, Any]:
    """Weights' facts for the manifest: of a local file only its name, which may travel."""
    if weights["kind"] == "file":
        return weights | {"source": Path(weights["source"]).name}
    return weights


def _from_module(network: nn.Module, options: ExportOptions) -> Captured:
    from torch import nn

    from edgec.export.capture import from_torch

    if not isinstance(network, nn.Module):
        raise UsageError(
            "EC210",
            f"cannot compile a {type(network).__name__}",
            fix="pass a zoo name, a path, file.py:factory or a torch.nn.Module",
        )
    name = _short(type(network).__name__)
    graph = from_torch(network, _factory_shape(options), opset=MASTER_OPSET)
    facts = {"source": "module", "name": name, "sha256": _state_hash(network)}
    return Captured(graph, name, facts, {"kind": "own"})


def _factory_shape(options: ExportOptions) -> tuple[int, ...]:
    if options.shapes:
        if len(options.shapes) > 1:
            raise UsageError(
                "EC211",
                "one input shape is needed, several were given",
                fix="networks with several inputs: export them to .pt2 or .onnx first",
            )
        shape = next(iter(options.shapes.values()))
        # the capture adds the batch axis
        return shape[1:] if len(shape) == 4 else shape
    if options.input_size is not None:
        return (3, *options.input_size)
    raise UsageError(
        "EC211",
        "the input shape of the network is not known",
        fix="give --input-size 224 (for 3 channels) or --shape input=1,1,28,28",
    )


def _state_hash(network: nn.Module) -> str:
    digest = hashlib.sha256()
    for key, tensor in sorted(network.state_dict().items()):
        array = tensor.detach().cpu().contiguous()
        digest.update(f"{key} {array.dtype} {tuple(array.shape)} ".encode())
        digest.update(memoryview(array.numpy().reshape(-1)).cast("B"))
    return digest.hexdigest()


def _must_exist(path: Path) -> None:
    if not path.is_file():
        raise InputError(
            "EC787",
            "no such model file",
            where=str(path),
            fix=f"check the path, or take one of the {len(list_models())} zoo names "
            "(`edgec models list`)",
        )


def _short(name: str) -> str:
    """`name` reduced to letters, digits, ``_ . -``: it becomes part of a folder name."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", name).strip("._-")[:64] or "model"
