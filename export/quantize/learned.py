"""Weights whose integers or scales were learned, and their way into a Q/DQ graph.

A method that learns (rounding, scales, or both) ends in a mapping (weight tensor, axis) →
`LearnedWeight`, which `edgec.export.quantize.insert.quantize` takes in place of rounding to
nearest. It is checked here against the grid of the scheme, so that no method can write weights that
a kernel would saturate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgec.export.errors import UsageError
from edgec.export.quantize.weights import (
    MIN_SCALE,
    WEIGHT_MAX,
    is_pair_safe,
    per_channel,
    round_weight,
)

WeightKey = tuple[str, int | None]
"""Name of a weight tensor, and the axis of its scales (None for one scale)."""


@dataclass(frozen=True)
class LearnedWeight:
    """What was learned about one weight tensor: weight ≈ scales · integers.

    Attributes:
        integers: int8 array of the weight's shape, or None to round the weight to nearest.
        scales: float32, shape (channels,), or () without an axis; positive.
    """

    integers: NDArray[np.int8] | None
    scales: NDArray[np.float32]


Learned = Mapping[WeightKey, LearnedWeight]


def learned_grid(
    key: WeightKey,
    weight: NDArray[np.float32],
    learned: LearnedWeight,
    *,
    pair_safe: bool = False,
    floor: NDArray[np.float64] | None = None,
    limit: int = WEIGHT_MAX,
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Integers and scales of a learned weight, checked.

    Without learned integers, scales are raised to `floor` where they are below it, and weights
    outside the grid saturate; learned integers are taken as they are or refused.

    Args:
        key: for messages, and the axis.
        weight: the float weight.
        learned: what replaces rounding to nearest.
        pair_safe, floor, limit: as for `edgec.export.quantize.weights.quantize_weight`.

    Raises:
        UsageError: EC269, shape or type differ from the weight's, an integer is off the grid or
            not pair-safe, or a scale is not finite, not positive, or too small for the bias.
    """
    axis = key[1]
    scales = learned.scales
    shape = () if axis is None else (weight.shape[axis],)
    if scales.shape != shape or scales.dtype != np.float32:
        _refuse(key, f"scales are {scales.dtype}{scales.shape}, not float32{shape}")
    if not np.isfinite(scales).all() or (scales < MIN_SCALE).any():
        _refuse(key, f"a scale is not finite or below {MIN_SCALE:.3g}")
    least = np.zeros(shape) if floor is None else floor.reshape(shape)
    if learned.integers is None:
        scales = np.maximum(scales, least).astype(np.float32)
        return round_weight(weight, scales, axis, pair_safe=pair_safe, limit=limit), scales
    integers = learned.integers
    if integers.shape != weight.shape or integers.dtype != np.int8:
        _refuse(key, f"integers are {integers.dtype}{integers.shape}, not int8{weight.shape}")
    if (np.abs(integers.astype(np.int16)) > limit).any():
        _refuse(key, f"an integer is outside ±{limit}")
    if pair_safe and not is_pair_safe(per_channel(integers, axis)):
        _refuse(key, "two integers of a channel with the same sign add up to more than 128")
    # the floor is computed in float64: allow the last bit of the float32 that was made from it
    if (scales < least * (1 - 1e-6)).any():
        _refuse(key, "the int32 bias overflows with a scale that small")
    return integers, scales


def _refuse(key: WeightKey, why: str) -> None:
    tensor, axis = key
    raise UsageError(
        "EC269",
        "a learned weight does not fit the scheme",
        where=f"{tensor}, axis {axis}",
        why=why,
        fix="learn it for the graph, scheme and calibration that are quantized",
    )
