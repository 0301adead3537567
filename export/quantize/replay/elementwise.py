"""Operators that work element by element, and the quantizers."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from edgec.export.quantize.replay.table import OPERATORS, Attributes, operator


def _unary(name: str, function: Callable[..., Tensor]) -> None:
    OPERATORS[name] = lambda a, x: function(x)


_UNARY: dict[str, Callable[..., Tensor]] = {
    "Abs": torch.abs, "Acos": torch.acos, "Asin": torch.asin, "Atan": torch.atan,
    "Ceil": torch.ceil, "Cos": torch.cos, "Erf": torch.erf, "Exp": torch.exp,
    "Floor": torch.floor, "Identity": lambda x: x, "IsNaN": torch.isnan, "Log": torch.log,
    "Mish": F.mish, "Neg": torch.neg, "Not": torch.logical_not, "Reciprocal": torch.reciprocal,
    "Relu": F.relu, "Round": torch.round, "Sigmoid": torch.sigmoid, "Sign": torch.sign,
    "Sin": torch.sin, "Softplus": F.softplus, "Softsign": F.softsign, "Sqrt": torch.sqrt,
    "Tan": torch.tan, "Tanh": torch.tanh, "Dropout": lambda x: x, "HardSwish": F.hardswish,
}  # fmt: skip
for _name, _function in _UNARY.items():
    _unary(_name, _function)


def _binary(name: str, function: Callable[..., Tensor]) -> None:
    OPERATORS[name] = lambda a, x, y: function(x, y)


_BINARY: dict[str, Callable[..., Tensor]] = {
    "Add": torch.add, "Sub": torch.sub, "Mul": torch.mul, "Equal": torch.eq, "Greater": torch.gt,
    "GreaterOrEqual": torch.ge, "Less": torch.lt, "LessOrEqual": torch.le,
    "And": torch.logical_and, "Or": torch.logical_or, "Xor": torch.logical_xor,
}  # fmt: skip
for _name, _pair in _BINARY.items():
    _binary(_name, _pair)


@operator("Div")
def div(a: Attributes, x: Tensor, y: Tensor) -> Tensor:
    """Integers divide towards zero."""
    return x / y if x.is_floating_point() else torch.div(x, y, rounding_mode="trunc")


@operator("Mod")
def mod(a: Attributes, x: Tensor, y: Tensor) -> Tensor:
    return torch.fmod(x, y) if a.get("fmod", 0) else torch.remainder(x, y)


@operator("Pow")
def power(a: Attributes, x: Tensor, y: Tensor) -> Tensor:
    """The result has the type of the base."""
    return torch.pow(x, y.to(x.dtype) if x.is_floating_point() else y).to(x.dtype)


@operator("PRelu")
def prelu(a: Attributes, x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x < 0, x * slope, x)


@operator("Where")
def where(a: Attributes, condition: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return torch.where(condition, x, y)


def _fold(pair: Callable[[Tensor, Tensor], Tensor], a: Attributes, *inputs: Tensor) -> Tensor:
    return functools.reduce(pair, inputs)


OPERATORS["Max"] = functools.partial(_fold, torch.maximum)
OPERATORS["Min"] = functools.partial(_fold, torch.minimum)
OPERATORS["Sum"] = functools.partial(_fold, torch.add)
OPERATORS["Mean"] = lambda a, *inputs: functools.reduce(torch.add, inputs) / len(inputs)


@operator("Cast")
def cast(a: Attributes, x: Tensor) -> Tensor:
    return x.to(torch_dtype(a.get("to")))


@operator("CastLike")
def cast_like(a: Attributes, x: Tensor, like: Tensor) -> Tensor:
    return x.to(like.dtype)


@operator("Clip")
def clip(a: Attributes, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    # one pass, and one backward: gradients for the limits, which maximum has, are not needed
    return x if low is None and high is None else torch.clamp(x, low, high)


@operator("Gelu")
def gelu(a: Attributes, x: Tensor) -> Tensor:
    return F.gelu(x, approximate=a.get("approximate", "none"))


@operator("HardSigmoid")
def hard_sigmoid(a: Attributes, x: Tensor) -> Tensor:
    alpha, beta = float(a.get("alpha", 0.2)), float(a.get("beta", 0.5))
    return (x * alpha + beta).clamp(0, 1)


@operator("LeakyRelu")
def leaky_relu(a: Attributes, x: Tensor) -> Tensor:
    return F.leaky_relu(x, a.get("alpha", 0.01))


@operator("Elu")
def elu(a: Attributes, x: Tensor) -> Tensor:
    return F.elu(x, a.get("alpha", 1.0))


@operator("Celu")
def celu(a: Attributes, x: Tensor) -> Tensor:
    return F.celu(x, a.get("alpha", 1.0))


@operator("Selu")
def selu(a: Attributes, x: Tensor) -> Tensor:
    alpha = float(a.get("alpha", 1.67326319217681884765625))
    gamma = float(a.get("gamma", 1.05070102214813232))
    return gamma * torch.where(x > 0, x, alpha * torch.expm1(x))


@operator("ThresholdedRelu")
def thresholded_relu(a: Attributes, x: Tensor) -> Tensor:
    return torch.where(x > a.get("alpha", 1.0), x, torch.zeros_like(x))


@operator("Swish")
def swish(a: Attributes, x: Tensor) -> Tensor:
    return x * torch.sigmoid(float(a.get("alpha", 1.0)) * x)


_DTYPES = {
    1: torch.float32, 2: torch.uint8, 3: torch.int8, 5: torch.int16, 6: torch.int32,
    7: torch.int64, 9: torch.bool, 10: torch.float16, 11: torch.float64, 16: torch.bfloat16,
}  # fmt: skip


def torch_dtype(onnx_type: int) -> torch.dtype:
    """The torch type of an ONNX TensorProto type; NotImplementedError where torch has none."""
    if onnx_type not in _DTYPES:
        raise NotImplementedError(f"ONNX tensor type {onnx_type}")
    return _DTYPES[onnx_type]
