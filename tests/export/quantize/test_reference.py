"""Q/DQ graphs in ONNX Runtime against the plain integer arithmetic of the reference.

With random weights the accumulators hit rounding ties almost never, but the runtime multiplies
in float32 where the reference uses float64: at most one step apart, and rarely.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from edgec.export.quantize import reference
from edgec.export.quantize.calibrate import calibrate
from edgec.export.quantize.graph import constant_of
from edgec.export.quantize.insert import quantize
from edgec.export.quantize.reference import Grid, dequantize_linear, quantize_linear
from edgec.export.quantize.scheme import ORT_X86

RNG = np.random.default_rng(0)


def session(model: ir.Model) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(ir.to_proto(model).SerializeToString(), options)


def grid(model: ir.Model, tensor: str) -> Grid:
    scale = constant_of(model.graph.initializers[f"{tensor}_scale"])
    zero = constant_of(model.graph.initializers[f"{tensor}_zero_point"])
    return Grid.of(scale, int(zero), zero.dtype)


def assert_within_one_step(got: np.ndarray, expected: np.ndarray, y: Grid) -> None:
    steps = np.abs(np.rint(got / y.scale) - np.rint(expected / y.scale))
    assert steps.max() <= 1
    assert (steps == 0).mean() > 0.99


@pytest.mark.parametrize(
    ("groups", "stride", "pad", "size"), [(1, 1, 0, 1), (1, 2, 1, 3), (8, 1, 2, 5), (2, 1, 1, 3)]
)
def test_conv(build, node, groups, stride, pad, size):
    weight = RNG.standard_normal((8, 8 // groups, size, size)).astype(np.float32)
    bias = RNG.standard_normal(8).astype(np.float32)
    attributes = {"group": groups, "strides": [stride] * 2, "pads": [pad] * 4}
    model = build(
        [node("Conv", ["x", "w", "b"], ["c"], **attributes), node("Relu", ["c"], ["y"])],
        {"x": [1, 8, 9, 9]},
        {"y": ["n", "c", "h", "w"]},
        {"w": weight, "b": bias},
    )
    x = RNG.standard_normal((1, 8, 9, 9)).astype(np.float32)
    quantized = quantize(model, calibrate(model, [{"x": x}]), ORT_X86)
    got = session(quantized).run(None, {"x": x})[0]

    values = quantized.graph.initializers
    x_grid, y_grid = grid(quantized, "x"), grid(quantized, "y")
    accumulator = reference.conv(
        quantize_linear(x, x_grid),
        constant_of(values["w_quantized"]).astype(np.int64),
        constant_of(values["node_c_bias_quantized"]).astype(np.int64),
        x_grid.zero_point,
        stride=stride,
        pad=pad,
        groups=groups,
    )
    scales = constant_of(values["w_scale"]).astype(np.float64)
    multiplier = (float(x_grid.scale) * scales / float(y_grid.scale))[None, :, None, None]
    expected = reference.requantize(accumulator, multiplier, y_grid)
    assert_within_one_step(got, dequantize_linear(expected, y_grid), y_grid)


def test_gemm_and_linear(build, node):
    weight = RNG.standard_normal((16, 12)).astype(np.float32)
    bias = RNG.standard_normal(12).astype(np.float32)
    x = RNG.standard_normal((5, 16)).astype(np.float32)
    gemm = [node("Gemm", ["x", "w", "b"], ["y"])]
    linear = [node("MatMul", ["x", "w"], ["m"]), node("Add", ["m", "b"], ["y"])]
    for nodes in (gemm, linear):
        model = build(nodes, {"x": [5, 16]}, {"y": [5, 12]}, {"w": weight, "b": bias})
        quantized = quantize(model, calibrate(model, [{"x": x}]), ORT_X86)
        got = session(quantized).run(None, {"x": x})[0]
        values = quantized.graph.initializers
        x_grid = grid(quantized, "x")
        accumulator = reference.matmul(
            quantize_linear(x, x_grid),
            constant_of(values["w_quantized"]).astype(np.int64),
            x_grid.zero_point,
            0,
        )
        (bias_name,) = (n for n in values if n.endswith("bias_quantized"))
        accumulator = accumulator + constant_of(values[bias_name])
        # float output: the accumulator times s_x·s_w, without another rounding to integers
        expected = accumulator * (x_grid.scale * constant_of(values["w_scale"])).astype(np.float64)
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_product_of_activations(build, node):
    a = RNG.standard_normal((1, 6, 8)).astype(np.float32)
    b = RNG.standard_normal((1, 8, 7)).astype(np.float32)
    model = build(
        [node("MatMul", ["a", "b"], ["y"])], {"a": [1, 6, 8], "b": [1, 8, 7]}, {"y": [1, 6, 7]}, {}
    )
    quantized = quantize(model, calibrate(model, [{"a": a, "b": b}]), ORT_X86)
    got = session(quantized).run(None, {"a": a, "b": b})[0]
    a_grid, b_grid = grid(quantized, "a"), grid(quantized, "b")
    accumulator = reference.matmul(
        quantize_linear(a, a_grid), quantize_linear(b, b_grid), a_grid.zero_point, b_grid.zero_point
    )
    expected = accumulator * float(a_grid.scale) * float(b_grid.scale)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_add(build, node):
    a, b = (RNG.standard_normal((1, 64)).astype(np.float32) * s for s in (1, 4))
    model = build(
        [node("Add", ["a", "b"], ["y"])], {"a": [1, 64], "b": [1, 64]}, {"y": [1, 64]}, {}
    )
    quantized = quantize(model, calibrate(model, [{"a": a, "b": b}]), ORT_X86)
    got = session(quantized).run(None, {"a": a, "b": b})[0]
    a_grid, b_grid, y_grid = (grid(quantized, name) for name in "aby")
    expected = reference.add(
        quantize_linear(a, a_grid), a_grid, quantize_linear(b, b_grid), b_grid, y_grid
    )
    assert_within_one_step(got, dequantize_linear(expected, y_grid), y_grid)


def test_quantize_linear_rounds_half_to_even_and_saturates():
    one = Grid.of(np.float32(1), 10, np.uint8)
    x = np.array([0.5, 1.5, 2.5, -0.5, -1.5, 400, -400], np.float32)
    assert quantize_linear(x, one).tolist() == [10, 12, 12, 10, 8, 255, 0]
