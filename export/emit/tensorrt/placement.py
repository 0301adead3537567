"""Chooses where Q/DQ go in a TensorRT graph by what NVIDIA's compiler makes of it.

Each placement of `edgec.export.quantize.placement` is tried with plain rounding: the kernels that
the proxy's plan has depend on where Q/DQ stand, not on the values in them. Of those that are not
less accurate than the default one and still do most of their work on integers, the one with the
fewest kernels is kept; of equals, the one that multiplies most on integers. Each kernel is a launch
and a pass over memory, which is what int8 loses to float16 on a Jetson; how fast the kernels
themselves are only the device can tell.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from edgec.export.emit.onnx_file import serialize
from edgec.export.emit.tensorrt.proxy import compile_for
from edgec.export.quantize.calibrate import Calibration
from edgec.export.quantize.float16 import to_float16
from edgec.export.quantize.insert import quantize
from edgec.export.quantize.placement import DEFAULT, PLACEMENTS, placed
from edgec.export.quantize.plan import plan_quantization
from edgec.export.quantize.scheme import QuantScheme
from edgec.profiles.macs import node_macs
from edgec.runtime.agreement import compare
from edgec.runtime.onnx_runner import OnnxRunner

SAMPLES = 32
"""Held-out samples that placements are compared on."""
EQUAL_DB = 0.5
"""Loss of signal to noise that counts as none: between two halves of 64 images the figure of one
placement moves by about as much."""

LEAST_WORK = 0.5
"""Share of the default's integer multiplications below which a graph is int8 by name only: with
next to nothing quantized, the kernels are those of float16."""


@dataclass(frozen=True)
class Candidate:
    """One placement and what became of it.

    Attributes:
        name: key of `PLACEMENTS`.
        built: the proxy compiled it.
        kernels, fused, attention: of the proxy's plan; `fused` counts convolutions and products
            that carry other operators with them.
        integer_macs: share of the multiplications that integers do.
        sqnr_db: against float on held-out samples, rounded plainly; None for no difference.
    """

    name: str
    built: bool
    kernels: int
    fused: int
    attention: int
    integer_macs: float
    sqnr_db: float | None


def try_placements(
    master: ir.Model,
    calibration: Calibration,
    scheme: QuantScheme,
    samples: Callable[[], Iterable[Mapping[str, NDArray[Any]]]],
    python: str,
    capability: str,
    *,
    exclude: Collection[str] = (),
    tick: Callable[[int, int], None] = lambda done, total: None,
) -> list[Candidate]:
    """Every placement, in the order of `PLACEMENTS`; those that make the same graph once.

    Args:
        master: float32 graph; not modified.
        calibration: its statistics.
        scheme: of the target.
        samples: held-out inputs, anew at each call.
        python, capability: see `edgec.export.emit.tensorrt.proxy.compile_for`.
        exclude: left in float by all.
    """
    reference = OnnxRunner(serialize(master, ""))
    feeds = [(dict(feed), None) for feed in islice(samples(), SAMPLES)]
    total = sum(node_macs(node) for node in master.graph) or 1
    found: dict[tuple[Any, ...], Candidate] = {}
    for number, name in enumerate(PLACEMENTS):
        tick(number, len(PLACEMENTS))
        rules = placed(scheme, name)
        plan = plan_quantization(master, rules, exclude)
        if plan.quantizers in found:
            continue
        graph = quantize(master, calibration, rules, exclude=exclude)
        runner = OnnxRunner(serialize(graph, ""), emulate=True)
        # what is not int8 is float16 on the device, whichever way it is told to be
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            path.write_bytes(serialize(to_float16(graph, calibration=calibration), ""))
            compiled, _ = compile_for(python, path, capability)
        integer = set(plan.integer_nodes)
        found[plan.quantizers] = Candidate(
            name,
            compiled.built,
            compiled.kernels,
            compiled.kinds.get("runtime_fusion", 0),
            compiled.attention,
            sum(node_macs(node) for node in master.graph if node.name in integer) / total,
            compare(reference.run, runner.run, feeds).sqnr_db,
        )
    tick(len(PLACEMENTS), len(PLACEMENTS))
    return list(found.values())


def best(candidates: Sequence[Candidate]) -> Candidate:
    """The placement to keep; the default one where the proxy compiled none."""
    default = next(c for c in candidates if c.name == DEFAULT)
    least = float("inf") if default.sqnr_db is None else default.sqnr_db - EQUAL_DB
    legal = [
        c
        for c in candidates
        if c.built
        and (c.sqnr_db is None or c.sqnr_db >= least)
        and c.integer_macs >= LEAST_WORK * default.integer_macs
    ]
    return min(
        legal, key=lambda c: (c.kernels, -c.integer_macs, -(c.sqnr_db or 0)), default=default
    )


def note(candidates: Sequence[Candidate], chosen: Candidate) -> dict[str, Any]:
    """What the report keeps of the choice."""
    rows = [
        asdict(
            replace(
                c,
                integer_macs=round(c.integer_macs, 4),
                sqnr_db=None if c.sqnr_db is None else round(c.sqnr_db, 2),
            )
        )
        for c in candidates
    ]
    return {"step": "placement", "chosen": chosen.name, "candidates": rows}
