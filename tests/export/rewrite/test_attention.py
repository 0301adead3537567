"""Attention of every kind: found, told apart, and its scale brought to one place."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgec.export.rewrite.canonicalise.share_common import ShareCommon
from edgec.export.rewrite.fold.affine_backward import FoldAffineBackward
from edgec.export.rewrite.fold.attention_scale import PlaceAttentionScale
from edgec.export.rewrite.recognise.attention import RecogniseAttention
from edgec.export.rewrite.recognise.patterns import counts, patterns
from edgec.export.rewrite.recognise.separable_attention import RecogniseSeparableAttention


def f32(seed: int, *shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


SCALES = {
    "none": ("", "", ""),
    "q": ("q4 = Mul(q3, scale)", "", ""),
    "k": ("", "k4 = Mul(scale, k3)", ""),
    "product": ("", "", "s2 = Mul(s1, scale)"),
    "quotient": ("", "", "s2 = Div(s1, inverse)"),
    "both": ("q4 = Mul(q3, root)", "k4 = Mul(k3, root)", ""),
    "all": ("q4 = Div(q3, inverse)", "k4 = Mul(k3, root)", "s2 = Mul(root, s1)"),
}


def tokens(
    build: Any, shape: tuple[int, int, int], head: int, scale: str, *, bias: bool, seed: int
) -> Any:
    """Self-attention of (batch, tokens, channels) with projections; `head` channels per head."""
    n, t, c = shape
    h = c // head
    on_q, on_k, on_s = SCALES[scale]
    q, k = "q4" if on_q else "q3", "k4" if on_k else "k3"
    s = "s2" if on_s else "s1"
    biased = f"s3 = Add({s}, bias)" if bias else f"s3 = Identity({s})"
    weights = {f"w{i}": f32(seed + j, c, c) for j, i in enumerate("qkv")}
    weights |= {f"b{i}": f32(seed + 5 + j, c) for j, i in enumerate("qkv")}
    weights["bias"] = f32(seed + 9, h, t, t)
    projections = " ".join(
        f"{i}0 = MatMul(x, w{i}) {i}1 = Add({i}0, b{i}) {i}2 = Reshape({i}1, split)" for i in "qkv"
    )
    return build(
        f"""net (float[{n}, {t}, {c}] x, {", ".join(f"float[{c}, {c}] w{i}" for i in "qkv")},
              {", ".join(f"float[{c}] b{i}" for i in "qkv")}, float[{h}, {t}, {t}] bias)
             => (float[{n}, {t}, {c}] y)
        <int64[4] split = {{{n}, {t}, {h}, {head}}}, int64[3] joined = {{{n}, {t}, {c}}},
         float scale = {{{head**-0.5}}}, float inverse = {{{head**0.5}}},
         float root = {{{head**-0.25}}}>
        {{ {projections}
           q3 = Transpose<perm=[0, 2, 1, 3]>(q2) k3 = Transpose<perm=[0, 2, 3, 1]>(k2)
           v3 = Transpose<perm=[0, 2, 1, 3]>(v2) {on_q} {on_k}
           s1 = MatMul({q}, {k}) {on_s} {biased} p = Softmax<axis=-1>(s3) o = MatMul(p, v3)
           o2 = Transpose<perm=[0, 2, 1, 3]>(o) y = Reshape(o2, joined) }}""",
        weights,
    )


@settings(max_examples=15, deadline=None)
@given(
    st.tuples(st.integers(1, 2), st.integers(2, 6), st.sampled_from([4, 8])),
    st.sampled_from([2, 4]),
    st.sampled_from(sorted(SCALES)),
    st.booleans(),
    st.integers(0, 99),
)
def test_scale_folds_wherever_it_sits(
    build: Any,
    run_passes: Any,
    shape: tuple[int, int, int],
    head: int,
    scale: str,
    bias: bool,
    seed: int,
) -> None:
    model = tokens(build, shape, head, scale, bias=bias, seed=seed)
    outcome = run_passes(model, [RecogniseAttention, FoldAffineBackward, PlaceAttentionScale])
    assert not outcome.after.keys() & {"Mul", "Div"}
    (found,) = patterns(outcome.model)
    assert found.kind == "attention"
    facts = found.facts
    assert (facts["heads"], facts["queries"], facts["keys"]) == (shape[2] // head, *[shape[1]] * 2)
    assert (facts["key_channels"], facts["value_channels"], facts["windows"]) == (head, head, 1)
    assert len(found.inputs) == 3
    assert len(found.outputs) == 1


def windows(build: Any, sizes: tuple[int, int, int, int], *, close: bool, seed: int = 0) -> Any:
    """Window attention of a map, as EMOv2 writes it: (rows, columns, window, heads), 4 channels."""
    rows, columns, window, heads = sizes
    c, hw = 4 * heads, (rows * window, columns * window)
    if close:
        cut, perm = (c, rows, window, columns, window), [1, 3, 0, 2, 4]
    else:
        cut, perm = (c, window, rows, window, columns), [2, 4, 0, 1, 3]
    numbers = ", ".join(map(str, cut))
    parts = " ".join(
        f"{i}0 = Conv(x, w{i}, b{i}) {i}1 = Reshape({i}0, cut) {i}2 = Transpose<perm={perm}>({i}1) "
        f"{i}3 = Reshape({i}2, matrix)"
        for i in "qkv"
    )
    weights = {f"w{i}": f32(seed + j, c, c, 1, 1) for j, i in enumerate("qkv")}
    weights |= {f"b{i}": f32(seed + 5 + j, c) for j, i in enumerate("qkv")}
    n = rows * columns
    return build(
        f"""net (float[1, {c}, {hw[0]}, {hw[1]}] x,
              {", ".join(f"float[{c}, {c}, 1, 1] w{i}, float[{c}] b{i}" for i in "qkv")})
             => (float[{n}, {heads}, 4, {window**2}] y)
        <int64[5] cut = {{{numbers}}}, int64[4] matrix = {{{n}, {heads}, 4, {window**2}}}>
        {{ {parts} qt = Transpose<perm=[0, 1, 3, 2]>(q3) s = MatMul(qt, k3)
           p = Softmax<axis=-1>(s) pt = Transpose<perm=[0, 1, 3, 2]>(p) y = MatMul(v3, pt) }}""",
        weights,
    )


@settings(max_examples=12, deadline=None)
@given(
    st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(2, 3), st.integers(1, 2)),
    st.booleans(),
)
def test_windows_close_and_dilated(
    build: Any, run_passes: Any, sizes: tuple[int, int, int, int], close: bool
) -> None:
    outcome = run_passes(windows(build, sizes, close=close), [RecogniseAttention])
    (found,) = patterns(outcome.model)
    rows, columns, window, heads = sizes
    assert found.facts["heads"] == heads
    assert found.facts["queries"] == window**2
    if rows * columns == 1:  # one window over the whole map
        assert found.kind == "attention"
    else:
        assert (found.kind, found.facts["windows"]) == ("window_attention", rows * columns)
        assert found.facts["dilated"] is not close


XCA = """net (float[1, 8, 3, 4] x, {w}, float[2, 1, 1] t) => (float[1, 2, 4, 12] y)
    <int64[4] matrix = {{1, 2, 4, 12}}>
    {{ {parts} q = LpNormalization<axis=-1>(q1) k = LpNormalization<axis=-1>(k1)
       kt = Transpose<perm=[0, 1, 3, 2]>(k) {scores} p = Softmax<axis=-1>(s)
       y = MatMul(p, v1) }}"""


def cross_covariance(build: Any, scores: str) -> Any:
    weights = {f"w{i}": f32(j, 8, 8, 1, 1) for j, i in enumerate("qkv")}
    weights["t"] = f32(9, 2, 1, 1) + 3
    return build(
        XCA.format(
            w=", ".join(f"float[8, 8, 1, 1] w{i}" for i in "qkv"),
            parts=" ".join(f"{i}0 = Conv(x, w{i}) {i}1 = Reshape({i}0, matrix)" for i in "qkv"),
            scores=scores,
        ),
        weights,
    )


@pytest.mark.parametrize(
    "scores",
    ["s0 = MatMul(q, kt) s = Mul(s0, t)", "qs = Mul(q, t) s = MatMul(qs, kt)"],
    ids=["on the product", "on the queries"],
)
def test_cross_covariance(build: Any, run_passes: Any, scores: str) -> None:
    """Channels attend to channels; the temperature cannot go through the norm."""
    passes = [RecogniseAttention, FoldAffineBackward, PlaceAttentionScale]
    outcome = run_passes(cross_covariance(build, scores), passes)
    (found,) = patterns(outcome.model)
    assert found.kind == "cross_covariance_attention"
    assert (found.facts["heads"], found.facts["normalised"]) == (2, True)
    assert (found.facts["queries"], found.facts["key_channels"]) == (4, 12)
    assert outcome.after["Mul"] == 1


@settings(max_examples=10, deadline=None)
@given(st.integers(2, 9), st.integers(2, 9), st.integers(2, 9), st.sampled_from(sorted(SCALES)))
def test_scale_without_weights_goes_to_the_smallest_tensor(
    build: Any, run_passes: Any, queries: int, keys: int, channels: int, scale: str
) -> None:
    """Queries and keys that come from no linear operator, as pixels and tokens in Mobile-Former."""
    on_q, on_k, on_s = SCALES[scale]
    model = build(
        f"""net (float[1, 2, {queries}, {channels}] q3, float[1, 2, {channels}, {keys}] k3,
                 float[1, 2, {keys}, 3] v) => (float[1, 2, {queries}, 3] y)
        <float scale = {{0.3}}, float inverse = {{2.5}}, float root = {{0.7}}>
        {{ {on_q} {on_k} s1 = MatMul({"q4" if on_q else "q3"}, {"k4" if on_k else "k3"}) {on_s}
           p = Softmax<axis=-1>({"s2" if on_s else "s1"}) y = MatMul(p, v) }}"""
    )
    outcome = run_passes(model, [PlaceAttentionScale, PlaceAttentionScale])
    if scale == "none":
        assert outcome.matches == 0
        return
    (product,) = (n for n in outcome.model.graph if n.op_type in ("Mul", "Div"))
    sizes = {"q3": queries * channels, "k3": channels * keys, "s1": queries * keys}
    placed = next(str(v.name) for v in product.inputs if v is not None and not v.is_initializer())
    assert sizes.get(placed, sizes["s1"]) == min(sizes.values())
    assert product.op_type == "Mul" or outcome.matches == 0


def test_scores_that_are_an_output_keep_their_scale(build: Any, run_passes: Any) -> None:
    model = build(
        """net (float[1, 4, 8] q, float[1, 8, 3] k, float[1, 3, 8] v)
             => (float[1, 4, 8] y, float[1, 4, 3] s) <float scale = {0.3}>
        { qs = Mul(q, scale) s = MatMul(qs, k) p = Softmax<axis=-1>(s) y = MatMul(p, v) }"""
    )
    outcome = run_passes(model, [PlaceAttentionScale])
    names = [n.op_type for n in outcome.model.graph]
    assert names.index("Mul") < names.index("MatMul")  # k is smaller than q, s is read twice


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("s = MatMul(x, w) y = Softmax<axis=-1>(s)", "no product of two computed"),
        ("s = MatMul(x, z) p = Softmax<axis=-1>(s) y = MatMul(p, w)", "multiplies no computed"),
        ("s = MatMul(x, z) p = Softmax<axis=0>(s) y = MatMul(p, x)", "rows or columns"),
    ],
    ids=["classifier", "mixture of constants", "over the batch"],
)
def test_softmax_without_attention(build: Any, run_passes: Any, body: str, reason: str) -> None:
    model = build(
        f"""net (float[2, 4, 4] x, float[2, 4, 4] z, float[4, 4] w) => (float[2, 4, 4] y)
        {{ {body} }}""",
        {"w": f32(1, 4, 4)},
    )
    outcome = run_passes(model, [RecogniseAttention])
    assert outcome.matches == 0
    assert reason in outcome.refusals[0]


def test_identical_attentions_count_once_after_sharing(build: Any, run_passes: Any) -> None:
    body = "s{i} = MatMul(q, k) p{i} = Softmax<axis=-1>(s{i}) o{i} = MatMul(p{i}, v)"
    model = build(
        f"""net (float[2, 4, 8] q, float[2, 8, 4] k, float[2, 4, 8] v) => (float[2, 4, 8] y)
        {{ {body.format(i=1)} {body.format(i=2)} y = Sub(o1, o2) }}"""
    )
    outcome = run_passes(model, [RecogniseAttention])
    assert counts(outcome.model) == {"attention": 2}
    outcome = run_passes(model, [ShareCommon])
    assert counts(outcome.model) == {"attention": 1}


@settings(max_examples=8, deadline=None)
@given(
    st.tuples(st.integers(2, 5), st.integers(1, 4), st.integers(2, 6)),
    st.booleans(),
    st.booleans(),
)
def test_separable_attention(
    build: Any, run_passes: Any, sizes: tuple[int, int, int], swapped: bool, expand: bool
) -> None:
    c, p, n = sizes
    weighted = "w = Mul(p, key)" if swapped else "w = Mul(key, p)"
    spread = "e = Expand(context, full)" if expand else "e = Identity(context)"
    model = build(
        f"""net (float[1, 1, {p}, {n}] score, float[1, {c}, {p}, {n}] key,
                 float[1, {c}, {p}, {n}] value) => (float[1, {c}, {p}, {n}] y)
        <int64[1] axes = {{-1}}, int64[4] full = {{1, {c}, {p}, {n}}}>
        {{ p = Softmax<axis=-1>(score) {weighted} context = ReduceSum(w, axes) {spread}
           v = Relu(value) y = Mul(v, e) }}"""
    )
    outcome = run_passes(model, [RecogniseAttention, RecogniseSeparableAttention])
    (found,) = patterns(outcome.model)
    assert found.kind == "separable_attention"
    assert [v.name for v in found.inputs] == ["score", "key", "v"]
    assert [v.name for v in found.outputs] == ["y"]


@pytest.mark.parametrize(
    ("score", "axes", "reason"),
    [(1, 2, "another axis"), (3, 3, "more than one score")],
)
def test_separable_attention_refuses(
    build: Any, run_passes: Any, score: int, axes: int, reason: str
) -> None:
    model = build(
        f"""net (float[1, {score}, 2, 5] s, float[1, 3, 2, 5] key, float[1, 3, 2, 5] v)
             => (float[1, 3, 2, 5] y) <int64[1] axes = {{{axes}}}>
        {{ p = Softmax<axis=-1>(s) w = Mul(key, p) c = ReduceSum(w, axes) y = Mul(v, c) }}"""
    )
    outcome = run_passes(model, [RecogniseSeparableAttention])
    assert outcome.matches == 0
    assert reason in outcome.refusals[0]
