"""Means and mean squares of activations per channel, over calibration samples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgec.export.quantize.stream import run_activations

Moments = tuple[NDArray[np.float64], NDArray[np.float64]]
"""E[x] and E[x²], each of shape (channels,)."""


def channel_axis(op_type: str) -> int:
    """Channel axis of what a layer of this type reads and writes."""
    return 1 if op_type.startswith("Conv") else -1


def channel_moments(
    model: ir.Model, axes: Mapping[str, int], feeds: Iterable[Mapping[str, NDArray[Any]]]
) -> dict[str, Moments]:
    """Moments of float activations, every sample weighing the same.

    Args:
        model: float32 graph, or one that computes in float32.
        axes: channel axis by name of the activation, negative from the end.
        feeds: calibration samples, read once.

    Raises:
        InputError: as `edgec.export.quantize.stream.run_activations`.
    """
    totals: dict[str, NDArray[np.float64]] = {}
    samples: Counter[str] = Counter()
    for _, values in run_activations(model, feeds, list(axes)):
        for name, value in values.items():
            kept = axes[name] % value.ndim
            rest = tuple(a for a in range(value.ndim) if a != kept)
            wide = value.astype(np.float64)
            both = np.stack([wide.mean(axis=rest), np.square(wide).mean(axis=rest)])
            totals[name] = totals[name] + both if name in totals else both
            samples[name] += 1
    return {
        name: (both[0] / samples[name], both[1] / samples[name]) for name, both in totals.items()
    }
