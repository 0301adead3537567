"""Channels that are the same for every input: found, folded, and nothing changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edgec.export.emit.c.constant_channels import without_constant_channels
from edgec.export.tflite import Model, Operator, Quantization, Subgraph, Tensor
from edgec.export.tflite.reference.executor import run

AGREE = "edgec self-test: 3 samples agree\n"
CONV: dict[str, Any] = {"padding": "SAME", "stride_w": 1, "stride_h": 1}


def chain(seed: int, *, zero: int = -128, activation: str = "RELU", kernel: int = 1) -> Model:
    """Convolution → depthwise → convolution → pool → linear, with many constant channels."""
    rng = np.random.default_rng(seed)

    def act(name: str, *shape: int) -> Tensor:
        return Tensor(name, shape, "INT8", None, Quantization.per_tensor(0.05, zero))

    def weight(name: str, *shape: int, axis: int = 0) -> Tensor:
        data = rng.integers(-127, 128, shape, dtype=np.int8)
        count = shape[axis]
        scale = rng.choice([2e-3, 1e-9], count).astype(np.float32)
        return Tensor(
            name, shape, "INT8", data, Quantization(scale, np.zeros(count, np.int64), axis)
        )

    def bias(name: str, weights: Tensor) -> Tensor:
        assert weights.quantization is not None
        real = rng.normal(0, 3, weights.quantization.scale.size)
        steps = real / (0.05 * weights.quantization.scale)
        data = np.clip(steps, -(1 << 30), 1 << 30).astype(np.int32)
        return Tensor(name, data.shape, "INT32", data)

    layers = [
        weight("w0", 8, kernel, kernel, 3),
        weight("w1", 1, 3, 3, 8, axis=3),
        weight("w2", 9, kernel, kernel, 8),
        weight("w3", 5, 9),
    ]
    tensors = [
        act("x", 1, 6, 5, 3),
        act("a", 1, 6, 5, 8),
        act("b", 1, 6, 5, 8),
        act("c", 1, 6, 5, 9),
        act("d", 1, 1, 1, 9),
        act("y", 1, 5),
        *layers,
        *(bias(f"b{n}", layer) for n, layer in enumerate(layers)),
    ]
    options = CONV | {"fused_activation_function": activation}
    pool = {"padding": "VALID", "filter_height": 6, "filter_width": 5, "stride_h": 6, "stride_w": 5}
    operators = [
        Operator("CONV_2D", [0, 6, 10], [1], options),
        Operator("DEPTHWISE_CONV_2D", [1, 7, 11], [2], options | {"depth_multiplier": 1}),
        Operator("CONV_2D", [2, 8, 12], [3], options),
        Operator("AVERAGE_POOL_2D", [3], [4], pool),
        Operator("FULLY_CONNECTED", [4, 9, 13], [5]),
    ]
    return Model([Subgraph(tensors, [0], [5], operators)])


def channels(graph: Subgraph) -> list[int]:
    return [graph.tensors[i].shape[-1] for i in range(1, 5)]


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    "form", [{}, {"zero": 3}, {"zero": 3, "activation": "NONE"}, {"kernel": 3}], ids=str
)
def test_results_stay_the_same(
    form: dict[str, Any], seed: int, self_test: Callable[..., str]
) -> None:
    """The golden outputs are of the network with all of its channels."""
    model = chain(seed, **form)
    assert sum(channels(without_constant_channels(model.main))) < sum(channels(model.main))
    assert self_test(model, expected=lambda feeds: run(model, feeds)) == AGREE


def test_a_channel_that_padding_changes_stays() -> None:
    """A constant beside the zero point is no constant at the border of a padded window."""
    model = chain(1, zero=3, activation="NONE", kernel=3)
    assert channels(without_constant_channels(model.main))[0] == 8


def test_outputs_and_their_channels_stay() -> None:
    model = chain(0)
    graph = model.main
    graph.outputs = [5, 3]
    assert channels(without_constant_channels(graph))[2] == 9


def test_channels_that_others_add_stay() -> None:
    graph = chain(0).main
    graph.tensors.append(Tensor("s", (1, 6, 5, 8), "INT8", None, graph.tensors[1].quantization))
    graph.operators.insert(2, Operator("ADD", [1, 2], [14]))
    graph.operators[3].inputs[0] = 14
    assert channels(without_constant_channels(graph))[:2] == [8, 8]


def test_a_network_without_them_is_left_alone() -> None:
    graph = chain(0, zero=3, activation="NONE").main
    for tensor in graph.tensors[6:10]:
        assert tensor.quantization is not None
        tensor.quantization.scale[:] = 2e-3
    for tensor in graph.tensors[10:]:
        assert tensor.data is not None
        tensor.data[:] = 0
    assert without_constant_channels(graph) is graph
