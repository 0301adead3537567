"""Every operator of the reader's table against LiteRT's reference kernels, float and int8."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from edgec.export.capture import from_tflite
from edgec.export.capture.tflite.operators import OPERATORS
from edgec.export.tflite import Model, Operator, Quantization, Subgraph, Tensor
from edgec.export.tflite.reference.executor import KERNELS
from edgec.export.tflite.reference.executor import run as run_reference
from edgec.export.tflite.schema import tensor_type
from edgec.runtime.onnx_runner import OnnxRunner

pytest.importorskip("ai_edge_litert")
from edgec.runtime.litert_runner import LiteRTRunner

RNG = np.random.default_rng(0)
Image = tuple[int, int, int, int]
IMAGE: Image = (1, 6, 5, 4)


@dataclass
class Case:
    """An operator with its operands.

    Attributes:
        inputs: arrays are constants; shapes are graph inputs of random numbers.
        outputs: shapes.
        dtype: of every output; the inputs' dtype is float32 unless they are arrays.
        int8: kernel version for int8, with the scale and zero point of the output; None where
            there is no such kernel or nothing that differs from float.
        positive: the inputs are above zero.
    """

    code: str
    inputs: Sequence[Any]
    outputs: Sequence[tuple[int, ...]]
    options: dict[str, Any] = field(default_factory=dict)
    dtype: str = "FLOAT32"
    int8: tuple[int, float, int] | None = None
    version: int = 1
    positive: bool = False
    label: str = ""

    def __str__(self) -> str:
        return "-".join(filter(None, (self.code, self.label)))


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape, np.float32)


def same(code: str, *inputs: Any, **more: Any) -> Case:
    shapes = [i.shape if isinstance(i, np.ndarray | np.generic) else i for i in inputs]
    return Case(code, inputs, [np.broadcast_shapes(*shapes)], **more)


def conv(padding: str, stride: int, dilation: int, size: tuple[int, int], **more: Any) -> Case:
    options = {
        "padding": padding,
        "stride_h": stride,
        "stride_w": stride,
        "dilation_h_factor": dilation,
        "dilation_w_factor": dilation,
        "fused_activation_function": "RELU6",
    }
    label = f"{padding}-{stride}-{dilation}"
    inputs = [IMAGE, floats(8, 3, 2, 4), floats(8)]
    return Case(
        "CONV_2D", inputs, [(1, *size, 8)], options, label=label, int8=(3, 0.03, -128), **more
    )


CASES = [
    conv("SAME", 1, 1, (6, 5)),
    conv("SAME", 2, 1, (3, 3)),
    conv("VALID", 1, 2, (2, 3)),
    Case(
        "CONV_2D",
        [IMAGE, floats(6, 1, 1, 2), floats(6)],
        [(1, 6, 5, 6)],
        {"padding": "VALID", "stride_h": 1, "stride_w": 1},
        label="groups",
    ),
    Case(
        "DEPTHWISE_CONV_2D",
        [IMAGE, floats(1, 3, 3, 8), floats(8)],
        [(1, 3, 3, 8)],
        {"padding": "SAME", "stride_h": 2, "stride_w": 2, "depth_multiplier": 2},
        int8=(3, 0.05, 3),
    ),
    Case(
        "TRANSPOSE_CONV",
        [ints(1, 12, 10, 3), floats(3, 3, 3, 4), IMAGE],
        [(1, 12, 10, 3)],
        {"padding": "SAME", "stride_h": 2, "stride_w": 2},
        label="same",
    ),
    Case(
        "TRANSPOSE_CONV",
        [ints(1, 13, 11, 3), floats(3, 3, 3, 4), IMAGE, floats(3)],
        [(1, 13, 11, 3)],
        {"padding": "VALID", "stride_h": 2, "stride_w": 2},
        version=3,
        label="valid",
    ),
    Case(
        "TRANSPOSE_CONV",
        [ints(1, 12, 10, 3), floats(3, 1, 1, 4), IMAGE],
        [(1, 12, 10, 3)],
        {"padding": "SAME", "stride_h": 2, "stride_w": 2},
        label="gaps",
    ),
    Case(
        "FULLY_CONNECTED",
        [(3, 8), floats(5, 8), floats(5)],
        [(3, 5)],
        {"fused_activation_function": "RELU"},
        int8=(4, 0.05, -10),
    ),
    Case("FULLY_CONNECTED", [IMAGE, floats(5, 120)], [(1, 5)], label="flat"),
    Case(
        "FULLY_CONNECTED",
        [(2, 3, 8), floats(5, 8), floats(5)],
        [(2, 3, 5)],
        {"keep_num_dims": True},
        label="rows",
        int8=(5, 0.05, 0),
    ),
    Case("FULLY_CONNECTED", [(3, 8), (5, 8)], [(3, 5)], label="computed"),
    Case("BATCH_MATMUL", [(2, 3, 4), (2, 4, 5)], [(2, 3, 5)], int8=(2, 0.05, 5)),
    Case(
        "BATCH_MATMUL",
        [(2, 4, 3), (2, 5, 4)],
        [(2, 3, 5)],
        {"adj_x": True, "adj_y": True},
        label="swapped",
    ),
    Case(
        "BATCH_MATMUL", [(2, 3, 4), floats(2, 5, 4)], [(2, 3, 5)], {"adj_y": True}, label="constant"
    ),
    Case("EMBEDDING_LOOKUP", [ints(2, 0, 1), floats(3, 4)], [(3, 4)]),
    Case(
        "AVERAGE_POOL_2D",
        [IMAGE],
        [(1, 3, 3, 4)],
        {"padding": "SAME", "stride_h": 2, "stride_w": 2, "filter_height": 3, "filter_width": 3},
        int8=(2, 0.02, 3),
    ),
    Case(
        "MAX_POOL_2D",
        [IMAGE],
        [(1, 2, 2, 4)],
        {
            "padding": "VALID",
            "stride_h": 2,
            "stride_w": 2,
            "filter_height": 3,
            "filter_width": 2,
            "fused_activation_function": "RELU",
        },
        int8=(2, 0.02, 3),
    ),
    *(
        Case(
            code,
            [IMAGE, ints(*size)],
            [(1, *size, 4)],
            {"align_corners": align, "half_pixel_centers": half},
            label=f"{align}-{half}-{size[0]}",
            version=3,
            int8=(3 if code == "RESIZE_BILINEAR" else 2, 0.02, 3),
        )
        for code in ("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR")
        for align, half in ((False, False), (True, False), (False, True))
        for size in ((12, 10), (9, 13), (3, 4))
    ),
    *(
        same(code, IMAGE, IMAGE, int8=(2, 0.04, 2), options={"fused_activation_function": "RELU"})
        for code in ("ADD", "SUB", "MUL")
    ),
    same("ADD", IMAGE, floats(4), label="vector"),
    same("MUL", IMAGE, floats(5, 4), label="rows", int8=(2, 0.04, 2)),
    same("MUL", IMAGE, (1, 1, 1, 4), label="gate"),
    same("ADD", IMAGE, (4,), label="computed-vector"),
    same("ADD", IMAGE, (1,), label="computed-scalar"),
    same("ADD", IMAGE, np.float32(0.5), label="scalar"),
    same("DIV", IMAGE, IMAGE, positive=True),
    *(same(code, IMAGE, IMAGE, int8=(2, 0.02, 3)) for code in ("MAXIMUM", "MINIMUM")),
    same("POW", IMAGE, IMAGE, positive=True),
    same("ADD_N", IMAGE, IMAGE, IMAGE),
    same("SQUARED_DIFFERENCE", IMAGE, IMAGE, int8=(2, 0.05, -128)),
    same("FLOOR_DIV", IMAGE, IMAGE, positive=True),
    same("FLOOR_MOD", IMAGE, IMAGE, positive=True),
    *(same(code, IMAGE, int8=(2, 0.02, 3)) for code in ("RELU", "RELU6")),
    same("RELU_N1_TO_1", IMAGE, int8=(1, 0.02, 3)),
    same("RELU_0_TO_1", IMAGE),
    same("PRELU", IMAGE, floats(1, 1, 4)),
    same("LEAKY_RELU", IMAGE, options={"alpha": 0.1}, int8=(2, 0.02, 3)),
    same("ELU", IMAGE),
    same("GELU", IMAGE, options={"approximate": False}, label="erf", int8=(2, 0.02, -90)),
    same("GELU", IMAGE, options={"approximate": True}, label="tanh", int8=(2, 0.02, -90)),
    same("HARD_SWISH", IMAGE, int8=(1, 0.02, -100)),
    same("LOGISTIC", IMAGE, int8=(2, 1 / 256, -128)),
    same("TANH", IMAGE, int8=(2, 1 / 128, 0)),
    *(same(code, IMAGE) for code in ("ABS", "NEG", "EXP", "SIN", "COS", "FLOOR", "CEIL")),
    same("ROUND", IMAGE),
    same("SIGN", IMAGE),
    *(same(code, IMAGE, positive=True) for code in ("LOG", "SQRT", "RSQRT")),
    same("SQUARE", IMAGE),
    *(
        same(code, IMAGE, IMAGE, dtype="BOOL")
        for code in ("EQUAL", "NOT_EQUAL", "GREATER", "GREATER_EQUAL", "LESS", "LESS_EQUAL")
    ),
    *(
        same(code, RNG.random(IMAGE) > 0.5, RNG.random(IMAGE) > 0.5, dtype="BOOL")
        for code in ("LOGICAL_AND", "LOGICAL_OR")
    ),
    same("LOGICAL_NOT", RNG.random(IMAGE) > 0.5, dtype="BOOL"),
    same("SELECT_V2", RNG.random(IMAGE) > 0.5, IMAGE, IMAGE),
    Case("CAST", [IMAGE], [IMAGE], {"in_data_type": "FLOAT32", "out_data_type": "INT32"}, "INT32"),
    *(
        Case(code, [IMAGE, ints(*axes)], [shape], {"keep_dims": keep}, label=f"{axes}-{keep}")
        for code in ("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN")
        for axes, keep, shape in (
            ((1, 2), False, (1, 4)),
            ((1, 2), True, (1, 1, 1, 4)),
            ((3,), True, (1, 6, 5, 1)),
            ((-1,), False, (1, 6, 5)),
            ((1,), False, (1, 5, 4)),
            ((1, 2, 3), False, (1,)),
        )
    ),
    Case(
        "MEAN", [IMAGE, ints(1, 2)], [(1, 4)], {"keep_dims": False}, int8=(2, 0.01, 0), label="int8"
    ),
    Case("REDUCE_MAX", [IMAGE, ints(1)], [(1, 5, 4)], {"keep_dims": False}, int8=(2, 0.02, 3)),
    Case("SUM", [IMAGE, ints()], [IMAGE], {"keep_dims": True}, label="nothing"),
    Case("REDUCE_PROD", [(2, 3), ints(1)], [(2,)], {"keep_dims": False}),
    Case("ARG_MAX", [IMAGE, ints(3)], [(1, 6, 5)], {"output_type": "INT32"}, "INT32"),
    Case("ARG_MIN", [IMAGE, ints(1)], [(1, 5, 4)], {"output_type": "INT64"}, "INT64"),
    Case("SOFTMAX", [IMAGE], [IMAGE], {"beta": 1.0}, int8=(2, 1 / 256, -128)),
    Case("SOFTMAX", [(3, 7)], [(3, 7)], {"beta": 0.5}, label="beta"),
    Case("LOG_SOFTMAX", [IMAGE], [IMAGE]),
    Case("L2_NORMALIZATION", [IMAGE], [IMAGE], int8=(2, 1 / 128, 0)),
    Case("CUMSUM", [(2, 5), np.int32(1)], [(2, 5)], {"exclusive": True, "reverse": True}),
    Case("CONCATENATION", [IMAGE, IMAGE], [(1, 6, 5, 8)], {"axis": 3}, int8=(2, 0.02, 3)),
    Case("CONCATENATION", [IMAGE, floats(*IMAGE)], [(1, 12, 5, 4)], {"axis": -3}, label="constant"),
    Case("CONCATENATION", [(2, 3), (2, 4)], [(2, 7)], {"axis": 1}, label="rows"),
    Case("SPLIT", [np.int32(3), IMAGE], [(1, 6, 5, 2)] * 2, {"num_splits": 2}, int8=(2, 0.02, 3)),
    Case(
        "SPLIT_V",
        [IMAGE, ints(1, 3), np.int32(-1)],
        [(1, 6, 5, 1), (1, 6, 5, 3)],
        {"num_splits": 2},
    ),
    Case(
        "PAD",
        [IMAGE, np.array([[0, 0], [1, 2], [0, 1], [0, 0]], np.int32)],
        [(1, 9, 6, 4)],
        int8=(2, 0.02, 3),
    ),
    Case(
        "PADV2",
        [IMAGE, np.array([[0, 0], [1, 2], [0, 1], [0, 0]], np.int32), np.float32(2)],
        [(1, 9, 6, 4)],
    ),
    Case(
        "MIRROR_PAD",
        [IMAGE, np.array([[0, 0], [1, 2], [0, 1], [0, 0]], np.int32)],
        [(1, 9, 6, 4)],
        {"mode": "REFLECT"},
    ),
    Case("RESHAPE", [IMAGE, ints(1, -1)], [(1, 120)], {"new_shape": [1, 120]}, int8=(1, 0.02, 3)),
    Case("SQUEEZE", [(1, 1, 1, 4)], [(1, 4)], {"squeeze_dims": [1, 2]}),
    Case("EXPAND_DIMS", [IMAGE, np.int32(0)], [(1, *IMAGE)]),
    Case("TRANSPOSE", [IMAGE, ints(0, 3, 1, 2)], [(1, 4, 6, 5)], label="first", int8=(2, 0.02, 3)),
    Case("TRANSPOSE", [IMAGE, ints(0, 2, 1, 3)], [(1, 5, 6, 4)], label="swap"),
    Case(
        "PACK", [IMAGE, IMAGE], [(1, 2, 6, 5, 4)], {"axis": 1, "values_count": 2}, int8=(2, 0.02, 3)
    ),
    Case("UNPACK", [(3, 4)], [(3,)] * 4, {"axis": 1, "num": 4}, int8=(2, 0.02, 3)),
    Case("SLICE", [IMAGE, ints(0, 1, 0, 2), ints(1, 3, -1, 2)], [(1, 3, 5, 2)], int8=(2, 0.02, 3)),
    Case(
        "STRIDED_SLICE",
        [IMAGE, ints(0, 1, 0, 0), ints(1, 6, 5, 4), ints(1, 2, 2, 1)],
        [(1, 3, 3, 4)],
    ),
    Case(
        "STRIDED_SLICE",
        [IMAGE, ints(0, 0, 0, -1), ints(1, 6, 5, 0), ints(1, 1, 1, 1)],
        [(1, 6, 5)],
        {"shrink_axis_mask": 8, "begin_mask": 1, "end_mask": 1},
        label="shrink",
    ),
    Case(
        "STRIDED_SLICE",
        [IMAGE, ints(0, 0), ints(0, 0), ints(1, -1)],
        [IMAGE],
        {"begin_mask": 3, "end_mask": 3},
        label="backwards",
    ),
    Case("GATHER", [IMAGE, ints(2, 0)], [(1, 6, 5, 2)], {"axis": 3}, int8=(2, 0.02, 3)),
    Case("GATHER_ND", [(3, 4), np.array([[0, 1], [2, 3]], np.int32)], [(2,)]),
    Case("TILE", [(2, 3), ints(2, 1)], [(4, 3)]),
    Case("BROADCAST_TO", [(1, 1, 1, 4), ints(*IMAGE)], [IMAGE], version=3),
    Case("REVERSE_V2", [IMAGE, ints(1)], [IMAGE]),
    Case("SPACE_TO_DEPTH", [(1, 6, 4, 3)], [(1, 3, 2, 12)], {"block_size": 2}, int8=(2, 0.02, 3)),
    Case("DEPTH_TO_SPACE", [(1, 3, 2, 12)], [(1, 6, 4, 3)], {"block_size": 2}, int8=(1, 0.02, 3)),
    Case(
        "SPACE_TO_BATCH_ND",
        [(1, 5, 4, 3), ints(2, 2), np.array([[1, 0], [0, 2]], np.int32)],
        [(4, 3, 3, 3)],
    ),
    Case(
        "BATCH_TO_SPACE_ND",
        [(4, 3, 3, 3), ints(2, 2), np.array([[1, 0], [0, 2]], np.int32)],
        [(1, 5, 4, 3)],
    ),
]

ELSEWHERE = {"QUANTIZE", "DEQUANTIZE", "SHAPE", "FILL", "ZEROS_LIKE"}
"""Operators whose tests are below."""


def test_every_operator_has_a_case() -> None:
    assert {case.code for case in CASES} | ELSEWHERE == set(OPERATORS)


def build(case: Case, *, behind: bool = False) -> Model:
    """The case as a file; `behind` puts a convolution before the first image."""
    tensors: list[Tensor] = []
    operators: list[Operator] = []
    inputs, indices = [], []
    for operand in case.inputs:
        if isinstance(operand, (np.ndarray, np.generic)):
            array = np.asarray(operand)
            tensors.append(Tensor(f"c{len(tensors)}", array.shape, tensor_type(array.dtype), array))
        else:
            tensors.append(Tensor(f"x{len(tensors)}", tuple(operand), "FLOAT32"))
            inputs.append(len(tensors) - 1)
        indices.append(len(tensors) - 1)
    if behind:
        x = next(i for i in inputs if len(tensors[i].shape) == 4)
        channels = tensors[x].shape[3]
        weight = np.eye(channels, dtype=np.float32).reshape(channels, 1, 1, channels)
        tensors.append(Tensor("w", weight.shape, "FLOAT32", weight))
        tensors.append(Tensor("b", (channels,), "FLOAT32", np.zeros(channels, np.float32)))
        tensors.append(Tensor("conv", tensors[x].shape, "FLOAT32"))
        y = len(tensors) - 1
        options = {"padding": "SAME", "stride_h": 1, "stride_w": 1}
        operators.append(Operator("CONV_2D", [x, y - 2, y - 1], [y], options))
        indices[indices.index(x)] = y
    outputs = []
    for shape in case.outputs:
        tensors.append(Tensor(f"y{len(outputs)}", tuple(shape), case.dtype))
        outputs.append(len(tensors) - 1)
    operators.append(Operator(case.code, indices, outputs, case.options, case.version))
    return Model([Subgraph(tensors, inputs, outputs, operators, "main")])


def run_both(model: Model, feeds: dict[str, np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Outputs of LiteRT and of the graph in ONNX Runtime."""
    graph = from_tflite(model, integers=True, channels_first=False)
    # the plain kernels lack a few operators
    lacking = model.main.operators[-1].code in ("CEIL", "ELU", "ROUND")
    want = LiteRTRunner(model, kernels="builtin" if lacking else "reference").run(feeds)
    got = OnnxRunner(ir.to_proto(graph).SerializeToString(), emulate=True).run(feeds)
    assert list(want) == list(got)
    return [(want[name], got[name]) for name in want]


def is_image(operand: Any) -> bool:
    return not isinstance(operand, (np.ndarray, np.generic)) and len(operand) == 4


FLOAT_CASES = [(case, False) for case in CASES] + [
    (case, True) for case in CASES if any(map(is_image, case.inputs))
]


@pytest.mark.parametrize(
    ("case", "behind"),
    FLOAT_CASES,
    ids=[f"{case}-{'behind' if behind else 'alone'}" for case, behind in FLOAT_CASES],
)
def test_float(case: Case, behind: bool) -> None:
    model = build(case, behind=behind)
    feeds = {}
    rng = np.random.default_rng(1)
    for index in model.main.inputs:
        tensor = model.main.tensors[index]
        values = rng.standard_normal(tensor.shape).astype(np.float32) * 2
        feeds[tensor.name] = np.abs(values) + np.float32(0.3) if case.positive else values
    for want, got in run_both(model, feeds):
        assert got.dtype == want.dtype
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)


def quantized(model: Model, scale: float, zero: int, version: int) -> Model:
    """The same file in int8: inputs at 1/50 and 3, weights per channel, biases to match."""
    main = model.main
    (operator,) = main.operators
    operator.version = version
    for index, tensor in enumerate(main.tensors):
        if tensor.dtype != "FLOAT32":
            continue
        if index in operator.outputs:
            tensor.quantization = Quantization.per_tensor(scale, zero)
        elif tensor.data is None:
            tensor.quantization = Quantization.per_tensor(0.02, 3)
        tensor.dtype = "INT8"
    depthwise = operator.code == "DEPTHWISE_CONV_2D"
    for index, tensor in enumerate(main.tensors):
        if tensor.data is None or tensor.data.dtype != np.float32:
            continue
        data = tensor.data
        position = operator.inputs.index(index)
        if position == 2:  # the bias
            weight = main.tensors[operator.inputs[1]].quantization
            assert weight is not None
            steps = (weight.scale * np.float32(0.02)).astype(np.float32)
            tensor.dtype = "INT32"
            tensor.data = np.round(data / steps).astype(np.int32)
            tensor.quantization = Quantization(steps, np.zeros(steps.size, np.int64), 0)
            continue
        axis = 3 if depthwise else 0
        if operator.code in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
            others = tuple(a for a in range(data.ndim) if a != axis)
            steps = (np.abs(data).max(others) / 127).astype(np.float32)
            shape = [-1 if a == axis else 1 for a in range(data.ndim)]
            tensor.data = np.round(data / steps.reshape(shape)).astype(np.int8)
            tensor.quantization = Quantization(steps, np.zeros(steps.size, np.int64), axis)
        else:
            step = float(np.abs(data).max() / 127)
            tensor.data = np.round(data / step).astype(np.int8)
            tensor.quantization = Quantization.per_tensor(step)
    return model


@pytest.mark.parametrize("case", [c for c in CASES if c.int8], ids=str)
def test_int8(case: Case) -> None:
    assert case.int8 is not None
    version, scale, zero = case.int8
    model = quantized(build(case), scale, zero, version)
    rng = np.random.default_rng(1)
    tensors = (model.main.tensors[i] for i in model.main.inputs)
    feeds = {t.name: rng.integers(-128, 128, t.shape).astype(np.int8) for t in tensors}
    if case.code in KERNELS:
        plain = LiteRTRunner(model, kernels="reference").run(feeds)
        for name, exact_value in run_reference(model, feeds).items():
            np.testing.assert_array_equal(exact_value, plain[name])
    for want, got in run_both(model, feeds):
        assert got.dtype == want.dtype == np.int8
        difference = np.abs(got.astype(int) - want.astype(int))
        assert difference.max() <= 1
        # views and choices are exact; sums round once more in the kernels' fixed point
        exact = case.code in ("MAX_POOL_2D", "CONCATENATION", "PAD", "MAXIMUM", "MINIMUM")
        assert difference.mean() <= (0 if exact else 0.3)
        assert len(np.unique(want)) > 2
