"""Kernels of single precision against ONNX Runtime, and networks that stay float."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgec.export.emit.c.source import TOLERANCE
from edgec.export.emit.tflite.flavour import C
from edgec.export.emit.tflite.lower import lower
from edgec.runtime.onnx_runner import OnnxRunner

AGREE = "edgec self-test: 3 samples agree\n"
RNG = np.random.default_rng(3)
Shape = tuple[int, ...]


def weights(*shape: int) -> np.ndarray[Any, Any]:
    return RNG.normal(size=shape).astype(np.float32)


def net(op: str, *operands: Shape | np.ndarray[Any, Any], **attributes: Any) -> onnx.ModelProto:
    """One operator; shapes are inputs of the network, arrays constants."""
    names, inputs, constants = [], [], []
    for number, operand in enumerate(operands):
        name = f"x{number}"
        names.append(name)
        if isinstance(operand, tuple):
            inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, operand))
        else:
            constants.append(numpy_helper.from_array(operand, name))
    node = helper.make_node(op, names, ["y"], **attributes)
    # shape inference leaves GroupNormalization out
    shape = operands[0] if op == "GroupNormalization" else None
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)
    graph = helper.make_graph([node], "net", inputs, [output], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    return onnx.shape_inference.infer_shapes(model)


def ints(*values: int) -> np.ndarray[Any, Any]:
    return np.array(values, np.int64)


CASES: dict[str, onnx.ModelProto] = {
    "conv 3x3, stride 2": net(
        "Conv", (1, 3, 9, 8), weights(5, 3, 3, 3), weights(5), pads=[1, 1, 1, 1], strides=[2, 2]
    ),
    "conv, dilated, groups": net(
        "Conv", (1, 4, 9, 8), weights(6, 2, 3, 2), dilations=[2, 1], group=2
    ),
    "depthwise": net(
        "Conv", (1, 4, 6, 7), weights(4, 1, 3, 3), weights(4), pads=[1, 1, 1, 1], group=4
    ),
    "linear": net("Gemm", (5, 7), weights(3, 7), weights(3), transB=1),
    "product": net("MatMul", (2, 3, 4, 5), (2, 3, 5, 6)),
    "product, broadcast": net("MatMul", (3, 1, 4, 5), (2, 5, 6)),
    **{
        op.lower(): net(op, (2, 3, 4), (3, 1)) for op in ("Add", "Sub", "Mul", "Div", "Max", "Min")
    },
    **{
        op.lower(): net(op, (2, 30))
        for op in "Abs Neg Exp Sin Cos Floor Ceil Sigmoid Tanh HardSwish Relu Elu".split()
    },
    "gelu": net("Gelu", (2, 40)),
    "gelu, tanh": net("Gelu", (2, 40), approximate="tanh"),
    "leaky relu": net("LeakyRelu", (50,), alpha=0.2),
    "prelu": net("PRelu", (1, 3, 4, 5), weights(3, 1, 1)),
    "clip": net("Clip", (2, 30), np.float32(0.0), np.float32(6.0)),
    "average pool": net("AveragePool", (1, 3, 8, 7), kernel_shape=[3, 2], strides=[2, 1]),
    "max pool": net(
        "MaxPool", (1, 3, 8, 7), kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]
    ),
    "mean": net("ReduceMean", (2, 3, 4, 5), ints(2, 3)),
    "sum": net("ReduceSum", (2, 3, 5), ints(1), keepdims=0),
    "largest": net("ReduceMax", (2, 3, 5), ints(-1)),
    "smallest": net("ReduceMin", (2, 3, 5), ints(1)),
    "softmax": net("Softmax", (4, 9)),
    "log softmax": net("LogSoftmax", (4, 9)),
    "l2 norm": net("LpNormalization", (4, 9), axis=-1, p=2),
    "layer norm": net("LayerNormalization", (2, 5, 8), weights(8), weights(8), axis=-1),
    "instance norm": net("InstanceNormalization", (1, 3, 5, 4), weights(3), weights(3)),
    "group norm": net(
        "GroupNormalization", (1, 4, 5, 4), weights(1), weights(1), num_groups=1
    ),
    "transpose": net("Transpose", (2, 3, 4, 5), perm=[3, 0, 2, 1]),
    "concatenation": net("Concat", (2, 3, 4), (2, 2, 4), axis=1),
    "slice": net("Slice", (4, 9), ints(1, 2), ints(4, 9), ints(0, 1), ints(1, 3)),
    "pad": net("Pad", (2, 3, 4), ints(0, 1, 2, 0, 0, 1)),
    "gather": net("Gather", (2, 5, 3), ints(4, 0, 4), axis=1),
    "tile": net("Tile", (2, 3), ints(2, 3)),
    "expand": net("Expand", (3, 1), ints(2, 3, 4)),
    "resize, linear": net(
        "Resize", (1, 2, 4, 5), np.array([], np.float32), np.array([], np.float32),
        ints(1, 2, 8, 10), mode="linear",
    ),
    "resize, nearest": net(
        "Resize", (1, 2, 4, 5), np.array([], np.float32), np.array([], np.float32),
        ints(1, 2, 8, 10), mode="nearest", coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    ),
}  # fmt: skip


def agrees(model: ir.Model, self_test: Callable[..., str]) -> None:
    """The C computes what ONNX Runtime does, within `TOLERANCE` of the largest output."""
    lowered = lower(model, C).model
    proto = ir.to_proto(model)
    runner = OnnxRunner(proto.SerializeToString())

    def stored(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return array.transpose(0, 2, 3, 1) if array.ndim == 4 else array

    samples: list[dict[str, np.ndarray[Any, Any]]] = []
    wanted = {}
    for seed in range(3):
        rng = np.random.default_rng(seed)
        feeds = {
            value.name or "": rng.normal(size=value.shape.numpy()).astype(np.float32)
            for value in model.graph.inputs
            if value.shape is not None
        }
        samples.append({name: stored(array) for name, array in feeds.items()})
        wanted[id(samples[-1])] = {k: stored(v) for k, v in runner.run(feeds).items()}
    said = self_test(lowered, samples=samples, expected=lambda feeds: wanted[id(feeds)])
    assert said == AGREE


@pytest.mark.parametrize("case", CASES)
def test_kernels_compute_what_onnx_runtime_does(case: str, self_test: Callable[..., str]) -> None:
    agrees(ir.from_proto(CASES[case]), self_test)


def test_a_wrong_float_is_noticed(self_test: Callable[..., str]) -> None:
    model = ir.from_proto(CASES["linear"])
    lowered = lower(model, C).model
    feeds = {"x0": weights(5, 7)}
    (output,) = OnnxRunner(ir.to_proto(model).SerializeToString()).run(feeds).values()
    output[2, 1] += 3 * TOLERANCE * np.abs(output).max()
    with pytest.raises(AssertionError):
        self_test(lowered, samples=[feeds] * 3, expected=lambda _: {"y": output})
    output[2, 1] = np.nan
    with pytest.raises(AssertionError):
        self_test(lowered, samples=[feeds] * 3, expected=lambda _: {"y": output})
