"""Per-layer times of a TensorRT engine in the user's module names.

TensorRT names a fused kernel after the nodes in it (``a + b``, ``PWN(a, b)``,
``{ForeignNode[a...b]}``), in the profiler and in the engine inspector. The inspector's JSON calls
the engine's tensors ``Bindings`` up to version 10 and ``I/O Tensors`` from 11 on (TensorRT
developer guide, "Engine Inspector"); both list ``Layers`` alike. Kernels that TensorRT generates
from several nodes have names of their own (``__myl_AddMulSum_myl0_5``); since 8.6 the inspector's
``Metadata`` tells what is in them: ``[ONNX Layer: a]`` and ``[ONNX Layer: b]`` with a control
character between.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx

MODULE_KEY = "edgec.module"
_ONNX_LAYER = re.compile(r"\[ONNX Layer: ([^\x1e\x1f]*?)\](?=[\x1e\x1f\[]|$)")


def module_of_nodes(path: Path) -> dict[str, str]:
    """Module path by node name of an ONNX file that edgec wrote."""
    model = onnx.load(path, load_external_data=False)
    found = {}
    for node in model.graph.node:
        for entry in node.metadata_props:
            if entry.key == MODULE_KEY and node.name:
                found[node.name] = entry.value
    return found


def join_layers(
    times: Sequence[Mapping[str, Any]], inspector: str | None, modules: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Rows of name, milliseconds, kind, nodes and module, slowest first.

    Args:
        times: ``name`` and ``ms`` per layer, from the profiler.
        inspector: its JSON, for the kinds of layers; None where there is none.
        modules: module path by node name (`module_of_nodes`).
    """
    inspected = _inspected(inspector)
    # longest first: a name may be the beginning of another
    names = sorted(modules, key=lambda name: (-len(name), name))
    rows = []
    for layer in times:
        kind, told = inspected.get(layer["name"], (None, ()))
        nodes = [node for node in told if node in modules] or _nodes_in(layer["name"], names)
        rows.append(
            {
                "name": layer["name"],
                "ms": layer["ms"],
                "kind": kind,
                "nodes": nodes,
                "module": _common_module([modules[node] for node in nodes]),
            }
        )
    return sorted(rows, key=lambda row: (-row["ms"], row["name"]))


def by_module(rows: Sequence[Mapping[str, Any]], depth: int) -> list[tuple[str, float]]:
    """Milliseconds summed over the first `depth` parts of the module paths, slowest first."""
    sums: dict[str, float] = {}
    for row in rows:
        module = ".".join((row["module"] or "(between modules)").split(".")[:depth])
        sums[module] = sums.get(module, 0.0) + row["ms"]
    return sorted(sums.items(), key=lambda item: (-item[1], item[0]))


def _inspected(inspector: str | None) -> dict[str, tuple[str | None, list[str]]]:
    """Kind and ONNX nodes by layer name; engines built without details list bare names."""
    if inspector is None:
        return {}
    try:
        layers = list(json.loads(inspector)["Layers"])
    except (ValueError, KeyError, TypeError):
        return {}
    return {
        str(layer["Name"]): (
            str(layer["LayerType"]) if "LayerType" in layer else None,
            list(dict.fromkeys(_ONNX_LAYER.findall(str(layer.get("Metadata", ""))))),
        )
        for layer in layers
        if isinstance(layer, dict) and "Name" in layer
    }


def _nodes_in(layer: str, names: Sequence[str]) -> list[str]:
    """Nodes that a layer's name mentions, in its order; each part of the name counts once."""
    found: list[tuple[int, str]] = []
    rest = layer
    for name in names:
        pattern = rf"(?<![\w/])(?<!\w\.){re.escape(name)}(?![\w/]|\.\w)"
        match = re.search(pattern, rest)
        if match:
            found.append((match.start(), name))
            rest = rest[: match.start()] + "\0" * len(name) + rest[match.end() :]
    return [name for _, name in sorted(found)]


def _common_module(modules: Sequence[str]) -> str | None:
    """The innermost module that holds all of them; None if only the network itself does."""
    if not modules:
        return None
    shared = []
    for parts in zip(*(module.split(".") for module in modules), strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return ".".join(shared) or None
