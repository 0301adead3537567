from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from edgec.export.quantize.bias_correction import correct_biases
from edgec.export.quantize.calibrate import calibrate
from edgec.export.quantize.insert import quantize
from edgec.export.quantize.kernels import emulation_options
from edgec.export.quantize.scheme import ORT_X86_VNNI, TENSORRT

RNG = np.random.default_rng(0)


def outputs(model: ir.Model, feeds) -> np.ndarray:
    data = ir.to_proto(model).SerializeToString()
    session = ort.InferenceSession(data, emulation_options())
    return np.concatenate([session.run(None, feed)[0] for feed in feeds])


def positive(shape: tuple[int, ...]) -> np.ndarray:
    """Values with a mean, as behind a ReLU."""
    return np.abs(RNG.standard_normal(shape)).astype(np.float32)


def layers(build, node):
    coarse = RNG.standard_normal((12, 6, 1, 1)).astype(np.float32)
    coarse[0, :, 0, 0] = [40, 0.15, 0.15, 0.15, 0.15, 0.15]  # the last five round to 0
    yield (
        "Conv",
        build(
            [node("Conv", ["x", "w", "b"], ["y"])],
            {"x": [1, 6, 5, 5]},
            {"y": [1, 12, 5, 5]},
            {"w": coarse, "b": np.zeros(12, np.float32)},
        ),
        [{"x": positive((1, 6, 5, 5))} for _ in range(16)],
        (0, 2, 3),
    )
    yield (
        "grouped Conv",
        build(
            [node("Conv", ["x", "w", "b"], ["y"], group=2)],
            {"x": [1, 12, 5, 5]},
            {"y": [1, 12, 5, 5]},
            {"w": coarse, "b": np.zeros(12, np.float32)},
        ),
        [{"x": positive((1, 12, 5, 5))} for _ in range(16)],
        (0, 2, 3),
    )
    matrix = coarse[:, :, 0, 0]
    for transposed in (0, 1):
        yield (
            f"Gemm transB={transposed}",
            build(
                [node("Gemm", ["x", "w", "b"], ["y"], transB=transposed)],
                {"x": [8, 6]},
                {"y": [8, 12]},
                {"w": matrix if transposed else matrix.T.copy(), "b": np.zeros(12, np.float32)},
            ),
            [{"x": positive((8, 6))} for _ in range(16)],
            (0,),
        )
    yield (
        "Linear on tokens",
        build(
            [node("MatMul", ["x", "w"], ["m"]), node("Add", ["m", "b"], ["y"])],
            {"x": [1, 8, 6]},
            {"y": [1, 8, 12]},
            {"w": matrix.T.copy(), "b": np.zeros(12, np.float32)},
        ),
        [{"x": positive((1, 8, 6))} for _ in range(16)],
        (0, 1),
    )


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("base", [ORT_X86_VNNI, TENSORRT], ids=lambda s: s.name)
def test_mean_error_of_rounded_weights_vanishes(build, node, base, per_channel):
    """With exact activations the mean output of every channel is the float one again."""
    scheme = replace(base, per_channel=per_channel)
    for name, model, feeds, axes in layers(build, node):
        calibration = calibrate(model, feeds)
        reference = outputs(model, feeds)

        def bias_of(candidate, reference=reference, feeds=feeds, axes=axes) -> np.ndarray:
            return np.abs((outputs(candidate, feeds) - reference).mean(axis=axes))

        plain = bias_of(quantize(model, calibration, scheme))
        corrected = bias_of(quantize(correct_biases(model, feeds, scheme), calibration, scheme))
        assert plain.max() > 0.1, name
        # what is left is the rounding of activations, which has no mean to speak of
        assert corrected.max() < 0.2 * plain.max(), name


def test_model_is_not_modified_and_the_face_stays(hybrid, feeds):
    before = ir.to_proto(hybrid).SerializeToString(deterministic=True)
    corrected = correct_biases(hybrid, feeds, TENSORRT)
    assert ir.to_proto(hybrid).SerializeToString(deterministic=True) == before
    assert [v.name for v in corrected.graph.outputs] == ["y"]
    calibration = calibrate(hybrid, feeds)
    assert np.isfinite(outputs(quantize(corrected, calibration, TENSORRT), feeds)).all()
