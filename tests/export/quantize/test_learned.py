"""Learned weights enter the graph as they are, or are refused."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgec.export.errors import UsageError
from edgec.export.quantize.graph import constant_of
from edgec.export.quantize.insert import quantize
from edgec.export.quantize.learned import LearnedWeight, learned_grid
from edgec.export.quantize.scheme import ORT_X86, ORT_X86_VNNI, TENSORRT
from edgec.export.quantize.weights import is_pair_safe, make_pair_safe, quantize_weight

KEY = ("pw.w", 0)


@pytest.fixture
def weight(hybrid) -> np.ndarray:
    return hybrid.graph.initializers["pw.w"].const_value.numpy()


def stored(model: ir.Model, name: str) -> np.ndarray:
    found = constant_of(model.graph.initializers[name])
    assert found is not None
    return found


@pytest.mark.parametrize("scheme", [ORT_X86, ORT_X86_VNNI, TENSORRT], ids=lambda s: s.name)
def test_learned_integers_are_written_and_the_bias_follows(hybrid, calibration, weight, scheme):
    integers, scales = quantize_weight(weight, 0, pair_safe=scheme.pair_safe)
    integers[:, 0] -= np.sign(integers[:, 0])
    scales *= np.float32(1.25)
    model = quantize(
        hybrid, calibration, scheme, learned={KEY: LearnedWeight(integers, scales.copy())}
    )
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    np.testing.assert_array_equal(stored(model, "pw.w_quantized"), integers)
    np.testing.assert_array_equal(stored(model, "pw.w_scale"), scales)
    if scheme.integer_bias:
        bias_scale = stored(model, "node_c2_bias_scale")
        np.testing.assert_array_equal(bias_scale, stored(model, "m1_scale") * scales)


def test_what_nearest_gives_changes_nothing(hybrid, calibration, weight):
    learned = {KEY: LearnedWeight(*quantize_weight(weight, 0, pair_safe=True))}
    plain, given = (
        ir.to_proto(quantize(hybrid, calibration, ORT_X86, learned=x)).SerializeToString(
            deterministic=True
        )
        for x in (None, learned)
    )
    assert plain == given


def test_scales_alone_round_to_nearest_and_saturate(hybrid, calibration, weight):
    scales = (np.abs(weight).max(axis=(1, 2, 3)) / 200).astype(np.float32)
    model = quantize(hybrid, calibration, ORT_X86_VNNI, learned={KEY: LearnedWeight(None, scales)})
    expected = np.clip(np.rint(weight / scales.reshape(-1, 1, 1, 1)), -127, 127)
    np.testing.assert_array_equal(stored(model, "pw.w_quantized"), expected)
    assert np.abs(expected).max() == 127


def test_scales_alone_stay_pair_safe_and_above_the_floor(weight):
    scales = (np.abs(weight).max(axis=(1, 2, 3)) / 250).astype(np.float32)
    floor = np.zeros(8)
    floor[3] = 7.0
    integers, used = learned_grid(
        KEY, weight, LearnedWeight(None, scales), pair_safe=True, floor=floor
    )
    assert is_pair_safe(integers.reshape(8, -1))
    assert used[3] == 7.0
    np.testing.assert_array_equal(np.delete(used, 3), np.delete(scales, 3))


@given(
    hnp.arrays(
        np.int8, st.tuples(st.integers(1, 4), st.integers(1, 9)), elements=st.integers(-127, 127)
    )
)
@settings(max_examples=200, deadline=None)
def test_projection_to_pair_safe(rows):
    safe = make_pair_safe(rows)
    assert is_pair_safe(safe)
    assert (np.abs(safe.astype(int)) <= np.abs(rows.astype(int))).all()
    assert (safe.astype(int) * rows >= 0).all()
    for row, before in zip(safe, rows, strict=True):
        if is_pair_safe(before[None]):
            np.testing.assert_array_equal(row, before)


def test_projection_keeps_a_lone_outlier():
    rows = np.array([[127, 1, -5], [127, 30, 10], [100, 90, 70]], np.int8)
    assert make_pair_safe(rows).tolist() == [[127, 1, -5], [98, 30, 10], [64, 64, 64]]


def test_what_does_not_fit_is_refused(hybrid, calibration, weight):
    integers, scales = quantize_weight(weight, 0, pair_safe=True)

    def refused(learned: LearnedWeight, why: str, key=KEY, **options) -> None:
        with pytest.raises(UsageError, match="EC269") as caught:
            quantize(hybrid, calibration, ORT_X86, learned={key: learned}, **options)
        assert why in str(caught.value)

    good = LearnedWeight(integers, scales)
    refused(LearnedWeight(integers[:4], scales), "integers are int8(4, 8, 1, 1)")
    refused(LearnedWeight(integers.astype(np.int16), scales), "int16")  # type: ignore[arg-type]
    refused(LearnedWeight(integers, scales[:4]), "scales are float32(4,)")
    refused(LearnedWeight(integers, scales.astype(np.float64)), "float64")  # type: ignore[arg-type]
    refused(LearnedWeight(np.full_like(integers, -128), scales), "outside ±127")
    refused(LearnedWeight(np.full_like(integers, 70), scales), "more than 128")
    for bad in (0.0, -1.0, np.nan, np.inf):
        refused(LearnedWeight(integers, scales * np.float32(bad)), "a scale is not finite")
    refused(LearnedWeight(integers, scales * np.float32(1e-12)), "bias overflows")
    refused(good, "no quantized weight", key=("pw.w", 1))
    refused(good, "no quantized weight", key=("c2", 0))
    refused(good, "no quantized weight", exclude=["node_c2"])
