"""Clipped weight scales: less error where it counts, for every layout of weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from edgec.export.quantize.calibrate import calibrate
from edgec.export.quantize.clip import clipped_scales
from edgec.export.quantize.insert import quantize
from edgec.export.quantize.learned import LearnedWeight
from edgec.export.quantize.scheme import ORT_X86_VNNI, TFLITE_FULL, QuantScheme
from edgec.export.quantize.sensitivity.measured import run
from edgec.export.quantize.weights import quantize_weight

FOUR, EIGHT = ORT_X86_VNNI.with_bits(4, 8), ORT_X86_VNNI
Feeds = list[dict[str, np.ndarray]]

# input shape, output shape, weight shape, channel axis of the input, of the weight's scales, and
# what makes the node
CHAINS: dict[str, tuple[list[int], list[int], tuple[int, ...], int, int, dict[str, Any]]] = {
    "Conv": ([1, 8, 8, 8], [1, 6, 6, 6], (6, 8, 3, 3), 1, 0, {}),
    "grouped Conv": ([1, 8, 8, 8], [1, 6, 6, 6], (6, 4, 3, 3), 1, 0, {"group": 2}),
    "ConvTranspose": ([1, 8, 8, 8], [1, 6, 10, 10], (8, 6, 3, 3), 1, 1, {}),
    "Gemm": ([16, 8], [16, 6], (6, 8), 1, 0, {"transB": 1}),
    "flat Gemm": ([16, 8], [16, 6], (8, 6), 1, 1, {}),
    "MatMul": ([16, 8], [16, 6], (8, 6), 1, 1, {}),
}


def layer(build: Any, node: Any, name: str) -> tuple[ir.Model, Feeds, np.ndarray, QuantScheme]:
    """One layer with a few large weights, whose input channels differ a hundredfold in size."""
    inputs, outputs, shape, channels, _, attributes = CHAINS[name]
    rng = np.random.default_rng(1)
    weight = rng.standard_t(3, shape).astype(np.float32)
    nodes = [node(name.split()[-1], ["x", "w"], ["y"], **attributes)]
    model = build(nodes, {"x": inputs}, {"y": outputs}, {"w": weight}, opset=20)
    size = np.full([inputs[channels] if a == channels else 1 for a in range(len(inputs))], 0.1)
    size[(0, 2) if len(inputs) == 2 else (0, 2, 0, 0)] = 10.0
    feeds = [
        {"x": (rng.standard_normal(inputs) * size).astype(np.float32)} for _ in range(4)
    ]  # fmt: skip
    return model, feeds, weight, TFLITE_FULL.with_bits(4, 8) if "Trans" in name else FOUR


def error(model: ir.Model, feeds: Feeds, scheme: QuantScheme, scales: Any, axis: int) -> float:
    learned = {("w", axis): LearnedWeight(None, scales)}
    made = quantize(model, calibrate(model, feeds), scheme, learned=learned)
    return float(((run(made, feeds)[0] - run(model, feeds)[0]) ** 2).mean())


@pytest.mark.parametrize("name", CHAINS)
def test_the_output_errs_less(build: Any, node: Any, name: str) -> None:
    model, feeds, weight, scheme = layer(build, node, name)
    axis = CHAINS[name][4]
    (found,) = clipped_scales(model, feeds, scheme).items()
    assert found[0] == ("w", axis)
    assert found[1].integers is None
    errors = [
        error(model, feeds, scheme, scales, axis)
        for scales in (
            quantize_weight(weight, axis, limit=7)[1],
            quantize_weight(weight, axis, limit=7, rule="mse")[1],
            found[1].scales,
        )
    ]
    # the plain squares do not know which inputs are large
    assert errors[2] < 0.97 * min(errors[:2])


def test_what_stays_float_and_channels_without_input(build: Any, node: Any) -> None:
    rng = np.random.default_rng(0)
    constants = {name: rng.standard_normal((8, 8)).astype(np.float32) for name in "vw"}
    nodes = [node("MatMul", ["x", "v"], ["h"]), node("MatMul", ["h", "w"], ["y"])]
    model = build(nodes, {"x": [4, 8]}, {"y": [4, 8]}, constants)
    feeds = [{"x": np.zeros((4, 8), np.float32)}]
    assert set(clipped_scales(model, feeds, FOUR, exclude=("node_y",))) == {("v", 1)}
    silent = clipped_scales(model, feeds, FOUR)[("w", 1)].scales
    np.testing.assert_allclose(silent, quantize_weight(constants["w"], 1, rule="mse", limit=7)[1])
