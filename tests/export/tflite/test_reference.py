"""The integer reference against exact arithmetic and LiteRT's plain kernels, to the last bit."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgec.export.errors import UnsupportedError
from edgec.export.tflite import Model, Operator, Quantization, Subgraph, Tensor
from edgec.export.tflite.reference.executor import KERNELS, run
from edgec.export.tflite.reference.fixed_point import Multiplier, finish, shift_right

integers = st.integers(-(1 << 30), 1 << 30)


def half_away(x: Fraction) -> int:
    whole = int(abs(x) + Fraction(1, 2))
    return whole if x >= 0 else -whole


@given(integers, st.integers(0, 30))
def test_shift_right(x: int, amount: int) -> None:
    got = int(shift_right(np.asarray(x, np.int64), np.asarray(amount, np.int64)))
    assert got == half_away(Fraction(x, 1 << amount))


@given(st.integers(-(1 << 23), 1 << 23), st.floats(1e-6, 4.0))
def test_multiplication(x: int, real: float) -> None:
    """One rounding is to nearest; two end at most half a step further away."""
    multiplier = Multiplier.of(real)
    exact = (
        Fraction(int(multiplier.mantissa), 1 << 31) * Fraction(2) ** int(multiplier.exponent) * x
    )
    assert abs(Fraction(real) - exact / x if x else Fraction(0)) <= Fraction(real) / (1 << 30)
    once = int(multiplier.once(np.asarray(x, np.int64)))
    twice = int(multiplier(np.asarray(x, np.int64)))
    assert abs(once - exact) <= Fraction(1, 2)
    assert abs(twice - exact) <= 1


@pytest.mark.parametrize(
    ("activation", "want"),
    [
        ("NONE", [-128, -40, 10, 110, 127]),
        ("RELU", [10, 10, 10, 110, 127]),
        ("RELU6", [10, 10, 10, 70, 70]),
        ("RELU_N1_TO_1", [0, 0, 10, 20, 20]),
    ],
)
def test_activations_clamp_integers(activation: str, want: list[int]) -> None:
    tensor = Tensor("y", (5,), "INT8", None, Quantization.per_tensor(0.1, 10))
    got = finish(np.array([-500, -50, 0, 100, 500]), tensor, activation)
    np.testing.assert_array_equal(got, want)


def single(operator: Operator, tensors: list[Tensor], inputs: list[int]) -> Model:
    return Model([Subgraph(tensors, inputs, list(operator.outputs), [operator], "main")])


def assert_exact(model: Model, feeds: dict[str, np.ndarray], kernels: str = "reference") -> None:
    litert = pytest.importorskip("edgec.runtime.litert_runner")
    pytest.importorskip("ai_edge_litert")
    want = litert.LiteRTRunner(model, kernels=kernels).run(feeds)
    got = run(model, feeds)
    for name, value in want.items():
        assert got[name].dtype == value.dtype
        np.testing.assert_array_equal(got[name], value)


def activation(name: str, shape: tuple[int, ...], scale: float, zero: int) -> Tensor:
    return Tensor(name, shape, "INT8", None, Quantization.per_tensor(scale, zero))


SCALE = st.floats(0.002, 0.2)
ZERO = st.integers(-128, 127)


@given(
    st.tuples(SCALE, SCALE, SCALE),
    st.tuples(ZERO, ZERO, ZERO),
    st.sampled_from(["ADD", "SUB", "MUL"]),
)
@settings(max_examples=30, deadline=None)
def test_all_pairs_of_integers(
    scales: tuple[float, float, float], zeros: tuple[int, int, int], code: str
) -> None:
    """Every pair of int8 operands, in one call."""
    shape = (256, 256)
    a, b, y = (
        activation(name, shape, scale, zero)
        for name, scale, zero in zip("aby", scales, zeros, strict=True)
    )
    grid = np.arange(-128, 128).astype(np.int8)
    feeds = {"a": np.repeat(grid[:, None], 256, 1), "b": np.repeat(grid[None], 256, 0)}
    assert_exact(single(Operator(code, [0, 1], [2], {}, 2), [a, b, y], [0, 1]), feeds)


@given(SCALE, SCALE, ZERO)
@settings(max_examples=30, deadline=None)
def test_all_inverse_roots(scale: float, out: float, zero: int) -> None:
    tensors = [activation("x", (256,), scale, -128), activation("y", (256,), out, zero)]
    feeds = {"x": np.arange(-128, 128).astype(np.int8)}
    assert_exact(single(Operator("RSQRT", [0], [1], {}, 2), tensors, [0]), feeds)


@given(SCALE, SCALE, ZERO, ZERO)
@settings(max_examples=20, deadline=None)
def test_all_changes_of_scale(scale: float, out: float, zero: int, out_zero: int) -> None:
    tensors = [activation("x", (256,), scale, zero), activation("y", (256,), out, out_zero)]
    feeds = {"x": np.arange(-128, 128).astype(np.int8)}
    assert_exact(single(Operator("QUANTIZE", [0], [1], {}, 2), tensors, [0]), feeds)


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 1 << 30), SCALE, SCALE, ZERO, ZERO)
@settings(max_examples=30, deadline=None)
def test_means(
    height: int, width: int, seed: int, scale: float, out: float, zero: int, out_zero: int
) -> None:
    shape = (1, height, width, 7)
    axes = Tensor("axes", (2,), "INT32", np.array([1, 2], np.int32))
    tensors = [activation("x", shape, scale, zero), axes, activation("y", (1, 7), out, out_zero)]
    x = np.random.default_rng(seed).integers(-128, 128, shape).astype(np.int8)
    operator = Operator("MEAN", [0, 1], [2], {"keep_dims": False}, 2)
    assert_exact(single(operator, tensors, [0]), {"x": x})


@given(st.integers(2, 300), st.integers(0, 1 << 30), SCALE)
@settings(max_examples=30, deadline=None)
def test_softmax(count: int, seed: int, scale: float) -> None:
    tensors = [activation("x", (3, count), scale, 5), activation("y", (3, count), 1 / 256, -128)]
    x = np.random.default_rng(seed).integers(-128, 128, (3, count)).astype(np.int8)
    assert_exact(single(Operator("SOFTMAX", [0], [1], {"beta": 1.0}, 2), tensors, [0]), {"x": x})


@given(st.integers(1, 200), st.integers(0, 1 << 30), SCALE, SCALE, ZERO, ZERO)
@settings(max_examples=20, deadline=None)
def test_sums(count: int, seed: int, scale: float, out: float, zero: int, out_zero: int) -> None:
    """The plain kernel of int8 sums is wrong, so the optimised one is the measure."""
    axes = Tensor("axes", (1,), "INT32", np.array([1], np.int32))
    tensors = [activation("x", (9, count), scale, zero), axes, activation("y", (9,), out, out_zero)]
    x = np.random.default_rng(seed).integers(-128, 128, (9, count)).astype(np.int8)
    assert_exact(single(Operator("SUM", [0, 1], [2], {}, 2), tensors, [0]), {"x": x}, "builtin")


@pytest.mark.parametrize("code", ["LOGISTIC", "TANH", "GELU", "HARD_SWISH"])
@given(SCALE, SCALE, ZERO, ZERO)
@settings(max_examples=15, deadline=None)
def test_tables(code: str, scale: float, out: float, zero: int, out_zero: int) -> None:
    if code in ("LOGISTIC", "TANH"):  # their output is fixed
        out, out_zero = (1 / 256, -128) if code == "LOGISTIC" else (1 / 128, 0)
    tensors = [activation("x", (256,), scale, zero), activation("y", (256,), out, out_zero)]
    feeds = {"x": np.arange(-128, 128).astype(np.int8)}
    assert_exact(
        single(Operator(code, [0], [1], {}, 1 if code == "HARD_SWISH" else 2), tensors, [0]), feeds
    )


@given(st.integers(1, 100), st.integers(0, 1 << 30), ZERO)
@settings(max_examples=20, deadline=None)
def test_norms(count: int, seed: int, zero: int) -> None:
    tensors = [activation("x", (9, count), 0.1, zero), activation("y", (9, count), 1 / 128, 0)]
    x = np.random.default_rng(seed).integers(-128, 128, (9, count)).astype(np.int8)
    assert_exact(single(Operator("L2_NORMALIZATION", [0], [1], {}, 2), tensors, [0]), {"x": x})


@given(
    st.integers(1, 9), st.integers(1, 9), st.integers(1, 20), st.integers(1, 20), st.integers(0, 2)
)
@settings(max_examples=30, deadline=None)
def test_resizing(height: int, width: int, rows: int, columns: int, mode: int) -> None:
    size = Tensor("size", (2,), "INT32", np.array([rows, columns], np.int32))
    tensors = [
        activation("x", (1, height, width, 2), 0.1, 3),
        size,
        activation("y", (1, rows, columns, 2), 0.1, 3),
    ]
    options = {"align_corners": mode == 1, "half_pixel_centers": mode == 2}
    x = np.random.default_rng(0).integers(-128, 128, (1, height, width, 2)).astype(np.int8)
    operator = Operator("RESIZE_BILINEAR", [0, 1], [2], options, 3)
    assert_exact(single(operator, tensors, [0]), {"x": x})


def test_what_it_does_not_know() -> None:
    assert "CUMSUM" not in KERNELS
    tensors = [Tensor("x", (2,), "FLOAT32"), Tensor("y", (2,), "FLOAT32")]
    model = single(Operator("CUMSUM", [0], [1]), tensors, [0])
    with pytest.raises(UnsupportedError, match="no reference kernel") as caught:
        run(model, {"x": np.zeros(2, np.float32)})
    assert caught.value.code == "EC306"
    # floats where integers are expected
    model = single(Operator("L2_NORMALIZATION", [0], [1]), tensors, [0])
    with pytest.raises(UnsupportedError, match="this form"):
        run(model, {"x": np.zeros(2, np.float32)})
