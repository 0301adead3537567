"""Products, convolutions, pooling, resizing, normalisations and reductions."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from edgec.export.quantize.replay.table import OPERATORS, Attributes, axes_of, operator, to_ints


@operator("MatMul")
def matmul(a: Attributes, x: Tensor, y: Tensor) -> Tensor:
    return torch.matmul(x, y)


@operator("Gemm")
def gemm(a: Attributes, x: Tensor, w: Tensor, c: Tensor | None = None) -> Tensor:
    x = x.transpose(0, 1) if a.get("transA", 0) else x
    w = w.transpose(0, 1) if a.get("transB", 0) else w
    y = float(a.get("alpha", 1.0)) * (x @ w)
    return y if c is None else y + float(a.get("beta", 1.0)) * c


@operator("Einsum")
def einsum(a: Attributes, *inputs: Tensor) -> Tensor:
    return torch.einsum(a.get("equation"), *inputs)


@operator("Conv")
def conv(a: Attributes, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    rank = w.ndim - 2
    strides, dilations = a.get("strides", (1,) * rank), a.get("dilations", (1,) * rank)
    before, after = _pads(a, x.shape[2:], w.shape[2:], strides, dilations)
    function: Callable[..., Tensor] = (F.conv1d, F.conv2d, F.conv3d)[rank - 1]
    if before == after and min(before) >= 0:
        return function(x, w, b, strides, before, dilations, a.get("group", 1))
    x = F.pad(x, [p for pair in reversed(list(zip(before, after, strict=True))) for p in pair])
    return function(x, w, b, strides, 0, dilations, a.get("group", 1))


@operator("ConvTranspose")
def conv_transpose(a: Attributes, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    """The full result is computed, then cropped: ONNX's pads may differ at the two ends."""
    rank = w.ndim - 2
    strides, dilations = a.get("strides", (1,) * rank), a.get("dilations", (1,) * rank)
    extra = a.get("output_padding", (0,) * rank)
    if "output_shape" in a.values or a.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise NotImplementedError("ConvTranspose with output_shape or auto_pad")
    pads = a.get("pads", (0,) * (2 * rank))
    function: Callable[..., Tensor] = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[
        rank - 1
    ]
    y = function(x, w, b, strides, 0, 0, a.get("group", 1), dilations)
    grown = [amount for e in reversed(extra) for amount in (0, e)]
    # output_padding only adds positions that no input reaches: they hold the bias
    y = F.pad(y if b is None else y - b.reshape(-1, *[1] * rank), grown)
    y = y if b is None else y + b.reshape(-1, *[1] * rank)
    for i in range(rank):
        y = y.narrow(2 + i, pads[i], y.shape[2 + i] - pads[i] - pads[rank + i])
    return y


def _pads(
    a: Attributes,
    size: torch.Size,
    kernel: torch.Size | tuple[int, ...],
    strides: tuple[int, ...],
    dilations: tuple[int, ...],
) -> tuple[list[int], list[int]]:
    """Padding before and after each spatial axis."""
    rank = len(kernel)
    mode = a.get("auto_pad", "NOTSET")
    if mode in ("NOTSET", "VALID"):
        pads = a.get("pads", (0,) * (2 * rank)) if mode == "NOTSET" else (0,) * (2 * rank)
        return list(pads[:rank]), list(pads[rank:])
    before, after = [], []
    for n, k, stride, dilation in zip(size, kernel, strides, dilations, strict=True):
        total = max(0, (-(-n // stride) - 1) * stride + (k - 1) * dilation + 1 - n)
        small = total // 2
        before.append(small if mode == "SAME_UPPER" else total - small)
        after.append(total - small if mode == "SAME_UPPER" else small)
    return before, after


def _windows(a: Attributes, x: Tensor, fill: float) -> tuple[Tensor, Tensor]:
    """All pooling windows of a map, and which of their positions lie inside the padded map.

    Returns:
        (values (N, C, *out, window), mask (*out, window)); the mask is 1 inside the image, 0 in
        explicit padding, -1 beyond it (where ceil_mode reaches).
    """
    kernel = a.get("kernel_shape")
    rank = len(kernel)
    strides, dilations = a.get("strides", (1,) * rank), a.get("dilations", (1,) * rank)
    before, after = _pads(a, x.shape[2:], kernel, strides, dilations)
    mask = torch.ones(x.shape[2:])
    padding: list[int] = []
    beyond: list[int] = []
    positions = []
    for i, size in enumerate(x.shape[2:]):
        reach = (kernel[i] - 1) * dilations[i] + 1
        padded = size + before[i] + after[i]
        count = (padded - reach) // strides[i] + 1
        if a.get("ceil_mode", 0):
            # a window must start inside the image or the padding before it
            count = -(-(padded - reach) // strides[i]) + 1
            count -= (count - 1) * strides[i] >= size + before[i]
        more = max(0, (count - 1) * strides[i] + reach - padded)
        padding = [before[i], after[i], *padding]
        beyond = [0, more, *beyond]
        starts = torch.arange(count)[:, None] * strides[i]
        positions.append(starts + torch.arange(kernel[i]) * dilations[i])
    x = F.pad(F.pad(x, padding, value=fill), beyond, value=fill)
    mask = F.pad(F.pad(mask, padding), beyond, value=-1)
    for i, position in enumerate(positions):
        x = x.index_select(2 + i, position.reshape(-1)).unflatten(2 + i, position.shape)
        x = x.movedim(3 + i, -1)
        mask = mask.index_select(i, position.reshape(-1)).unflatten(i, position.shape)
        mask = mask.movedim(i + 1, -1)
    return x.flatten(2 + rank), mask.flatten(rank)


@operator("MaxPool")
def max_pool(a: Attributes, x: Tensor) -> Tensor:
    if a.outputs > 1:
        raise NotImplementedError("MaxPool with Indices")
    low = float("-inf") if x.is_floating_point() else torch.iinfo(x.dtype).min
    values, _ = _windows(a, x, low)
    return values.amax(-1)


@operator("AveragePool")
def average_pool(a: Attributes, x: Tensor) -> Tensor:
    values, mask = _windows(a, x, 0.0)
    counted = (mask >= 0) if a.get("count_include_pad", 0) else (mask > 0)
    return values.sum(-1) / counted.sum(-1)


@operator("GlobalAveragePool")
def global_average_pool(a: Attributes, x: Tensor) -> Tensor:
    return x.mean(dim=tuple(range(2, x.ndim)), keepdim=True)


@operator("GlobalMaxPool")
def global_max_pool(a: Attributes, x: Tensor) -> Tensor:
    return x.amax(dim=tuple(range(2, x.ndim)), keepdim=True)


@operator("Resize")
def resize(
    a: Attributes,
    x: Tensor,
    roi: Tensor | None = None,
    scales: Tensor | None = None,
    sizes: Tensor | None = None,
) -> Tensor:
    """Nearest and linear, separable, half_pixel, asymmetric and align_corners coordinates."""
    if a.get("antialias", 0) or a.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise NotImplementedError("Resize with antialias or an aspect ratio policy")
    axes = list(a.get("axes", range(x.ndim)))
    if sizes is not None and sizes.numel():
        wanted = to_ints(sizes)
        factors = [out / x.shape[axis] for out, axis in zip(wanted, axes, strict=True)]
    else:
        assert scales is not None
        factors = [float(v) for v in scales.tolist()]
        wanted = [int(x.shape[axis] * f) for f, axis in zip(factors, axes, strict=True)]
    for axis, out, factor in zip(axes, wanted, factors, strict=True):
        if out != x.shape[axis] or factor != 1:
            x = _resize_axis(a, x, axis % x.ndim, out, factor)
    return x


def _resize_axis(a: Attributes, x: Tensor, axis: int, out: int, factor: float) -> Tensor:
    size = x.shape[axis]
    i = torch.arange(out, dtype=torch.float64)
    match a.get("coordinate_transformation_mode", "half_pixel"):
        case "half_pixel":
            at = (i + 0.5) / factor - 0.5
        case "pytorch_half_pixel":
            at = (i + 0.5) / factor - 0.5 if out > 1 else torch.zeros_like(i)
        case "asymmetric":
            at = i / factor
        case "align_corners":
            at = i * (size - 1) / (size * factor - 1) if out > 1 else torch.zeros_like(i)
        case other:
            raise NotImplementedError(f"Resize coordinates {other}")
    if a.get("mode", "nearest") == "nearest":
        rounding = {
            "round_prefer_floor": lambda v: torch.ceil(v - 0.5),
            "round_prefer_ceil": lambda v: torch.floor(v + 0.5),
            "floor": torch.floor,
            "ceil": torch.ceil,
        }[a.get("nearest_mode", "round_prefer_floor")]
        return x.index_select(axis, rounding(at).long().clamp(0, size - 1))
    if a.get("mode") != "linear":
        raise NotImplementedError(f"Resize mode {a.get('mode')}")
    at = at.clamp(0, size - 1)
    low = at.floor().long()
    weight = (at - low).to(x.dtype).reshape([-1 if d == axis else 1 for d in range(x.ndim)])
    high = (low + 1).clamp(max=size - 1)
    return x.index_select(axis, low) * (1 - weight) + x.index_select(axis, high) * weight


def _channels(parameter: Tensor, rank: int) -> Tensor:
    return parameter.reshape(-1, *[1] * (rank - 2))


@operator("BatchNormalization")
def batch_norm(
    a: Attributes, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor
) -> Tensor:
    if a.get("training_mode", 0):
        raise NotImplementedError("BatchNormalization in training mode")
    factor = scale * torch.rsqrt(var + a.get("epsilon", 1e-5))
    return (x - _channels(mean, x.ndim)) * _channels(factor, x.ndim) + _channels(bias, x.ndim)


@operator("LayerNormalization")
def layer_norm(
    a: Attributes, x: Tensor, scale: Tensor, bias: Tensor | None = None
) -> tuple[Tensor, ...]:
    """Y, and Mean and InvStdDev where they are asked for; scale and bias broadcast."""
    axis = a.get("axis", -1) % x.ndim
    epsilon = a.get("epsilon", 1e-5)
    y = F.layer_norm(x, x.shape[axis:], eps=epsilon) * scale
    y = y if bias is None else y + bias
    if a.outputs == 1:
        return (y,)
    axes = tuple(range(axis, x.ndim))
    variance = x.var(axes, unbiased=False, keepdim=True)
    return y, x.mean(axes, keepdim=True), torch.rsqrt(variance + epsilon)


@operator("InstanceNormalization")
def instance_norm(a: Attributes, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    y = F.layer_norm(x, x.shape[2:], eps=a.get("epsilon", 1e-5))
    return y * _channels(scale, x.ndim) + _channels(bias, x.ndim)


@operator("GroupNormalization")
def group_norm(a: Attributes, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    groups = a.get("num_groups")
    if a.opset < 21:  # one scale per group
        scale, bias = (p.repeat_interleave(x.shape[1] // groups) for p in (scale, bias))
    return F.group_norm(x, groups, scale, bias, a.get("epsilon", 1e-5))


@operator("LpNormalization")
def lp_norm(a: Attributes, x: Tensor) -> Tensor:
    norm = torch.linalg.vector_norm(x, a.get("p", 2), dim=a.get("axis", -1), keepdim=True)
    # 0/0 is 0 in ONNX Runtime and since opset 22 by definition
    return torch.where(norm == 0, torch.zeros_like(x), x / torch.where(norm == 0, 1, norm))


@operator("Softmax")
def softmax(a: Attributes, x: Tensor) -> Tensor:
    return torch.softmax(x, dim=a.get("axis", -1))


@operator("LogSoftmax")
def log_softmax(a: Attributes, x: Tensor) -> Tensor:
    return torch.log_softmax(x, dim=a.get("axis", -1))


def _reduction(name: str, reduce: Callable[[Tensor, tuple[int, ...], bool], Tensor]) -> None:
    def execute(a: Attributes, x: Tensor, axes: Tensor | None = None) -> Tensor:
        if not x.numel():
            raise NotImplementedError(f"{name} of an empty tensor")
        chosen = tuple(axes_of(a, axes, x.ndim)) if x.ndim else ()
        if not chosen and a.get("noop_with_empty_axes", 0):
            return x if name not in _NOT_IDENTITY else reduce(x[None], (0,), False)
        return reduce(x, chosen or tuple(range(x.ndim)), bool(a.get("keepdims", 1)))

    OPERATORS[name] = execute


def _product(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        x = x.prod(dim=axis, keepdim=keep)
    return x


_NOT_IDENTITY = {"ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum"}

for _name, _reduce in {
    "ReduceMean": lambda x, axes, keep: x.mean(axes, keep),
    "ReduceSum": lambda x, axes, keep: x.sum(axes, keep),
    "ReduceMax": lambda x, axes, keep: x.amax(axes, keep),
    "ReduceMin": lambda x, axes, keep: x.amin(axes, keep),
    "ReduceProd": _product,
    "ReduceL1": lambda x, axes, keep: x.abs().sum(axes, keep),
    "ReduceL2": lambda x, axes, keep: x.square().sum(axes, keep).sqrt(),
    "ReduceSumSquare": lambda x, axes, keep: x.square().sum(axes, keep),
    "ReduceLogSum": lambda x, axes, keep: x.sum(axes, keep).log(),
    "ReduceLogSumExp": lambda x, axes, keep: torch.logsumexp(x, axes, keep),
}.items():
    _reduction(_name, _reduce)


def _arg(sign: int, a: Attributes, x: Tensor) -> Tensor:
    axis = a.get("axis", 0) % x.ndim
    values = x if sign > 0 else -x
    if a.get("select_last_index", 0):
        last = values.flip(axis).argmax(axis, keepdim=bool(a.get("keepdims", 1)))
        first: Tensor = x.shape[axis] - 1 - last
        return first
    return values.argmax(axis, keepdim=bool(a.get("keepdims", 1)))


OPERATORS["ArgMax"] = lambda a, x: _arg(1, a, x)
OPERATORS["ArgMin"] = lambda a, x: _arg(-1, a, x)
