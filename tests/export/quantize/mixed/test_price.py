"""Predicted time of blocks, on a network of the size that latencies were measured of."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgec.export.errors import UnsupportedError
from edgec.export.quantize.calibrate import calibrate
from edgec.export.quantize.graph import prepared_copy
from edgec.export.quantize.insert import quantize
from edgec.export.quantize.mixed.price import predicted_on
from edgec.export.quantize.plan import plan_quantization
from edgec.export.quantize.rounding.blocks import find_blocks
from edgec.export.quantize.scheme import ORT_ARM
from edgec.profiles.from_graph import graph_layers
from edgec.profiles.latency.target import predict_for
from edgec.targets.registry import get_target

PRECISIONS = ("float", "int8")
WIDTHS = ((32, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2), (256, 256, 1), (256, 512, 2))


@pytest.fixture(scope="module")
def network() -> ir.Model:
    """Depthwise separable convolutions on 112 x 112 pixels and fewer."""
    rng = np.random.default_rng(0)
    nodes, weights, value = [], [], "x"

    def convolution(number: int, shape: tuple[int, ...], stride: int, groups: int) -> None:
        nonlocal value
        kernel = shape[-1]
        array = (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
        weights.append(numpy_helper.from_array(array, f"w{number}"))
        pads = [kernel // 2] * 4
        attributes = {"strides": [stride] * 2, "pads": pads, "group": groups}
        names = [value, f"w{number}"], [f"c{number}"]
        nodes.append(helper.make_node("Conv", *names, f"conv{number}", **attributes))
        nodes.append(helper.make_node("Relu", [f"c{number}"], [f"r{number}"], f"relu{number}"))
        value = f"r{number}"

    convolution(0, (32, 3, 3, 3), 2, 1)
    for number, (wide, out, stride) in enumerate(WIDTHS):
        convolution(2 * number + 1, (wide, 1, 3, 3), stride, wide)
        convolution(2 * number + 2, (out, wide, 1, 1), 1, 1)
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 224, 224])
    output = helper.make_tensor_value_info(value, TensorProto.FLOAT, [1, 512, 14, 14])
    graph = helper.make_graph(nodes, "separable", [image], [output], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return prepared_copy(ir.from_proto(model))


@pytest.fixture(scope="module")
def integers(network: ir.Model) -> ir.Model:
    feeds = [{"x": np.random.default_rng(1).random((1, 3, 224, 224), np.float32)}]
    return quantize(network, calibrate(network, feeds), ORT_ARM)


def blocks_of(network: ir.Model) -> tuple:
    return find_blocks(network, plan_quantization(network, ORT_ARM))


def test_blocks_add_up_to_the_predictions(network: ir.Model, integers: ir.Model) -> None:
    target, blocks = get_target("raspberry-pi-5"), blocks_of(network)
    prices = predicted_on(target)(network, integers, blocks, PRECISIONS)
    assert len(prices.blocks) == len(blocks) > 2
    for precision, stored, graph in (("float", "fp32", network), ("int8", "int8", integers)):
        whole = predict_for(graph_layers(graph), stored, target)
        assert whole.latency_ms is not None, whole.refused
        assert sum(b[precision] for b in prices.blocks) == pytest.approx(whole.latency_ms)
        low, high = prices.interval((precision,) * len(blocks))
        assert (low, high) == pytest.approx((whole.low_ms, whole.high_ms))
        assert f"{stored}: {whole.basis}" in prices.basis
    mixed = ("float", *("int8",) * (len(blocks) - 1))
    low, high = prices.interval(mixed)
    middle = sum(b[p] for b, p in zip(prices.blocks, mixed, strict=True))
    assert low < middle < high


def test_every_block_that_computes_takes_time(network: ir.Model, integers: ir.Model) -> None:
    prices = predicted_on(get_target("raspberry-pi-4"))(
        network, integers, blocks_of(network), PRECISIONS
    )
    assert all(time > 0 for block in prices.blocks for time in block.values())


@pytest.mark.parametrize("name", ["jetson-orin-nano-jp6.2", "stm32h743", "pixel-android"])
def test_devices_without_predictions_are_refused(
    network: ir.Model, integers: ir.Model, name: str
) -> None:
    with pytest.raises(UnsupportedError, match="EC397") as caught:
        predicted_on(get_target(name))(network, integers, blocks_of(network), PRECISIONS)
    assert name in caught.value.what
    assert "--max-drop" in str(caught.value.fix)
