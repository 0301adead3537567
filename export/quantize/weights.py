"""Integer weights, biases and scales.

Weights: int8 in [-127, 127] (or the grid of fewer bits), zero point 0, per output channel
(Krishnamoorthi 2018, "Quantizing deep convolutional networks for efficient inference"; TensorFlow
Lite quantization spec).
"""

from __future__ import annotations

from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgec.export.errors import InputError
from edgec.export.quantize.ranges import Range

WEIGHT_MAX = 127
# 255·128 is the largest sum of two u8·s8 products that fits int16
PAIR_MAX = 128
_INT32_MAX = 2**31 - 1
# Smallest scale written: below it 1 / scale overflows float32.
MIN_SCALE = float(np.float32(2.0**-120))

WeightRule = Literal["absmax", "mse"]
T = TypeVar("T", bound=np.generic)


def activation_parameters(
    interval: Range, limits: tuple[int, int], *, symmetric: bool
) -> tuple[np.float32, int]:
    """Scale and zero point of an activation grid.

    The grid never leaves `interval` upwards by more than the zero point's rounding, and real
    zero is exactly an integer (ONNX QuantizeLinear: q = saturate(round(x / scale) + zp)).

    Args:
        interval: values to represent, zero inside.
        limits: smallest and largest integer.
        symmetric: zero point 0.
    """
    low, high = limits
    if symmetric:
        bound = max(-interval.low, interval.high)
        return np.float32(max(bound / high, MIN_SCALE)) if bound else np.float32(1.0), 0
    if interval.low == interval.high == 0.0:
        return np.float32(1.0), low
    scale = np.float32(max((interval.high - interval.low) / (high - low), MIN_SCALE))
    zero_point = int(np.clip(np.rint(low - interval.low / scale), low, high))
    # float32 rounding must not carry the grid past the limit of an absorbed Clip, or the
    # runtime keeps the Clip and with it a float kernel; one of less than the least scale it passes
    levels, end = np.float32(high - low), np.float32(interval.high)
    while interval.low == 0.0 and MIN_SCALE * levels < end < scale * levels:
        scale = np.nextafter(scale, np.float32(0.0))
    return scale, zero_point


def quantize_weight(
    weight: NDArray[np.float32],
    axis: int | None,
    *,
    rule: WeightRule = "absmax",
    pair_safe: bool = False,
    floor: NDArray[np.float64] | None = None,
    limit: int = WEIGHT_MAX,
    importance: NDArray[np.float64] | None = None,
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Integers and scales of a weight tensor.

    Args:
        weight: any shape.
        axis: channel axis, or None for one scale.
        rule: ``"absmax"`` uses the largest magnitude; ``"mse"`` searches, per channel, the share
            of it with the least squared error (weights inside the clip are finer, the few
            outside saturate).
        pair_safe: no two integers of a channel with the same sign add up to more than 128, so
            255·(w1 + w2) fits int16 in whatever order a kernel pairs them.
        floor: least admissible scale per channel (see `scale_floor`).
        limit: largest magnitude of an integer: 127, or 31 or 7 for six or four bits.
        importance: what squared errors are multiplied by, for ``"mse"``; shape of the weight.

    Returns:
        int8 array of the weight's shape; float32 scales of shape (channels,) or ().

    Raises:
        InputError: EC764, NaN or infinite weights.
    """
    if not np.isfinite(weight).all():
        raise InputError("EC764", "weights hold NaN or infinity", fix="check the checkpoint")
    rows = per_channel(weight, axis)
    peak = np.abs(rows).max(axis=1, initial=0.0).astype(np.float64)
    if rule == "mse":
        counts = None if importance is None else per_channel(importance, axis)
        scale = _mse_scale(rows, peak, limit, counts)
    else:
        scale = peak / limit
    if pair_safe and 2 * limit > PAIR_MAX:
        scale = np.maximum(scale, _largest_pair(rows) / WEIGHT_MAX)
    scale = np.where(peak > 0.0, np.maximum(scale, MIN_SCALE), 1.0)
    if floor is not None:
        # a channel without weights serves its bias alone: the floor sets its scale
        scale = np.where(peak > 0.0, np.maximum(scale, floor), np.where(floor > 0.0, floor, scale))
    scales = scale.astype(np.float32)
    if axis is None:
        scales = scales.reshape(())
    return round_weight(weight, scales, axis, pair_safe=pair_safe, limit=limit), scales


def round_weight(
    weight: NDArray[np.float32],
    scales: NDArray[np.float32],
    axis: int | None,
    *,
    pair_safe: bool = False,
    limit: int = WEIGHT_MAX,
) -> NDArray[np.int8]:
    """Round to nearest on a given grid; what is outside saturates.

    Args:
        weight: any shape.
        scales: float32 of shape (channels,), or () without an axis.
        axis: channel axis, or None for one scale.
        pair_safe: saturate so that the result is pair-safe, see `make_pair_safe`.
        limit: largest magnitude of an integer.
    """
    rows = per_channel(weight, axis)
    nearest = np.clip(np.rint(rows / scales.reshape(-1, 1)), -limit, limit)
    integers: NDArray[np.int8] = nearest.astype(np.int8)
    if pair_safe:
        integers = make_pair_safe(integers)
    return from_channels(integers, weight.shape, axis)


def is_pair_safe(rows: NDArray[np.int8]) -> bool:
    """Whether no two integers of a row with the same sign add up to more than 128."""
    return bool((_largest_pair(rows) <= PAIR_MAX).all())


def make_pair_safe(rows: NDArray[np.int8]) -> NDArray[np.int8]:
    """Saturate rows (channels, n) until they are pair-safe; safe rows stay as they are.

    Per sign the second largest magnitude is cut to 64 and the largest to what that leaves, so an
    outlier alone in its row is kept.
    """
    wide = rows.astype(np.int16)
    for sign in (1, -1):
        side = np.maximum(sign * wide, 0)
        if side.shape[1] < 2:
            continue
        order = np.sort(side, axis=1)[:, -2:]
        second = np.minimum(order[:, 0], PAIR_MAX // 2)
        first = np.minimum(order[:, 1], PAIR_MAX - second)
        # of equal largest ones, all but the first take the lower limit
        limit = np.repeat(second[:, None], side.shape[1], axis=1)
        limit[np.arange(len(side)), side.argmax(axis=1)] = first
        wide = np.where(side > 0, sign * np.minimum(side, limit), wide)
    safe: NDArray[np.int8] = wide.astype(np.int8)
    return safe


def scale_floor(bias: NDArray[np.float32], activation_scale: float) -> NDArray[np.float64]:
    """Least weight scale per channel for which the int32 bias does not overflow.

    bias / (s_x·s_w) must stay within ±2^31; half of that leaves room for the accumulator.
    """
    return np.abs(bias.astype(np.float64)) / (activation_scale * (_INT32_MAX // 2))


def quantize_bias(
    bias: NDArray[np.float32], activation_scale: np.float32, weight_scales: NDArray[np.float32]
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """int32 bias and its scale s_x·s_w (float32 product, as runtimes compute it)."""
    scales = (np.float32(activation_scale) * weight_scales).astype(np.float32)
    integers = np.rint(bias.astype(np.float64) / scales.astype(np.float64))
    return np.clip(integers, -_INT32_MAX, _INT32_MAX).astype(np.int32), scales


def per_channel(weight: NDArray[T], axis: int | None) -> NDArray[T]:
    """The weights of each channel as a row, shape (channels, n); one row without an axis."""
    if axis is None:
        return weight.reshape(1, -1)
    return np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)


def from_channels(rows: NDArray[T], shape: tuple[int, ...], axis: int | None) -> NDArray[T]:
    """The way back from `per_channel` to an array of `shape`."""
    if axis is None:
        return rows.reshape(shape)
    moved = rows.reshape(shape[axis], *shape[:axis], *shape[axis + 1 :])
    return np.ascontiguousarray(np.moveaxis(moved, 0, axis))


def channel_shape(axis: int | None, rank: int) -> list[int]:
    """The shape in which one number per channel multiplies a tensor of `rank` axes along `axis`."""
    return [-1 if i == axis else 1 for i in range(rank)]


def _largest_pair(rows: NDArray[np.float32] | NDArray[np.int8]) -> NDArray[np.float64]:
    """Per row, the largest magnitude that two weights of the same sign add up to.

    Divided by 127 it bounds the rounded sum by 128: rounding adds less than one.
    """
    wide = rows.astype(np.float64)
    positive, negative = np.maximum(wide, 0.0), np.maximum(-wide, 0.0)
    count = min(2, rows.shape[1])
    pairs = [np.sort(side, axis=1)[:, -count:].sum(axis=1) for side in (positive, negative)]
    largest: NDArray[np.float64] = np.maximum(pairs[0], pairs[1])
    return largest


def _mse_scale(
    rows: NDArray[np.float32],
    peak: NDArray[np.float64],
    limit: int,
    importance: NDArray[np.float64] | None,
) -> NDArray[np.float64]:
    best = peak / limit
    best_error = np.full(len(rows), np.inf)
    for share in np.linspace(1.0, 0.5, 51):
        scale = np.maximum(share * peak / limit, MIN_SCALE)
        grid = np.clip(np.rint(rows / scale[:, None]), -limit, limit)
        square = (grid * scale[:, None] - rows) ** 2
        error = (square if importance is None else square * importance).sum(axis=1)
        better = error < best_error
        best = np.where(better, scale, best)
        best_error = np.where(better, error, best_error)
    return best
