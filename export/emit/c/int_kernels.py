"""The kernels on int8 in numpy, for `edgec.export.emit.c.execute`.

They share nothing with the operators of the integer reference but its multiplication by scales.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgec.export.emit.c.norm import Norm, normalised
from edgec.export.emit.c.walk import Bytes, Kernel, Values, grid, images, start, windows
from edgec.export.tflite.reference.fixed_point import Integers, Multiplier
from edgec.export.tflite.reference.rsqrt import root_mantissa

_OUTSIDE: Final = -(1 << 20)
"""No integer of an image."""


def multiplier(p: Values, prefix: str = "") -> Multiplier:
    """The scale in a parameter struct."""
    return Multiplier(
        np.asarray(p[f"{prefix}mantissa"], np.int64), np.asarray(p[f"{prefix}exponent"], np.int64)
    )


def _finished(p: Values, scaled: Integers) -> Integers:
    return np.asarray(np.clip(scaled + p["out_zero"], p["low"], p["high"]))


def exact_product(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.int64]:
    """A matrix product of integers: double precision holds its sums."""
    return np.rint(a.astype(np.float64) @ b.astype(np.float64)).astype(np.int64)


def _conv(p: Values, inputs: Sequence[Bytes], out: Bytes) -> None:
    source, target = images(p, inputs[0], out)
    groups = p["groups"]
    per, depth = p["out_c"] // groups, p["in_c"] // groups
    weights = p["weights"].reshape(p["out_c"], -1)
    for image, result in zip(source, target, strict=True):
        for row in range(p["out_h"]):
            taps = windows(p, image, row, p["in_zero"])
            sums = np.empty((p["out_w"], p["out_c"]), np.int64)
            for group in range(groups):
                part = slice(group * per, (group + 1) * per)
                rows = taps[..., group * depth : (group + 1) * depth].reshape(p["out_w"], -1)
                sums[:, part] = exact_product(rows, weights[part].T)
            result[row] = _finished(p, p["scales"](sums + p["bias"]))


def _depthwise(p: Values, inputs: Sequence[Bytes], out: Bytes) -> None:
    source, target = images(p, inputs[0], out)
    per = p["out_c"] // p["in_c"]
    weights = p["weights"].reshape(p["k_h"], p["k_w"], p["out_c"]).astype(np.int64)
    for image, result in zip(source, target, strict=True):
        for row in range(p["out_h"]):
            taps = np.repeat(windows(p, image, row, p["in_zero"]), per, axis=-1)
            sums = (taps * weights).sum(axis=(1, 2)) + p["bias"]
            result[row] = _finished(p, p["scales"](sums))


def expand_depthwise(conv: Kernel, function: Kernel, depthwise: Kernel) -> Kernel:
    """Row by row, by the kernels of one type."""

    def run(p: Values, inputs: Sequence[Bytes], out: Bytes) -> None:
        narrow, table = p["depthwise"], p["activation"]["table"]
        source = inputs[0].reshape(p["in_h"], -1)
        target = out.reshape(p["out_h"], -1)
        between: dict[int, Bytes] = {}
        for y in range(p["out_h"]):
            top = y * p["stride_h"] - p["pad_h"]
            window = np.full((narrow["in_h"], narrow["in_w"] * narrow["in_c"]), 0, out.dtype)
            for i, row in enumerate(range(top, top + narrow["in_h"])):
                if not 0 <= row < p["in_h"]:
                    window[i] = narrow.get("in_zero", 0)
                    continue
                if row not in between:
                    between[row] = np.empty(window.shape[1], out.dtype)
                    conv(p["expand"], [source[row]], between[row])
                    if table is not None:
                        function(p["activation"], [between[row]], between[row])
                window[i] = between[row]
            depthwise(narrow, [window.reshape(-1)], target[y])

    return run


def _fully_connected(p: Values, inputs: Sequence[Bytes], out: Bytes) -> None:
    source = inputs[0].reshape(p["rows"], p["in_size"])
    target = out.reshape(p["rows"], p["out_size"])
    weights = p["weights"].astype(np.int64).T - p["weight_zero"]
    for row in range(p["rows"]):
        sums = exact_product(source[row], weights) + p["bias"]
        target[row] = _finished(p, p["scales"].once(sums))


def _matmul(p: Values, inputs: Sequence[Bytes], out: Bytes) -> None:
    a, b = inputs
    target = out.reshape(*p["batch"], p["rows"], p["columns"])
    for place in np.ndindex(*p["batch"]):
        starts = [start(place, p[side]) for side in ("a_batch", "b_batch")]
        left = grid(starts[0], (p["rows"], p["a_row"]), (p["inner"], p["a_inner"]))
        right = grid(starts[1], (p["inner"], p["b_inner"]), (p["columns"], p["b_column"]))
        product = exact_product(
            a[left].astype(np.int64) - p["a_zero"], b[right].astype(np.int64) - p["b_zero"]
        )
        target[place] = _finished(p, multiplier(p)(product))


def _aligned(p: Values, a: Integers, b: Integers) -> tuple[Integers, Integers]:
    return multiplier(p, "a_")(a << p["shift"]), multiplier(p, "b_")(b << p["shift"])


def aligned_sum(p: Values, a: Integers, b: Integers) -> Integers:
    a, b = _aligned(p, a, b)
    return a + b


def aligned_difference(p: Values, a: Integers, b: Integers) -> Integers:
    a, b = _aligned(p, a, b)
    return a - b


def binary(of: Callable[[Values, Integers, Integers], Integers]) -> Kernel:
    """Two operands, combined by a function."""

    def run(p: Values, inputs: Sequence[Bytes], out: Bytes) -> None:
        sizes = p["shape"]
        target = out.reshape(sizes)
        for place in np.ndindex(*sizes[:3]):
            sides = []
            for operand, side in zip(inputs, "ab", strict=True):
                *outer, inner = p[f"{side}_stride"]
                line = operand[grid(start(place, outer), (sizes[3], inner))]
                sides.append(line.astype(np.int64) - p[f"{side}_zero"])
            target[place] = _finished(p, multiplier(p, "out_")(of(p, *sides)))

    return run


def _lookup(p: Values, inputs: Sequence[Bytes], out: Bytes) -> None:
    out[:] = p["table"][inputs[0].astype(np.int64) + 128]


def pool(average: bool) -> Kernel:
    """Mean or largest of windows."""

    def run(p: Values, inputs: Sequence[Bytes], out: Bytes) -> None:
        source, target = images(p, inputs[0], out, "channels")
        inside = np.zeros((p["in_h"], p["in_w"], 1), np.int8)
        for image, result in zip(source, target, strict=True):
            for row in range(p["out_h"]):
                taps = windows(p, image, row, _OUTSIDE)
                count = (windows(p, inside, row, -1) == 0).sum(axis=(1, 2))
                if average:
                    total = np.where(taps == _OUTSIDE, 0, taps).sum(axis=(1, 2))
                    half = np.where(total > 0, count // 2, -(count // 2))
                    found = np.trunc((total + half) / count).astype(np.int64)
                else:
                    found = taps.max(axis=(1, 2))
                result[row] = np.clip(found, p["low"], p["high"])

    return run


def _blocks(p: Values, inputs: Sequence[Bytes]) -> NDArray[np.int64]:
    return inputs[0].reshape(p["outer"], p["count"], p["inner"]).astype(np.int64)


def mean(once: bool) -> Kernel:
    """Sums times a number."""

    def run(p: Values, inputs: Sequence[Bytes], out: Bytes) -> None:
        total = _blocks(p, inputs).sum(axis=1) - p["in_zero"] * p["count"]
        scale = multiplier(p)
        scaled = scale.once(total) if once else scale(total)
        limits = np.iinfo(out.dtype)
        out[:] = np.clip(scaled + p["out_zero"], limits.min, limits.max).reshape(-1)

    return run


def largest(p: Values, inputs: Sequence[Bytes], out: Bytes) -> None:
    out[:] = _blocks(p, inputs).max(axis=1).reshape(-1)


def smallest(p: Values, inputs: Sequence[Bytes], out: Bytes) -> None:
    out[:] = _blocks(p, inputs).min(axis=1).reshape(-1)


def _softmax(p: Values, inputs: Sequence[Bytes], out: Bytes) -> None:
    table = p["table"].astype(np.int64)
    for row in range(p["rows"]):
        span = slice(row * p["size"], (row + 1) * p["size"])
        x = inputs[0][span].astype(np.int64)
        shares = table[x.max() - x]
        total = int(shares.sum())
        inverse = ((1 << 48) + total // 2) // total
        out[span] = np.clip(((shares * inverse + (1 << 39)) >> 40) - 128, -128, 127)


def layer_norm(p: Values, inputs: Sequence[Bytes], out: Bytes) -> None:
    found = Norm(
        outer=1,
        count=p["count"],
        inner=p["inner"],
        gain=p["gain"],
        offset=p["offset"],
        gain_bits=p["gain_bits"],
        spread_bits=p["spread_bits"],
        epsilon=p["epsilon_high"] << 32 | p["epsilon_low"],
    )
    size = p["count"] * p["inner"]
    for block in range(p["outer"]):
        span = slice(block * size, (block + 1) * size)
        out[span] = normalised(found, inputs[0][span].copy())


def _l2_norm(p: Values, inputs: Sequence[Bytes], out: Bytes) -> None:
    for row in range(p["rows"]):
        span = slice(row * p["size"], (row + 1) * p["size"])
        steps = inputs[0][span].astype(np.int64) - p["in_zero"]
        mantissa, exponent = root_mantissa(int((steps * steps).sum()))
        scale = Multiplier(np.asarray(mantissa, np.int64), np.asarray(7 - exponent, np.int64))
        out[span] = np.clip(scale(steps) + p["out_zero"], -128, 127)


def resize_bilinear(p: Values, inputs: Sequence[Bytes], out: Bytes) -> None:
    source, target = images(p, inputs[0], out, "channels")
    sides = []
    for axis in "hw":
        place = p[f"start_{axis}"] + p[f"scale_{axis}"] * np.arange(p[f"out_{axis}"])
        # C's division rounds towards zero
        lower = np.maximum(np.trunc(place / 1024).astype(np.int64), 0)
        upper = np.minimum(np.trunc((place + 1023) / 1024).astype(np.int64), p[f"in_{axis}"] - 1)
        sides.append((lower, upper, place - 1024 * lower))
    (top, bottom, down), (left, right, across) = sides
    image = source.astype(np.int64)
    across = across[:, None]
    lines = image[:, :, left] * (1024 - across) + image[:, :, right] * across
    down = down[:, None, None]
    total = lines[:, top] * (1024 - down) + lines[:, bottom] * down
    half = np.where(total > 0, 1 << 19, -(1 << 19))
    target[:] = np.trunc((total + half) / (1 << 20))


def _strided_copy(p: Values, inputs: Sequence[Bytes], out: Bytes) -> None:
    loops = list(zip(p["shape"], p["stride"], strict=True))
    out[:] = inputs[0][grid(p["start"], *loops, (p["run"], 1))].reshape(-1)


def _pad(p: Values, inputs: Sequence[Bytes], out: Bytes) -> None:
    target = out.reshape(p["out_shape"])
    element = np.array([p["fill"]], f"<i{p['width']}").view(np.int8)
    out.reshape(-1, p["width"])[:] = element
    inside = tuple(
        slice(before, before + size)
        for before, size in zip(p["before"], p["in_shape"], strict=True)
    )
    target[inside] = inputs[0].reshape(p["in_shape"])


def _concat(p: Values, inputs: Sequence[Bytes], out: Bytes) -> None:
    rows = out.reshape(p["rows"], p["out_row"])
    rows[:, p["start"] : p["start"] + p["in_row"]] = inputs[0].reshape(p["rows"], p["in_row"])


def _gather(p: Values, inputs: Sequence[Bytes], out: Bytes) -> None:
    source = inputs[0].reshape(p["outer"], p["axis"], p["inner"])
    out[:] = source[:, p["indices"]].reshape(-1)


KERNELS: Final[dict[str, Kernel]] = {
    "edgec_conv_s8": _conv,
    "edgec_depthwise_s8": _depthwise,
    "edgec_expand_depthwise_s8": expand_depthwise(_conv, _lookup, _depthwise),
    "edgec_fully_connected_s8": _fully_connected,
    "edgec_fully_connected_row_s8": _fully_connected,
    "edgec_fully_connected_any_s8": _fully_connected,
    "edgec_matmul_s8": _matmul,
    "edgec_add_s8": binary(aligned_sum),
    "edgec_sub_s8": binary(aligned_difference),
    "edgec_mul_s8": binary(lambda p, a, b: a * b),
    "edgec_squared_difference_s8": binary(lambda p, a, b: aligned_difference(p, a, b) ** 2),
    "edgec_maximum_s8": binary(lambda p, a, b: np.maximum(a, b)),
    "edgec_minimum_s8": binary(lambda p, a, b: np.minimum(a, b)),
    "edgec_lookup_s8": _lookup,
    "edgec_average_pool_s8": pool(average=True),
    "edgec_max_pool_s8": pool(average=False),
    "edgec_mean_s8": mean(once=False),
    "edgec_sum_s8": mean(once=True),
    "edgec_reduce_max_s8": largest,
    "edgec_reduce_min_s8": smallest,
    "edgec_softmax_s8": _softmax,
    "edgec_layer_norm_s8": layer_norm,
    "edgec_l2_norm_s8": _l2_norm,
    "edgec_resize_bilinear_s8": resize_bilinear,
    "edgec_strided_copy_s8": _strided_copy,
    "edgec_pad_s8": _pad,
    "edgec_concat_s8": _concat,
    "edgec_gather_s8": _gather,
}
"""All kernels on int8."""
