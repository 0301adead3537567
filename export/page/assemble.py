"""What a report is made from: bundles, records in files, records in the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from edgec.export.bundle import Bundle
from edgec.export.diagnose.diagnose import export_command
from edgec.export.errors import UnsupportedError
from edgec.export.page.blocks import Block, bars, picture
from edgec.export.profile import profiled_artifact, static_profile
from edgec.export.progress import Reporter
from edgec.profiles.memory.from_onnx import from_onnx
from edgec.profiles.memory.plan import plan
from edgec.profiles.memory.regions import ANY_RAM
from edgec.profiles.memory.svg import plan_svg
from edgec.profiles.waterline import own_balance, waterline, waterline_svg
from edgec.runtime.results.compare import find_record

PLANNING_SECONDS = 5.0
BYTES = {"fp32": 4, "fp16": 2, "int16x8": 2, "int8": 1, "mixed": 4}
"""Of an element by precision; a mixed network may have any of its activations in float."""

Part = tuple[dict[str, Any], str | None, Mapping[str, Block]]


def gather(sources: Sequence[str], store: str | None) -> list[Part]:
    """Record, command and drawings of each source; see `edgec.export.page.describe.page`.

    Raises:
        InputError: a source that is no bundle and no record.
        UsageError: a number that the store has not.
    """
    return [_part(source, store) for source in sources]


def _part(source: str, store: str | None) -> Part:
    path = Path(source)
    if not path.is_dir():
        return find_record(source, store), None, {}
    bundle = Bundle.open(path)
    record = find_record(source, store)
    drawings = {"arena": arena_map(bundle), **layer_views(bundle)}
    return record, export_command(bundle.manifest), drawings


def layer_views(bundle: Bundle) -> dict[str, Block]:
    """``sizes``: bytes of constants by layer, the largest first. ``waterline``: intensity by layer.

    Of the artifact that ``edgec profile`` takes; empty where its shapes are not static.
    """
    try:
        facts = static_profile(str(bundle.path), None, {}, Reporter(quiet=True))
    except UnsupportedError:
        return {}
    of = profiled_artifact(str(bundle.path), None)
    largest = sorted(facts.layers, key=lambda layer: -layer.weight_bytes)
    rows = [
        (layer.module or layer.name, float(layer.weight_bytes), layer.operator)
        for layer in largest
        if layer.weight_bytes
    ]
    line = waterline(facts, own_balance(facts), "half of the network's MACs lie above")
    caption = (
        f"{of}: layers in order, as wide as their time at least, as high as their multiply-"
        "accumulates per byte. Half of these lie above the line."
    )
    return {
        "sizes": bars("bytes", rows),
        "waterline": picture(waterline_svg(facts, line), caption),
    }


def arena_map(bundle: Bundle) -> Block:
    """Addresses over time of the activations of a bundle's network, in its main precision."""
    precision = str(bundle.manifest.options["precision"]["value"])
    # the float graph: quantizers would be steps that no kernel has
    graph = ir.from_proto(onnx.load(bundle.file(bundle.artifact())))
    program = from_onnx(graph, element_bytes=BYTES[precision])
    program = replace(program, name=str(bundle.manifest.model.get("name")))
    found = plan(program, [ANY_RAM], time_limit=PLANNING_SECONDS)
    proof = "proved optimal" if found.proved else f"at least {found.lower_bound:,}"
    return picture(
        plan_svg(found),
        f"One arena for all activations in {precision}: {found.peak:,} bytes ({proof}) for the "
        "network's own order of steps. Runtimes on Linux and Android add buffers of their own.",
    )
