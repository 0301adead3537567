"""Helpers of the channel tests: random networks, and an interpreter in exact integers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edgec.export.quantize import reference
from edgec.export.quantize.calibrate import calibrate
from edgec.export.quantize.insert import quantize
from edgec.export.quantize.scheme import get_scheme
from edgec.export.rewrite import numerics
from edgec.export.rewrite.graph import constant, float_attr, int_attr, ints, reduce_axes
from edgec.export.rewrite.inference import infer_shapes

Array = NDArray[Any]


class Builder:
    """Float networks with dead and constant channels planted at random."""

    def __init__(self, seed: int, size: int = 6, channels: int = 3) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, Array] = {}
        self.shapes = {"x": (1, channels, size, size)}
        self.input = ("x", self.shapes["x"])

    def weight(self, array: Array) -> str:
        name = f"w{len(self.weights)}"
        self.weights[name] = np.asarray(array, np.float32)
        return name

    def op(self, op_type: str, inputs: list[str], shape: tuple[int, ...], **attributes: Any) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(
            helper.make_node(op_type, inputs, [name], name=f"n{len(self.nodes)}", **attributes)
        )
        self.shapes[name] = shape
        return name

    def conv(
        self,
        x: str,
        out: int,
        kernel: int = 1,
        *,
        pad: int = 0,
        stride: int = 1,
        depthwise: bool = False,
        planted: float = 0.4,
        bias: bool = True,
    ) -> str:
        """A convolution, some of whose outputs are constant and some of whose inputs are unread."""
        _, c, h, w = self.shapes[x]
        groups = c if depthwise else 1
        weight = self.rng.normal(size=(out, c // groups, kernel, kernel)) / (kernel * c**0.5)
        offset = self.rng.normal(size=out) * 0.3
        kind = self.rng.random(out)
        weight[kind < planted / 2] = 0.0
        low = (kind >= planted / 2) & (kind < planted)
        offset[low] = -30.0 - self.rng.random(int(low.sum()))
        if not depthwise:
            weight[:, self.rng.random(c) < planted / 3] = 0.0
        side = [(d + 2 * pad - kernel) // stride + 1 for d in (h, w)]
        inputs = [x, self.weight(weight)] + ([self.weight(offset)] if bias else [])
        return self.op(
            "Conv",
            inputs,
            (1, out, *side),
            group=groups,
            pads=[pad] * 4,
            strides=[stride] * 2,
            kernel_shape=[kernel] * 2,
        )

    def activation(self, x: str) -> str:
        if self.rng.random() < 0.5:
            return self.op("Relu", [x], self.shapes[x])
        limits = [self.weight(np.float32(0)), self.weight(np.float32(6))]
        return self.op("Clip", [x, *limits], self.shapes[x])

    def model(self, outputs: list[str]) -> ir.Model:
        def info(name: str, shape: tuple[int, ...]) -> onnx.ValueInfoProto:
            return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)

        graph = helper.make_graph(
            self.nodes,
            "net",
            [info(*self.input)],
            [info(name, self.shapes[name]) for name in outputs],
            [numpy_helper.from_array(array, name) for name, array in self.weights.items()],
        )
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
        onnx.checker.check_model(proto, full_check=True)
        model = ir.from_proto(proto)
        infer_shapes(model)
        return model


def _random_network(seed: int) -> ir.Model:
    """A dozen operators: convolutions of all kinds, residuals, Concat, gates, pools, a head."""
    b = Builder(seed)
    rng = b.rng
    at = b.activation(b.conv("x", 8, 3, pad=1))
    for _ in range(int(rng.integers(3, 7))):
        _, c, h, w = b.shapes[at]
        choice = rng.integers(0, 9)
        if choice == 0:
            at = b.activation(b.conv(at, int(rng.integers(4, 10))))
        elif choice == 1:
            at = b.activation(
                b.conv(at, c, 3, pad=int(rng.integers(0, 2)) if h > 3 else 1, depthwise=True)
            )
        elif choice == 2:  # residual
            inner = b.conv(b.activation(b.conv(at, 12)), c)
            at = b.op("Add", [at, inner], b.shapes[at])
        elif choice == 3:  # two branches joined
            parts = [b.activation(b.conv(at, 5)), b.conv(at, 4)]
            at = b.op("Concat", parts, (1, 9, h, w), axis=1)
        elif choice == 4:  # squeeze and excite
            pooled = b.op("GlobalAveragePool", [at], (1, c, 1, 1))
            gate = b.op("Sigmoid", [b.conv(b.activation(b.conv(pooled, 4)), c)], (1, c, 1, 1))
            at = b.op("Mul", [at, gate], b.shapes[at])
        elif choice == 5 and h > 3:
            at = b.op("MaxPool", [at], (1, c, h // 2, w // 2), kernel_shape=[2, 2], strides=[2, 2])
        elif choice == 6:
            pads = b.weight(np.zeros(()))
            b.weights[pads] = np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64)
            at = b.op("Pad", [at, pads], (1, c, h + 2, w + 2))
        elif choice == 7:
            statistics = [b.weight(1 + 0.2 * rng.random(c)), b.weight(rng.normal(size=c) * 0.1)]
            statistics += [b.weight(rng.normal(size=c) * 0.1), b.weight(0.5 + rng.random(c))]
            at = b.op("BatchNormalization", [at, *statistics], b.shapes[at])
        else:
            at = b.op("Mul", [at, b.op("Sigmoid", [at], b.shapes[at])], b.shapes[at])
    _, c, h, w = b.shapes[at]
    if rng.random() < 0.5:
        flat = b.op("Flatten", [b.op("GlobalAveragePool", [at], (1, c, 1, 1))], (1, c))
        head = b.weight(rng.normal(size=(5, c)) * (rng.random(c) > 0.3))
        out = b.op("Gemm", [flat, head, b.weight(rng.normal(size=5))], (1, 5), transB=1)
    else:  # tokens
        shape = b.weight(np.zeros(()))
        b.weights[shape] = np.array([1, c, h * w], np.int64)
        tokens = b.op("Reshape", [at, shape], (1, c, h * w))
        tokens = b.op("Transpose", [tokens], (1, h * w, c), perm=[0, 2, 1])
        head = b.weight(rng.normal(size=(c, 5)) * (rng.random((c, 1)) > 0.3))
        out = b.op("MatMul", [tokens, head], (1, h * w, 5))
        if rng.random() < 0.5:
            out = b.op("Add", [out, b.weight(rng.normal(size=5))], (1, h * w, 5))
    return b.model([out])


def _separable_network(seed: int, *, silent: float, size: int = 32) -> ir.Model:
    """MobileNet v1 in small, like MLPerf Tiny's visual wake words network.

    The share `silent` of each pointwise convolution's outputs has a bias that no input within the
    range of the ReLU6 before it can lift above zero.
    """
    b = Builder(seed, size)
    at = b.activation(b.conv("x", 8, 3, pad=1, stride=2, planted=0.0))
    for out, stride in ((16, 1), (32, 2), (32, 1), (64, 2), (64, 1), (128, 2), (128, 1)):
        c = b.shapes[at][1]
        at = b.activation(b.conv(at, c, 3, pad=1, stride=stride, depthwise=True, planted=0.0))
        at = b.conv(at, out, planted=0.0)
        weight, offset = (b.weights[name] for name in b.nodes[-1].input[1:])
        quiet = b.rng.permutation(out) < silent * out
        offset[quiet] = -1.0 - 6.0 * np.maximum(weight[quiet], 0).sum(axis=(1, 2, 3))
        at = b.activation(at)
    c = b.shapes[at][1]
    flat = b.op("Flatten", [b.op("GlobalAveragePool", [at], (1, c, 1, 1))], (1, c))
    head = [b.weight(b.rng.normal(size=(2, c))), b.weight(b.rng.normal(size=2))]
    return b.model([b.op("Gemm", [flat, *head], (1, 2), transB=1)])


def _quantized(model: ir.Model, scheme: str) -> ir.Model:
    feeds = [numerics.seeded_inputs(model, seed) for seed in range(3)]
    graph = quantize(model, calibrate(model, feeds, method="minmax"), get_scheme(scheme))
    infer_shapes(graph)
    return graph


class Integers:
    """Executes a Q/DQ graph so that every sum over channels is a sum of integers.

    Convolutions and matrix products between dequantized tensors are computed by
    `edgec.export.quantize.reference`; everything else works on channels one by one, in double
    precision. Equal results therefore mean equal integers.
    """

    def __init__(self, model: ir.Model) -> None:
        self.model = model

    def __call__(self, feed: dict[str, Array]) -> tuple[list[Array], list[Array]]:
        """Graph outputs, and the integers of every QuantizeLinear in graph order."""
        self.real: dict[ir.Value, Array] = {
            v: feed[v.name or ""].astype(np.float64) for v in self.model.graph.inputs
        }
        self.stored: dict[ir.Value, tuple[Array, Array]] = {}
        self.trace: list[Array] = []
        for node in self.model.graph:
            self.real[node.outputs[0]] = getattr(self, node.op_type)(node)
        return [self.real[v] for v in self.model.graph.outputs], self.trace

    def get(self, value: ir.Value | None) -> Array:
        array = constant(value)
        if array is not None:
            return array
        assert value is not None
        return self.real[value]

    def QuantizeLinear(self, node: ir.Node) -> Array:
        zero = self.get(node.inputs[2])
        grid = reference.Grid.of(self.get(node.inputs[1]), int(zero), zero.dtype)
        scaled = np.rint(self.get(node.inputs[0]) / np.float64(grid.scale))
        result = np.clip(scaled + grid.zero_point, grid.low, grid.high).astype(np.int64)
        self.trace.append(result)
        return result

    def DequantizeLinear(self, node: ir.Node) -> Array:
        integers = self.get(node.inputs[0]).astype(np.int64)
        scale = self.get(node.inputs[1]).astype(np.float64)
        shape = [1] * integers.ndim
        if scale.ndim:
            shape[int_attr(node, "axis", 1)] = -1
        if len(node.inputs) > 2:
            integers = integers - self.get(node.inputs[2]).astype(np.int64).reshape(
                shape if scale.ndim else ()
            )
        scale = scale.reshape(shape if scale.ndim else ())
        self.stored[node.outputs[0]] = integers, scale
        return integers * scale

    def Conv(self, node: ir.Node) -> Array:
        (x, s_x), (w, s_w) = (self.stored[v] for v in node.inputs[:2])  # type: ignore[index]
        bias = None
        if len(node.inputs) > 2:
            bias, s_b = self.stored[node.inputs[2]]  # type: ignore[index]
            np.testing.assert_allclose(s_b.reshape(-1), (s_x * s_w).reshape(-1), rtol=1e-6)
        pads, strides = ints(node, "pads") or (0,) * 4, ints(node, "strides") or (1, 1)
        assert len(set(pads)) == len(set(strides)) == 1
        total = reference.conv(
            x, w, bias, 0, stride=strides[0], pad=pads[0], groups=int_attr(node, "group", 1)
        )
        return total * (s_x * s_w).reshape(1, -1, 1, 1)

    def Gemm(self, node: ir.Node) -> Array:
        (x, s_x), (w, s_w) = (self.stored[v] for v in node.inputs[:2])  # type: ignore[index]
        total = reference.matmul(x, w.T if int_attr(node, "transB", 0) else w, 0, 0)
        total = total + self.stored[node.inputs[2]][0]  # type: ignore[index]
        return total * (s_x * s_w).reshape(1, -1)

    def MatMul(self, node: ir.Node) -> Array:
        (x, s_x), (w, s_w) = (self.stored[v] for v in node.inputs)  # type: ignore[index]
        return reference.matmul(x, w, 0, 0) * (s_x * s_w)

    def Relu(self, node: ir.Node) -> Array:
        return np.maximum(self.get(node.inputs[0]), 0)

    def Clip(self, node: ir.Node) -> Array:
        return np.clip(*(self.get(v).astype(np.float64) for v in node.inputs))

    def Sigmoid(self, node: ir.Node) -> Array:
        return 1 / (1 + np.exp(-self.get(node.inputs[0])))

    def Add(self, node: ir.Node) -> Array:
        return self.get(node.inputs[0]) + self.get(node.inputs[1])

    def Mul(self, node: ir.Node) -> Array:
        return self.get(node.inputs[0]) * self.get(node.inputs[1])

    def Concat(self, node: ir.Node) -> Array:
        return np.concatenate([self.get(v) for v in node.inputs], axis=int_attr(node, "axis", 0))

    def Pad(self, node: ir.Node) -> Array:
        pads = self.get(node.inputs[1]).reshape(2, -1).T
        return np.pad(self.get(node.inputs[0]), pads)

    def GlobalAveragePool(self, node: ir.Node) -> Array:
        return self.get(node.inputs[0]).mean(axis=(2, 3), keepdims=True)

    def ReduceMean(self, node: ir.Node) -> Array:
        return self.get(node.inputs[0]).mean(
            axis=reduce_axes(node), keepdims=bool(int_attr(node, "keepdims", 1))
        )

    def MaxPool(self, node: ir.Node) -> Array:
        x = self.get(node.inputs[0])
        n, c, h, w = x.shape
        cut = x[:, :, : h // 2 * 2, : w // 2 * 2].reshape(n, c, h // 2, 2, w // 2, 2)
        return cut.max(axis=(3, 5))

    def BatchNormalization(self, node: ir.Node) -> Array:
        x, *rest = (self.get(v).astype(np.float64) for v in node.inputs)
        gamma, beta, mean, variance = (r.reshape(1, -1, 1, 1) for r in rest)
        return (x - mean) / np.sqrt(variance + float_attr(node, "epsilon", 1e-5)) * gamma + beta

    def Flatten(self, node: ir.Node) -> Array:
        x = self.get(node.inputs[0])
        return x.reshape(x.shape[0], -1)

    def Reshape(self, node: ir.Node) -> Array:
        return self.get(node.inputs[0]).reshape(self.get(node.inputs[1]))

    def Transpose(self, node: ir.Node) -> Array:
        return self.get(node.inputs[0]).transpose(ints(node, "perm"))


@pytest.fixture(scope="session")
def random_network() -> Callable[[int], ir.Model]:
    return _random_network


@pytest.fixture(scope="session")
def separable_network() -> Callable[..., ir.Model]:
    return _separable_network


@pytest.fixture(scope="session")
def quantized() -> Callable[[ir.Model, str], ir.Model]:
    return _quantized


@pytest.fixture(scope="session")
def integers() -> type[Integers]:
    return Integers


@pytest.fixture
def network() -> type[Builder]:
    return Builder
