"""Operators that move, select, join or count elements."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from edgec.export.quantize.replay.table import Attributes, axes_of, operator, to_ints


@operator("Reshape")
def reshape(a: Attributes, x: Tensor, shape: Tensor) -> Tensor:
    """0 copies the dimension of the input unless allowzero is set."""
    dims = to_ints(shape)
    if not a.get("allowzero", 0):
        dims = [x.shape[i] if d == 0 else d for i, d in enumerate(dims)]
    return x.reshape(dims)


@operator("Transpose")
def transpose(a: Attributes, x: Tensor) -> Tensor:
    return x.permute(a.get("perm", tuple(reversed(range(x.ndim)))))


@operator("Flatten")
def flatten(a: Attributes, x: Tensor) -> Tensor:
    axis = a.get("axis", 1)
    rows = x.shape[: axis % x.ndim if axis < 0 else axis].numel()
    return x.reshape(rows, -1) if x.numel() else x.reshape(rows, 0)


@operator("Squeeze")
def squeeze(a: Attributes, x: Tensor, axes: Tensor | None = None) -> Tensor:
    chosen = axes_of(a, axes, x.ndim)
    return x.squeeze(tuple(chosen)) if chosen or axes is not None else x.squeeze()


@operator("Unsqueeze")
def unsqueeze(a: Attributes, x: Tensor, axes: Tensor | None = None) -> Tensor:
    count = axes.numel() if axes is not None else len(a.get("axes"))
    for axis in sorted(axes_of(a, axes, x.ndim + count)):
        x = x.unsqueeze(axis)
    return x


@operator("Concat")
def concat(a: Attributes, *inputs: Tensor) -> Tensor:
    return torch.cat(inputs, dim=a.get("axis"))


@operator("Split")
def split(a: Attributes, x: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, ...]:
    axis = a.get("axis", 0)
    if sizes is not None:
        return torch.split(x, to_ints(sizes), dim=axis)
    if "split" in a.values:
        return torch.split(x, list(a.get("split")), dim=axis)
    # equal parts; the last one is smaller if it does not come out even
    return torch.split(x, -(-x.shape[axis] // a.outputs), dim=axis)


@operator("Slice")
def slice_(
    a: Attributes,
    x: Tensor,
    starts: Tensor,
    ends: Tensor,
    axes: Tensor | None = None,
    steps: Tensor | None = None,
) -> Tensor:
    """Any step; torch's own slices have positive ones only."""
    first = to_ints(starts)
    chosen = list(range(len(first))) if axes is None else [i % x.ndim for i in to_ints(axes)]
    strides = [1] * len(first) if steps is None else to_ints(steps)
    for start, end, axis, step in zip(first, to_ints(ends), chosen, strides, strict=True):
        picked = range(x.shape[axis])[slice(start, end if end > -(2**62) else None, step)]
        x = x.index_select(axis, torch.tensor(list(picked), dtype=torch.int64))
    return x


@operator("Gather")
def gather(a: Attributes, x: Tensor, indices: Tensor) -> Tensor:
    axis = a.get("axis", 0) % x.ndim
    where = torch.where(indices < 0, indices + x.shape[axis], indices).long()
    picked = x.index_select(axis, where.reshape(-1))
    return picked.reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])


@operator("GatherElements")
def gather_elements(a: Attributes, x: Tensor, indices: Tensor) -> Tensor:
    axis = a.get("axis", 0)
    where = torch.where(indices < 0, indices + x.shape[axis], indices)
    return torch.gather(x, axis, where.long())


@operator("Expand")
def expand(a: Attributes, x: Tensor, shape: Tensor) -> Tensor:
    return x.expand(torch.broadcast_shapes(x.shape, torch.Size(to_ints(shape))))


@operator("Tile")
def tile(a: Attributes, x: Tensor, repeats: Tensor) -> Tensor:
    return x.repeat(to_ints(repeats))


@operator("Pad")
def pad(
    a: Attributes,
    x: Tensor,
    pads: Tensor,
    value: Tensor | None = None,
    axes: Tensor | None = None,
) -> Tensor:
    """Modes constant (negative pads crop), reflect, edge and wrap."""
    amounts = to_ints(pads)
    chosen = axes_of(a, axes, x.ndim) if axes is not None else list(range(x.ndim))
    half = len(chosen)
    mode = a.get("mode", "constant")
    if mode == "constant":
        both = [(0, 0)] * x.ndim
        for i, axis in enumerate(chosen):
            both[axis] = (amounts[i], amounts[half + i])
        flat = [amount for pair in reversed(both) for amount in pair]
        return F.pad(x, flat, value=0 if value is None else value.item())
    for i, axis in enumerate(chosen):
        size = x.shape[axis]
        index = torch.arange(-amounts[i], size + amounts[half + i])
        if mode == "edge":
            index = index.clamp(0, size - 1)
        elif mode == "wrap":
            index = index % size
        elif mode == "reflect":
            period = max(2 * (size - 1), 1)
            index = index.abs() % period
            index = torch.where(index >= size, period - index, index)
        else:
            raise NotImplementedError(f"Pad mode {mode}")
        x = x.index_select(axis, index)
    return x


@operator("DepthToSpace")
def depth_to_space(a: Attributes, x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    b = a.get("blocksize")
    if a.get("mode", "DCR") == "DCR":
        parts = x.reshape(n, b, b, c // b**2, h, w).permute(0, 3, 4, 1, 5, 2)
    else:
        parts = x.reshape(n, c // b**2, b, b, h, w).permute(0, 1, 4, 2, 5, 3)
    return parts.reshape(n, c // b**2, h * b, w * b)


@operator("SpaceToDepth")
def space_to_depth(a: Attributes, x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    b = a.get("blocksize")
    parts = x.reshape(n, c, h // b, b, w // b, b)
    blocks_first = a.get("mode", "DCR") == "DCR"  # newer versions have the attribute
    parts = parts.permute(0, 3, 5, 1, 2, 4) if blocks_first else parts.permute(0, 1, 3, 5, 2, 4)
    return parts.reshape(n, c * b**2, h // b, w // b)


@operator("Shape")
def shape_(a: Attributes, x: Tensor) -> Tensor:
    return torch.tensor(list(x.shape)[slice(a.get("start", 0), a.get("end"))], dtype=torch.int64)


@operator("Size")
def size(a: Attributes, x: Tensor) -> Tensor:
    return torch.tensor(x.numel())


@operator("Constant")
def constant(a: Attributes) -> Tensor:
    """One of the value attributes."""
    for name, dtype in (("value_float", torch.float32), ("value_floats", torch.float32),
                        ("value_int", torch.int64), ("value_ints", torch.int64)):  # fmt: skip
        if name in a.values:
            return torch.tensor(a.values[name], dtype=dtype)
    value: Tensor = a.values["value"]
    return value


@operator("ConstantOfShape")
def constant_of_shape(a: Attributes, shape: Tensor) -> Tensor:
    value: Tensor = a.get("value", torch.zeros(1))
    return value.reshape(()).expand(to_ints(shape)).clone()


@operator("Range")
def range_(a: Attributes, start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    count = max(0, -(-(limit - start).item() // delta.item()))
    return start + delta * torch.arange(int(count), dtype=start.dtype)


@operator("Trilu")
def trilu(a: Attributes, x: Tensor, k: Tensor | None = None) -> Tensor:
    offset = 0 if k is None else int(k.item())
    return torch.triu(x, offset) if a.get("upper", 1) else torch.tril(x, offset)


@operator("OneHot")
def one_hot(a: Attributes, indices: Tensor, depth: Tensor, values: Tensor) -> Tensor:
    count, axis = int(depth.reshape(()).item()), a.get("axis", -1)
    hot = torch.remainder(indices.long(), count)[..., None] == torch.arange(count)
    outside = (indices < -count) | (indices >= count)
    hot &= ~outside[..., None]
    return torch.where(hot, values[1], values[0]).movedim(-1, axis)
