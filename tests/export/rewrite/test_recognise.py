"""GELU, LayerNormalization and L2 normalisation, spelled out in every way seen in the wild."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgec.export.rewrite.recognise.gelu import RecogniseGelu
from edgec.export.rewrite.recognise.l2_norm import RecogniseL2Norm
from edgec.export.rewrite.recognise.layer_norm import RecogniseLayerNorm

ERF = {
    "mul_x_then_half": "t = Mul(x, s) y = Mul(t, half)",
    "half_first": "t = Mul(x, half) y = Mul(t, s)",
    "half_commuted": "t = Mul(half, x) y = Mul(s, t)",
    "half_on_sum": "t = Mul(half, s) y = Mul(t, x)",
}


@pytest.mark.parametrize("tail", ERF.values(), ids=ERF.keys())
@pytest.mark.parametrize("argument", ["a = Div(x, r2)", "a = Mul(x, i2)"])
@pytest.mark.parametrize("total", ["s = Add(e, one)", "s = Add(one, e)"])
def test_erf_gelu(build: Any, run_passes: Any, tail: str, argument: str, total: str) -> None:
    model = build(
        f"""g (float[2, 6] x) => (float[2, 6] y)
        <float r2 = {{1.4142135}}, float i2 = {{0.70710677}}, float one = {{1.0}},
         float half = {{0.5}}>
        {{ {argument} e = Erf(a) {total} {tail} }}"""
    )
    outcome = run_passes(model, [RecogniseGelu])
    assert outcome.after == {"Gelu": 1}


@pytest.mark.parametrize("cube", ["p = Pow(x, three)", "p2 = Mul(x, x) p = Mul(x, p2)"])
def test_tanh_gelu(build: Any, run_passes: Any, cube: str) -> None:
    model = build(
        f"""g (float[2, 6] x) => (float[2, 6] y)
        <float three = {{3.0}}, float c = {{0.044715}}, float r = {{0.7978845608}},
         float one = {{1.0}}, float half = {{0.5}}>
        {{ {cube} q = Mul(c, p) b = Add(x, q) i = Mul(r, b) t = Tanh(i) s = Add(one, t)
           h = Mul(half, x) y = Mul(h, s) }}"""
    )
    outcome = run_passes(model, [RecogniseGelu])
    assert outcome.after == {"Gelu": 1}
    assert outcome.model.graph[0].attributes["approximate"].as_string() == "tanh"


@pytest.mark.parametrize(
    ("r2", "one", "half"), [(1.5, 1.0, 0.5), (1.4142135, 0.9, 0.5), (1.4142135, 1.0, 0.25)]
)
def test_similar_formula_is_not_gelu(
    build: Any, run_passes: Any, r2: float, one: float, half: float
) -> None:
    model = build(
        f"""g (float[2, 6] x) => (float[2, 6] y)
        <float r2 = {{{r2}}}, float one = {{{one}}}, float half = {{{half}}}>
        {{ a = Div(x, r2) e = Erf(a) s = Add(e, one) t = Mul(x, s) y = Mul(t, half) }}"""
    )
    assert run_passes(model, [RecogniseGelu]).matches == 0


def test_gelu_with_second_reader_of_the_erf_is_kept(build: Any, run_passes: Any) -> None:
    model = build(
        """g (float[2, 6] x) => (float[2, 6] y, float[2, 6] e)
        <float r2 = {1.4142135}, float one = {1.0}, float half = {0.5}>
        { a = Div(x, r2) e = Erf(a) s = Add(e, one) t = Mul(x, s) y = Mul(t, half) }"""
    )
    assert run_passes(model, [RecogniseGelu]).matches == 0


LN_SQUARES = {
    "pow": "q = Pow(d, two)",
    "mul": "q = Mul(d, d)",
    "twice": "d2 = Sub(x, m) q = Pow(d2, two)",
}
LN_DIVISIONS = {"div": "n = Div(d, s)", "reciprocal": "i = Reciprocal(s) n = Mul(d, i)"}


@pytest.mark.parametrize("square", LN_SQUARES.values(), ids=LN_SQUARES.keys())
@pytest.mark.parametrize("division", LN_DIVISIONS.values(), ids=LN_DIVISIONS.keys())
@pytest.mark.parametrize(
    "tail", ["w = Mul(g, n) y = Add(w, b)", "w = Mul(n, g) y = Identity(w)", "y = Identity(n)"]
)
def test_layer_norm(
    build: Any, run_passes: Any, rng: np.random.Generator, square: str, division: str, tail: str
) -> None:
    weights = {k: rng.standard_normal(5).astype(np.float32) for k in "gb"}
    model = build(
        f"""net (float[2, 3, 5] x, float[5] g, float[5] b) => (float[2, 3, 5] y)
        <int64[1] axes = {{-1}}, float two = {{2.0}}, float eps = {{0.001}}>
        {{ m = ReduceMean(x, axes) d = Sub(x, m) {square} v = ReduceMean(q, axes)
           e = Add(v, eps) s = Sqrt(e) {division} {tail} }}""",
        weights,
    )
    outcome = run_passes(model, [RecogniseLayerNorm])
    assert outcome.after["LayerNormalization"] == 1
    assert not outcome.after.keys() - {"LayerNormalization", "Identity"}


def test_channels_first_layer_norm_goes_between_transposes(
    build: Any, run_passes: Any, rng: np.random.Generator
) -> None:
    weights = {k: rng.standard_normal((6, 1, 1)).astype(np.float32) for k in "gb"}
    model = build(
        """net (float[2, 6, 3, 4] x, float[6, 1, 1] g, float[6, 1, 1] b) => (float[2, 6, 3, 4] y)
        <int64[1] axes = {1}, float two = {2.0}, float eps = {0.000001}>
        { m = ReduceMean(x, axes) d = Sub(x, m) q = Pow(d, two) v = ReduceMean(q, axes)
          e = Add(v, eps) s = Sqrt(e) n = Div(d, s) w = Mul(g, n) y = Add(w, b) }""",
        weights,
    )
    outcome = run_passes(model, [RecogniseLayerNorm])
    assert outcome.after == {"LayerNormalization": 1, "Transpose": 2}


@pytest.mark.parametrize(
    "body",
    [
        "m = ReduceMean(z, axes) d = Sub(x, m) q = Pow(d, two) v = ReduceMean(q, axes)",
        "m = ReduceMean(x, axes) d = Sub(x, m) q = Pow(d, three) v = ReduceMean(q, axes)",
        "m = ReduceMean(x, axes) d = Sub(x, m) q = Pow(z, two) v = ReduceMean(q, axes)",
        "m = ReduceMean(x, axes) d = Sub(x, m) q = Pow(d, two) v = ReduceMean(q, both)",
    ],
    ids=["mean of another tensor", "cube", "square of another tensor", "other axes"],
)
def test_similar_formula_is_no_layer_norm(build: Any, run_passes: Any, body: str) -> None:
    model = build(
        f"""net (float[2, 3, 5] x, float[2, 3, 5] z) => (float[2, 3, 5] y)
        <int64[1] axes = {{2}}, int64[2] both = {{1, 2}}, float two = {{2.0}},
         float three = {{3.0}}, float eps = {{10.0}}>
        {{ {body} a = Abs(v) e = Add(a, eps) s = Sqrt(e) y = Div(d, s) }}"""
    )
    assert run_passes(model, [RecogniseLayerNorm]).matches == 0


@pytest.mark.parametrize("clamp", ["c = Clip(n, eps)", "c = Max(n, eps)"])
@pytest.mark.parametrize("expand", [True, False])
@pytest.mark.parametrize("axis", [-1, 1])
def test_l2_norm(build: Any, run_passes: Any, clamp: str, expand: bool, axis: int) -> None:
    tail = "f = Expand(c, shape) y = Div(x, f)" if expand else "y = Div(x, c)"
    model = build(
        f"""g (float[2, 3, 5] x) => (float[2, 3, 5] y)
        <int64[1] axes = {{{axis}}}, float eps = {{1e-12}}, int64[3] shape = {{2, 3, 5}}>
        {{ n = ReduceL2(x, axes) {clamp} {tail} }}"""
    )
    assert run_passes(model, [RecogniseL2Norm]).after == {"LpNormalization": 1}


@pytest.mark.parametrize(
    ("axes", "eps", "keepdims"), [("-1", 0.1, 1), ("1, 2", 1e-12, 1)], ids=["epsilon", "two axes"]
)
def test_l2_norm_refuses(build: Any, run_passes: Any, axes: str, eps: float, keepdims: int) -> None:
    n = axes.count(",") + 1
    model = build(
        f"""g (float[2, 3, 5] x) => (float[2, 3, 5] y)
        <int64[{n}] axes = {{{axes}}}, float eps = {{{eps}}}>
        {{ n = ReduceL2<keepdims={keepdims}>(x, axes) c = Clip(n, eps) y = Div(x, c) }}"""
    )
    assert run_passes(model, [RecogniseL2Norm]).matches == 0
