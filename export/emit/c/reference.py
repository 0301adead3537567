"""What the C of a network computes, in numpy: for golden data, for checks, for accuracy.

The TFLite reference (`edgec.export.tflite.reference`), but for the operators whose C kernels have a
meaning of their own, because TFLite's compute in floats there or in more than integers of 32 bits:
SOFTMAX of int8, the scaling of FULLY_CONNECTED, and norms between integers. On int16 there are two
more: functions with a table (`interpolate`), and the L2 norm, which TFLite has not. Parts in float
are those of `float_reference`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgec.export.emit.c import float_reference, norm
from edgec.export.emit.c.fuse import NORMS, fuse
from edgec.export.emit.c.interpolate import CODE as INTERPOLATED
from edgec.export.tflite.model import Model
from edgec.export.tflite.reference import executor
from edgec.export.tflite.reference.call import Call
from edgec.export.tflite.reference.executor import Kernel, run
from edgec.export.tflite.reference.fixed_point import scale_of
from edgec.export.tflite.reference.interpolated import look_up
from edgec.export.tflite.reference.products import fully_connected_in_fixed_point
from edgec.export.tflite.reference.rsqrt import l2_normalization
from edgec.export.tflite.reference.softmax_int16 import softmax_int16

SOFTMAX_BITS = 24
"""Fractional bits of an exponential."""


def reference(model: Model, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Outputs by name, to the last bit as the C that `lower` and `write_sources` make.

    Args:
        model: as given to `edgec.export.emit.c.lower.lower`.
        feeds: by input name, in the model's types and layout.

    Raises:
        UnsupportedError: EC306, an operator or a form of it has no kernel.
    """
    return run(fuse(model), feeds, KERNELS)


def exponentials(step: float) -> NDArray[np.uint32]:
    """exp(−step · d) for d from 0 to 255, rounded to `SOFTMAX_BITS` fractional bits."""
    powers: NDArray[np.float64] = np.exp(-step * np.arange(256))
    return np.rint(powers * (1 << SOFTMAX_BITS)).astype(np.uint32)


def softmax_step(beta: float, scale: NDArray[np.float32]) -> float:
    """Real difference of two inputs that are one integer apart."""
    return float(np.float32(beta) * np.float32(scale))


def softmax(call: Call) -> NDArray[Any]:
    """Along the last axis, with a table of exponentials and one division per row; of int16, as
    TFLite's."""
    if call.array(0).dtype == np.int16:
        return softmax_int16(call)
    x = call.array(0).astype(np.int64)
    table = exponentials(softmax_step(call.options["beta"], scale_of(call.tensor(0))))
    shares = table.astype(np.int64)[x.max(axis=-1, keepdims=True) - x]
    total = shares.sum(axis=-1, keepdims=True)
    inverse = ((1 << 48) + total // 2) // total
    result: NDArray[np.int64] = ((shares * inverse + (1 << 39)) >> 40) - 128
    return np.clip(result, -128, 127).astype(np.int8)


def composite(call: Call) -> NDArray[Any]:
    """Norms between integers, and functions of int16 with a table."""
    if call.operator.custom_code == INTERPOLATED:
        return look_up(call.array(1), call.array(0))
    if call.operator.custom_code not in NORMS:
        raise ValueError(f"custom operator {call.operator.custom_code}")
    x, gain, offset = (call.tensor(i) for i in range(3))
    return norm.normalised(
        norm.constants(call.operator, x, gain, offset, call.output), call.array(0)
    )


def l2_norm(call: Call) -> NDArray[Any]:
    """L2_NORMALIZATION; TFLite has it for int8 only."""
    x = call.array(0)
    if x.dtype == np.int16:
        return norm.unit_rows(x.reshape(-1, x.shape[-1])).reshape(x.shape)
    return l2_normalization(call)


def _either(integers: Kernel | None, floats: Kernel) -> Kernel:
    """The kernel for what an operator reads."""

    def kernel(call: Call) -> NDArray[Any] | list[NDArray[Any]]:
        if call.array(0).dtype == np.float32:
            return floats(call)
        if integers is None:
            raise ValueError(f"{call.code} of {call.tensor(0).dtype}")
        return integers(call)

    return kernel


_INTEGERS: Final = executor.KERNELS | {
    "SOFTMAX": softmax,
    "FULLY_CONNECTED": fully_connected_in_fixed_point,
    "CUSTOM": composite,
    "L2_NORMALIZATION": l2_norm,
}
KERNELS: Final[Mapping[str, Kernel]] = _INTEGERS | {
    code: _either(_INTEGERS.get(code), kernel) for code, kernel in float_reference.KERNELS.items()
}
"""Operators on int8, on int16 and on floats."""
