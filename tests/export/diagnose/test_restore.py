"""Nodes back in float: all of them give the float network, none the quantized one."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgec.export.diagnose.restore import restored
from edgec.export.quantize.bias_correction import correct_biases
from edgec.export.quantize.calibrate import calibrate
from edgec.export.quantize.graph import prepared_copy
from edgec.export.quantize.insert import quantize
from edgec.export.quantize.scheme import get_scheme
from edgec.runtime.onnx_runner import OnnxRunner

SCHEMES = ("ort-x86", "tensorrt")


@pytest.fixture(scope="module", params=SCHEMES)
def pair(request: Any, tiny_onnx: Any) -> tuple[ir.Model, ir.Model, list[dict[str, Any]]]:
    """(float graph, Q/DQ form with corrected biases, inputs)."""
    rng = np.random.default_rng(0)
    feeds = [{"image": rng.standard_normal((1, 3, 16, 16), np.float32)} for _ in range(8)]
    master = prepared_copy(ir.from_proto(onnx.load(tiny_onnx)))
    scheme = get_scheme(request.param)
    calibration = calibrate(master, feeds)
    return master, quantize(correct_biases(master, feeds, scheme), calibration, scheme), feeds


def outputs(model: ir.Model, feeds: list[dict[str, Any]]) -> list[Any]:
    data = ir.to_proto(model)
    onnx.checker.check_model(data)
    runner = OnnxRunner(data.SerializeToString(), emulate=True)
    return [next(iter(runner.run(feed).values())) for feed in feeds]


def test_all_nodes_restored_is_the_float_network(pair: Any) -> None:
    master, quantized, feeds = pair
    names = [str(node.name) for node in master.graph]
    for got, want in zip(
        outputs(restored(quantized, master, names), feeds), outputs(master, feeds), strict=True
    ):
        np.testing.assert_array_equal(got, want)


def test_nothing_restored_is_the_quantized_network(pair: Any) -> None:
    master, quantized, feeds = pair
    before = ir.to_proto(quantized).SerializeToString()
    for got, want in zip(
        outputs(restored(quantized, master, []), feeds), outputs(quantized, feeds), strict=True
    ):
        np.testing.assert_array_equal(got, want)
    assert ir.to_proto(quantized).SerializeToString() == before


def test_every_single_node_keeps_the_interface(pair: Any) -> None:
    master, quantized, feeds = pair
    floats, integers = outputs(master, feeds), outputs(quantized, feeds)
    assert any((a != b).any() for a, b in zip(floats, integers, strict=True))
    changed = 0
    for node in master.graph:
        model = restored(quantized, master, [str(node.name)])
        assert [v.name for v in model.graph.outputs] == [v.name for v in master.graph.outputs]
        changed += any((a != b).any() for a, b in zip(outputs(model, feeds), integers, strict=True))
    assert changed >= 3  # the weighted nodes at least
