"""The arrays of one inference, checked against what a model takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgec.export.errors import InputError

Tensor = NDArray[Any]
Interface = Mapping[str, tuple[tuple[int, ...], str]]
"""Static shape and numpy dtype name by input or output name."""


def ready(feeds: Mapping[str, Tensor], expected: Interface) -> dict[str, Tensor]:
    """The feeds in C order and in the model's dtypes, in the order of its inputs.

    Args:
        feeds: an array for every input, of its static shape; numbers are cast to another width
            (float64 to float32, int32 to int64), and integers to floats.
        expected: the model's inputs.

    Raises:
        InputError: names, shapes or kinds of number do not match the model's inputs.
    """
    if set(feeds) != set(expected):
        raise InputError(
            "EC788",
            f"the inputs are called {', '.join(map(repr, feeds))}",
            why=f"the model takes {', '.join(map(repr, expected))}",
            fix="name the arrays like the model's inputs",
        )
    found = {}
    for name, (shape, dtype) in expected.items():
        array = np.asarray(feeds[name])
        if array.shape != shape:
            raise InputError(
                "EC789",
                f"input {name!r} has shape {list(array.shape)}",
                why=f"the model takes {list(shape)}",
                fix="resize the data, or export with --input-size/--shape for this size",
            )
        if not np.can_cast(array.dtype, dtype, "same_kind"):
            raise InputError(
                "EC798",
                f"input {name!r} has dtype {array.dtype}",
                why=f"the model takes {dtype}, which cannot hold such values",
                fix=f"convert it yourself with .astype({dtype!r}) if that is meant",
            )
        # not ascontiguousarray, which would give scalars an axis
        found[name] = np.asarray(array, dtype=dtype, order="C")
    return found
