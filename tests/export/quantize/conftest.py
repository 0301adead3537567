"""Small graphs for the quantization tests, built with onnx.helper."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgec.export.quantize.calibrate import Calibration, calibrate

Build = Callable[..., ir.Model]


def _model(nodes, inputs, outputs, constants, opset=17) -> ir.Model:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in outputs.items()],
        [numpy_helper.from_array(np.asarray(v), n) for n, v in constants.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    proto = onnx.shape_inference.infer_shapes(proto)
    onnx.checker.check_model(proto)
    return ir.from_proto(proto)


@pytest.fixture
def build() -> Build:
    """build(nodes, inputs, outputs, constants, opset=17) -> checked ir.Model."""
    return _model


@pytest.fixture
def node():
    """onnx.helper.make_node, with the node named after its first output."""

    def make(op_type: str, inputs: list[str], outputs: list[str], **attributes: Any):
        return helper.make_node(op_type, inputs, outputs, name=f"node_{outputs[0]}", **attributes)

    return make


@pytest.fixture
def hybrid(node) -> ir.Model:
    """A residual conv block, then attention over its pixels, then a classifier.

    Conv-ReLU6, depthwise Conv-SiLU, pointwise Conv, residual Add, LayerNorm, Linear (MatMul +
    bias) for q, k, v, softmax attention, Linear, residual Add, mean, Gemm. Every node has a
    module path. Input x: 1×3×16×16.
    """
    rng = np.random.default_rng(0)

    def weight(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)

    constants = {
        "stem.w": weight(8, 3, 3, 3),
        "stem.b": weight(8, 1)[:, 0],
        "six": np.float32(6),
        "zero": np.float32(0),
        "dw.w": weight(8, 1, 3, 3),
        "dw.b": weight(8, 1)[:, 0],
        "pw.w": weight(8, 8, 1, 1),
        "pw.b": weight(8, 1)[:, 0],
        "tokens": np.array([1, 8, 64]),
        "ln.g": np.ones(8, np.float32),
        "ln.b": np.zeros(8, np.float32),
        "qkv.w": weight(8, 24),
        "qkv.b": weight(24, 1)[:, 0],
        "temperature": np.float32(0.35),
        "proj.w": weight(8, 8),
        "proj.b": weight(8, 1)[:, 0],
        "head.w": weight(10, 8),
        "head.b": weight(10, 1)[:, 0],
    }
    nodes = [
        node("Conv", ["x", "stem.w", "stem.b"], ["c0"], strides=[2, 2], pads=[1, 1, 1, 1]),
        node("Clip", ["c0", "zero", "six"], ["r0"]),
        node("Conv", ["r0", "dw.w", "dw.b"], ["c1"], group=8, pads=[1, 1, 1, 1]),
        node("Sigmoid", ["c1"], ["s1"]),
        node("Mul", ["c1", "s1"], ["m1"]),
        node("Conv", ["m1", "pw.w", "pw.b"], ["c2"]),
        node("Add", ["r0", "c2"], ["a2"]),
        node("Reshape", ["a2", "tokens"], ["t0"]),
        node("Transpose", ["t0"], ["t1"], perm=[0, 2, 1]),
        node("LayerNormalization", ["t1", "ln.g", "ln.b"], ["n1"], axis=-1),
        node("MatMul", ["n1", "qkv.w"], ["l0"]),
        node("Add", ["l0", "qkv.b"], ["l1"]),
        node("Split", ["l1"], ["q", "k", "v"], axis=-1),
        node("Transpose", ["k"], ["kt"], perm=[0, 2, 1]),
        node("MatMul", ["q", "kt"], ["qk"]),
        node("Mul", ["qk", "temperature"], ["qs"]),
        node("Softmax", ["qs"], ["p"], axis=-1),
        node("MatMul", ["p", "v"], ["av"]),
        node("MatMul", ["av", "proj.w"], ["o0"]),
        node("Add", ["o0", "proj.b"], ["o1"]),
        node("Add", ["t1", "o1"], ["a3"]),
        node("ReduceMean", ["a3"], ["g"], axes=[1], keepdims=0),
        node("Gemm", ["g", "head.w", "head.b"], ["y"], transB=1),
    ]
    model = _model(nodes, {"x": [1, 3, 16, 16]}, {"y": [1, 10]}, constants)
    for n in model.graph:
        stage = "stem" if n.outputs[0].name in ("c0", "r0") else "block"
        n.metadata_props["edgec.module"] = f"{stage}.{n.outputs[0].name}"
    return model


@pytest.fixture
def feeds() -> list[dict[str, np.ndarray]]:
    """Eight inputs of the hybrid network."""
    rng = np.random.default_rng(1)
    return [{"x": rng.standard_normal((1, 3, 16, 16)).astype(np.float32)} for _ in range(8)]


@pytest.fixture
def calibration(hybrid: ir.Model, feeds: list[dict[str, np.ndarray]]) -> Calibration:
    """Of the hybrid network on its inputs."""
    return calibrate(hybrid, feeds)
