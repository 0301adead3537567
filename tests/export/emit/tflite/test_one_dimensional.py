"""Operators over one axis: as images of one row, equal in float and int8."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from edgec.export.quantize.scheme import TFLITE_FULL

RNG = np.random.default_rng(11)
HEAD = "a (float[1,4,12] x, float[1] w, float[1] d, float[1] b) => (y)"
WEIGHTS = {
    "w": (RNG.standard_normal((4, 4, 3)) / 3).astype(np.float32),
    "d": (RNG.standard_normal((4, 1, 3)) / 2).astype(np.float32),
    "b": RNG.standard_normal(4).astype(np.float32),
}
FORMS = {
    "convolution": "y = Conv<pads=[1,1]>(x, w, b)",
    "same padding": 'y = Conv<auto_pad="SAME_UPPER", strides=[2]>(x, w, b)',
    "depthwise": "y = Conv<group=4, pads=[2,0], strides=[2]>(x, d, b)",
    "chain": "n = Conv<pads=[1,1]>(x, w, b)  r = Relu(n)  y = Conv<group=4, pads=[1,1]>(r, d)",
    "residual": "n = Conv<pads=[1,1]>(x, w, b)  y = Add(n, x)",
    "maximum": "n = Conv(x, w, b)  y = MaxPool<kernel_shape=[3], strides=[2], pads=[1,1]>(n)",
}
FLOAT_FORMS = FORMS | {
    "transposed": "y = ConvTranspose<strides=[2], pads=[1,0], output_padding=[1]>(x, w, b)",
    "average": "y = AveragePool<kernel_shape=[2], strides=[2]>(x)",
    "norm": "n = Conv(x, w, b)  y = InstanceNormalization(n, b, b)",
    "to the end": "n = Conv(x, w, b)  y = GlobalAveragePool(n)",
}


@pytest.mark.parametrize("name", FLOAT_FORMS)
def test_form(name: str, graph: Callable[..., Any], same: Callable[..., Any]) -> None:
    same(graph(f"{HEAD} {{ {FLOAT_FORMS[name]} }}", WEIGHTS))


@pytest.mark.parametrize("name", FORMS)
def test_form_on_integers(name: str, graph: Callable[..., Any], near: Callable[..., Any]) -> None:
    file = near(graph(f"{HEAD} {{ {FORMS[name]} }}", WEIGHTS), TFLITE_FULL, 2)
    floats = [t for t in file.lowered.model.main.tensors if t.dtype == "FLOAT32"]
    assert len(floats) == 2, "only the ends are float"


def test_nothing_moves_between_two_of_them(
    graph: Callable[..., Any], same: Callable[..., Any]
) -> None:
    file = same(graph(f"{HEAD} {{ {FORMS['chain']} }}", WEIGHTS))
    operators = file.lowered.operators
    # one change of layout at each end, in whatever form
    assert operators.get("TRANSPOSE", 0) + operators.get("RESHAPE", 0) <= 4
    assert operators["CONV_2D"] == operators["DEPTHWISE_CONV_2D"] == 1
    assert "RELU" not in operators


def test_efficient_channel_attention(graph: Callable[..., Any], same: Callable[..., Any]) -> None:
    """The convolution over channels of ECA-Net (arXiv 1910.03151), as PyTorch writes it."""
    text = """a (float[1,6,5,5] x, float[1] w) => (y) {
        p = GlobalAveragePool(x)
        s = Constant<value_ints=[1,1,6]>()  v = Reshape(p, s)
        c = Conv<pads=[1,1]>(v, w)  g = Sigmoid(c)
        t = Constant<value_ints=[1,6,1,1]>()  h = Reshape(g, t)
        y = Mul(x, h) }"""
    same(graph(text, {"w": RNG.standard_normal((1, 1, 3)).astype(np.float32)}))


@given(
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(1, 3),
    st.tuples(st.integers(0, 2), st.integers(0, 2)),
    st.integers(1, 2),
    st.booleans(),
)
@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_convolution(
    graph: Callable[..., Any],
    same: Callable[..., Any],
    channels: int,
    kernel: int,
    stride: int,
    pads: tuple[int, int],
    dilation: int,
    depthwise: bool,
) -> None:
    assume(all(p < kernel for p in pads))
    groups = channels if depthwise else 1
    attributes = f"group={groups}, strides=[{stride}], dilations=[{dilation}]"
    attributes += f", pads=[{pads[0]},{pads[1]}]"
    text = f"a (float[2,{channels},9] x, float[1] w) => (y) {{ y = Conv<{attributes}>(x, w) }}"
    weight = RNG.standard_normal((2 * groups, channels // groups, kernel)).astype(np.float32)
    same(graph(text, {"w": weight}))


def test_computed_weights_are_refused(graph: Callable[..., Any], same: Callable[..., Any]) -> None:
    from edgec.export.errors import UnsupportedError

    text = "a (float[1,4,12] x, float[1] w) => (y) { v = Softmax<axis=2>(x)"
    text += "  s = Constant<value_ints=[4,4,3]>()  k = Reshape(v, s)  y = Conv(x, k) }"
    with pytest.raises(UnsupportedError, match="its weights are computed"):
        same(graph(text.replace(", float[1] w", "")))
