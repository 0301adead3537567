"""Convolutions and matrix products as kernel calls."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgec.export.emit.c.call import Call, Function, Scales, Share, Table
from edgec.export.emit.c.frame import (
    Frame,
    broadcast_loops,
    range_of,
    same_padding,
    unsupported,
)
from edgec.export.emit.c.pads import OPTION as PADDING
from edgec.export.tflite.model import Operator
from edgec.export.tflite.reference.fixed_point import (
    Integers,
    Multiplier,
    scale_of,
    zero_of,
)
from edgec.profiles.memory import overlap

PAIR: Final = 5
"""Scratch per element of a row: two rows widened to 16 bits, and one as it is."""
MOST_PAIRED: Final = 640
"""Elements of rows that the kernels take in pairs (``EDGEC_MOST_PAIRED``); longer ones come one by
one: scratch is a part of the arena."""
SHORT: Final = (
    "groups", "k_h", "k_w", "stride_h", "stride_w", "dilation_h", "dilation_w", "pad_h", "pad_w",
)  # fmt: skip
MOST_SHORT: Final = 32_767
"""Parameters of 16 bits, and the most that they hold."""


def geometry(frame: Frame, op: Operator) -> tuple[dict[str, int], overlap.Window]:
    """Sizes of CONV_2D and DEPTHWISE_CONV_2D: parameters of the kernels, and the window."""
    x, y = frame.tensor(0), frame.output
    weights = frame.constant(1)
    depthwise = op.code == "DEPTHWISE_CONV_2D"
    k_h, k_w = weights.shape[1:3]
    batch, in_h, in_w, in_c = x.shape
    _, out_h, out_w, out_c = y.shape
    stride = (op.options["stride_h"], op.options["stride_w"])
    dilation = (op.options["dilation_h_factor"], op.options["dilation_w_factor"])
    pad_h, pad_w = op.options.get(PADDING, (0, 0))
    if op.options["padding"] == "SAME":
        pad_h = same_padding(in_h, out_h, k_h, stride[0], dilation[0])
        pad_w = same_padding(in_w, out_w, k_w, stride[1], dilation[1])
    window = overlap.Window(
        (in_h, in_w),
        (out_h, out_w),
        in_c,
        out_c,
        (k_h, k_w),
        stride,
        (pad_h, pad_w),
        dilation,
        depthwise,
    )
    sizes = {
        "batch": batch,
        "in_h": in_h,
        "in_w": in_w,
        "in_c": in_c,
        "out_h": out_h,
        "out_w": out_w,
        "out_c": out_c,
        "k_h": k_h,
        "k_w": k_w,
        "stride_h": stride[0],
        "stride_w": stride[1],
        "dilation_h": dilation[0],
        "dilation_w": dilation[1],
        "pad_h": pad_h,
        "pad_w": pad_w,
        "groups": 1 if depthwise else in_c // weights.shape[3],
    }
    return sizes, window


def taps_of(frame: Frame) -> int:
    """Products of one output element."""
    weights = frame.constant(1)
    depthwise = frame.operator.code == "DEPTHWISE_CONV_2D"
    return prod(weights.shape[1:3]) * (1 if depthwise else weights.shape[3])


def conv_2d(frame: Frame, op: Operator) -> list[Call]:
    """CONV_2D and DEPTHWISE_CONV_2D."""
    x, y = frame.tensor(0), frame.output
    weights = frame.constant(1)
    depthwise = op.code == "DEPTHWISE_CONV_2D"
    sizes, window = geometry(frame, op)
    long = next((name for name in SHORT if sizes[name] > MOST_SHORT), None)
    if long is not None:
        raise unsupported(frame, op, f"{long} is {sizes[long]:,}, above {MOST_SHORT:,}")
    low, high = range_of(y, op.options["fused_activation_function"])
    gathers = sizes["groups"] == 1 and not depthwise
    axis = -1 if depthwise else 0
    by_output = np.moveaxis(weights, axis, 0)
    layer = _without_huge_constants(
        _Layer(by_output, folded_bias(frame, by_output), scales_of(frame, sizes["out_c"])),
        zero_of(y),
        low,
        high,
    )
    weights = np.moveaxis(layer.weights, 0, axis)
    taps = taps_of(frame)
    wide = (_exceeds(layer) | (layer.scales.exponent >= 0)).any()
    return [
        Call(
            "edgec_depthwise_s8" if depthwise else "edgec_conv_s8",
            {
                **sizes,
                "in_zero": zero_of(x),
                "out_zero": zero_of(y),
                "low": low,
                "high": high,
                "wide": Function("edgec_wide_row_s8") if wide else 0,
                "weights": Table(weights),
                **_biases(layer.bias, narrow=not depthwise),
                "scales": layer.scales,
            },
            (frame.index(0),),
            frame.output_index,
            # without groups, windows are copied before the outputs of their pixels are written
            (Share(0, overlap.window(window, access="pixel" if gathers else "element")),)
            if sizes["batch"] == 1
            else (),
            y.elements * taps,
            sizes["in_c"] if depthwise else _row_scratch(taps),
        )
    ]


def fully_connected(frame: Frame, op: Operator) -> list[Call]:
    """FULLY_CONNECTED."""
    x, y, weight = frame.tensor(0), frame.output, frame.tensor(1)
    weights = frame.constant(1)
    if op.options["weights_format"] != "DEFAULT":
        raise unsupported(frame, op, "shuffled weights")
    out_size, in_size = weights.shape
    rows = x.elements // in_size
    zero = 0
    if weight.quantization is not None and not weight.quantization.per_channel:
        zero = zero_of(weight)
    low, high = range_of(y, op.options["fused_activation_function"])
    scales = scales_of(frame, out_size)
    each = weight.quantization is not None and weight.quantization.per_channel
    if not each:
        scales = Scales(scales.mantissa[:1], scales.exponent[:1])
    kernel = "edgec_fully_connected_s8" if rows > 1 else "edgec_fully_connected_row_s8"
    if zero or scales.exponent.max() > -2:
        kernel = "edgec_fully_connected_any_s8"
    copies = kernel == "edgec_fully_connected_s8"
    return [
        Call(
            kernel,
            {
                "rows": rows,
                "in_size": in_size,
                "out_size": out_size,
                "weight_zero": zero,
                "out_zero": zero_of(y),
                "low": low,
                "high": high,
                "scales_each": int(each),
                "weights": Table(weights),
                **_biases(folded_bias(frame, weights.astype(np.int64) - zero)),
                "scales": scales,
            },
            (frame.index(0),),
            frame.output_index,
            (Share(0, overlap.rows(in_size, out_size, rows, "row" if copies else "element")),),
            rows * in_size * out_size,
            _row_scratch(in_size) if copies else 0,
        )
    ]


def product_sizes(frame: Frame, op: Operator) -> dict[str, int | tuple[int, ...]]:
    """Sizes and strides of BATCH_MATMUL; leading dimensions may be broadcast."""
    a, b, y = frame.tensor(0), frame.tensor(1), frame.output
    rows, columns = y.shape[-2:]
    inner = a.shape[-2] if op.options["adj_x"] else a.shape[-1]
    batches = broadcast_loops(a.shape, b.shape, y.shape, axes=len(y.shape) - 2, least=3)
    if len(batches) > 3:
        raise unsupported(frame, op, f"{len(batches)} batch dimensions")
    a_row, a_inner = (1, rows) if op.options["adj_x"] else (inner, 1)
    b_inner, b_column = (1, inner) if op.options["adj_y"] else (columns, 1)
    return {
        "batch": tuple(size for size, _, _ in batches),
        "a_batch": tuple(step for _, step, _ in batches),
        "b_batch": tuple(step for _, _, step in batches),
        "rows": rows,
        "inner": inner,
        "columns": columns,
        "a_row": a_row,
        "a_inner": a_inner,
        "b_inner": b_inner,
        "b_column": b_column,
    }


def batch_matmul(frame: Frame, op: Operator) -> list[Call]:
    """BATCH_MATMUL."""
    a, b, y = frame.tensor(0), frame.tensor(1), frame.output
    product = np.float32(scale_of(a)) * np.float32(scale_of(b))
    scale = Multiplier.of(np.float64(product) / np.float64(scale_of(y)))
    low, high = range_of(y, "NONE")
    inner = a.shape[-2] if op.options["adj_x"] else a.shape[-1]
    return [
        Call(
            "edgec_matmul_s8",
            {
                **product_sizes(frame, op),
                "a_zero": zero_of(a),
                "b_zero": zero_of(b),
                "out_zero": zero_of(y),
                "low": low,
                "high": high,
                "mantissa": int(scale.mantissa),
                "exponent": int(scale.exponent),
            },
            (frame.operand(0), frame.operand(1)),
            frame.output_index,
            (),
            y.elements * inner,
            4 * inner,
        )
    ]


def _biases(folded: NDArray[np.int32], narrow: bool = True) -> dict[str, int | Table]:
    """Parameters of biases: in 16 bits where all of them fit, and `narrow` allows it."""
    limits = np.iinfo(np.int16)
    narrow &= bool((folded >= limits.min).all() and (folded <= limits.max).all())
    kept = folded.astype(np.int16 if narrow else np.int32)
    return {"bias_width": kept.itemsize, "bias": Table(kept)}


def _row_scratch(size: int) -> int:
    return PAIR * size if size <= MOST_PAIRED else size


def folded_bias(frame: Frame, weights: NDArray[Any]) -> NDArray[np.int32]:
    """Bias minus what the input's zero point adds: kernels multiply integers as they are.

    Args:
        weights: outputs along the first axis.
    """
    sums = weights.reshape(weights.shape[0], -1).astype(np.int64).sum(1)
    given = frame.optional(2)
    bias = np.zeros(len(sums), np.int64) if given is None else given.astype(np.int64)
    folded = bias - zero_of(frame.tensor(0)) * sums
    if np.abs(folded).max(initial=0) >= 1 << 31:
        raise unsupported(frame, frame.operator, "the bias with the zero point exceeds 32 bits")
    found: NDArray[np.int32] = folded.astype(np.int32)
    return found


@dataclass(frozen=True)
class _Layer:
    """Weights with the outputs along the first axis, folded bias, and requantization."""

    weights: NDArray[Any]
    bias: NDArray[np.int32]
    scales: Scales

    def ends(self) -> tuple[Integers, Integers]:
        """Smallest and largest sum of each output, over all int8 inputs."""
        taps = self.weights.reshape(len(self.bias), -1).astype(np.int64)
        low = np.minimum(-128 * taps, 127 * taps).sum(1) + self.bias
        high = np.maximum(-128 * taps, 127 * taps).sum(1) + self.bias
        return low, high


def _exceeds(layer: _Layer) -> NDArray[np.bool_]:
    """Outputs whose sums may exceed what the fast requantization takes (``edgec_scale``).

    Channels with tiny weights have tiny scales, and biases on them that are close to 2**31.
    """
    low, high = layer.ends()
    largest = np.maximum(np.abs(low), np.abs(high)) << np.maximum(layer.scales.exponent, 0)
    exceeds: NDArray[np.bool_] = largest >= 1 << 30
    return exceeds


def _without_huge_constants(layer: _Layer, zero: int, low: int, high: int) -> _Layer:
    """The same function, without the huge sums of outputs that are constant.

    An output that is the same at both ends of its sums is always the same: zero weights and a small
    bias give it too.
    """
    multiply = Multiplier(layer.scales.mantissa, layer.scales.exponent)
    first, last = (np.clip(multiply(ends) + zero, low, high) for ends in layer.ends())
    change = (_exceeds(layer) | (layer.scales.exponent >= 0)) & (first == last)
    weights = layer.weights.copy()
    weights[change] = 0
    # a quarter of four times the result
    return _Layer(
        weights,
        np.where(change, 4 * (first - zero), layer.bias).astype(np.int32),
        Scales(
            np.where(change, 1 << 30, layer.scales.mantissa),
            np.where(change, -1, layer.scales.exponent),
        ),
    )


def scales_of(frame: Frame, channels: int) -> Scales:
    x, weight, y = frame.tensor(0), frame.tensor(1), frame.output
    product = np.float64(scale_of(x)) * np.asarray(scale_of(weight), np.float64)
    found = Multiplier.of(product / np.float64(scale_of(y)))

    def spread(values: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.ascontiguousarray(np.broadcast_to(np.atleast_1d(values), (channels,)))

    return Scales(spread(found.mantissa), spread(found.exponent))
