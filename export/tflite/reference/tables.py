"""int8 functions of one input as tables of 256 entries, filled in single precision.

LOGISTIC and TANH of int16 are those of `sigmoid_int16`.
"""

from __future__ import annotations

from collections.abc import Callable
from math import erf
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgec.export.tflite.reference.call import Call
from edgec.export.tflite.reference.fixed_point import limits, rounded, scale_of, zero_of
from edgec.export.tflite.reference.sigmoid_int16 import logistic_int16, tanh_int16

Kernel = Callable[[Call], NDArray[Any]]
Floats = NDArray[np.float32]


def table(function: Callable[[Call, Floats], Floats]) -> Kernel:
    """A kernel that looks up what `function` gives for each of the 256 inputs."""

    def kernel(call: Call) -> NDArray[Any]:
        x, tensor, y = call.array(0), call.tensor(0), call.output
        if x.dtype.kind == "f":
            return function(call, x)
        if x.dtype != np.int8 or y.dtype != "INT8":
            raise ValueError(f"{call.code} of {tensor.dtype}")
        steps = np.arange(-128, 128, dtype=np.float32) - np.float32(zero_of(tensor))
        transformed = function(call, np.float32(scale_of(tensor)) * steps)
        inverse = np.float32(1) / np.float32(scale_of(y))
        low, high = limits(y)
        entries = rounded(transformed * inverse) + zero_of(y)
        found: NDArray[np.int8] = np.clip(entries, low, high).astype(np.int8)
        return found[x.astype(np.int64) + 128]

    return kernel


def _logistic(call: Call, x: Floats) -> Floats:
    power: Floats = np.exp(-x.astype(np.float64)).astype(np.float32)
    result: Floats = np.float32(1) / (np.float32(1) + power)
    return result


def _tanh(call: Call, x: Floats) -> Floats:
    return np.tanh(x.astype(np.float64)).astype(np.float32)


def _gelu(call: Call, x: Floats) -> Floats:
    if call.options["approximate"]:
        cube = np.float32(0.044715) * x * x * x
        inner = (np.float32(np.sqrt(2 / np.pi)) * (x + cube)).astype(np.float64)
        part = np.tanh(inner).astype(np.float32)
    else:
        scaled = (x * np.float32(np.sqrt(0.5))).astype(np.float64)
        part = np.vectorize(erf, otypes=[np.float64])(scaled).astype(np.float32)
    return np.float32(0.5) * x * (np.float32(1) + part)


def wide(narrow: Kernel, on_int16: Kernel) -> Kernel:
    """One kernel for int16 between int16, another one for the rest."""

    def kernel(call: Call) -> NDArray[Any]:
        both = call.tensor(0).dtype == call.output.dtype == "INT16"
        return (on_int16 if both else narrow)(call)

    return kernel


logistic = wide(table(_logistic), logistic_int16)
tanh = wide(table(_tanh), tanh_int16)
gelu = table(_gelu)
