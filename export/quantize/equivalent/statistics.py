"""Per-channel statistics of activations, in one streaming pass."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgec.export.quantize.stream import run_activations

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class ChannelStatistics:
    """Of one tensor, each an array over its channels.

    Attributes:
        low, high: extreme values.
        mean, std: over samples and positions.
    """

    low: Vector
    high: Vector
    mean: Vector
    std: Vector

    @property
    def peak(self) -> Vector:
        """Largest magnitudes."""
        return np.maximum(-self.low, self.high).clip(min=0.0)


def channel_statistics(
    model: ir.Model, feeds: Iterable[Mapping[str, NDArray[Any]]], axes: Mapping[str, int]
) -> dict[str, ChannelStatistics]:
    """Statistics of the named tensors along their channel axes.

    Args:
        model: float32 graph.
        feeds: samples, read once.
        axes: tensor name → channel axis.

    Raises:
        InputError: as `edgec.export.quantize.stream.run_activations`.
    """
    if not axes:
        return {}
    low: dict[str, Vector] = {}
    high: dict[str, Vector] = {}
    sums: dict[str, Vector] = {}
    squares: dict[str, Vector] = {}
    counts: dict[str, int] = {}
    for _, values in run_activations(model, feeds, list(axes)):
        for name, value in values.items():
            rows = np.moveaxis(value, axes[name], 0).reshape(value.shape[axes[name]], -1)
            rows = rows.astype(np.float64)
            first = name not in low
            low[name] = rows.min(1) if first else np.minimum(low[name], rows.min(1))
            high[name] = rows.max(1) if first else np.maximum(high[name], rows.max(1))
            sums[name] = rows.sum(1) + (0.0 if first else sums[name])
            squares[name] = (rows**2).sum(1) + (0.0 if first else squares[name])
            counts[name] = rows.shape[1] + (0 if first else counts[name])
    result = {}
    for name, total in sums.items():
        mean = total / counts[name]
        variance = np.maximum(squares[name] / counts[name] - mean**2, 0.0)
        result[name] = ChannelStatistics(low[name], high[name], mean, np.sqrt(variance))
    return result
