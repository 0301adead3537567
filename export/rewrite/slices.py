"""Slice nodes with constant bounds as Python slices."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgec.export.rewrite.graph import constant, is_op


def slices_of(node: ir.Node, shape: tuple[int, ...]) -> tuple[slice, ...] | None:
    """One slice with non-negative bounds per axis, or None if `node` is no constant Slice.

    Args:
        node: any node.
        shape: static shape of its first input.
    """
    if not is_op(node, "Slice"):
        return None
    given = [v is not None for v in node.inputs[1:]]
    arrays = [constant(v) for v in node.inputs[1:]]
    if len(arrays) < 2 or any(g and a is None for g, a in zip(given, arrays, strict=True)):
        return None
    starts, ends = arrays[0], arrays[1]
    if starts is None or ends is None:
        return None
    axes = arrays[2] if len(arrays) > 2 and arrays[2] is not None else np.arange(len(starts))
    steps = arrays[3] if len(arrays) > 3 and arrays[3] is not None else np.ones(len(starts))
    cut = [slice(0, d, 1) for d in shape]
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        size = shape[int(axis)]
        first, last, stride = slice(int(start), int(end), int(step)).indices(size)
        cut[int(axis) % len(shape)] = slice(first, last if last >= 0 else None, stride)
    return tuple(cut)


def forward_range(cut: slice) -> tuple[int, int] | None:
    """(start, stop) of a slice with step 1 that is not empty, else None."""
    if cut.step != 1 or cut.stop is None or cut.start >= cut.stop:
        return None
    return cut.start, cut.stop
