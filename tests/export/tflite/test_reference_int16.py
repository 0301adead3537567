"""The integer reference on int16 against LiteRT's plain kernels, to the last bit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgec.export.emit.tflite.versions import version
from edgec.export.errors import UnsupportedError
from edgec.export.tflite import Model, Operator, Quantization, Subgraph, Tensor
from edgec.export.tflite.reference.executor import run
from edgec.export.tflite.reference.fixed_point import Multiplier

SCALE = st.floats(1e-5, 1e-3)
SEED = st.integers(0, 1 << 30)


def assert_exact(
    operator: Operator, tensors: Sequence[Tensor], seed: int = 0, kernels: str = "reference"
) -> None:
    litert = pytest.importorskip("edgec.runtime.litert_runner")
    pytest.importorskip("ai_edge_litert")
    operator.version = version(operator, list(tensors))
    inputs = [i for i in operator.inputs if i >= 0 and tensors[i].data is None]
    model = Model([Subgraph(list(tensors), inputs, list(operator.outputs), [operator], "main")])
    rng = np.random.default_rng(seed)
    feeds = {}
    for tensor in (tensors[i] for i in inputs):
        limits = np.iinfo(tensor.numpy_dtype)
        data = rng.integers(limits.min, limits.max + 1, tensor.shape)
        feeds[tensor.name] = data.astype(tensor.numpy_dtype)
    want = litert.LiteRTRunner(model, kernels=kernels).run(feeds)
    got = run(model, feeds)
    for name, value in want.items():
        assert got[name].dtype == value.dtype
        np.testing.assert_array_equal(got[name], value)


def act(name: str, *shape: int, scale: float) -> Tensor:
    return Tensor(name, shape, "INT16", None, Quantization.per_tensor(scale))


def weights(rng: np.random.Generator, *shape: int, axis: int = 0) -> Tensor:
    scale = (rng.random(shape[axis]) * 0.01 + 1e-4).astype(np.float32)
    data = rng.integers(-127, 128, shape).astype(np.int8)
    zeros = np.zeros(shape[axis], np.int64)
    return Tensor("w", shape, "INT8", data, Quantization(scale, zeros, axis))


def bias(rng: np.random.Generator, x: Tensor, weight: Tensor, y: Tensor) -> Tensor:
    """Biases of int64, beyond 32 bits as well, with results that 32 bits hold."""
    scales = [t.quantization.scale for t in (x, weight, y) if t.quantization is not None]
    scale = scales[0] * scales[1]
    most = np.minimum(1 << 36, (1 << 29) * scales[2] / scale).astype(np.int64)
    data = rng.integers(-most, most + 1) >> rng.integers(0, 30, len(scale))
    grid = Quantization(scale, np.zeros(len(scale), np.int64), 0)
    return Tensor("bias", scale.shape, "INT64", data, grid)


@given(SEED, SCALE, SCALE, st.sampled_from(["NONE", "RELU", "RELU6"]), st.booleans())
@settings(max_examples=30, deadline=None)
def test_convolutions(seed: int, scale: float, out: float, activation: str, deep: bool) -> None:
    rng = np.random.default_rng(seed)
    x, y = act("x", 1, 6, 7, 4, scale=scale), act("y", 1, 3, 4, 4 if deep else 5, scale=9 * out)
    weight = weights(rng, *((1, 3, 3, 4) if deep else (5, 3, 3, 4)), axis=3 if deep else 0)
    options: dict[str, Any] = {
        "padding": "SAME",
        "stride_w": 2,
        "stride_h": 2,
        "fused_activation_function": activation,
    } | ({"depth_multiplier": 1} if deep else {})
    code = "DEPTHWISE_CONV_2D" if deep else "CONV_2D"
    tensors = [x, weight, bias(rng, x, weight, y), y]
    assert_exact(Operator(code, [0, 1, 2], [3], options), tensors, seed)


@given(SEED, SCALE, SCALE)
@settings(max_examples=30, deadline=None)
def test_linear_layers(seed: int, scale: float, out: float) -> None:
    rng = np.random.default_rng(seed)
    x, weight, y = act("x", 3, 40, scale=scale), weights(rng, 7, 40), act("y", 3, 7, scale=9 * out)
    tensors = [x, weight, bias(rng, x, weight, y), y]
    assert_exact(Operator("FULLY_CONNECTED", [0, 1, 2], [3]), tensors, seed)


def sums_next_to_halves(
    rng: np.random.Generator, sx: float, sy: float, most: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Scales of weights, and sums that with them come within 2**-31 of a half step of the output,
    where fixed point rounds some to the other side."""
    scale = (rng.random(300_000) * 0.01 + 1e-4).astype(np.float32)
    real = np.float64(np.float32(sx)) * scale.astype(np.float64) / np.float64(np.float32(sy))
    sums = np.rint((rng.integers(-most, most, len(scale)) + 0.5) / real).astype(np.int64)
    exact = np.where(sums * real < 0, -1, 1) * np.floor(np.abs(sums * real) + 0.5)
    found = (Multiplier.of(real).once(sums) != exact) & (np.abs(sums) < 1 << 31)
    return scale[found], sums[found]


@pytest.mark.parametrize(
    ("dtype", "sx", "sy", "most"), [("INT16", 1.1e-4, 2.3e-4, 32000), ("INT8", 0.02, 0.05, 120)]
)
def test_linear_layers_scale_in_double_precision(
    dtype: str, sx: float, sy: float, most: int
) -> None:
    scale, sums = sums_next_to_halves(np.random.default_rng(0), sx, sy, most)
    count = len(sums)
    assert count
    kind = "INT64" if dtype == "INT16" else "INT32"
    zeros = np.zeros(count, np.int64)
    grid = Quantization(scale * np.float32(sx), zeros)
    tensors = [
        Tensor("x", (1, 4), dtype, None, Quantization.per_tensor(sx)),
        Tensor("w", (count, 4), "INT8", np.zeros((count, 4), np.int8), Quantization(scale, zeros)),
        Tensor("bias", (count,), kind, sums.astype(f"i{8 if kind == 'INT64' else 4}"), grid),
        Tensor("y", (1, count), dtype, None, Quantization.per_tensor(sy)),
    ]
    assert_exact(Operator("FULLY_CONNECTED", [0, 1, 2], [3]), tensors)


def test_linear_layers_round_halves_away_from_zero() -> None:
    sums = np.array([1, 3, 5, 7, -1, -3, -5, -7])
    grid = Quantization.per_tensor(0.5)
    tensors = [
        act("x", 1, 4, scale=0.5),
        Tensor("w", (8, 4), "INT8", np.zeros((8, 4), np.int8), Quantization.per_tensor(1.0)),
        Tensor("bias", (8,), "INT64", sums, grid),
        act("y", 1, 8, scale=1.0),
    ]
    assert_exact(Operator("FULLY_CONNECTED", [0, 1, 2], [3]), tensors)


@given(SEED, SCALE, SCALE, SCALE)
@settings(max_examples=30, deadline=None)
def test_products(seed: int, a: float, b: float, out: float) -> None:
    tensors = [
        act("a", 2, 5, 9, scale=a),
        act("b", 2, 9, 4, scale=b),
        act("y", 2, 5, 4, scale=max(out, a * b * 100)),
    ]
    assert_exact(Operator("BATCH_MATMUL", [0, 1], [2], {}), tensors, seed)


@given(SEED, SCALE, SCALE, SCALE, st.sampled_from(["ADD", "SUB", "MUL"]))
@settings(max_examples=60, deadline=None)
def test_pairs(seed: int, a: float, b: float, out: float, code: str) -> None:
    options = {} if code == "MUL" else {"pot_scale_int16": False}
    # what the kernels shift to the left has to fit 32 bits
    out = max(out, 0.05 * max(a, b))
    tensors = [act("a", 4000, scale=a), act("b", 4000, scale=b), act("y", 4000, scale=out)]
    assert_exact(Operator(code, [0, 1], [2], options), tensors, seed)


@given(SEED, SCALE, SCALE)
@settings(max_examples=30, deadline=None)
def test_changes_of_scale(seed: int, scale: float, out: float) -> None:
    tensors = [act("x", 4000, scale=scale), act("y", 4000, scale=max(out, scale * 0.1))]
    assert_exact(Operator("QUANTIZE", [0], [1], {}), tensors, seed)


@given(SEED, SCALE, st.floats(1e-3, 0.1), st.integers(-128, 127), st.booleans())
@settings(max_examples=30, deadline=None)
def test_between_int8_and_int16(
    seed: int, wide: float, narrow: float, zero: int, widens: bool
) -> None:
    ends = [
        Tensor("n", (4000,), "INT8", None, Quantization.per_tensor(narrow, zero)),
        act("w", 4000, scale=wide),
    ]
    tensors = ends if widens else ends[::-1]
    assert_exact(Operator("QUANTIZE", [0], [1], {}), tensors, seed)


@given(SEED, st.integers(1, 12), st.integers(1, 12), SCALE, SCALE)
@settings(max_examples=30, deadline=None)
def test_means(seed: int, height: int, width: int, scale: float, out: float) -> None:
    axes = Tensor("axes", (2,), "INT32", np.array([1, 2], np.int32))
    tensors = [act("x", 1, height, width, 7, scale=scale), axes, act("y", 1, 7, scale=out)]
    assert_exact(Operator("MEAN", [0, 1], [2], {"keep_dims": False}), tensors, seed)


@given(SEED, st.integers(1, 200), SCALE, SCALE)
@settings(max_examples=30, deadline=None)
def test_sums(seed: int, count: int, scale: float, out: float) -> None:
    axes = Tensor("axes", (1,), "INT32", np.array([1], np.int32))
    tensors = [act("x", 9, count, scale=scale), axes, act("y", 9, scale=max(out, scale))]
    assert_exact(Operator("SUM", [0, 1], [2], {}), tensors, seed, "builtin")


@pytest.mark.parametrize("code", ["AVERAGE_POOL_2D", "MAX_POOL_2D"])
def test_pools(code: str) -> None:
    options: dict[str, Any] = {
        "padding": "SAME",
        "stride_w": 2,
        "stride_h": 1,
        "filter_width": 3,
        "filter_height": 2,
    }
    tensors = [act("x", 1, 6, 7, 5, scale=1e-3), act("y", 1, 6, 4, 5, scale=1e-3)]
    assert_exact(Operator(code, [0], [1], options), tensors)


@given(SEED, st.integers(1, 300), st.floats(1e-5, 5e-3))
@settings(max_examples=60, deadline=None)
def test_softmax(seed: int, count: int, scale: float) -> None:
    tensors = [act("x", 3, count, scale=scale), act("y", 3, count, scale=2.0**-15)]
    assert_exact(Operator("SOFTMAX", [0], [1], {"beta": 1.0}), tensors, seed)


@given(st.one_of(st.floats(1e-5, 1e-2), st.integers(-16, -7).map(lambda n: 2.0**n)))
@settings(max_examples=60, deadline=None)
@pytest.mark.parametrize("code", ["LOGISTIC", "TANH"])
def test_curves_on_every_input(code: str, scale: float) -> None:
    pytest.importorskip("ai_edge_litert")
    from edgec.runtime.litert_runner import LiteRTRunner

    tensors = [act("x", 1 << 16, scale=scale), act("y", 1 << 16, scale=2.0**-15)]
    operator = Operator(code, [0], [1], {}, 3)
    model = Model([Subgraph(tensors, [0], [1], [operator], "main")])
    feeds = {"x": np.arange(-(1 << 15), 1 << 15).astype(np.int16)}
    want = LiteRTRunner(model, kernels="reference").run(feeds)["y"]
    np.testing.assert_array_equal(run(model, feeds)["y"], want)


@given(SEED, SCALE, SCALE, st.booleans())
@settings(max_examples=30, deadline=None)
def test_biases_of_32_bits(seed: int, scale: float, out: float, linear: bool) -> None:
    """The option that announces them also makes the accumulator one of 32 bits."""
    pytest.importorskip("ai_edge_litert")
    from edgec.runtime.litert_runner import LiteRTRunner

    rng = np.random.default_rng(seed)
    x = act("x", *((3, 40) if linear else (1, 5, 6, 4)), scale=scale)
    y = act("y", *((3, 7) if linear else (1, 5, 6, 7)), scale=9 * out)
    weight = weights(rng, *((7, 40) if linear else (7, 3, 3, 4)))
    assert x.quantization is not None
    assert weight.quantization is not None
    grid = Quantization(x.quantization.scale * weight.quantization.scale, np.zeros(7, np.int64), 0)
    data = rng.integers(-(1 << 26), 1 << 26, 7).astype(np.int32)
    options: dict[str, Any] = {"quantized_bias_type": "INT32"}
    options |= {} if linear else {"padding": "SAME", "stride_w": 1, "stride_h": 1}
    code = "FULLY_CONNECTED" if linear else "CONV_2D"
    operator = Operator(code, [0, 1, 2], [3], options, 13 if linear else 8)
    tensors = [x, weight, Tensor("bias", (7,), "INT32", data, grid), y]
    model = Model([Subgraph(tensors, [0], [3], [operator], "main")])
    feeds = {"x": rng.integers(-32768, 32768, x.shape).astype(np.int16)}
    want = LiteRTRunner(model, kernels="reference").run(feeds)["y"]
    np.testing.assert_array_equal(run(model, feeds)["y"], want)


def test_roots_have_no_kernel_here() -> None:
    tensors = [act("x", 4, scale=1e-3), act("y", 4, scale=1e-3)]
    model = Model([Subgraph(tensors, [0], [1], [Operator("RSQRT", [0], [1], {}, 2)], "main")])
    with pytest.raises(UnsupportedError, match="EC306"):
        run(model, {"x": np.ones(4, np.int16)})


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 20), st.integers(0, 2))
@settings(max_examples=30, deadline=None)
def test_resizing(height: int, width: int, rows: int, mode: int) -> None:
    size = Tensor("size", (2,), "INT32", np.array([rows, 2 * rows], np.int32))
    tensors = [
        act("x", 1, height, width, 2, scale=0.1),
        size,
        act("y", 1, rows, 2 * rows, 2, scale=0.1),
    ]
    options = {"align_corners": mode == 1, "half_pixel_centers": mode == 2}
    assert_exact(Operator("RESIZE_BILINEAR", [0, 1], [2], options), tensors)
