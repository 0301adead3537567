"""The TensorRT build bundle: ``recipe.json`` beside the scripts that carry it out on the device.

An engine depends on the GPU and on the exact TensorRT version, so none is built (or pretended to be
built) off the device. The recipe says, per engine: which ONNX file, which settings under each major
version of TensorRT, how much workspace; ``build_engine.py`` builds it and ``run_bench.py`` measures
it; both need only Python and TensorRT.

Settings follow the TensorRT developer guide: from 10.0 on strongly typed networks execute the types
written in the graph (and from 11.0 on no others exist); before, precision is a builder flag. There,
INT8 graphs, which carry explicit Q/DQ, are built with both flags, because INT8 alone forbids fp16
for the layers that stay float (NVIDIA/TensorRT#3762). A flag leaves it to TensorRT which layers
become float16, and squares in a LayerNorm overflow (NVIDIA/TensorRT#2564): the recipe names the
layers that are to stay float32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Any

from edgec.export.bundle import Artifact, TensorInfo
from edgec.export.files import dump_json
from edgec.targets.schema import Target

SCHEMA = "edgec.trt-recipe/2"
STRONGLY_TYPED_SINCE = (10, 0)
HERE, TRANSPORTS = "edgec.export.emit.tensorrt", "edgec.runtime.transports"
SCRIPTS = {
    "build_engine.py": (HERE, "build_engine.py"),
    "run_bench.py": (HERE, "run_bench.py"),
    "edgec_device.py": (HERE, "edgec_device.py"),
    "edgec_session.py": (HERE, "edgec_session.py"),
    "edgec_trtexec.py": (HERE, "edgec_trtexec.py"),
    "edgec_meters.py": (TRANSPORTS, "meters.py"),
}
"""What runs on the device by its name in the bundle, and whose ``device`` folder it is from."""
TIMING_CACHE = "timing.cache"
"""File that the scripts keep measured kernels in, beside the engines."""
GOLDEN = {"inputs": "../golden/inputs_0.npz", "outputs": "../golden/outputs_0.npz"}


def write_build_bundle(
    folder: Path,
    target: Target,
    onnx: list[Artifact],
    inputs: tuple[TensorInfo, ...],
    outputs: tuple[TensorInfo, ...],
    pinned: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> None:
    """Write ``recipe.json`` and the device scripts into `folder`.

    Args:
        folder: the bundle's ``tensorrt`` folder; the ONNX files lie at their `Artifact.path`
            relative to its parent.
        onnx: artifacts to build engines from.
        inputs, outputs: network I/O, so that the script can check what the parser made of it.
        pinned: by precision, nodes that have to stay float32 where flags choose precisions.
    """
    folder.mkdir(parents=True, exist_ok=True)
    recipe = make_recipe(target, onnx, inputs, outputs, pinned)
    (folder / "recipe.json").write_text(dump_json(recipe), "utf-8")
    for name, (package, file) in SCRIPTS.items():
        script = resources.files(package).joinpath("device", file)
        (folder / name).write_bytes(script.read_bytes())


def make_recipe(
    target: Target,
    onnx: list[Artifact],
    inputs: tuple[TensorInfo, ...],
    outputs: tuple[TensorInfo, ...],
    pinned: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> dict[str, Any]:
    """The recipe as JSON-ready data; see the module's docstring."""
    by_precision = {artifact.precision: artifact for artifact in onnx}
    typed = is_strongly_typed(target)
    engines = []
    for precision in target.precisions:
        # weakly typed TensorRT takes fp16 from a flag; the fp32 file keeps its choice open
        source = by_precision.get("fp32" if precision == "fp16" and not typed else precision)
        if source is None or (precision == "fp16" and "fp16" not in by_precision):
            continue
        flags = {"fp32": [], "fp16": ["FP16"], "int8": ["FP16", "INT8"]}[precision]
        engines.append(
            {
                "name": precision,
                "onnx": f"../{source.path}",
                "onnx_sha256": source.sha256,
                "engine": f"model_{precision}.engine",
                "strongly_typed": typed,
                "flags": [] if typed else flags,
                "float32_layers": [] if typed or not flags else list(pinned.get(precision, ())),
                "settings": settings([] if typed else flags, typed=typed),
            }
        )
    order = {target.default_precision: 0}
    engines.sort(key=lambda e: order.get(str(e["name"]), 1))
    return {
        "schema": SCHEMA,
        "target": {
            "name": target.name,
            "title": target.title,
            "tensorrt": target.runtime.version,
            "gpu_sm": target.fact("gpu_sm"),
        },
        "workspace_bytes": workspace_bytes(target),
        "timing_cache": TIMING_CACHE,
        "inputs": [_tensor(t) for t in inputs],
        "outputs": [_tensor(t) for t in outputs],
        "golden": GOLDEN,
        "engines": engines,
    }


def settings(flags: Sequence[str], *, typed: bool) -> dict[str, dict[str, list[str]] | None]:
    """What to ask for, by major version of TensorRT; None where that version cannot build it.

    Args:
        flags: builder flags that choose precisions.
        typed: types are those of the graph.

    Returns:
        Names of ``NetworkDefinitionCreationFlag`` and ``BuilderFlag``, and options of trtexec that
        ask for the same.
    """
    options = [f"--{flag.lower()}" for flag in flags]

    def asked(network: list[str], more: Sequence[str] = ()) -> dict[str, list[str]]:
        return {
            "network_flags": network,
            "builder_flags": list(flags),
            "trtexec": [*options, *more],
        }

    return {
        "8": asked(["EXPLICIT_BATCH"]),
        "10": asked(["STRONGLY_TYPED"], ["--stronglyTyped"]) if typed else asked([]),
        # 11 knows strongly typed networks only, and has no flag for it
        "11": None if flags else asked([]),
    }


def is_strongly_typed(target: Target) -> bool:
    """Whether engines for `target` take their types from the graph: float16 is written into it."""
    runtime = target.runtime
    return runtime.name == "tensorrt" and runtime.version_tuple >= STRONGLY_TYPED_SINCE


def workspace_bytes(target: Target) -> int:
    """Scratch memory that the builder may use: an eighth of the device's RAM, 256 MiB to 2 GiB.

    CPU and GPU of a Jetson share the RAM, and the builder holds host copies of weights and kernels
    beside it; larger limits are what gets it killed on a 4 GB Nano (NVIDIA/TensorRT#1404).
    """
    ram = target.fact("ram_bytes")
    if not isinstance(ram, int):
        return 256 << 20
    return max(256 << 20, min(ram // 8, 2 << 30))


def _tensor(tensor: TensorInfo) -> dict[str, Any]:
    return {"name": tensor.name, "shape": list(tensor.shape), "dtype": tensor.dtype}
