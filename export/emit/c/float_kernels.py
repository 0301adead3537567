"""The kernels on single precision in numpy, for `edgec.export.emit.c.execute`.

Their arithmetic is that of `float_math`, in the order of the C kernels; addresses and strides come
from the parameters of the calls alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from typing import Final

import numpy as np

from edgec.export.emit.c import float_math as fm
from edgec.export.emit.c.float_math import Floats
from edgec.export.emit.c.walk import Bytes, Kernel, Values, grid, images, start, windows


def _on_floats(run: Callable[[Values, Sequence[Floats], Floats], None]) -> Kernel:
    def kernel(p: Values, inputs: Sequence[Bytes], out: Bytes) -> None:
        run(p, [x.view(np.float32) for x in inputs], out.view(np.float32))

    return kernel


@_on_floats
def _conv(p: Values, inputs: Sequence[Floats], out: Floats) -> None:
    source, target = images(p, inputs[0], out)
    per, depth = p["out_c"] // p["groups"], p["in_c"] // p["groups"]
    weights = p["weights"].reshape(p["out_c"], -1)
    for image, result in zip(source, target, strict=True):
        for row in range(p["out_h"]):
            taps = windows(p, image, row, 0)
            sums = np.empty((p["out_w"], p["out_c"]), np.float32)
            for group in range(p["groups"]):
                part = slice(group * per, (group + 1) * per)
                rows = taps[..., group * depth : (group + 1) * depth].reshape(p["out_w"], 1, -1)
                sums[:, part] = fm.dot(rows, weights[part], p["bias"][part])
            result[row] = fm.clamped(sums, p["low"], p["high"])


@_on_floats
def _depthwise(p: Values, inputs: Sequence[Floats], out: Floats) -> None:
    source, target = images(p, inputs[0], out)
    per = p["out_c"] // p["in_c"]
    weights = p["weights"].reshape(-1, p["out_c"]).T
    for image, result in zip(source, target, strict=True):
        for row in range(p["out_h"]):
            taps = np.repeat(windows(p, image, row, 0), per, axis=-1)
            taps = taps.reshape(p["out_w"], -1, p["out_c"]).swapaxes(1, 2)
            sums = fm.dot(taps, weights, p["bias"])
            result[row] = fm.clamped(sums, p["low"], p["high"])


@_on_floats
def _fully_connected(p: Values, inputs: Sequence[Floats], out: Floats) -> None:
    source = inputs[0].reshape(p["rows"], p["in_size"])
    target = out.reshape(p["rows"], p["out_size"])
    for row in range(p["rows"]):
        sums = fm.dot(source[row], p["weights"], p["bias"])
        target[row] = fm.clamped(sums, p["low"], p["high"])


@_on_floats
def _matmul(p: Values, inputs: Sequence[Floats], out: Floats) -> None:
    a, b = inputs
    target = out.reshape(*p["batch"], p["rows"], p["columns"])
    for place in np.ndindex(*p["batch"]):
        starts = [start(place, p[side]) for side in ("a_batch", "b_batch")]
        left = a[grid(starts[0], (p["rows"], p["a_row"]), (p["inner"], p["a_inner"]))]
        right = b[grid(starts[1], (p["columns"], p["b_column"]), (p["inner"], p["b_inner"]))]
        target[place] = fm.dot(left[:, None], right[None], np.zeros((), np.float32))


def _binary(of: Callable[[Floats, Floats], Floats]) -> Kernel:
    @_on_floats
    def run(p: Values, inputs: Sequence[Floats], out: Floats) -> None:
        target = out.reshape(p["shape"])
        for place in np.ndindex(*p["shape"][:3]):
            lines = []
            for operand, side in zip(inputs, "ab", strict=True):
                *outer, inner = p[f"{side}_stride"]
                lines.append(operand[grid(start(place, outer), (p["shape"][3], inner))])
            target[place] = fm.clamped(of(*lines), p["low"], p["high"])

    return run


def _unary(of: Callable[[Floats], Floats]) -> Kernel:
    @_on_floats
    def run(p: Values, inputs: Sequence[Floats], out: Floats) -> None:
        out[:] = of(inputs[0])

    return run


@_on_floats
def _leaky_relu(p: Values, inputs: Sequence[Floats], out: Floats) -> None:
    out[:] = np.where(inputs[0] > 0, inputs[0], inputs[0] * np.float32(p["alpha"]))


def _pool(average: bool) -> Kernel:
    @_on_floats
    def run(p: Values, inputs: Sequence[Floats], out: Floats) -> None:
        source, target = images(p, inputs[0], out, "channels")
        inside = np.ones(source.shape[1:], np.float32)
        for image, result in zip(source, target, strict=True):
            for row in range(p["out_h"]):
                taps = windows(p, image, row, 0.0 if average else -inf)
                flat = taps.reshape(p["out_w"], -1, p["channels"]).swapaxes(1, 2)
                if average:
                    count = windows(p, inside, row, 0.0).sum(axis=(1, 2))
                    found = fm.total(flat) / count
                else:
                    found = fm.largest(flat)
                result[row] = fm.clamped(found, p["low"], p["high"])

    return run


def _reduction(of: Callable[[Floats], Floats]) -> Kernel:
    @_on_floats
    def run(p: Values, inputs: Sequence[Floats], out: Floats) -> None:
        blocks = inputs[0].reshape(p["outer"], p["count"], p["inner"])
        out[:] = of(blocks.swapaxes(1, 2)).reshape(-1)

    return run


def _rows(of: Callable[[Values, Floats], Floats]) -> Kernel:
    @_on_floats
    def run(p: Values, inputs: Sequence[Floats], out: Floats) -> None:
        for row in range(p["rows"]):
            span = slice(row * p["size"], (row + 1) * p["size"])
            out[span] = of(p, inputs[0][span])

    return run


@_on_floats
def _layer_norm(p: Values, inputs: Sequence[Floats], out: Floats) -> None:
    size = p["count"] * p["inner"]
    entry = np.arange(size) % p["period"]
    for block in range(p["outer"]):
        span = slice(block * size, (block + 1) * size)
        rows = inputs[0][span].reshape(p["count"], p["inner"]).T
        normal = fm.layer_norm(rows, p["epsilon"]).T.reshape(-1)
        out[span] = normal * p["gain"][entry] + p["offset"][entry]


@_on_floats
def _resize_bilinear(p: Values, inputs: Sequence[Floats], out: Floats) -> None:
    source, target = images(p, inputs[0], out, "channels")
    sides = []
    for axis in "hw":
        steps = np.arange(p[f"out_{axis}"], dtype=np.float32)
        at = np.float32(p[f"start_{axis}"]) + np.float32(p[f"scale_{axis}"]) * steps
        at = np.where(at < 0, np.float32(0), at)
        lower = np.minimum(at.astype(np.int64), p[f"in_{axis}"] - 1)
        upper = np.minimum(lower + 1, p[f"in_{axis}"] - 1)
        sides.append((lower, upper, at - lower.astype(np.float32)))
    (top, bottom, down), (left, right, across) = sides
    one = np.float32(1)
    across = across[:, None]
    for image, result in zip(source, target, strict=True):
        for row in range(p["out_h"]):
            over, under = (
                image[line, left] * (one - across) + image[line, right] * across
                for line in (top[row], bottom[row])
            )
            result[row] = over * (one - down[row]) + under * down[row]


def _quantize(p: Values, inputs: Sequence[Bytes], out: Bytes) -> None:
    out[:] = fm.quantized(inputs[0].view(np.float32), p["scale"], p["zero"])


def _dequantize(p: Values, inputs: Sequence[Bytes], out: Bytes) -> None:
    out.view(np.float32)[:] = fm.dequantized(inputs[0], p["scale"], p["zero"])


def _quantize_words(p: Values, inputs: Sequence[Bytes], out: Bytes) -> None:
    floats = inputs[0].view(np.float32)
    out.view(np.int16)[:] = fm.quantized(floats, p["scale"], p["zero"], "int16")


def _dequantize_words(p: Values, inputs: Sequence[Bytes], out: Bytes) -> None:
    _dequantize(p, [inputs[0].view(np.int16)], out)


KERNELS: Final[dict[str, Kernel]] = {
    "edgec_quantize_f32": _quantize,
    "edgec_dequantize_f32": _dequantize,
    "edgec_quantize_s16_f32": _quantize_words,
    "edgec_dequantize_s16_f32": _dequantize_words,
    "edgec_conv_f32": _conv,
    "edgec_depthwise_f32": _depthwise,
    "edgec_fully_connected_f32": _fully_connected,
    "edgec_matmul_f32": _matmul,
    **{f"edgec_{name}_f32": _binary(of) for name, of in fm.BINARY.items()},
    **{f"edgec_{name}_f32": _unary(of) for name, of in fm.UNARY.items()},
    "edgec_leaky_relu_f32": _leaky_relu,
    "edgec_average_pool_f32": _pool(average=True),
    "edgec_max_pool_f32": _pool(average=False),
    "edgec_mean_f32": _reduction(lambda x: fm.total(x) / np.float32(x.shape[-1])),
    "edgec_sum_f32": _reduction(fm.total),
    "edgec_reduce_max_f32": _reduction(fm.largest),
    "edgec_reduce_min_f32": _reduction(fm.smallest),
    "edgec_softmax_f32": _rows(lambda p, x: fm.softmax(x, p["beta"])),
    "edgec_log_softmax_f32": _rows(lambda p, x: fm.log_softmax(x)),
    "edgec_l2_norm_f32": _rows(lambda p, x: fm.l2_norm(x)),
    "edgec_layer_norm_f32": _layer_norm,
    "edgec_resize_bilinear_f32": _resize_bilinear,
}
"""All kernels on floats but those that end in a C library's bits (`float_reference`)."""
