"""What each delegate takes: a call close to one that it does not take, for every condition."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from edgec.export.emit.tflite.delegates import edgetpu, gpu, xnnpack
from edgec.export.emit.tflite.delegates.call import Call
from edgec.export.tflite.model import Operator, Quantization, Tensor
from edgec.targets.operators.delegates import delegate_table

IMAGE = (1, 4, 4, 8)


def f32(*shape: int, data: Any = None) -> Tensor:
    return Tensor("x", shape, "FLOAT32", data)


def s8(*shape: int, scale: float = 0.1, zero: int = 0, constant: int | None = None) -> Tensor:
    data = None if constant is None else np.full(shape, constant, np.int8)
    return Tensor("x", shape, "INT8", data, Quantization.per_tensor(scale, zero))


def ints(*values: int) -> Tensor:
    return Tensor("i", (len(values),), "INT32", np.array(values, np.int32))


def call(code: str, inputs: list[Tensor], output: Tensor, **options: Any) -> Call:
    tensors = [*inputs, output]
    operator = Operator(code, list(range(len(inputs))), [len(inputs)], options)
    return Call.of(operator, tensors)


@dataclass(frozen=True)
class Case:
    code: str
    good: tuple[list[Tensor], Tensor]
    bad: tuple[list[Tensor], Tensor]
    why: str
    good_options: dict[str, Any] = field(default_factory=dict)
    bad_options: dict[str, Any] = field(default_factory=dict)


F = f32(*IMAGE)
Q = s8(*IMAGE)
PADS = Tensor("p", (4, 2), "INT32", np.array([[0, 0], [1, 1], [1, 1], [0, 0]], np.int32))
BATCH_PADS = Tensor("p", (4, 2), "INT32", np.array([[1, 0], [0, 0], [0, 0], [0, 0]], np.int32))
POOL = {"filter_width": 2, "filter_height": 2, "stride_w": 1, "stride_h": 1}
WEIGHT, BIAS = s8(3, 1, 1, 8, constant=1), Tensor("b", (3,), "INT32", np.zeros(3, np.int32))

XNNPACK = [
    Case("ADD", ([F, F], F), ([Tensor("x", IMAGE, "INT16")] * 2, F), "no ADD on int16"),
    Case("ABS", ([F], F), ([f32(*(2,) * 7)], f32(*(2,) * 7)), "7 dimensions"),
    Case(
        "ADD",
        ([F, F], F),
        ([F, F], F),
        "fused TANH",
        bad_options={"fused_activation_function": "TANH"},
    ),
    Case(
        "ADD",
        ([Q, s8(*IMAGE, scale=0.1 * 2**-9, constant=1)], Q),
        ([Q, s8(*IMAGE, scale=0.1 * 2**-11, constant=1)], Q),
        "ratio",
    ),
    Case("MUL", ([Q, Q], Q), ([Q, Q], s8(*IMAGE, scale=1e-6)), "over"),
    Case("RESHAPE", ([Q, ints(*IMAGE)], Q), ([Q, ints(*IMAGE)], s8(*IMAGE, zero=1)), "grid"),
    Case("BATCH_MATMUL", ([Q, Q], Q), ([Q, s8(*IMAGE, zero=3)], Q), "zero point 3 of operand 2"),
    Case("CONV_2D", ([Q, WEIGHT, BIAS], Q), ([Q, s8(3, 1, 1, 8), BIAS], Q), "computed second"),
    Case("SOFTMAX", ([F], F), ([F], F), "beta = 2.0", {"beta": 1.0}, {"beta": 2.0}),
    Case(
        "STRIDED_SLICE",
        ([F, ints(0, 0, 0, 0), ints(*IMAGE), ints(1, 1, 1, 1)], F),
        ([F, ints(0, 0, 0, 0), ints(*IMAGE), ints(1, 1, 1, 2)], F),
        "strides",
    ),
]

GPU = [
    Case("RELU", ([F], F), ([f32(2, 2, 2, 2, 2)], f32(2, 2, 2, 2, 2)), "5 dimensions"),
    Case("ADD", ([F, F], F), ([Tensor("x", IMAGE, "INT64")] * 2, F), "int64"),
    Case("ADD", ([F, F], F), ([F], F), "1 inputs"),
    Case("MUL", ([F, f32(1, 1, 1, 8)], F), ([f32(1, 4, 1, 1), f32(1, 1, 4, 1)], F), "broadcast"),
    Case(
        "DEPTHWISE_CONV_2D",
        ([f32(1, 4, 4, 1), f32(1, 3, 3, 4, data=0)], F),
        ([F, f32(1, 3, 3, 16, data=0)], F),
        "depth multiplier",
        {"depth_multiplier": 4},
        {"depth_multiplier": 2},
    ),
    Case("SLICE", ([F, ints(0), ints(1)], F), ([f32(4, 4), ints(0), ints(1)], F), "2 dimensions"),
    Case("SOFTMAX", ([F], F), ([F], F), "beta", {"beta": 1.0}, {"beta": 0.5}),
    Case("MEAN", ([F, ints(1, 2)], F), ([F, Tensor("a", (2,), "INT32")], F), "computed inputs"),
    Case("PAD", ([F, PADS], F), ([f32(4, 4), Tensor("p", (2, 2), "INT32", np.zeros(2))], F), "2 d"),
    Case(
        "GATHER",
        ([F, ints(0, 1)], F),
        ([F, Tensor("i", (1, 2), "INT32", np.zeros((1, 2), np.int32))], F),
        "vector",
    ),
    Case("DEQUANTIZE", ([Q], F), ([Tensor("x", IMAGE, "INT16")], F), "int16"),
    Case("L2_NORMALIZATION", ([F], F), ([F], F), "has no L2_NORMALIZATION"),
]

EDGETPU = [
    Case("ADD", ([Q, Q], Q), ([F, F], F), "float32 tensors"),
    Case("ADD", ([Q, Q], Q), ([s8(2, 4, 4, 8)] * 2, s8(2, 4, 4, 8)), "inner 3"),
    Case("GELU", ([Q], Q), ([Q], Q), "not among"),
    Case("CONV_2D", ([Q, WEIGHT, BIAS], Q), ([Q, s8(1, 1, 1, 8), BIAS], Q), "computed parameters"),
    Case(
        "CONV_2D",
        ([Q, WEIGHT, BIAS], Q),
        ([Q, WEIGHT, BIAS], Q),
        "dilation 2x1",
        {"dilation_w_factor": 2, "dilation_h_factor": 2},
        {"dilation_w_factor": 1, "dilation_h_factor": 2},
    ),
    Case(
        "MAX_POOL_2D",
        ([Q], Q),
        ([Q], Q),
        "fused RELU",
        POOL,
        POOL | {"fused_activation_function": "RELU"},
    ),
    Case("MEAN", ([Q, ints(1, 2)], Q), ([Q, ints(0, 1)], Q), "batch"),
    Case("MEAN", ([Q, ints(3)], Q), ([s8(1, 4, 4, 6), ints(3)], Q), "no multiple of 4"),
    Case("PAD", ([Q, PADS], Q), ([Q, BATCH_PADS], Q), "padding of the batch"),
    Case("SOFTMAX", ([s8(1, 10)], s8(1, 10)), ([s8(4, 10)], s8(4, 10)), "only vectors"),
    Case("SOFTMAX", ([s8(1, 16000)], s8(1, 9)), ([s8(1, 16001)], s8(1, 9)), "more than 16000"),
    Case(
        "FULLY_CONNECTED",
        ([s8(1, 8), s8(4, 8, constant=1)], s8(1, 4)),
        ([s8(2, 8), s8(4, 8, constant=1)], s8(2, 4)),
        "2 rows",
    ),
    Case(
        "CONCATENATION",
        ([Q, s8(*IMAGE, zero=5, constant=5)], Q),
        ([Q, s8(*IMAGE, zero=5, constant=6)], Q),
        "not zero",
    ),
    Case(
        "STRIDED_SLICE",
        ([Q, ints(0), ints(4), ints(1)], Q),
        ([Q, ints(0), ints(4), ints(2)], Q),
        "strides",
    ),
    Case("SQUEEZE", ([s8(1, 1, 8)], s8(8)), ([s8(1, 8, 1)], s8(1, 8)), "leading"),
    Case("PRELU", ([Q, s8(8, constant=1)], Q), ([Q, s8(4, 8, constant=1)], Q), "slope"),
]

RULES = {"xnnpack": xnnpack.obstacle, "gpu": gpu.obstacle, "edgetpu": edgetpu.obstacle}
CASES = [("xnnpack", c) for c in XNNPACK] + [("gpu", c) for c in GPU]
CASES += [("edgetpu", c) for c in EDGETPU]
UNLISTED = ("GELU", "L2_NORMALIZATION")


@pytest.mark.parametrize(
    ("delegate", "case"), CASES, ids=[f"{d}-{c.code}-{c.why}" for d, c in CASES]
)
def test_a_condition(delegate: str, case: Case) -> None:
    table = delegate_table(delegate)
    bad = RULES[delegate](call(case.code, *case.bad, **case.bad_options), table)
    assert case.why in bad
    if case.code not in UNLISTED:
        assert RULES[delegate](call(case.code, *case.good, **case.good_options), table) == ""


def test_float_networks_are_asked_as_if_they_were_quantized() -> None:
    table = delegate_table("edgetpu")
    assert edgetpu.obstacle(call("ADD", [F, F], F), table, typed=False) == ""


def test_weights_unpacked_from_float16_are_constants() -> None:
    tensors = [F, f32(3, 1, 1, 8), f32(3, data=0), F]
    operator = Operator("CONV_2D", [0, 1, 2], [3])
    table = delegate_table("xnnpack")
    assert "computed" in xnnpack.obstacle(Call.of(operator, tensors), table)
    assert xnnpack.obstacle(Call.of(operator, tensors, {1}), table) == ""


def test_every_table_names_builtins_and_its_source() -> None:
    from edgec.export.tflite.schema import CODES

    for name in RULES:
        table = delegate_table(name)
        assert table.source
        assert table.operators <= set(CODES)
    with pytest.raises(KeyError):
        delegate_table("npu")
