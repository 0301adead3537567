"""Functions of int16 as 513 values with straight lines between them.

TFLite's form of tables for int16 (lite/kernels/internal/common.h): the high nine bits of an input
choose the piece, its low seven bits the place in it. A value is moved by half of what the line is
off in the middle of its piece.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgec.export.tflite.reference.fixed_point import rounded

PIECES: Final = 512
PIECE_BITS: Final = 7
_LOW, _HIGH = -(1 << 15), (1 << 15) - 1
Function = Callable[[NDArray[Any]], NDArray[Any]]


def table(function: Function, lowest: float, highest: float, step: float) -> NDArray[np.int16]:
    """The 513 values of a function, in steps of its output.

    Args:
        lowest, highest: real inputs for the integers −32768 and 32767.
        step: real difference of two outputs that are one integer apart.
    """
    width = (highest - lowest) / PIECES
    starts = lowest + np.arange(PIECES) * width
    at_start, at_end, between = (
        function(x) / step for x in (starts, starts + width, starts + width / 2)
    )
    line = rounded((at_end + rounded(at_start)) / 2)
    values = rounded(at_start) - rounded((line - rounded(between)) / 2)
    last = rounded(function(np.array([highest])) / step)
    found = np.clip(np.concatenate([values, last]), _LOW, _HIGH)
    return np.asarray(found, np.int16)


def look_up(values: NDArray[np.int16], x: NDArray[Any]) -> NDArray[np.int64]:
    """What the lines give for int16 inputs; between the values, so in their range."""
    wide, heights = x.astype(np.int64), values.astype(np.int64)
    piece = PIECES // 2 + (wide >> PIECE_BITS)
    place = wide & ((1 << PIECE_BITS) - 1)
    rise = (heights[piece + 1] - heights[piece]) * place
    found: NDArray[np.int64] = heights[piece] + ((rise + (1 << PIECE_BITS >> 1)) >> PIECE_BITS)
    return found
