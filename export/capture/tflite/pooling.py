"""AVERAGE_POOL_2D, MAX_POOL_2D and the two resizing operators."""

from __future__ import annotations

from edgec.export.capture.tflite.context import Context
from edgec.export.capture.tflite.convolution import padding, stride_of
from edgec.export.errors import InputError
from edgec.export.tflite import Operator


def average_pool_2d(ctx: Context, op: Operator) -> None:
    """The mean of the pixels that are there; padding does not count."""
    _pool(ctx, op, "AveragePool")


def max_pool_2d(ctx: Context, op: Operator) -> None:
    """The largest pixel."""
    _pool(ctx, op, "MaxPool")


def _pool(ctx: Context, op: Operator, op_type: str) -> None:
    kernel = (op.options["filter_height"], op.options["filter_width"])
    if min(kernel) < 1:
        raise InputError("EC709", f"the window is {kernel}", where=ctx.place)
    strides = stride_of(ctx, op)
    value = ctx.emit(
        op_type,
        [ctx.read(op.inputs[0], first=True)],
        kernel_shape=list(kernel),
        strides=strides,
        pads=padding(ctx, op, kernel, strides),
    )
    activation = op.options["fused_activation_function"]
    ctx.write(op.outputs[0], value, first=True, activation=activation)


def resize_bilinear(ctx: Context, op: Operator) -> None:
    """Linear interpolation between pixel centres, corners or top left edges."""
    _resize(ctx, op, "linear", "floor")


def resize_nearest_neighbor(ctx: Context, op: Operator) -> None:
    """The pixel below a coordinate, or the nearest one if corners are aligned."""
    aligned = op.options["align_corners"] or op.options["half_pixel_centers"]
    # with half pixel centres LiteRT takes ⌊(i + ½)·s⌋, which ONNX writes as the coordinate
    # (i + ½)·s − ½ rounded to nearest, upwards from the middle
    _resize(ctx, op, "nearest", "round_prefer_ceil" if aligned else "floor")


def _resize(ctx: Context, op: Operator, mode: str, nearest: str) -> None:
    x, y = op.inputs[0], op.outputs[0]
    if len(ctx.shape(y)) != 4:
        raise InputError("EC709", "resizing needs an image of rank 4", where=ctx.place)
    if op.options["align_corners"]:
        coordinates = "align_corners"
    elif op.options["half_pixel_centers"]:
        coordinates = "half_pixel"
    else:
        coordinates = "asymmetric"
    n, height, width, channels = ctx.shape(y)
    attributes = {"nearest_mode": nearest} if mode == "nearest" else {}
    value = ctx.emit(
        "Resize",
        [
            ctx.read(x, first=True),
            None,
            None,
            ctx.numbers((n, channels, height, width), "sizes"),
        ],
        mode=mode,
        coordinate_transformation_mode=coordinates,
        **attributes,
    )
    ctx.write(y, value, first=True)
