"""Biases of keys and values: dropped where attention makes nothing or one vector of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgec.export.rewrite.fold.attention_bias import FoldAttentionBias


def attention(
    *,
    tokens: int = 6,
    heads: int = 2,
    width: int = 4,
    batch: int = 1,
    scores: str = "n = Mul(s, scale)",
    softmax_axis: int = -1,
    merged: str = "t = Transpose<perm=[0, 2, 1, 3]>(o) u = Reshape(t, whole)",
    projection: str = "z = MatMul(u, wo) y = Add(z, bo)",
) -> str:
    """Multi-head attention as q, k and v projections of their own leave it."""
    c = heads * width
    return f"""net (float[{batch}, {tokens}, {c}] x, float[{c}, {c}] wq, float[{c}, {c}] wk,
        float[{c}, {c}] wv, float[{c}, {c}] wo, float[{c}] bq, float[{c}] bk, float[{c}] bv,
        float[{c}] bo, float[{heads}, {tokens}, {tokens}] table, float[{heads}, 1, {tokens}] mask)
        => (float[{batch}, {tokens}, {c}] y)
        <int64[4] split = {{{batch}, {tokens}, {heads}, {width}}}, float scale = {{0.5}},
         int64[3] whole = {{{batch}, {tokens}, {c}}}>
        {{
          pq = MatMul(x, wq) q0 = Add(pq, bq) q1 = Reshape(q0, split)
          q = Transpose<perm=[0, 2, 1, 3]>(q1)
          pk = MatMul(x, wk) k0 = Add(bk, pk) k1 = Reshape(k0, split)
          k = Transpose<perm=[0, 2, 3, 1]>(k1)
          pv = MatMul(x, wv) v0 = Add(pv, bv) v1 = Reshape(v0, split)
          v = Transpose<perm=[0, 2, 1, 3]>(v1)
          s = MatMul(q, k) {scores} w = Softmax<axis={softmax_axis}>(n) o = MatMul(w, v)
          {merged} {projection}
        }}"""


def weights(rng: np.random.Generator, tokens: int = 6, heads: int = 2, width: int = 4) -> Any:
    c = heads * width
    shapes = dict.fromkeys(("wq", "wk", "wv", "wo"), (c, c))
    shapes |= dict.fromkeys(("bq", "bk", "bv", "bo"), (c,))
    shapes |= {"table": (heads, tokens, tokens), "mask": (heads, 1, tokens)}
    return {name: rng.standard_normal(s).astype(np.float32) for name, s in shapes.items()}


@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 7),
    st.integers(1, 3),
    st.integers(1, 5),
    st.integers(1, 2),
)
@settings(max_examples=30, deadline=None)
def test_both_biases_go(
    build: Any, run_passes: Any, seed: int, tokens: int, heads: int, width: int, batch: int
) -> None:
    text = attention(tokens=tokens, heads=heads, width=width, batch=batch)
    model = build(text, weights(np.random.default_rng(seed), tokens, heads, width))
    outcome = run_passes(model, [FoldAttentionBias])
    assert outcome.matches == 2
    assert outcome.after["Add"] == outcome.before["Add"] - 2 == 2


def test_relative_positions_lie_between(build: Any, run_passes: Any, rng: Any) -> None:
    text = attention(scores="m = Mul(s, scale) n = Add(m, table)")
    outcome = run_passes(build(text, weights(rng)), [FoldAttentionBias])
    assert outcome.matches == 2


def test_the_bias_of_values_passes_what_is_added_and_factors_without_bias(
    build: Any, run_passes: Any, rng: Any
) -> None:
    """A low-rank projection, and an offset from relative positions, as in MCUFormer."""
    text = attention(
        merged="e = Softmax(q) f = Add(o, e) t = Transpose<perm=[0, 2, 1, 3]>(f) "
        "u = Reshape(t, whole)",
        projection="a = MatMul(u, wo) z = MatMul(a, wq) y = Add(z, bo)",
    )
    outcome = run_passes(build(text, weights(rng)), [FoldAttentionBias])
    assert outcome.matches == 2
    assert outcome.after["Add"] == outcome.before["Add"] - 2


@pytest.mark.parametrize(
    ("changes", "matches"),
    [
        # keys are weighted one by one: their bias counts; the weights still sum to one
        ({"scores": "n = Mul(s, mask)"}, 1),
        ({"scores": "n = Relu(s)"}, 0),
        # a softmax over the queries does not change with their bias; its rows do not sum to one
        ({"softmax_axis": -2}, 1),
        # the values' bias would have to pass a function
        ({"merged": "t = Relu(o) u0 = Transpose<perm=[0, 2, 1, 3]>(t) u = Reshape(u0, whole)"}, 1),
        # the weights no longer sum to one
        ({"merged": "t0 = Mul(o, table0) t = Transpose<perm=[0, 2, 1, 3]>(t0) "
                    "u = Reshape(t, whole)"}, 1),
        # heads are not side by side but mixed with tokens: no vector per channel
        ({"merged": "u = Reshape(o, whole)"}, 1),
        # nothing takes the bias
        ({"projection": "y = MatMul(u, wo)"}, 1),
    ],
)  # fmt: skip
def test_what_still_counts_stays(
    build: Any, run_passes: Any, rng: Any, changes: dict[str, Any], matches: int
) -> None:
    text = attention(**changes).replace("table0", "scale")
    outcome = run_passes(build(text, weights(rng)), [FoldAttentionBias])
    assert outcome.matches == matches


def test_heads_with_matrices_of_their_own(build: Any, run_passes: Any, rng: Any) -> None:
    """Keys of each head from a matrix of its own, tokens in columns, as in Mobile-Former."""
    text = """net (float[1, 1, 3, 16] x, float[1, 2, 7, 4] q, float[1, 2, 4, 16] wk,
                   float[1, 2, 4, 1] bk, float[1, 2, 4, 1] bv) => (float[1, 2, 4, 7] y)
        { t = Transpose<perm=[0, 1, 3, 2]>(x) pk = MatMul(wk, t) k = Add(pk, bk)
          pv = MatMul(wk, t) v = Add(pv, bv) s = MatMul(q, k) w = Softmax(s)
          u = Transpose<perm=[0, 1, 3, 2]>(w) y = MatMul(v, u) }"""
    shapes = {"wk": (1, 2, 4, 16), "bk": (1, 2, 4, 1), "bv": (1, 2, 4, 1)}
    tensors = {name: rng.standard_normal(s).astype(np.float32) for name, s in shapes.items()}
    outcome = run_passes(build(text, tensors), [FoldAttentionBias])
    assert outcome.matches == 1  # no projection follows that could take the values'


def test_keys_with_positions(build: Any, run_passes: Any, rng: Any) -> None:
    text = (
        attention()
        .replace("k0 = Add(bk, pk)", "k0 = Add(pk, at)")
        .replace("float[8] bk", "float[6, 8] at")
    )
    tensors = weights(rng)
    tensors["at"] = rng.standard_normal((6, 8)).astype(np.float32)
    del tensors["bk"]
    outcome = run_passes(build(text, tensors), [FoldAttentionBias])
    assert outcome.matches == 1  # the values' only


def test_other_readers(build: Any, run_passes: Any, rng: Any) -> None:
    """Keys and values that something else reads keep their biases."""
    text = attention(
        projection="z = MatMul(u, wo) y0 = Add(z, bo) y1 = Add(y0, k0) y = Add(y1, v0)"
    )
    outcome = run_passes(build(text, weights(rng)), [FoldAttentionBias])
    assert outcome.matches == 0


def test_projection_by_gemm_and_convolution(build: Any, run_passes: Any, rng: Any) -> None:
    """Tokens of one image as rows, or as a map."""
    rows = attention(
        merged="t = Transpose<perm=[0, 2, 1, 3]>(o) u = Reshape(t, two)",
        projection="z = Gemm<transB=1>(u, wo, bo) y = Reshape(z, whole)",
    ).replace("float scale", "int64[2] two = {6, 8}, float scale")
    model = build(rows, weights(rng))
    assert run_passes(model, [FoldAttentionBias]).matches == 2
    maps = attention(
        merged="t = Transpose<perm=[0, 1, 3, 2]>(o) u = Reshape(t, two)",
        projection="z = Conv<kernel_shape=[1, 1]>(u, wc) y0 = Reshape(z, columns) "
        "y = Transpose<perm=[0, 2, 1]>(y0)",
    ).replace(
        "float scale", "int64[4] two = {1, 8, 2, 3}, int64[3] columns = {1, 8, 6}, float scale"
    ).replace("float[8, 8] wo", "float[8, 8, 1, 1] wc")  # fmt: skip
    tensors = weights(rng)
    tensors["wc"] = tensors.pop("wo").reshape(8, 8, 1, 1)
    outcome = run_passes(build(maps, tensors), [FoldAttentionBias])
    assert outcome.matches == 2  # the convolution gets a bias
