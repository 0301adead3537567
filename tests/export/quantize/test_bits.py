"""Grids of fewer and of more than eight bits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from edgec.export.errors import UnsupportedError, UsageError
from edgec.export.quantize.calibrate import Calibration, calibrate
from edgec.export.quantize.graph import constant_of
from edgec.export.quantize.insert import quantize
from edgec.export.quantize.kernels import emulation_options
from edgec.export.quantize.ranges import Range
from edgec.export.quantize.scheme import (
    ORT_ARM,
    ORT_X86,
    ORT_X86_VNNI,
    SCHEMES,
    TENSORRT,
    require_executable,
)
from edgec.export.quantize.weights import quantize_weight

ALL = list(SCHEMES.values())


def run(model: ir.Model, feeds) -> np.ndarray:
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), emulation_options())
    return np.concatenate([session.run(None, feed)[0] for feed in feeds])


def sqnr(reference: np.ndarray, other: np.ndarray) -> float:
    return float(10 * np.log10((reference**2).sum() / ((other - reference) ** 2).sum()))


@pytest.mark.parametrize("scheme", ALL, ids=lambda s: s.name)
def test_two_bits_cost_twelve_decibels(hybrid, feeds, calibration, scheme):
    """Uniform rounding noise falls by 6.02 dB per bit (Bennett 1948)."""
    reference = run(hybrid, feeds)
    found = {}
    for bits in (8, 6):
        model = quantize(hybrid, calibration, scheme.with_bits(bits, bits))
        onnx.checker.check_model(ir.to_proto(model), full_check=True)
        found[bits] = sqnr(reference, run(model, feeds))
    # few samples, and pair-safe weights that had less than eight bits before
    assert found[8] - found[6] == pytest.approx(12, abs=7)


@pytest.mark.parametrize(
    ("scheme", "levels"), [(ORT_X86, (0, 63)), (ORT_ARM, (-32, 31)), (TENSORRT, (-31, 31))]
)
def test_six_bit_activations_saturate_at_their_own_limits(build, node, scheme, levels):
    model = build(
        [node("Conv", ["x", "w"], ["y"])],
        {"x": [1, 1, 1, 4]},
        {"y": [1, 1, 1, 4]},
        {"w": np.ones((1, 1, 1, 1), np.float32)},
    )
    ranges = {"x": Range(-1.0, 1.0), "y": Range(-1.0, 1.0)}
    quantized = quantize(model, Calibration({}, ranges=ranges), scheme.with_bits(8, 6))
    x = np.array([-50.0, 0.0, 0.5, 50.0], np.float32).reshape(1, 1, 1, 4)
    scale = constant_of(quantized.graph.initializers["x_scale"])
    zero = int(constant_of(quantized.graph.initializers["x_zero_point"]))
    found = np.rint(run(quantized, [{"x": x}]).ravel() / scale).astype(int) + zero
    assert found[0] == levels[0]
    assert found[3] == levels[1]
    assert found[1] == zero


@pytest.mark.parametrize("bits", [8, 6, 4])
def test_weights_use_the_whole_grid_and_no_more(bits):
    weight = np.random.default_rng(0).standard_normal((5, 40)).astype(np.float32)
    limit = 2 ** (bits - 1) - 1
    for rule in ("absmax", "mse"):
        integers, scales = quantize_weight(weight, 0, rule=rule, limit=limit)
        assert (np.abs(integers).max(axis=1) == limit).all()
        inside = np.abs(weight) <= limit * scales[:, None]
        error = np.abs(integers * scales[:, None] - weight)
        assert (error[inside] <= 0.5001 * np.repeat(scales[:, None], 40, axis=1)[inside]).all()


def test_four_bits_are_stored_as_int4_where_the_opset_has_it(build, node):
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((4, 3, 3, 3)).astype(np.float32)
    feeds = [{"x": rng.standard_normal((1, 3, 5, 5)).astype(np.float32)}]
    found = {}
    for opset, kind in ((20, ir.DataType.INT8), (21, ir.DataType.INT4)):
        model = build(
            [node("Conv", ["x", "w"], ["y"])],
            {"x": [1, 3, 5, 5]},
            {"y": [1, 4, 3, 3]},
            {"w": weight},
            opset=opset,
        )
        calibration = calibrate(model, feeds)
        quantized = quantize(model, calibration, ORT_X86_VNNI.with_bits(weights=4))
        onnx.checker.check_model(ir.to_proto(quantized), full_check=True)
        assert quantized.graph.initializers["w_quantized"].const_value.dtype == kind
        found[opset] = run(quantized, feeds)
    np.testing.assert_array_equal(found[20], found[21])


def test_bits_of_single_modules(hybrid, calibration):
    scheme = replace(
        ORT_X86_VNNI, weight_bits=4, weight_bits_of={"stem": 8, "Gemm": 8, "block.c2": 6}
    )
    model = quantize(hybrid, calibration, scheme)
    largest = {
        name: int(np.abs(constant_of(model.graph.initializers[f"{name}_quantized"])).max())
        for name in ("stem.w", "dw.w", "pw.w", "qkv.w", "head.w")
    }
    assert largest == {"stem.w": 127, "dw.w": 7, "pw.w": 31, "qkv.w": 7, "head.w": 127}


def test_sixteen_bit_activations_are_nearly_exact(build, node):
    rng = np.random.default_rng(0)
    model = build(
        [node("Conv", ["x", "w", "b"], ["y"])],
        {"x": [1, 8, 6, 6]},
        {"y": [1, 4, 4, 4]},
        {
            "w": np.sign(rng.standard_normal((4, 8, 3, 3))).astype(np.float32),
            "b": rng.standard_normal(4).astype(np.float32),
        },
        opset=21,
    )
    feeds = [{"x": rng.standard_normal((1, 8, 6, 6)).astype(np.float32)} for _ in range(4)]
    calibration = calibrate(model, feeds)
    reference = run(model, feeds)
    for scheme in (ORT_X86_VNNI, ORT_ARM, TENSORRT):
        quantized = quantize(model, calibration, scheme.with_bits(8, 16))
        onnx.checker.check_model(ir.to_proto(quantized), full_check=True)
        assert sqnr(reference, run(quantized, feeds)) > 75


def test_sixteen_bits_need_opset_21(hybrid, calibration):
    with pytest.raises(UnsupportedError, match="EC362"):
        quantize(hybrid, calibration, ORT_X86.with_bits(8, 16))


def test_emulated_schemes_say_so(hybrid, calibration):
    assert not any(scheme.emulated for scheme in ALL)
    scheme = ORT_X86.with_bits(4, 8)
    assert scheme.name == "ort-x86-w4a8"
    assert quantize(hybrid, calibration, scheme).metadata_props["edgec.quant_scheme"] == scheme.name
    for emulated in (scheme, ORT_X86.with_bits(8, 16), replace(ORT_X86, weight_bits_of={"a": 4})):
        with pytest.raises(UsageError, match="EC267"):
            require_executable(emulated)
    assert ORT_X86.with_bits(8, 8) == ORT_X86
    for widths in ((5, 8), (8, 4)):
        with pytest.raises(UsageError, match="EC268"):
            ORT_X86.with_bits(*widths)
