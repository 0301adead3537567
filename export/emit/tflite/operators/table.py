"""The one table: operator → how it is stored and written."""

from __future__ import annotations

from edgec.export.emit.tflite import layouts
from edgec.export.emit.tflite.operators import (
    convolution,
    elementwise,
    movement,
    norms,
    products,
    reductions,
)
from edgec.export.emit.tflite.operators.base import Lowering

_ANYWHERE = layouts.anywhere

LOWERINGS: dict[str, Lowering] = {
    "Conv": Lowering(layouts.convolution, convolution.emit_conv, convolution.conv_obstacle),
    "ConvTranspose": Lowering(
        layouts.channels_last,
        convolution.emit_transpose_conv,
        convolution.transpose_conv_obstacle,
    ),
    "Linear": Lowering(layouts.linear, products.emit_linear, products.linear_obstacle),
    "MatMul": Lowering(layouts.product, products.emit_product, products.product_obstacle),
    **{op: Lowering(_ANYWHERE, elementwise.emit_unary) for op in elementwise.UNARY},
    **{op: Lowering(_ANYWHERE, elementwise.emit_arithmetic) for op in elementwise.ARITHMETIC},
    **{op: Lowering(_ANYWHERE, elementwise.emit_pair) for op in elementwise.PLAIN_PAIRS},
    "Elu": Lowering(_ANYWHERE, elementwise.emit_unary, elementwise.elu_obstacle),
    "LeakyRelu": Lowering(_ANYWHERE, elementwise.emit_leaky_relu),
    "PRelu": Lowering(_ANYWHERE, elementwise.emit_prelu),
    "Gelu": Lowering(_ANYWHERE, elementwise.emit_gelu),
    "Clip": Lowering(_ANYWHERE, elementwise.emit_clip),
    "HardSigmoid": Lowering(_ANYWHERE, elementwise.emit_hard_sigmoid),
    "Softplus": Lowering(_ANYWHERE, elementwise.emit_softplus),
    "Reciprocal": Lowering(_ANYWHERE, elementwise.emit_reciprocal),
    "Pow": Lowering(_ANYWHERE, elementwise.emit_pow),
    "Where": Lowering(_ANYWHERE, elementwise.emit_where),
    "Cast": Lowering(_ANYWHERE, elementwise.emit_cast),
    "Quantize": Lowering(_ANYWHERE, elementwise.emit_quantize),
    "Dequantize": Lowering(_ANYWHERE, elementwise.emit_dequantize),
    "Softmax": Lowering(layouts.axis_last, norms.emit_softmax),
    "LogSoftmax": Lowering(layouts.axis_last, norms.emit_log_softmax),
    "LpNormalization": Lowering(layouts.axis_last, norms.emit_l2_norm, norms.l2_obstacle),
    "LayerNormalization": Lowering(
        layouts.normalised_last, norms.emit_layer_norm, norms.norm_obstacle
    ),
    "InstanceNormalization": Lowering(_ANYWHERE, norms.emit_instance_norm, norms.norm_obstacle),
    "GroupNormalization": Lowering(_ANYWHERE, norms.emit_group_norm, norms.group_norm_obstacle),
    "BatchNormalization": Lowering(_ANYWHERE, norms.emit_batch_norm, norms.batch_norm_obstacle),
    **{op: Lowering(layouts.reduction, reductions.emit_reduce) for op in reductions.CODES},
    "ReduceL2": Lowering(layouts.reduction, reductions.emit_reduce_square),
    "ReduceSumSquare": Lowering(layouts.reduction, reductions.emit_reduce_square),
    "ArgMax": Lowering(layouts.reduction, reductions.emit_arg, reductions.arg_obstacle),
    "ArgMin": Lowering(layouts.reduction, reductions.emit_arg, reductions.arg_obstacle),
    "MaxPool": Lowering(layouts.channels_last, reductions.emit_pool, reductions.pool_obstacle),
    "AveragePool": Lowering(layouts.channels_last, reductions.emit_pool, reductions.pool_obstacle),
    "View": Lowering(layouts.view, movement.emit_view),
    "Concat": Lowering(_ANYWHERE, movement.emit_concat),
    "Split": Lowering(_ANYWHERE, movement.emit_split),
    "Slice": Lowering(_ANYWHERE, movement.emit_slice),
    "Pad": Lowering(_ANYWHERE, movement.emit_pad, movement.pad_obstacle),
    "Expand": Lowering(_ANYWHERE, movement.emit_expand, movement.expand_obstacle),
    "Tile": Lowering(_ANYWHERE, movement.emit_tile),
    "Gather": Lowering(_ANYWHERE, movement.emit_gather, movement.gather_obstacle),
    "Resize": Lowering(layouts.channels_last, movement.emit_resize, movement.resize_obstacle),
}
"""Operator of a normalised graph → its lowering."""
