"""Operators on single precision as kernel calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np

from edgec.export.emit.c import moves, norm
from edgec.export.emit.c.call import Call, Share, Table
from edgec.export.emit.c.float_reference import BINARY, CLAMPS, UNARY
from edgec.export.emit.c.frame import Frame, broadcast_loops, grid, unsupported, width
from edgec.export.emit.c.fuse import NORMS
from edgec.export.emit.c.pointwise import pool_sizes, reduced
from edgec.export.emit.c.products import geometry, product_sizes, taps_of
from edgec.export.tflite.model import Operator
from edgec.profiles.memory import overlap

WIDTH: Final = 4
"""Bytes of an element."""


def conv_2d(frame: Frame, op: Operator) -> list[Call]:
    """CONV_2D and DEPTHWISE_CONV_2D."""
    depthwise = op.code == "DEPTHWISE_CONV_2D"
    sizes, window = geometry(frame, op)
    shares = (Share(0, overlap.window(window, width=WIDTH)),) if sizes["batch"] == 1 else ()
    return [
        Call(
            "edgec_depthwise_f32" if depthwise else "edgec_conv_f32",
            {
                **sizes,
                **_clamp(frame, op),
                "weights": _weights(frame),
                "bias": _bias(frame, sizes["out_c"]),
            },
            (frame.index(0),),
            frame.output_index,
            shares,
            frame.output.elements * taps_of(frame),
        )
    ]


def fully_connected(frame: Frame, op: Operator) -> list[Call]:
    """FULLY_CONNECTED."""
    out_size, in_size = frame.constant(1).shape
    rows = frame.tensor(0).elements // in_size
    distance = overlap.rows(in_size * WIDTH, out_size * WIDTH, rows)
    return [
        Call(
            "edgec_fully_connected_f32",
            {
                "rows": rows,
                "in_size": in_size,
                "out_size": out_size,
                **_clamp(frame, op),
                "weights": _weights(frame),
                "bias": _bias(frame, out_size),
            },
            (frame.index(0),),
            frame.output_index,
            (Share(0, distance),),
            rows * in_size * out_size,
        )
    ]


def batch_matmul(frame: Frame, op: Operator) -> list[Call]:
    """BATCH_MATMUL."""
    sizes = product_sizes(frame, op)
    assert isinstance(sizes["inner"], int)
    return [
        Call(
            "edgec_matmul_f32",
            sizes,
            (frame.operand(0), frame.operand(1)),
            frame.output_index,
            (),
            frame.output.elements * sizes["inner"],
        )
    ]


def binary(frame: Frame, op: Operator) -> list[Call]:
    """Two operands with broadcasting."""
    a, b, y = frame.tensor(0), frame.tensor(1), frame.output
    loops = broadcast_loops(a.shape, b.shape, y.shape, axes=len(y.shape), least=4)
    if len(loops) > 4:
        raise unsupported(frame, op, f"broadcasting over {len(loops)} groups of dimensions")
    return [
        Call(
            f"edgec_{BINARY[op.code]}_f32",
            {
                "shape": tuple(size for size, _, _ in loops),
                "a_stride": tuple(step for _, step, _ in loops),
                "b_stride": tuple(step for _, _, step in loops),
                **_clamp(frame, op),
            },
            (frame.operand(0), frame.operand(1)),
            frame.output_index,
            tuple(
                Share(number, overlap.elementwise())
                for number, tensor in enumerate((a, b))
                if tensor.shape == y.shape and not frame.is_constant(number)
            ),
        )
    ]


def unary(frame: Frame, op: Operator) -> list[Call]:
    """A function of each element."""
    if op.code == "GELU":
        name = "gelu_tanh" if op.options["approximate"] else "gelu"
    else:
        name = UNARY[op.code]
    return [
        Call(
            f"edgec_{name}_f32",
            {"count": frame.output.elements, "alpha": float(op.options.get("alpha", 0.0))},
            (frame.index(0),),
            frame.output_index,
            (Share(0, overlap.elementwise()),),
        )
    ]


def pool(frame: Frame, op: Operator) -> list[Call]:
    """AVERAGE_POOL_2D and MAX_POOL_2D."""
    sizes, window = pool_sizes(frame, op)
    return [
        Call(
            "edgec_max_pool_f32" if op.code == "MAX_POOL_2D" else "edgec_average_pool_f32",
            {**sizes, **_clamp(frame, op)},
            (frame.index(0),),
            frame.output_index,
            (Share(0, overlap.window(window, width=WIDTH)),) if sizes["batch"] == 1 else (),
        )
    ]


def reduction(frame: Frame, op: Operator) -> list[Call]:
    """MEAN, SUM, REDUCE_MAX, REDUCE_MIN over neighbouring axes."""
    return [
        Call(
            f"edgec_{op.code.lower()}_f32",
            reduced(frame, op),
            (frame.index(0),),
            frame.output_index,
        )
    ]


def rows(frame: Frame, op: Operator) -> list[Call]:
    """SOFTMAX, LOG_SOFTMAX and L2_NORMALIZATION along the last axis."""
    x = frame.tensor(0)
    names = {"SOFTMAX": "softmax", "LOG_SOFTMAX": "log_softmax", "L2_NORMALIZATION": "l2_norm"}
    return [
        Call(
            f"edgec_{names[op.code]}_f32",
            {
                "rows": x.elements // x.shape[-1],
                "size": x.shape[-1],
                "beta": float(op.options.get("beta", 1.0)),
            },
            (frame.index(0),),
            frame.output_index,
            (Share(0, overlap.elementwise()),),
        )
    ]


def whole_norm(frame: Frame, op: Operator) -> list[Call]:
    """LayerNormalization and its like as custom operators."""
    x = frame.tensor(0)
    try:
        axis, epsilon, outer, count, inner = norm.blocks(op, x)
        gain, offset = (norm.entries(frame.tensor(number), x, axis) for number in (1, 2))
    except ValueError as error:
        raise unsupported(frame, op, str(error)) from error
    period = max(gain.size, offset.size, inner)
    return [
        Call(
            "edgec_layer_norm_f32",
            {
                "outer": outer,
                "count": count,
                "inner": inner,
                "period": period,
                "epsilon": epsilon,
                "gain": Table(np.resize(gain, period).astype(np.float32)),
                "offset": Table(np.resize(offset, period).astype(np.float32)),
            },
            (frame.index(0),),
            frame.output_index,
            # a row is summed up before the first of it is written
            (Share(0, overlap.elementwise()),) if inner == 1 else (),
        )
    ]


def resize_bilinear(frame: Frame, op: Operator) -> list[Call]:
    """RESIZE_BILINEAR."""
    x, y = frame.tensor(0), frame.output
    places = []
    for axis in (1, 2):
        corners = op.options["align_corners"] and y.shape[axis] > 1
        scale = (x.shape[axis] - int(corners)) / (y.shape[axis] - int(corners))
        places.append((scale / 2 - 0.5 if op.options["half_pixel_centers"] else 0.0, scale))
    return [moves.interpolation(frame, "edgec_resize_bilinear_f32", places[0], places[1])]


def conversion(frame: Frame, op: Operator) -> list[Call]:
    """QUANTIZE of floats and DEQUANTIZE to them."""
    x, y = frame.tensor(0), frame.output
    quantizes = op.code == "QUANTIZE"
    integers = y if quantizes else x
    if integers.dtype not in ("INT8", "INT16"):
        raise unsupported(frame, op, f"{integers.name!r} is {integers.dtype}")
    scale, zero = grid(integers)
    wide = "_s16" if integers.dtype == "INT16" else ""
    return [
        Call(
            f"edgec_quantize{wide}_f32" if quantizes else f"edgec_dequantize{wide}_f32",
            {"count": y.elements, "scale": scale, "zero": zero},
            (frame.index(0),),
            frame.output_index,
            (Share(0, overlap.rows(width(x), width(y), y.elements, "row")),),
        )
    ]


def _weights(frame: Frame) -> Table:
    data = frame.constant(1)
    if data.dtype != np.float32:
        raise unsupported(frame, frame.operator, "its weights are integers, its input is not")
    return Table(data)


def _clamp(frame: Frame, op: Operator) -> dict[str, float]:
    activation = op.options.get("fused_activation_function", "NONE")
    if activation not in CLAMPS:
        raise unsupported(frame, op, f"the fused activation {activation}")
    low, high = CLAMPS[activation]
    return {"low": low, "high": high}


def _bias(frame: Frame, count: int) -> Table:
    given = frame.optional(2)
    if given is None:
        return Table(np.zeros(count, np.float32))
    # a sum that begins at zero is never minus zero
    return Table(given.astype(np.float32) + np.float32(0))


LOWERINGS: Final[Mapping[str, Callable[[Frame, Operator], list[Call]]]] = {
    "CONV_2D": conv_2d,
    "DEPTHWISE_CONV_2D": conv_2d,
    "FULLY_CONNECTED": fully_connected,
    "BATCH_MATMUL": batch_matmul,
    **dict.fromkeys(BINARY, binary),
    **dict.fromkeys(UNARY, unary),
    "GELU": unary,
    "AVERAGE_POOL_2D": pool,
    "MAX_POOL_2D": pool,
    **dict.fromkeys(("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN"), reduction),
    **dict.fromkeys(("SOFTMAX", "LOG_SOFTMAX", "L2_NORMALIZATION"), rows),
    **dict.fromkeys(sorted(NORMS), whole_norm),
    "RESIZE_BILINEAR": resize_bilinear,
    "QUANTIZE": conversion,
    **moves.LOWERINGS,
}
"""Operators whose data are floats."""
