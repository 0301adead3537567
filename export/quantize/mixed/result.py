"""What a search for a mixed precision found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import onnx_ir as ir

from edgec.export.quantize.calibrate import Calibration
from edgec.export.quantize.insert import quantize
from edgec.export.quantize.learned import Learned
from edgec.export.quantize.mixed.choice import Precision
from edgec.export.quantize.scheme import QuantScheme


@dataclass(frozen=True)
class MixedPoint:
    """One assignment of precisions.

    Attributes:
        precisions: block name → precision.
        bytes, bit_operations, activation_bytes: see `edgec.export.quantize.mixed.choice.Cost`.
        predicted: sum of the blocks' divergences, in nats.
        divergence: measured on the search samples, in nats.
        drop: points lost, measured on the search samples; see `search_mixed`.
        held_out_drop: the same on held-out samples, for points that were verified.
        latency_ms: predicted, where a latency was asked for; with its 80 % interval.
    """

    precisions: Mapping[str, Precision]
    bytes: int
    bit_operations: int
    activation_bytes: int
    predicted: float
    divergence: float
    drop: float
    held_out_drop: float | None = None
    latency_ms: float | None = None
    latency_interval_ms: tuple[float, float] | None = None


@dataclass(frozen=True)
class MixedPlan:
    """The result of a search.

    Attributes:
        front: the measured points, cheapest first.
        chosen: the verified one among them.
        exclude: nodes to leave float, for `quantize`.
        scheme: the scheme, with 4-bit weights and 16-bit activations where they were chosen, for
            `quantize`.
        learned: the learned weights that still apply, for `quantize`.
        sensitivity: block name → precision → divergence when it alone is quantized, in nats.
        met: the budget holds on the held-out samples.
        latency_basis: what predicted latencies rest on.
    """

    front: tuple[MixedPoint, ...]
    chosen: MixedPoint
    exclude: tuple[str, ...]
    scheme: QuantScheme
    learned: Learned
    sensitivity: Mapping[str, Mapping[Precision, float]]
    met: bool
    latency_basis: str | None = None

    def quantize(self, model: ir.Model, calibration: Calibration) -> ir.Model:
        """The Q/DQ graph of the chosen point."""
        return quantize(model, calibration, self.scheme, exclude=self.exclude, learned=self.learned)

    def to_json(self) -> dict[str, Any]:
        """The table of points, the choice and the sensitivities as plain data."""
        return {
            "met": self.met,
            **({} if self.latency_basis is None else {"latency_basis": self.latency_basis}),
            "chosen": asdict(self.chosen),
            "front": [asdict(point) for point in self.front],
            "sensitivity": {name: dict(found) for name, found in self.sensitivity.items()},
        }
