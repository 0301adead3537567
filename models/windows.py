"""Cuts a map into attention windows and puts it together again, at rank 5 and without Gather.

A partition is one reshape, one transpose and one reshape, for every batch size, because channels
stay in front of the pixels of a window: the tokens of a head lie as (channels, tokens) matrices.
The two products of attention then need one transposed operand each, which runtimes take as a flag
of their matrix product (ONNX Runtime FusedMatMul, TFLite BATCH_MATMUL adj_x/adj_y, TensorRT
kTRANSPOSE).

*Close* windows are ordinary tiles; *remote* windows take every n-th pixel (n windows per axis), so
that each one spans the whole map. All sizes are Python integers, so nothing is computed at run
time.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def pad_to_windows(x: Tensor, window: int) -> Tensor:
    """Pad (N, C, H, W) with zeros at the bottom and the right to multiples of `window`."""
    bottom, right = -x.shape[2] % window, -x.shape[3] % window
    return F.pad(x, (0, right, 0, bottom)) if bottom or right else x


def cut(x: Tensor, window: int, heads: int, *, close: bool) -> Tensor:
    """Cut (N, C, H, W) into (windows * N, heads, C / heads, window * window)."""
    n, channels, height, width = x.shape
    rows, columns = height // window, width // window
    matrix = (rows * columns * n, heads, channels // heads, window**2)
    if rows == columns == 1:
        return x.reshape(matrix)
    if close:
        pixels = x.reshape(n * channels, rows, window, columns, window)
        return pixels.permute(1, 3, 0, 2, 4).reshape(matrix)
    pixels = x.reshape(n * channels, window, rows, window, columns)
    return pixels.permute(2, 4, 0, 1, 3).reshape(matrix)


def merge(x: Tensor, shape: Sequence[int], window: int, *, close: bool) -> Tensor:
    """Inverse of `cut` for a map of the given shape."""
    n, channels, height, width = shape
    rows, columns = height // window, width // window
    if rows == columns == 1:
        return x.reshape(n, channels, height, width)
    pixels = x.reshape(rows, columns, n * channels, window, window)
    order = (2, 0, 3, 1, 4) if close else (2, 3, 0, 4, 1)
    return pixels.permute(order).reshape(n, channels, height, width)


def window_attention(
    query: Tensor, key: Tensor, value: Tensor, window: int, heads: int, *, close: bool
) -> Tensor:
    """Attention inside each window of three maps (N, C, H, W); the value's shape is returned.

    The query is already scaled. H and W are multiples of `window`; query and key have the same
    channels, and all channels are multiples of `heads`.
    """
    q, k, v = (cut(t, window, heads, close=close) for t in (query, key, value))
    weights = torch.softmax(q.transpose(2, 3) @ k, dim=-1)
    return merge(v @ weights.transpose(2, 3), value.shape, window, close=close)
