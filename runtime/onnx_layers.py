"""Where ONNX Runtime spends its time, in the names of the user's modules.

The runtime's profile names the nodes of the graph that it made by fusing and changing layouts. That
graph is written out beside the profile, and each of its nodes is traced to the node of the artifact
that it computes: by name, by an output that both have, by a name that begins with one of the
artifact's, or else it serves the node that reads it (a change of layout, a quantizer).
"""

from __future__ import annotations

import json
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort

from edgec.export.rewrite.graph import MODULE_KEY
from edgec.runtime.feeds import Tensor

_SUFFIX = "_kernel_time"


def time_layers(
    model: Path, feeds: Mapping[str, Tensor], *, runs: int, threads: int = 1
) -> list[dict[str, Any]]:
    """Median milliseconds of each node that ONNX Runtime executes, longest first.

    Args:
        model: an ONNX artifact.
        feeds: arrays by input name.
        runs: inferences, after one that is not counted.

    Returns:
        Rows of ``name``, ``operator`` (as fused), ``module`` (None if it cannot be told) and
        ``ms``. Profiling costs time itself, so their sum is above the latency.
    """
    with tempfile.TemporaryDirectory(prefix="edgec-profile-") as folder:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        options.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
        options.log_severity_level = 4  # that the file suits this machine alone is known
        session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        for _ in range(runs + 1):
            session.run(None, dict(feeds))
        events = json.loads(Path(session.end_profiling()).read_text("utf-8"))
        optimized = onnx.load(Path(folder) / "optimized.onnx", load_external_data=False)
    modules = trace(onnx.load(model, load_external_data=False).graph, optimized.graph)
    spent: dict[str, list[float]] = defaultdict(list)
    operators: dict[str, str] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(_SUFFIX):
            name = event["name"].removesuffix(_SUFFIX)
            spent[name].append(event["dur"] / 1e3)
            operators[name] = event["args"]["op_name"]
    rows = [
        {
            "name": name,
            "operator": operators[name],
            "module": modules.get(name) or None,
            "ms": round(statistics.median(times[1:] or times), 5),
        }
        for name, times in spent.items()
    ]
    return sorted(rows, key=lambda row: (-row["ms"], row["name"]))


def trace(original: onnx.GraphProto, optimized: onnx.GraphProto) -> dict[str, str]:
    """Node of the optimized graph → module path of the node that it stands for."""
    module_of = {node.name: _module(node) for node in original.node}
    producer = {output: node for node in original.node for output in node.output}
    names = sorted((*module_of, *producer), key=len, reverse=True)
    found: dict[str, str] = {}
    for node in optimized.node:
        if node.name in module_of:
            found[node.name] = module_of[node.name]
            continue
        same = next((producer[o] for o in node.output if o in producer), None)
        if same is not None:
            found[node.name] = _module(same)
            continue
        text = next((n for n in names if node.name.startswith(n)), None)
        if text is not None:
            found[node.name] = module_of[text] if text in module_of else _module(producer[text])
    readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in optimized.node:
        for name in node.input:
            readers[name].append(node)
    for node in reversed(optimized.node):  # so that chains of such nodes end where they lead
        if not found.get(node.name):
            served = [found.get(r.name, "") for o in node.output for r in readers[o]]
            found[node.name] = next(filter(None, served), "")
    return found


def _module(node: onnx.NodeProto) -> str:
    return next((p.value for p in node.metadata_props if p.key == MODULE_KEY), "")
