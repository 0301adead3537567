"""Operands that are small beside a sum keep the graph in one part of XNNPACK."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from edgec.export.emit.tflite.delegates.partition import predict
from edgec.export.emit.tflite.flavour import LITERT
from edgec.export.emit.tflite.write import convert
from edgec.export.quantize.calibrate import calibrate
from edgec.export.quantize.insert import quantize
from edgec.export.quantize.scheme import TFLITE

BODY = (
    "a (float[1,3,6,8] x, float[1] w, float[1] c) => (y)"
    "{ n = Conv(x, w)  s = Add(n, c)  y = Conv(s, w) }"
)


def network(graph: Callable[..., Any], size: float) -> Any:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((3, 3, 1, 1)).astype(np.float32) * 20
    constant = rng.uniform(-size, size, (1, 3, 6, 8)).astype(np.float32)
    return graph(BODY, {"w": weight, "c": constant})


@pytest.mark.parametrize("size", [1e-3, 10.0])
def test_additions_stay_with_the_delegate(
    size: float, graph: Callable[..., Any], near: Callable[..., Any]
) -> None:
    file = near(network(graph, size), TFLITE, 1)
    assert len(predict(file.lowered.model.main, "xnnpack").parts) == 1


def test_other_readers_keep_the_grid(graph: Callable[..., Any]) -> None:
    model = network(graph, 1e-3)
    rng = np.random.default_rng(1)
    feeds = [{"x": rng.standard_normal((1, 3, 6, 8)).astype(np.float32)}]
    made = quantize(model, calibrate(model, feeds, method="minmax"), TFLITE)

    def scale(least_ratio: float | None) -> float:
        flavour = replace(LITERT, least_ratio=least_ratio)
        main = convert(made, precision="int8", flavour=flavour).lowered.model.main
        (add,) = [op for op in main.operators if op.code == "ADD"]
        parts = predict(main, "xnnpack").parts
        assert len(parts) == (2 if least_ratio is None else 1)
        constant, total = main.tensors[add.inputs[1]], main.tensors[add.outputs[0]]
        assert constant.quantization is not None
        assert total.quantization is not None
        return float(constant.quantization.scale[0] / total.quantization.scale[0])

    assert scale(None) < 2**-10
    assert 2**-10 <= scale(2**-10) <= 2**-8


def test_small_activations_are_brought_nearer(
    graph: Callable[..., Any], near: Callable[..., Any], written_again: Callable[..., Any]
) -> None:
    rng = np.random.default_rng(0)
    shape = (3, 3, 1, 1)
    weights = {
        "w": rng.standard_normal(shape).astype(np.float32) * 20,
        "v": rng.standard_normal(shape).astype(np.float32) * 1e-3,
    }
    body = "{ n = Conv(x, w)  m = Conv(x, v)  s = Add(n, m)  y = Conv(s, w) }"
    model = graph(f"a (float[1,3,6,8] x, float[1] w, float[1] v) => (y) {body}", weights)
    file = near(model, TFLITE, 1)  # predicted as LiteRT divides it
    main = file.lowered.model.main
    assert len(predict(main, "xnnpack").parts) == 1
    (add,) = [op for op in main.operators if op.code == "ADD"]
    scales = [main.tensors[i].quantization.scale[0] for i in (*add.inputs, *add.outputs)]
    assert min(scales[:2]) >= 2**-10 * scales[2]
    assert file.lowered.requantizations == 1
    written_again(model)
