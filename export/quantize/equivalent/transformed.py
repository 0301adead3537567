"""What every equivalent transform returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from edgec.export.quantize.equivalent.links import Refused


@dataclass(frozen=True)
class Change:
    """One link that was rescaled.

    Attributes:
        producer: module path (else node) whose channels changed.
        consumers: module paths (else nodes) that make up for it.
        factors: smallest and largest factor.
        note: what else was decided, e.g. ``"alpha 0.6"``.
    """

    producer: str
    consumers: tuple[str, ...]
    factors: tuple[float, float]
    note: str = ""


@dataclass(frozen=True)
class Transformed:
    """A float graph that computes the same as the one before; calibrate it anew.

    Attributes:
        model: the new graph. Names of nodes and activations are those of the old one.
        changes: what was rescaled, in graph order.
        refused: producers that were looked at and left alone, with the reason.
    """

    model: ir.Model
    changes: tuple[Change, ...]
    refused: tuple[Refused, ...]

    def to_json(self) -> dict[str, Any]:
        """For a report."""
        return {
            "changes": [
                {
                    "producer": change.producer,
                    "consumers": list(change.consumers),
                    "factors": list(change.factors),
                    "note": change.note,
                }
                for change in self.changes
            ],
            "refused": [{"producer": r.producer, "reason": r.reason} for r in self.refused],
        }
