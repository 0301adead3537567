"""Operators on single precision as the C kernels compute them: the reference of mixed networks.

Where integers follow floats, a float that differs in its last bit may become another integer. So
the reference adds in the order of the kernels and uses their functions (`float_math`), and networks
of both give the same bytes everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import inf
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgec.export.emit.c import float_math as fm
from edgec.export.emit.c import norm
from edgec.export.emit.c.float_math import Floats
from edgec.export.tflite.reference.call import Call
from edgec.export.tflite.reference.fixed_point import scale_of, zero_of

CLAMPS: Final = {
    "NONE": (-inf, inf),
    "RELU": (0.0, inf),
    "RELU6": (0.0, 6.0),
    "RELU_N1_TO_1": (-1.0, 1.0),
}
UNARY: Final = {
    "ABS": "abs",
    "NEG": "neg",
    "EXP": "exp",
    "LOG": "log",
    "SQRT": "sqrt",
    "RSQRT": "rsqrt",
    "SIN": "sin",
    "COS": "cos",
    "FLOOR": "floor",
    "CEIL": "ceil",
    "LOGISTIC": "sigmoid",
    "TANH": "tanh",
    "HARD_SWISH": "hard_swish",
    "RELU": "relu",
    "RELU6": "relu6",
    "ELU": "elu",
    "LEAKY_RELU": "leaky_relu",
}
"""Operator → kernel."""
BINARY: Final = {
    "ADD": "add",
    "SUB": "sub",
    "MUL": "mul",
    "DIV": "div",
    "POW": "pow",
    "MAXIMUM": "maximum",
    "MINIMUM": "minimum",
    "SQUARED_DIFFERENCE": "squared_difference",
    "PRELU": "prelu",
}
"""Operator → kernel."""
FROM_LIBRARY: Final = frozenset({"SIN", "COS", "POW"})
"""Operators whose last bits are those of a C library; they have no reference."""


def _finished(call: Call, x: Floats) -> Floats:
    return fm.clamped(x, *CLAMPS[call.options.get("fused_activation_function", "NONE")])


def _bias(call: Call, count: int) -> Floats:
    given = call.array(2) if call.has(2) else np.zeros(count, np.float32)
    return given.astype(np.float32)


def _windows(call: Call, x: Floats, kernel: tuple[int, int], fill: float) -> Floats:
    """(N, rows, columns, height, width, C); `fill` in the padding."""
    strides = (call.options["stride_h"], call.options["stride_w"])
    dilations = [call.options.get(f"dilation_{axis}_factor", 1) for axis in "hw"]
    size = call.output.shape[1:3]
    amounts = []
    for axis in (0, 1):
        reach = (kernel[axis] - 1) * dilations[axis] + 1
        wanted = max((size[axis] - 1) * strides[axis] + reach - x.shape[axis + 1], 0)
        wanted = 0 if call.options["padding"] == "VALID" else wanted
        amounts.append((wanted // 2, wanted - wanted // 2))
    padded = np.pad(x, ((0, 0), *amounts, (0, 0)), constant_values=np.float32(fill))
    rows, columns = (
        np.arange(size[axis])[:, None] * strides[axis] + np.arange(kernel[axis]) * dilations[axis]
        for axis in (0, 1)
    )
    found: Floats = padded[:, rows[:, None, :, None], columns[None, :, None, :]]
    return found


def conv_2d(call: Call) -> Floats:
    """Weights OHWI; groups where they have fewer input channels than the image."""
    weight = call.array(1)
    windows = _windows(call, call.array(0), weight.shape[1:3], 0)
    outputs, depth = weight.shape[0], weight.shape[3]
    groups = call.array(0).shape[3] // depth
    bias = _bias(call, outputs)
    parts = []
    for group in range(groups):
        mine = slice(group * outputs // groups, (group + 1) * outputs // groups)
        taken = windows[..., group * depth : (group + 1) * depth]
        rows = taken.reshape(*taken.shape[:3], 1, -1)
        parts.append(fm.dot(rows, weight[mine].reshape(outputs // groups, -1), bias[mine]))
    return _finished(call, np.concatenate(parts, axis=-1))


def depthwise_conv_2d(call: Call) -> Floats:
    """Weights 1HWC, with the outputs of an input channel side by side."""
    weight = call.array(1)
    windows = _windows(call, call.array(0), weight.shape[1:3], 0)
    taps = np.repeat(windows, weight.shape[3] // windows.shape[-1], axis=-1)
    taps = taps.reshape(*taps.shape[:3], -1, weight.shape[3]).swapaxes(-1, -2)
    kernel = weight[0].reshape(-1, weight.shape[3]).T
    return _finished(call, fm.dot(taps, kernel, _bias(call, weight.shape[3])))


def fully_connected(call: Call) -> Floats:
    """Weights (outputs, inputs)."""
    weight = call.array(1)
    rows = call.array(0).reshape(-1, 1, weight.shape[1])
    found = fm.dot(rows, weight, _bias(call, weight.shape[0]))
    return _finished(call, found.reshape(call.output.shape))


def batch_matmul(call: Call) -> Floats:
    """Leading dimensions may be broadcast."""
    a, b = call.array(0), call.array(1)
    a = a.swapaxes(-1, -2) if call.options["adj_x"] else a
    b = b if call.options["adj_y"] else b.swapaxes(-1, -2)
    return fm.dot(a[..., :, None, :], b[..., None, :, :], np.zeros((), np.float32))


def _binary(call: Call) -> Floats:
    return _finished(call, fm.BINARY[BINARY[call.code]](call.array(0), call.array(1)))


def _unary(call: Call) -> Floats:
    x = call.array(0)
    if call.code == "LEAKY_RELU":
        slope: Floats = np.where(x > 0, x, x * np.float32(call.options["alpha"]))
        return slope
    return fm.UNARY[UNARY[call.code]](x)


def _gelu(call: Call) -> Floats:
    return (fm.gelu_tanh if call.options["approximate"] else fm.gelu)(call.array(0))


def _pool(call: Call) -> Floats:
    size = (call.options["filter_height"], call.options["filter_width"])
    average = call.code == "AVERAGE_POOL_2D"
    x = call.array(0)
    windows = _windows(call, x, size, 0.0 if average else -inf)
    flat = windows.reshape(*windows.shape[:3], -1, windows.shape[-1])
    if not average:
        return _finished(call, fm.largest(flat.swapaxes(-1, -2)))
    inside = _windows(call, np.ones_like(x), size, 0.0).sum(axis=(3, 4))
    return _finished(call, fm.total(flat.swapaxes(-1, -2)) / inside.astype(np.float32))


def _reduction(call: Call) -> Floats:
    x = call.array(0)
    over = sorted({int(a) % x.ndim for a in np.asarray(call.array(1)).reshape(-1)})
    kept = [a for a in range(x.ndim) if a not in over]
    rows = x.transpose(*kept, *over).reshape(*(x.shape[a] for a in kept), -1)
    if call.code in ("REDUCE_MAX", "REDUCE_MIN"):
        found = (fm.largest if call.code == "REDUCE_MAX" else fm.smallest)(rows)
    else:
        found = fm.total(rows)
        found = found / np.float32(rows.shape[-1]) if call.code == "MEAN" else found
    return found.reshape(call.output.shape)


def _softmax(call: Call) -> Floats:
    return fm.softmax(call.array(0), call.options["beta"])


def _log_softmax(call: Call) -> Floats:
    return fm.log_softmax(call.array(0))


def _l2_norm(call: Call) -> Floats:
    return fm.l2_norm(call.array(0))


def _norm(call: Call) -> Floats:
    x = call.tensor(0)
    axis, epsilon, outer, count, inner = norm.blocks(call.operator, x)
    blocks = call.array(0).reshape(outer, count, inner).swapaxes(1, 2)
    found = fm.layer_norm(blocks, epsilon).swapaxes(1, 2).reshape(outer, -1)
    gain, offset = (
        np.resize(norm.entries(call.tensor(number), x, axis), found.shape[1]).astype(np.float32)
        for number in (1, 2)
    )
    return (found * gain + offset).reshape(x.shape)


def resize_bilinear(call: Call) -> Floats:
    """Positions and shares in single precision."""
    x, y = call.array(0), call.output
    sides = []
    for axis in (1, 2):
        corners = call.options["align_corners"] and y.shape[axis] > 1
        real = (x.shape[axis] - int(corners)) / (y.shape[axis] - int(corners))
        start = real / 2 - 0.5 if call.options["half_pixel_centers"] else 0.0
        at = np.float32(start) + np.float32(real) * np.arange(y.shape[axis], dtype=np.float32)
        at = np.where(at < 0, np.float32(0), at)
        lower = np.minimum(at.astype(np.int64), x.shape[axis] - 1)
        upper = np.minimum(lower + 1, x.shape[axis] - 1)
        sides.append((lower, upper, at - lower.astype(np.float32)))
    (top, bottom, down), (left, right, across) = sides
    across, down, one = across[:, None], down[:, None, None], np.float32(1)
    lines = x[:, :, left] * (one - across) + x[:, :, right] * across
    found: Floats = lines[:, top] * (one - down) + lines[:, bottom] * down
    return found


def _quantize(call: Call) -> NDArray[Any]:
    y = call.output
    return fm.quantized(call.array(0), float(scale_of(y)), zero_of(y), y.numpy_dtype.name)


KERNELS: Final[Mapping[str, Callable[[Call], NDArray[Any]]]] = {
    "CONV_2D": conv_2d,
    "DEPTHWISE_CONV_2D": depthwise_conv_2d,
    "FULLY_CONNECTED": fully_connected,
    "BATCH_MATMUL": batch_matmul,
    **dict.fromkeys([code for code in BINARY if code not in FROM_LIBRARY], _binary),
    **dict.fromkeys([code for code in UNARY if code not in FROM_LIBRARY], _unary),
    "GELU": _gelu,
    **dict.fromkeys(("AVERAGE_POOL_2D", "MAX_POOL_2D"), _pool),
    **dict.fromkeys(("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN"), _reduction),
    "SOFTMAX": _softmax,
    "LOG_SOFTMAX": _log_softmax,
    "L2_NORMALIZATION": _l2_norm,
    "CUSTOM": _norm,
    "RESIZE_BILINEAR": resize_bilinear,
    "QUANTIZE": _quantize,
}
"""Operators that read floats."""
