"""int8 operators: within one step of the Q/DQ graph, and on the grids that TFLite prescribes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgec.export.emit.tflite.flavour import INTEGER
from edgec.export.emit.tflite.write import convert
from edgec.export.quantize.calibrate import calibrate
from edgec.export.quantize.insert import quantize
from edgec.export.quantize.scheme import TFLITE, TFLITE_FULL
from edgec.export.tflite.model import Model

RNG = np.random.default_rng(3)
X = "a (float[1,8,6,6] x"


def weight(*shape: int) -> np.ndarray:
    return (RNG.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


WEIGHTS = {
    "w": weight(8, 8, 1, 1),
    "k": weight(8, 1, 3, 3),
    "b": weight(8, 1)[:, 0],
    "m": weight(6, 10),
    "c": weight(10, 1)[:, 0],
    "g": weight(10, 288),
}

# Each body computes y from the integers of a convolution, so that the operator is an integer one.
FORMS: dict[str, tuple[str, float]] = {
    "Conv": ("n = Conv(x, w, b)  y = Conv(n, w)", 1),
    "Conv Relu": ("n = Conv(x, w, b)  y = Relu(n)", 1),
    "depthwise": ("y = Conv<group=8, pads=[1,1,1,1]>(x, k, b)", 1),
    "depthwise strided": ("y = Conv<group=8, pads=[1,1,1,1], strides=[2,2]>(x, k, b)", 1),
    "Add": ("n = Conv(x, w, b)  y = Add(n, x)", 1),
    "Sub": ("n = Conv(x, w, b)  y = Sub(n, x)", 1),
    "Mul": ("n = Conv(x, w, b)  y = Mul(n, x)", 1),
    "SiLU": ("n = Conv(x, w, b)  s = Sigmoid(n)  y = Mul(n, s)", 2),
    "Tanh": ("n = Conv(x, w, b)  t = Tanh(n)  y = Add(t, n)", 2),
    "Softmax": ("n = Conv(x, w, b)  s = Softmax<axis=-1>(n)  y = Mul(s, n)", 2),
    "LpNormalization": ("n = Conv(x, w, b)  s = LpNormalization<axis=1>(n)  y = Add(s, n)", 2),
    "Gelu": ("n = Conv(x, w, b)  y = Gelu(n)", 1),
    "HardSwish": ("n = Conv(x, w, b)  y = HardSwish(n)", 1.5),
    "LeakyRelu": ("n = Conv(x, w, b)  y = LeakyRelu<alpha=0.2>(n)", 1),
    "GlobalAveragePool": ("n = Conv(x, w, b)  y = GlobalAveragePool(n)", 1),
    "ReduceSum": ("i = Constant<value_ints=[3]>()  n = Conv(x, w, b)  y = ReduceSum(n, i)", 1),
    "AveragePool": ("n = Conv(x, w, b)  p = AveragePool<kernel_shape=[2,2]>(n)  y = Conv(p, w)", 3),
    "MaxPool": ("n = Conv(x, w, b)  p = MaxPool<kernel_shape=[2,2]>(n)  y = Conv(p, w)", 1),
    "Concat": ("n = Conv(x, w, b)  r = Concat<axis=2>(x, n)  y = Conv(r, w)", 1),
    "MatMul Add": ("p = MatMul(x, m)  y = Add(p, c)", 1),
    "MatMul Add Relu": ("p = MatMul(x, m)  q = Add(p, c)  y = Relu(q)", 1),
    "Gemm": ("n = Conv(x, w, b)  f = Flatten(n)  y = Gemm<transB=1>(f, g, c)", 1),
    "product": ("n = Conv(x, w, b)  t = Transpose<perm=[0,1,3,2]>(n)  y = MatMul(x, t)", 1),
    "views": (
        "n = Conv(x, w, b)  t = Transpose<perm=[0,2,3,1]>(n)"
        "  i = Constant<value_ints=[1,9,4,8]>()  y = Reshape(t, i)",
        1,
    ),
}


def build(body: str, graph: Callable[..., Any]) -> Any:
    used = [n for n in WEIGHTS if f"{n})" in body or f" {n}," in body]
    heads = "".join(f", float[1] {n}" for n in used)
    return graph(f"{X}{heads}) => (y) {{ {body} }}", {n: WEIGHTS[n] for n in used})


@pytest.mark.parametrize("name", FORMS)
def test_form(name: str, graph: Callable[..., Any], near: Callable[..., Any]) -> None:
    body, limit = FORMS[name]
    file = near(build(body, graph), TFLITE_FULL, limit)
    floats = [t for t in file.lowered.model.main.tensors if t.dtype == "FLOAT32"]
    # nothing between the ends computes in float
    assert len(floats) == 2, [t.name for t in floats]
    assert file.lowered.operators["QUANTIZE"] == 1 + file.lowered.requantizations


@pytest.mark.parametrize("name", ["Softmax", "Gelu", "LpNormalization", "product", "ReduceSum"])
def test_what_delegates_lack_is_float_for_litert(
    name: str, graph: Callable[..., Any], near: Callable[..., Any]
) -> None:
    model = build(FORMS[name][0] + "  z = Conv(y, w)" * (name == "Gelu"), graph)
    file = near(model, TFLITE, 2) if name in ("Softmax", "LpNormalization") else None
    if file is None:
        made = quantize(model, calibrate(model, [_feed()], method="minmax"), TFLITE)
        file = convert(made, precision="int8")
    codes = {"product": "BATCH_MATMUL", "LpNormalization": "RSQRT", "ReduceSum": "SUM"}
    assert _types(file.lowered.model, codes.get(name, name.upper())) == {"FLOAT32"}
    assert _types(file.lowered.model, "CONV_2D") == {"INT8"}


def _feed(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {"x": rng.standard_normal((1, 8, 6, 6)).astype(np.float32)}


def _types(model: Model, code: str) -> set[str]:
    tensors = model.main.tensors
    return {tensors[op.inputs[0]].dtype for op in model.main.operators if op.code == code}


def test_prescribed_grids(graph: Callable[..., Any]) -> None:
    body = "n = Conv(x, w, b)  s = Sigmoid(n)  t = Tanh(s)  p = Softmax(t)  l = Conv(p, w)"
    body += "  y = LpNormalization<axis=1>(l)"
    model = build(body, graph)
    made = quantize(model, calibrate(model, [_feed()], method="minmax"), TFLITE_FULL)
    file = convert(made, precision="int8", flavour=INTEGER)
    tensors = file.lowered.model.main.tensors
    found = {}
    for op in file.lowered.model.main.operators:
        grid = tensors[op.outputs[0]].quantization
        if grid is not None:
            found[op.code] = (float(grid.scale[0]), int(grid.zero_point[0]))
    assert found["LOGISTIC"] == (1 / 256, -128)
    assert found["SOFTMAX"] == (1 / 256, -128)
    assert found["TANH"] == (1 / 128, 0)
    assert found["L2_NORMALIZATION"] == (1 / 128, 0)
    assert file.lowered.requantizations == 0


@pytest.mark.parametrize(("size", "kind"), [(511, "INT8"), (512, "FLOAT32")])
def test_rows_too_long_for_an_integer_softmax(
    size: int, kind: str, graph: Callable[..., Any], written_again: Callable[..., Any]
) -> None:
    litert = pytest.importorskip("edgec.runtime.litert_runner")
    pytest.importorskip("ai_edge_litert")
    model = graph(
        f"a (float[1,{size}] x) => (y) {{ m = Add(x, x)  s = Softmax(m)  y = Add(s, s) }}"
    )
    feed = {"x": np.linspace(0, 1, size, dtype=np.float32)[None]}
    feed["x"][0, 0] = 10  # one that stands out, for which the grid of 1/256 is made
    made = quantize(model, calibrate(model, [feed], method="minmax"), TFLITE_FULL)
    file = convert(made, precision="int8", flavour=INTEGER)
    assert _types(file.lowered.model, "SOFTMAX") == {kind}
    # equal elements: the sum of the exponentials is the length of the row
    (name,) = (runner := litert.LiteRTRunner(file.content, kernels="reference")).inputs
    runner.run({name: np.zeros((1, size), np.float32)})
    written_again(model)


def test_weights_and_biases_follow_the_specification(graph: Callable[..., Any]) -> None:
    model = build(
        "n = Conv(x, w, b)  d = Conv<group=8>(n, k, b)  y = MatMul(d, q)", graph_with_q(graph)
    )
    made = quantize(model, calibrate(model, [_feed()], method="minmax"), TFLITE_FULL)
    main = convert(made, precision="int8").lowered.model.main
    for code, axis in (("CONV_2D", 0), ("DEPTHWISE_CONV_2D", 3), ("FULLY_CONNECTED", 0)):
        op = next(op for op in main.operators if op.code == code)
        x, w, b = (main.tensors[i] for i in op.inputs)
        assert w.dtype == "INT8"
        assert b.dtype == "INT32"
        assert w.quantization.axis == axis
        assert not w.quantization.zero_point.any()
        assert w.data.min() >= -127
        np.testing.assert_allclose(
            b.quantization.scale, x.quantization.scale * w.quantization.scale, rtol=1e-6
        )


def graph_with_q(graph: Callable[..., Any]) -> Callable[..., Any]:
    def make(text: str, weights: dict[str, np.ndarray]) -> Any:
        return graph(text.replace(") =>", ", float[1] q) =>", 1), {**weights, "q": weight(4, 5)})

    return make


def test_unequal_grids_are_requantized_and_counted(
    graph: Callable[..., Any], near: Callable[..., Any]
) -> None:
    # the pooling has to keep the grid of its input, the Concat one grid for both of its inputs
    body = "n = Conv(x, w, b)  s = Sigmoid(n)  r = Concat<axis=1>(n, s)"
    body += "  t = Transpose<perm=[0,2,3,1]>(r)  y = MatMul(t, q)"

    def make(text: str, weights: dict[str, np.ndarray]) -> Any:
        return graph(text.replace(") =>", ", float[1] q) =>", 1), {**weights, "q": weight(16, 5)})

    file = near(build(body, make), TFLITE_FULL, 3)
    assert file.lowered.requantizations >= 1
    assert file.lowered.operators["QUANTIZE"] == 1 + file.lowered.requantizations


def test_what_only_a_concat_reads_has_its_grid(
    graph: Callable[..., Any], near: Callable[..., Any]
) -> None:
    body = "n = Conv(x, w, b)  d = Conv<group=8, pads=[1,1,1,1]>(x, k)  y = Concat<axis=1>(n, d)"
    file = near(build(body, graph), TFLITE_FULL)
    assert file.lowered.requantizations == 0
    near(build(body, graph), replace(TFLITE_FULL, shared_concat=False))


def test_integer_ends(graph: Callable[..., Any], near: Callable[..., Any]) -> None:
    file = near(build("n = Conv(x, w, b)  y = Relu(n)", graph), TFLITE_FULL, 1, ends="integer")
    main = file.lowered.model.main
    assert [main.tensors[i].dtype for i in (*main.inputs, *main.outputs)] == ["INT8", "INT8"]
    assert [main.tensors[i].name for i in (*main.inputs, *main.outputs)] == ["x", "y"]
    assert set(file.lowered.operators) == {"CONV_2D"}


def test_integers_that_move_between_the_conversions(graph: Callable[..., Any]) -> None:
    text = """a (int8[1,6,6,8] x) => (y) {
        s = Constant<value_float=0.25>()  z = Constant<value=int8 {3}>()
        t = Transpose<perm=[0,3,1,2]>(x)  d = DequantizeLinear(t, s, z)
        c = Add(d, d)  q = QuantizeLinear(c, s, z)  y = DequantizeLinear(q, s, z) }"""
    main = convert(graph(text), precision="int8", flavour=INTEGER).lowered.model.main
    assert [op.code for op in main.operators][-2:] == ["ADD", "DEQUANTIZE"]
    add = main.operators[-2]
    assert all(main.tensors[i].quantization is not None for i in (*add.inputs, *add.outputs))


def test_large_depthwise_kernels_stay_float_for_xnnpack(graph: Callable[..., Any]) -> None:
    text = f"{X}, float[1] k, float[1] w) => (y) {{ n = Conv<group=8, pads=[3,3,3,3]>(x, k)"
    model = graph(text + "  y = Conv(n, w) }", {"k": weight(8, 1, 7, 7), "w": WEIGHTS["w"]})
    calibration = calibrate(model, [_feed()], method="minmax")
    for scheme, dtype in ((TFLITE, "FLOAT32"), (TFLITE_FULL, "INT8")):
        lowered = convert(quantize(model, calibration, scheme), precision="int8").lowered
        assert _types(lowered.model, "DEPTHWISE_CONV_2D") == {dtype}
        assert _types(lowered.model, "CONV_2D") == {"INT8"}


@given(st.integers(1, 3), st.integers(1, 2), st.tuples(*[st.integers(0, 1)] * 4), st.booleans())
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_convolution(
    graph: Callable[..., Any],
    near: Callable[..., Any],
    kernel: int,
    stride: int,
    pads: tuple[int, ...],
    per_channel: bool,
) -> None:
    pads = tuple(min(p, kernel - 1) for p in pads)
    attributes = f"strides=[{stride},{stride}], pads=[{','.join(map(str, pads))}]"
    text = f"{X}, float[1] w, float[1] b) => (y) {{ y = Conv<{attributes}>(x, w, b) }}"
    model = graph(text, {"w": weight(5, 8, kernel, kernel), "b": weight(5)})
    near(model, replace(TFLITE_FULL, per_channel=per_channel))
