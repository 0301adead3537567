"""Squeeze-excite, DyReLU, pixel shuffle, unfold and fold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgec.export.rewrite.recognise.dynamic_relu import RecogniseDynamicRelu
from edgec.export.rewrite.recognise.patterns import counts, patterns
from edgec.export.rewrite.recognise.pixel_shuffle import RecognisePixelShuffle
from edgec.export.rewrite.recognise.silu import RecogniseSilu
from edgec.export.rewrite.recognise.squeeze_excite import RecogniseSqueezeExcite
from edgec.export.rewrite.recognise.unfold import RecogniseUnfold


def f32(seed: int, *shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


POOLS = {
    "global": "p = GlobalAveragePool(x)",
    "mean": "p = ReduceMean(x, axes)",
    "matrix": "p = ReduceMean<keepdims=0>(x, axes)",
}
HIDDEN = {
    "relu": "h = Relu(a)",
    "silu": "g0 = Sigmoid(a) h = Mul(a, g0)",
    "none": "h = Identity(a)",
}


@settings(max_examples=15, deadline=None)
@given(
    st.sampled_from(sorted(POOLS)),
    st.sampled_from(sorted(HIDDEN)),
    st.sampled_from(["Sigmoid", "HardSigmoid"]),
    st.booleans(),
    st.integers(1, 2),
)
def test_squeeze_excite(
    build: Any, run_passes: Any, pool: str, hidden: str, gate: str, swapped: bool, n: int
) -> None:
    if pool == "matrix":
        tail = "a = Gemm(p, u) " + HIDDEN[hidden] + " e = Gemm(h, w) r = Reshape(e, small)"
        weights = {"u": f32(1, 6, 3), "w": f32(2, 3, 6)}
    else:
        tail = "a = Conv(p, u) " + HIDDEN[hidden] + " r = Conv(h, w)"
        weights = {"u": f32(1, 3, 6, 1, 1), "w": f32(2, 6, 3, 1, 1)}
    declared = ", ".join(
        f"float[{', '.join(map(str, a.shape))}] {name}" for name, a in weights.items()
    )
    if hidden == "none":
        tail = tail.replace("Identity", "Relu")
    product = "y = Mul(g, x)" if swapped else "y = Mul(x, g)"
    model = build(
        f"""net (float[{n}, 6, 4, 5] x, {declared}) => (float[{n}, 6, 4, 5] y)
        <int64[2] axes = {{2, 3}}, int64[4] small = {{{n}, 6, 1, 1}}>
        {{ {POOLS[pool]} {tail} g = {gate}(r) {product} }}""",
        weights,
    )
    outcome = run_passes(model, [RecogniseSilu, RecogniseSqueezeExcite, RecogniseSqueezeExcite])
    assert counts(outcome.model)["squeeze_excite"] == 1
    found = next(p for p in patterns(outcome.model) if p.kind == "squeeze_excite")
    assert [v.name for v in found.inputs] == ["x"]
    assert [v.name for v in found.outputs] == ["y"]
    assert len(found.nodes) == len(outcome.model.graph)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("p = GlobalAveragePool(z) c = Conv(p, w) g = Sigmoid(c) y = Mul(x, g)", "another tensor"),
        ("p = GlobalAveragePool(x) g = Sigmoid(p) y = Mul(x, g)", "no linear"),
        ("p = GlobalAveragePool(x) c = Conv(p, w) g = Relu(c) y = Mul(x, g)", "not squashed"),
        ("p = GlobalMaxPool(x) c = Conv(p, w) g = Sigmoid(c) y = Mul(x, g)", "GlobalMaxPool"),
    ],
)
def test_squeeze_excite_refuses(build: Any, run_passes: Any, body: str, reason: str) -> None:
    model = build(
        f"""net (float[1, 6, 4, 5] x, float[1, 6, 4, 5] z, float[6, 6, 1, 1] w)
             => (float[1, 6, 4, 5] y) {{ {body} }}""",
        {"w": f32(1, 6, 6, 1, 1)},
    )
    outcome = run_passes(model, [RecogniseSqueezeExcite])
    assert outcome.matches == 0
    assert reason in outcome.refusals[0]


@settings(max_examples=8, deadline=None)
@given(st.integers(1, 2), st.booleans(), st.booleans())
def test_dynamic_relu(build: Any, run_passes: Any, n: int, offsets: bool, swapped: bool) -> None:
    lines = [
        f"m{i} = Mul({f'a{i}, x' if swapped else f'x, a{i}'}) l{i} = Add(m{i}, b{i})"
        for i in (1, 2)
    ]
    body = " ".join(lines) if offsets else "l1 = Mul(x, a1) l2 = Mul(a2, x)"
    small = ", ".join(f"float[{n}, 6, 1, 1] {k}{i}" for k in "ab" for i in (1, 2))
    model = build(
        f"""net (float[{n}, 6, 4, 5] x, {small}) => (float[{n}, 6, 4, 5] y)
        {{ {body} y = Max(l1, l2) }}"""
    )
    outcome = run_passes(model, [RecogniseDynamicRelu])
    (found,) = patterns(outcome.model)
    assert (found.kind, len(found.nodes)) == ("dynamic_relu", 5 if offsets else 3)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("l1 = Mul(x, a) l2 = Mul(z, a) y = Max(l1, l2)", "different tensors"),
        ("l1 = Mul(x, c) y = Max(x, l1)", "no slope"),
    ],
    ids=["two maps", "leaky ReLU"],
)
def test_dynamic_relu_refuses(build: Any, run_passes: Any, body: str, reason: str) -> None:
    model = build(
        f"""net (float[1, 6, 4, 5] x, float[1, 6, 4, 5] z, float[1, 6, 1, 1] a)
             => (float[1, 6, 4, 5] y) <float c = {{0.1}}> {{ {body} }}"""
    )
    outcome = run_passes(model, [RecogniseDynamicRelu])
    assert outcome.matches == 0
    assert reason.split()[-1] in outcome.refusals[0]


SHUFFLES = {
    "DCR": ("{n}, {b}, {b}, {c}, {h}, {w}", [0, 3, 4, 1, 5, 2]),
    "CRD": ("{n}, {c}, {b}, {b}, {h}, {w}", [0, 1, 4, 2, 5, 3]),
}


@settings(max_examples=10, deadline=None)
@given(st.tuples(*[st.integers(1, 3)] * 4), st.integers(2, 3), st.sampled_from(sorted(SHUFFLES)))
def test_pixel_shuffle(
    build: Any, run_passes: Any, shape: tuple[int, int, int, int], b: int, mode: str
) -> None:
    n, c, h, w = shape
    cut, perm = SHUFFLES[mode]
    numbers = cut.format(n=n, b=b, c=c, h=h, w=w)
    model = build(
        f"""net (float[{n}, {c * b * b}, {h}, {w}] x) => (float[{n}, {c}, {h * b}, {w * b}] y)
        <int64[6] cut = {{{numbers}}}, int64[4] full = {{{n}, {c}, {h * b}, {w * b}}}>
        {{ r = Reshape(x, cut) t = Transpose<perm={perm}>(r) y = Reshape(t, full) }}"""
    )
    outcome = run_passes(model, [RecognisePixelShuffle])
    assert outcome.after == {"DepthToSpace": 1}
    assert patterns(outcome.model)[0].facts == {"blocksize": b}


@settings(max_examples=10, deadline=None)
@given(st.tuples(*[st.integers(2, 3)] * 4), st.integers(2, 3), st.booleans())
def test_pixel_unshuffle(
    build: Any, run_passes: Any, shape: tuple[int, int, int, int], b: int, channels_last: bool
) -> None:
    """SpaceToDepth has the block offset outermost; torch's order of channels stays views."""
    n, c, h, w = shape
    perm = [0, 1, 3, 5, 2, 4] if channels_last else [0, 3, 5, 1, 2, 4]
    model = build(
        f"""net (float[{n}, {c}, {h * b}, {w * b}] x) => (float[{n}, {c * b * b}, {h}, {w}] y)
        <int64[6] cut = {{{n}, {c}, {h}, {b}, {w}, {b}}},
         int64[4] full = {{{n}, {c * b * b}, {h}, {w}}}>
        {{ r = Reshape(x, cut) t = Transpose<perm={perm}>(r) y = Reshape(t, full) }}"""
    )
    outcome = run_passes(model, [RecognisePixelShuffle])
    assert outcome.after == (outcome.before if channels_last else {"SpaceToDepth": 1})


def test_shuffle_with_an_output_inside_is_kept(build: Any, run_passes: Any) -> None:
    model = build(
        """net (float[1, 8, 2, 3] x) => (float[1, 2, 4, 6] y, float[1, 2, 2, 2, 2, 3] r)
        <int64[6] cut = {1, 2, 2, 2, 2, 3}, int64[4] full = {1, 2, 4, 6}>
        { r = Reshape(x, cut) t = Transpose<perm=[0, 1, 4, 2, 5, 3]>(r) y = Reshape(t, full) }"""
    )
    assert run_passes(model, [RecognisePixelShuffle]).matches == 0


@settings(max_examples=8, deadline=None)
@given(st.tuples(st.integers(1, 2), st.integers(1, 3), st.integers(2, 3), st.integers(2, 3)))
def test_unfold_and_fold(build: Any, run_passes: Any, sizes: tuple[int, int, int, int]) -> None:
    """MobileViT v2: map → (N, C, phases, patches) → map."""
    n, c, rows, columns = sizes
    h, w = 2 * rows, 2 * columns
    model = build(
        f"""net (float[{n}, 3, {h}, {w}] x, float[{c}, 3, 1, 1] k, float[3, {c}, 1, 1] m)
             => (float[{n}, 3, {h}, {w}] y)
        <int64[5] cut = {{{n * c}, {rows}, 2, {columns}, 2}},
         int64[4] patches = {{{n}, {c}, 4, {rows * columns}}},
         int64[5] phases = {{{n * c}, 2, 2, {rows}, {columns}}},
         int64[4] full = {{{n}, {c}, {h}, {w}}}>
        {{ a = Conv(x, k) r = Reshape(a, cut) t = Transpose<perm=[0, 2, 4, 1, 3]>(r)
           u = Reshape(t, patches) g = Gelu(u) s = Reshape(g, phases)
           q = Transpose<perm=[0, 3, 1, 4, 2]>(s) f = Reshape(q, full) y = Conv(f, m) }}""",
        {"k": f32(1, c, 3, 1, 1), "m": f32(2, 3, c, 1, 1)},
    )
    outcome = run_passes(model, [RecogniseUnfold])
    assert counts(outcome.model) == {"unfold": 1, "fold": 1}
    assert all(len(p.nodes) == 3 for p in patterns(outcome.model))


def test_tokens_are_no_unfold(build: Any, run_passes: Any) -> None:
    model = build(
        """net (float[1, 3, 4, 6] x, float[5, 3, 1, 1] k) => (float[1, 24, 5] y)
        <int64[3] flat = {1, 5, 24}>
        { a = Conv(x, k) r = Reshape(a, flat) y = Transpose<perm=[0, 2, 1]>(r) }""",
        {"k": f32(1, 5, 3, 1, 1)},
    )
    assert run_passes(model, [RecogniseUnfold]).matches == 0
