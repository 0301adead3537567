"""What blocks cost in time on a device, by prediction, for a mix within a latency.

The float network and the network with every block in integers are predicted for the device, and a
block of a mix is priced as it is in the one or the other. What a prediction says of the whole
network is divided among its layers by their work (`edgec.profiles.latency.predict`), so that prices
add up to it; a mix pays for conversions between its parts nothing beyond them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from edgec.export.errors import UnsupportedError
from edgec.export.quantize.mixed.choice import Assignment, Precision
from edgec.export.quantize.rounding.blocks import Block
from edgec.profiles.from_graph import graph_layers
from edgec.profiles.latency.predict import Prediction
from edgec.profiles.latency.target import predict_for
from edgec.profiles.layers import Layer
from edgec.targets.schema import Target

_STORED: Mapping[Precision, str] = {"float": "fp32", "int8": "int8", "int4": "int8"}
"""Precision of the activations, by which constants are chosen; 4-bit weights are unpacked to 8.
16-bit activations are not priced: no device was measured with them."""


@dataclass(frozen=True)
class Prices:
    """Milliseconds by block.

    Attributes:
        blocks: median by precision, in the order of the blocks.
        low, high: ends of the 80 % interval over the median, by precision.
        basis: what the predictions rest on.
    """

    blocks: tuple[Mapping[Precision, float], ...]
    low: Mapping[Precision, float]
    high: Mapping[Precision, float]
    basis: str

    def interval(self, assignment: Assignment) -> tuple[float, float]:
        """80 % interval of a mix in milliseconds, were the errors of all blocks the same."""
        chosen = list(zip(self.blocks, assignment, strict=True))
        return (
            sum(block[precision] * self.low[precision] for block, precision in chosen),
            sum(block[precision] * self.high[precision] for block, precision in chosen),
        )


Price = Callable[[ir.Model, ir.Model, Sequence[Block], Sequence[Precision]], Prices]
"""From the float graph, the graph with every block in integers, the blocks and their choices."""


def predicted_on(target: Target, threads: int = 1) -> Price:
    """Prices on a target; calling them raises UnsupportedError (EC397) where there are none."""

    def price(
        floating: ir.Model,
        integers: ir.Model,
        blocks: Sequence[Block],
        precisions: Sequence[Precision],
    ) -> Prices:
        found: dict[str, tuple[Prediction, list[float]]] = {}
        for stored, graph in (("fp32", floating), ("int8", integers)):
            layers = graph_layers(graph)
            made = predict_for(layers, stored, target, threads=threads)
            if made.refused is not None:
                raise UnsupportedError(
                    "EC397",
                    f"the latency of a mix on {target.name} cannot be predicted",
                    where=f"the network in {stored}",
                    why=f"{made.refused} ({made.basis})",
                    fix="give --max-drop or --max-bytes instead; on this machine, --time-mixes "
                    "measures",
                )
            found[stored] = made, _by_block(layers, made.layer_ms, blocks)
        precisions = [p for p in precisions if p in _STORED]
        whole = {p: found[_STORED[p]][0] for p in precisions}
        return Prices(
            tuple({p: found[_STORED[p]][1][i] for p in precisions} for i in range(len(blocks))),
            {p: _over(made.low_ms, made) for p, made in whole.items()},
            {p: _over(made.high_ms, made) for p, made in whole.items()},
            "; ".join(f"{stored}: {made.basis}" for stored, (made, _) in found.items()),
        )

    return price


def _by_block(
    layers: Sequence[Layer], milliseconds: Sequence[float], blocks: Sequence[Block]
) -> list[float]:
    number = {name: i for i, block in enumerate(blocks) for name in block.nodes}
    result = [0.0] * len(blocks)
    last = 0
    for layer, spent in zip(layers, milliseconds, strict=True):
        known = [number[name] for name in (layer.name, *layer.nodes) if name in number]
        last = known[0] if known else last  # a quantizer alone belongs to what comes before it
        result[last] += spent
    return result


def _over(end: float | None, made: Prediction) -> float:
    assert end is not None  # it was not refused
    assert made.latency_ms is not None
    return end / made.latency_ms
