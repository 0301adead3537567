"""The kernels on int16 in numpy, for `edgec.export.emit.c.execute`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import wraps
from typing import Final

import numpy as np

from edgec.export.emit.c.int_kernels import (
    aligned_difference,
    aligned_sum,
    binary,
    exact_product,
    expand_depthwise,
    largest,
    layer_norm,
    mean,
    multiplier,
    pool,
    resize_bilinear,
    smallest,
)
from edgec.export.emit.c.norm import unit_rows
from edgec.export.emit.c.walk import Bytes, Kernel, Values, grid, images, start, windows
from edgec.export.tflite.reference.fixed_point import Integers
from edgec.export.tflite.reference.interpolated import look_up

_LOW, _HIGH = -(1 << 15), (1 << 15) - 1


def _of_words(kernel: Kernel) -> Kernel:
    """A kernel whose operands are bytes as one whose operands are int16."""

    @wraps(kernel)
    def run(p: Values, inputs: Sequence[Bytes], out: Bytes) -> None:
        kernel(p, [operand.view("<i2") for operand in inputs], out.view("<i2"))

    return run


def _bias(p: Values) -> Integers:
    low = p["bias"].astype(np.int64)
    if p["bias_high"] is None:
        return np.asarray(low)
    return np.asarray((p["bias_high"].astype(np.int64) << 32) + (low & 0xFFFFFFFF))


def _finished(p: Values, sums: Integers) -> Integers:
    return np.asarray(np.clip(p["scales"].once(sums), p["low"], p["high"]))


def _conv(p: Values, inputs: Sequence[Bytes], out: Bytes) -> None:
    source, target = images(p, inputs[0], out)
    groups = p["groups"]
    per, depth = p["out_c"] // groups, p["in_c"] // groups
    weights = p["weights"].reshape(p["out_c"], -1)
    for image, result in zip(source, target, strict=True):
        for row in range(p["out_h"]):
            taps = windows(p, image, row, 0)
            sums = np.empty((p["out_w"], p["out_c"]), np.int64)
            for group in range(groups):
                part = slice(group * per, (group + 1) * per)
                rows = taps[..., group * depth : (group + 1) * depth].reshape(p["out_w"], -1)
                sums[:, part] = exact_product(rows, weights[part].T)
            result[row] = _finished(p, sums + _bias(p))


def _depthwise(p: Values, inputs: Sequence[Bytes], out: Bytes) -> None:
    source, target = images(p, inputs[0], out)
    per = p["out_c"] // p["in_c"]
    weights = p["weights"].reshape(p["k_h"], p["k_w"], p["out_c"]).astype(np.int64)
    for image, result in zip(source, target, strict=True):
        for row in range(p["out_h"]):
            taps = np.repeat(windows(p, image, row, 0), per, axis=-1)
            result[row] = _finished(p, (taps * weights).sum(axis=(1, 2)) + _bias(p))


def _fully_connected(p: Values, inputs: Sequence[Bytes], out: Bytes) -> None:
    source = inputs[0].reshape(p["rows"], p["in_size"])
    target = out.reshape(p["rows"], p["out_size"])
    for row in range(p["rows"]):
        sums = exact_product(source[row], p["weights"].astype(np.int64).T) + _bias(p)
        target[row] = _finished(p, sums)


def _matmul(p: Values, inputs: Sequence[Bytes], out: Bytes) -> None:
    a, b = inputs[0].view("<i2"), inputs[1].view(f"<i{p['b_width']}")
    target = out.view("<i2").reshape(*p["batch"], p["rows"], p["columns"])
    for place in np.ndindex(*p["batch"]):
        starts = [start(place, p[side]) for side in ("a_batch", "b_batch")]
        left = grid(starts[0], (p["rows"], p["a_row"]), (p["inner"], p["a_inner"]))
        right = grid(starts[1], (p["inner"], p["b_inner"]), (p["columns"], p["b_column"]))
        scaled = multiplier(p).once(exact_product(a[left], b[right]))
        target[place] = np.clip(scaled, p["low"], p["high"])


def _rescale(p: Values, inputs: Sequence[Bytes], out: Bytes) -> None:
    out[:] = np.clip(multiplier(p)(inputs[0].astype(np.int64)), p["low"], p["high"])


def _widen(p: Values, inputs: Sequence[Bytes], out: Bytes) -> None:
    scaled = multiplier(p)(inputs[0].astype(np.int64) - p["zero"])
    out.view("<i2")[:] = np.clip(scaled, _LOW, _HIGH)


def _narrow(p: Values, inputs: Sequence[Bytes], out: Bytes) -> None:
    scaled = multiplier(p)(inputs[0].view("<i2").astype(np.int64))
    out[:] = np.clip(scaled + p["zero"], -128, 127)


def _interpolate(p: Values, inputs: Sequence[Bytes], out: Bytes) -> None:
    out[:] = look_up(p["table"], inputs[0])


def _softmax(p: Values, inputs: Sequence[Bytes], out: Bytes) -> None:
    for row in range(p["rows"]):
        span = slice(row * p["size"], (row + 1) * p["size"])
        x = inputs[0][span].astype(np.int64)
        near = multiplier(p)(x - x.max()) + _HIGH
        powers = look_up(p["exponentials"], np.clip(near, _LOW, _HIGH))
        total = int(powers.sum())
        right = total.bit_length() - 1
        fraction = ((total << (30 - right)) + (1 << 13)) >> 14
        place = np.clip(np.array([fraction - (3 << 15)]), _LOW, _HIGH)
        product = powers * look_up(p["reciprocals"], place) + (1 << (right - 1))
        out[span] = np.clip(product >> right, 0, _HIGH)


def _l2_norm(p: Values, inputs: Sequence[Bytes], out: Bytes) -> None:
    for row in range(p["rows"]):
        span = slice(row * p["size"], (row + 1) * p["size"])
        out[span] = unit_rows(inputs[0][span][None].copy())[0]


KERNELS: Final[dict[str, Kernel]] = {
    f"edgec_{name}_s16": _of_words(kernel)
    for name, kernel in {
        "conv": _conv,
        "depthwise": _depthwise,
        "expand_depthwise": expand_depthwise(_conv, _interpolate, _depthwise),
        "fully_connected": _fully_connected,
        "add": binary(aligned_sum),
        "sub": binary(aligned_difference),
        "mul": binary(lambda p, a, b: a * b),
        "maximum": binary(lambda p, a, b: np.maximum(a, b)),
        "minimum": binary(lambda p, a, b: np.minimum(a, b)),
        "rescale": _rescale,
        "interpolate": _interpolate,
        "average_pool": pool(average=True),
        "max_pool": pool(average=False),
        "mean": mean(once=False),
        "sum": mean(once=True),
        "reduce_max": largest,
        "reduce_min": smallest,
        "softmax": _softmax,
        "layer_norm": layer_norm,
        "l2_norm": _l2_norm,
        "resize_bilinear": resize_bilinear,
    }.items()
} | {
    "edgec_matmul_s16": _matmul,
    "edgec_widen_s16": _widen,
    "edgec_narrow_s16": _narrow,
}
"""All kernels on int16."""
