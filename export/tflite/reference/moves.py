"""Operators that move or choose integers without changing them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgec.export.tflite.reference.call import Call
from edgec.export.tflite.reference.fixed_point import zero_of
from edgec.export.tflite.schema import DTYPES


def reshape(call: Call) -> NDArray[Any]:
    """RESHAPE, SQUEEZE, EXPAND_DIMS."""
    return call.array(0).reshape(call.output.shape)


def transpose(call: Call) -> NDArray[Any]:
    """A permutation of the axes."""
    return call.array(0).transpose([int(a) for a in call.array(1)])


def pad(call: Call) -> NDArray[Any]:
    """With the integer of zero; PADV2 with a value of its own."""
    tensor = call.tensor(0)
    fill = 0 if tensor.quantization is None else zero_of(tensor)
    if call.code == "PADV2":
        fill = call.array(2).reshape(-1)[0]
    amounts = [(int(a), int(b)) for a, b in call.array(1)]
    return np.pad(call.array(0), amounts, constant_values=fill)


def concatenation(call: Call) -> NDArray[Any]:
    """int8 operands share the output's scale."""
    arrays = [call.array(i) for i in range(len(call.arrays))]
    return np.concatenate(arrays, axis=call.options["axis"]).astype(DTYPES[call.output.dtype])


def pack(call: Call) -> NDArray[Any]:
    """Operands along a new axis."""
    return np.stack([call.array(i) for i in range(len(call.arrays))], axis=call.options["axis"])


def split(call: Call) -> list[NDArray[Any]]:
    """SPLIT and SPLIT_V: parts of the outputs' sizes."""
    axis, x = (0, call.array(1)) if call.code == "SPLIT" else (2, call.array(0))
    place = int(call.array(axis).reshape(-1)[0]) % x.ndim
    ends = np.cumsum([y.shape[place] for y in call.outputs])[:-1]
    return np.split(x, ends, axis=place)


def unpack(call: Call) -> list[NDArray[Any]]:
    """Parts along an axis, without it."""
    x, axis = call.array(0), call.options["axis"]
    return [np.take(x, i, axis=axis) for i in range(len(call.outputs))]


def slice_(call: Call) -> NDArray[Any]:
    """A block of the output's size."""
    spans = zip(call.array(1).reshape(-1), call.output.shape, strict=True)
    block: NDArray[Any] = call.array(0)[tuple(slice(int(b), int(b) + n) for b, n in spans)]
    return block


def strided_slice(call: Call) -> NDArray[Any]:
    """Every so manieth element; axes neither come nor go."""
    x, options = call.array(0), call.options
    if options["ellipsis_mask"] or options["new_axis_mask"] or options["shrink_axis_mask"]:
        raise ValueError("axes come or go")
    spans = []
    for axis in range(x.ndim):
        begin, end, step = (int(call.array(n).reshape(-1)[axis]) for n in (1, 2, 3))
        spans.append(
            slice(
                None if options["begin_mask"] >> axis & 1 else begin,
                None if options["end_mask"] >> axis & 1 else end,
                step,
            )
        )
    block: NDArray[Any] = x[tuple(spans)]
    return block


def broadcast_to(call: Call) -> NDArray[Any]:
    """To the output's shape."""
    return np.broadcast_to(call.array(0), call.output.shape)


def tile(call: Call) -> NDArray[Any]:
    """Each axis repeated as a whole."""
    return np.tile(call.array(0), [int(n) for n in call.array(1).reshape(-1)])


def gather(call: Call) -> NDArray[Any]:
    """Entries along an axis."""
    if call.options["batch_dims"]:
        raise ValueError("a gather with batch axes")
    return np.take(call.array(0), call.array(1), axis=call.options["axis"])


def extreme(call: Call) -> NDArray[Any]:
    """MAXIMUM and MINIMUM, REDUCE_MAX and REDUCE_MIN; one scale for all."""
    if call.code in ("MAXIMUM", "MINIMUM"):
        choose = np.maximum if call.code == "MAXIMUM" else np.minimum
        chosen: NDArray[Any] = choose(call.array(0), call.array(1))
        return chosen
    x = call.array(0)
    over = tuple({int(a) % x.ndim for a in call.array(1).reshape(-1)})
    reduced: NDArray[Any] = x.max(axis=over) if call.code == "REDUCE_MAX" else x.min(axis=over)
    return reduced.reshape(call.output.shape)


def resize_nearest_neighbor(call: Call) -> NDArray[Any]:
    """Each pixel is one of the operand's."""
    x, size = call.array(0), call.output.shape
    rows, columns = (nearest(call.options, x.shape[a], size[a]) for a in (1, 2))
    chosen: NDArray[Any] = x[:, rows][:, :, columns]
    return chosen


def nearest(options: Mapping[str, Any], size: int, target: int) -> NDArray[np.int64]:
    """Which of `size` pixels each of `target` pixels is; coordinates in single precision."""
    corners = options["align_corners"] and target > 1
    old, new = (size - 1, target - 1) if corners else (size, target)
    scale = np.float32(old) / np.float32(new)
    offset = np.float32(0.5 if options["half_pixel_centers"] else 0)
    place = (np.arange(target, dtype=np.float32) + offset) * scale
    whole = np.floor(place + np.float32(0.5)) if options["align_corners"] else np.floor(place)
    found: NDArray[np.int64] = np.clip(whole.astype(np.int64), 0, size - 1)
    return found


def space_to_depth(call: Call) -> NDArray[Any]:
    """Row, column and channel of a block become channels in this order."""
    x, block = call.array(0), call.options["block_size"]
    n, height, width, channels = x.shape
    parts = x.reshape(n, height // block, block, width // block, block, channels)
    return parts.transpose(0, 1, 3, 2, 4, 5).reshape(call.output.shape)


def depth_to_space(call: Call) -> NDArray[Any]:
    """The way back."""
    x, block = call.array(0), call.options["block_size"]
    n, height, width, _ = x.shape
    parts = x.reshape(n, height, width, block, block, -1)
    return parts.transpose(0, 1, 3, 2, 4, 5).reshape(call.output.shape)
