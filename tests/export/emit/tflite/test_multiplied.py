"""Depthwise convolutions with several filters per channel: divided where that is faster."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edgec.export.emit.tflite.delegates.partition import predict
from edgec.export.emit.tflite.flavour import INTEGER, flavour_for
from edgec.export.emit.tflite.write import convert
from edgec.export.quantize.scheme import TFLITE
from edgec.export.tflite.model import Model

SHUFFLE = (
    " r = Constant<value_ints=[1,8,{m},5,6]>()  o = Constant<value_ints=[1,{n},5,6]>()"
    "  s = Reshape(d, r)  t = Transpose<perm=[0,2,1,3,4]>(s)  f = Reshape(t, o)"
)


def network(graph: Callable[..., Any], count: int, *, shuffled: bool = True) -> Any:
    """x of 8 channels → `count` filters of 3x3 for each, RELU6 → channel shuffle → 1x1."""
    rng = np.random.default_rng(0)
    channels = 8 * count
    weights = {
        "w": rng.standard_normal((channels, 1, 3, 3)).astype(np.float32),
        "b": rng.standard_normal(channels).astype(np.float32),
        "v": rng.standard_normal((4, channels, 1, 1)).astype(np.float32),
    }
    body = (
        "l = Constant<value_float=0.0>()  h = Constant<value_float=6.0>()"
        "  c = Conv<group=8, strides=[2,2], pads=[1,1,1,1]>(x, w, b)  d = Clip(c, l, h)"
    )
    body += SHUFFLE.format(m=count, n=channels) if shuffled else "  f = Identity(d)"
    heads = ", ".join(f"float[1] {name}" for name in weights)
    return graph(f"a (float[1,8,10,11] x, {heads}) => (y) {{ {body}  y = Conv(f, v) }}", weights)


def depthwise(model: Model) -> list[int]:
    """Filters per channel of each depthwise convolution."""
    found = [op for op in model.main.operators if op.code == "DEPTHWISE_CONV_2D"]
    return [int(op.options["depth_multiplier"]) for op in found]


@pytest.mark.parametrize("delegates", [(), ("gpu",)])
def test_the_gpu_delegate_takes_one_filter(
    graph: Callable[..., Any], same: Callable[..., Any], delegates: tuple[str, ...]
) -> None:
    model = network(graph, 6, shuffled=False)
    file = same(model, flavour=flavour_for("tflite", "litert", delegates))
    assert depthwise(file.lowered.model) == ([1] * 6 if delegates else [6])
    parts = predict(file.lowered.model.main, "gpu", file.lowered.modules).parts
    assert len(parts) == (1 if delegates else 2)


@pytest.mark.parametrize("shuffled", [True, False])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_float(
    count: int,
    shuffled: bool,
    graph: Callable[..., Any],
    same: Callable[..., Any],
    written_again: Callable[..., Any],
) -> None:
    model = network(graph, count, shuffled=shuffled)
    file = same(model)
    assert depthwise(file.lowered.model) == [1] * count
    # the shuffle brings together again what dividing has put apart
    assert file.lowered.operators.get("TRANSPOSE", 0) == (count > 1 and not shuffled)
    if count == 2:
        written_again(model)


@pytest.mark.parametrize("count", [3, 6])
def test_integers(count: int, graph: Callable[..., Any], near: Callable[..., Any]) -> None:
    file = near(network(graph, count), TFLITE, 1)
    assert depthwise(file.lowered.model) == [1] * count
    assert "TRANSPOSE" not in file.lowered.operators


def test_what_is_faster_whole_stays(graph: Callable[..., Any], same: Callable[..., Any]) -> None:
    assert depthwise(same(network(graph, 6)).lowered.model) == [6]
    # runtimes with kernels for it
    file = convert(network(graph, 2), flavour=INTEGER)
    assert depthwise(file.lowered.model) == [2]


def test_a_pad_of_the_image_is_left_to_the_delegate(
    graph: Callable[..., Any], same: Callable[..., Any]
) -> None:
    rng = np.random.default_rng(0)
    weight = {"w": rng.standard_normal((4, 3, 3, 3)).astype(np.float32)}
    text = (
        "a (float[1,3,8,8] x, float[1] w) => (y) { y = Conv<strides=[2,2], pads=[1,1,1,1]>(x, w) }"
    )
    model = graph(text, weight)
    kernels = {}
    for name, flavour in (("litert", None), ("integer", INTEGER)):
        file = same(model) if flavour is None else same(model, flavour=flavour)
        (op,) = [op for op in file.lowered.model.main.operators if op.code == "CONV_2D"]
        kernels[name] = file.lowered.model.main.tensors[op.inputs[1]].shape[1:3]
        assert ("PAD" in file.lowered.operators) == (flavour is None)
    assert kernels == {"litert": (3, 3), "integer": (4, 4)}
