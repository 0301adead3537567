"""All rules, in the order in which findings are reported."""

from __future__ import annotations

from edgec.export.lint import (
    delegates,
    dla,
    forms,
    operators,
    placement,
    quantizers,
    restrictions,
    tensors,
)
from edgec.export.lint.base import Rule

_TENSORRT = ("tensorrt",)
_TFLITE = ("litert", "tflite-runtime", "tflm", "edgec-c")
_DELEGATED = ("litert", "tflite-runtime", "onnxruntime")
_ALL = ("tensorrt", "onnxruntime", *_TFLITE)

RULES: tuple[Rule, ...] = (
    Rule("E101", operators.unsupported_operator, _ALL),
    Rule("E102", operators.opset_out_of_range),
    Rule("E103", tensors.rank_too_high, (*_TENSORRT, *_TFLITE)),
    Rule("E104", tensors.data_type, _ALL),
    Rule("E105", operators.custom_operator, _ALL),
    Rule("E106", tensors.open_dimension, (*_TENSORRT, *_TFLITE)),
    Rule("E107", restrictions.broken_restriction, _TENSORRT),
    Rule("W108", operators.no_c_kernel, ("tflm",)),
    Rule("E201", quantizers.nonzero_zero_point, _TENSORRT),
    Rule("E202", quantizers.unsigned, _TENSORRT),
    Rule("E203", quantizers.integer_bias, _TENSORRT),
    Rule("E204", quantizers.per_channel_activation, _TENSORRT),
    Rule("E205", quantizers.weight_axis, _TENSORRT),
    Rule("E206", quantizers.bad_scale, _TENSORRT),
    Rule("E207", quantizers.stray_constant, _TENSORRT),
    Rule("W208", placement.double_pair, _TENSORRT),
    Rule("W209", placement.before_activation, _TENSORRT),
    Rule("W210", placement.single_arm, _TENSORRT),
    Rule("W211", placement.island, _TENSORRT),
    Rule("W212", quantizers.saturating_weight, ("onnxruntime",)),
    Rule("E213", quantizers.scalar, _TENSORRT),
    Rule("E214", quantizers.other_scale_type, _TENSORRT),
    Rule("W301", forms.layer_norm_in_float16, _TENSORRT),
    Rule("W302", forms.sum_in_float16, _TENSORRT),
    Rule("I401", forms.layer_norm_written_out),
    Rule("I402", forms.gelu_written_out),
    Rule("W501", delegates.split_by_delegate, _DELEGATED),
    Rule("I502", delegates.left_by_delegate, _DELEGATED),
    Rule("W503", delegates.left_to_host, _DELEGATED),
    Rule("I504", delegates.over_cache, _DELEGATED),
    Rule("I601", dla.share_on_dla, _TENSORRT),
    Rule("I602", dla.left_to_gpu, _TENSORRT),
    Rule("I603", dla.quantized_for_dla, _TENSORRT),
)
