"""Layer, instance, group and RMS normalization in their spellings."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgec.export.rewrite.fold.affine_forward import FoldAffineForward
from edgec.export.rewrite.legalise.opset import ConvertOpset
from edgec.export.rewrite.recognise.group_norm import RecogniseGroupNorm
from edgec.export.rewrite.recognise.layer_norm import RecogniseLayerNorm
from edgec.export.rewrite.recognise.operators import MarkOperators
from edgec.export.rewrite.recognise.patterns import counts, patterns
from edgec.export.rewrite.recognise.rms_norm import RecogniseRmsNorm


def f32(seed: int, *shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


SPELLED = """m = ReduceMean(x, axes) d = Sub(x, m) q = Pow(d, two) v = ReduceMean(q, axes)
             e = Add(v, eps) s = Sqrt(e) n = Div(d, s)"""


@settings(max_examples=15, deadline=None)
@given(
    st.tuples(*[st.integers(2, 4)] * 4),
    st.sampled_from([(2, 3), (1, 2, 3), (3,)]),
    st.booleans(),
    st.integers(0, 99),
)
def test_over_trailing_axes(
    build: Any,
    run_passes: Any,
    shape: tuple[int, ...],
    axes: tuple[int, ...],
    affine: bool,
    seed: int,
) -> None:
    c, dims = shape[1], ", ".join(map(str, shape))
    tail = "w = Mul(n, g) y = Add(b, w)" if affine else "y = Identity(n)"
    model = build(
        f"""net (float[{dims}] x, float[{c}, 1, 1] g, float[{c}, 1, 1] b) => (float[{dims}] y)
        <int64[{len(axes)}] axes = {{{", ".join(map(str, axes))}}}, float two = {{2.0}},
         float eps = {{0.001}}>
        {{ {SPELLED} {tail} }}""",
        {"g": f32(seed, c, 1, 1), "b": f32(seed + 1, c, 1, 1)},
    )
    outcome = run_passes(model, [RecogniseLayerNorm])
    assert outcome.matches == 1
    rest = {"Mul": 1, "Add": 1} if affine else {"Identity": 1}
    if axes == (2, 3):
        expected = {"InstanceNormalization": 1} | ({} if affine else rest)
    else:
        expected = {"LayerNormalization": 1} | rest
    assert outcome.after == expected


def test_axes_that_are_not_the_last_ones(build: Any, run_passes: Any) -> None:
    model = build(
        f"""net (float[2, 3, 4, 5] x) => (float[2, 3, 4, 5] y)
        <int64[2] axes = {{1, 2}}, float two = {{2.0}}, float eps = {{0.001}}>
        {{ {SPELLED} y = Identity(n) }}"""
    )
    outcome = run_passes(model, [RecogniseLayerNorm, RecogniseRmsNorm])
    assert outcome.matches == 0
    assert "not the last ones" in outcome.refusals[0]
    assert "centred" in outcome.refusals[1]  # and a variance is no mean square


@settings(max_examples=15, deadline=None)
@given(
    st.tuples(st.integers(1, 2), st.sampled_from([4, 6]), st.integers(1, 4), st.integers(2, 4)),
    st.sampled_from([1, 2]),
    st.booleans(),
    st.integers(0, 99),
)
def test_group_norm(
    build: Any, run_passes: Any, shape: tuple[int, ...], groups: int, trained: bool, seed: int
) -> None:
    """`trained`: scale and bias of the InstanceNormalization are not 1 and 0."""
    c, dims = shape[1], ", ".join(map(str, shape))
    scale = f32(seed, groups) if trained else np.ones(groups, np.float32)
    bias = f32(seed + 1, groups) if trained else np.zeros(groups, np.float32)
    model = build(
        f"""net (float[{dims}] x, float[{groups}] s, float[{groups}] z, float[{c}, 1, 1] g,
                 float[{c}, 1, 1] b) => (float[{dims}] y)
        <int64[3] flat = {{0, {groups}, -1}}, int64[4] full = {{{dims}}}>
        {{ r = Reshape(x, flat) i = InstanceNormalization<epsilon=0.01>(r, s, z)
           n = Reshape(i, full) w = Mul(n, g) y = Add(w, b) }}""",
        {"s": scale, "z": bias, "g": f32(seed + 2, c, 1, 1), "b": f32(seed + 3, c, 1, 1)},
    )
    outcome = run_passes(model, [RecogniseGroupNorm, RecogniseGroupNorm])
    assert outcome.matches == 1
    assert counts(outcome.model) == {"group_norm": 1}
    if groups == 1:
        extra = 1 if trained else 0
        assert outcome.after == {"LayerNormalization": 1, "Mul": 1 + extra, "Add": 1 + extra}
    else:
        assert outcome.after == outcome.before


def test_norms_of_one_shape_share_their_scale(
    build: Any, run_passes: Any, rng: np.random.Generator
) -> None:
    """As MobileViT v2 exports: a scale of ones per norm, γ and β behind it, then a convolution."""
    weights = {f"{k}{i}": f32(i, 6, 1, 1) for k in "gb" for i in (1, 2)}
    weights |= {f"o{i}": np.ones((6, 4, 5), np.float32) for i in (1, 2)}
    weights |= {"w1": f32(5, 6, 6, 1, 1), "k": f32(6, 6), "w2": f32(7, 6, 6, 1, 1)}
    model = build(
        """net (float[1, 6, 4, 5] x, float[6, 4, 5] o1, float[6, 4, 5] o2, float[6, 1, 1] g1,
                float[6, 1, 1] b1, float[6, 1, 1] g2, float[6, 1, 1] b2, float[6, 6, 1, 1] w1,
                float[6] k, float[6, 6, 1, 1] w2) => (float[1, 6, 4, 5] y)
        { n1 = LayerNormalization<axis=1>(x, o1) s1 = Mul(n1, g1) t1 = Add(s1, b1)
          c1 = Conv(t1, w1, k) n2 = LayerNormalization<axis=1>(c1, o2) s2 = Mul(n2, g2)
          t2 = Add(s2, b2) y = Conv(t2, w2, k) }""",
        weights,
    )
    outcome = run_passes(model, [RecogniseGroupNorm, FoldAffineForward, FoldAffineForward])
    assert outcome.after == {"LayerNormalization": 2, "Conv": 2}
    norms = [n for n in outcome.model.graph if n.op_type == "LayerNormalization"]
    assert norms[0].inputs[1] is norms[1].inputs[1]
    assert patterns(outcome.model)[0].facts["axis"] == 1


def test_large_maps_keep_their_spelling(build: Any, run_passes: Any) -> None:
    """A scale of ones for 4 x 160 x 160 elements would be 400 kB."""
    model = build(
        """net (float[1, 4, 160, 160] x, float[1] s, float[1] z) => (float[1, 4, 160, 160] y)
        <int64[3] flat = {0, 1, -1}, int64[4] full = {1, 4, 160, 160}>
        { r = Reshape(x, flat) i = InstanceNormalization(r, s, z) y = Reshape(i, full) }""",
        {"s": f32(1, 1), "z": f32(2, 1)},
    )
    outcome = run_passes(model, [RecogniseGroupNorm])
    assert outcome.after == outcome.before
    assert counts(outcome.model) == {"group_norm": 1}


@pytest.mark.parametrize("opset", [13, 16, 17])
def test_one_group_below_opset_17(build: Any, run_passes: Any, opset: int) -> None:
    """InstanceNormalization between two Reshapes, and no scale of the tensor's size."""
    model = build(
        """net (float[2, 6, 4, 5] x, float[6, 4, 5] o) => (float[2, 6, 4, 5] y)
        { y = LayerNormalization<axis=1, epsilon=0.01>(x, o) }""",
        {"o": np.ones((6, 4, 5), np.float32)},
    )
    outcome = run_passes(model, [RecogniseGroupNorm, ConvertOpset], target_opset=opset)
    expected = {"Reshape": 2, "InstanceNormalization": 1}
    assert outcome.after == (expected if opset < 17 else {"LayerNormalization": 1})
    assert counts(outcome.model) == {"group_norm": 1}


@pytest.mark.parametrize(
    ("shape", "flat", "full"),
    [("2, 6, 4", "1, 4, 12", "2, 6, 4"), ("2, 6, 4", "2, 2, 12", "2, 4, 6")],
    ids=["groups across images", "another shape afterwards"],
)
def test_group_norm_refuses(build: Any, run_passes: Any, shape: str, flat: str, full: str) -> None:
    groups = int(flat.split(",")[1])
    model = build(
        f"""net (float[{shape}] x, float[{groups}] s, float[{groups}] z) => (float[{full}] y)
        <int64[3] flat = {{{flat}}}, int64[3] full = {{{full}}}>
        {{ r = Reshape(x, flat) i = InstanceNormalization(r, s, z) y = Reshape(i, full) }}""",
        {"s": f32(1, groups), "z": f32(2, groups)},
    )
    outcome = run_passes(model, [RecogniseGroupNorm])
    assert outcome.matches == 0
    assert outcome.refusals


SQUARES = ("q = Pow(x, two)", "q = Mul(x, x)")
ROOTS = (
    "r = Sqrt(e) n = Div(x, r)",
    "r = Sqrt(e) i = Reciprocal(r) n = Mul(i, x)",
    "r = Sqrt(e) i = Div(one, r) n = Mul(x, i)",
    "i = Pow(e, mhalf) n = Mul(x, i)",
    "r = Pow(e, half) n = Div(x, r)",
)


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.integers(2, 4), min_size=2, max_size=4),
    st.sampled_from(SQUARES),
    st.sampled_from(ROOTS),
    st.sampled_from(["y = Mul(n, g)", "y = Mul(g, n)", "y = Identity(n)"]),
    st.sampled_from(["e = Add(v, eps)", "e = Add(eps, v)"]),
)
def test_rms_norm(
    build: Any, run_passes: Any, shape: list[int], square: str, root: str, tail: str, total: str
) -> None:
    dims = ", ".join(map(str, shape))
    model = build(
        f"""net (float[{dims}] x, float[{shape[-1]}] g) => (float[{dims}] y)
        <int64[1] axes = {{-1}}, float two = {{2.0}}, float eps = {{0.001}}, float one = {{1.0}},
         float half = {{0.5}}, float mhalf = {{-0.5}}>
        {{ {square} v = ReduceMean(q, axes) {total} {root} {tail} }}""",
        {"g": f32(3, shape[-1])},
    )
    outcome = run_passes(model, [RecogniseRmsNorm, RecogniseRmsNorm])
    assert outcome.matches == 1
    expected = {"Mul": 1, "ReduceMean": 1, "Add": 1, "Sqrt": 1, "Div": 1}
    if "g" in tail:
        expected["Mul"] = 2
        assert len(patterns(outcome.model)[0].nodes) == 6
    else:
        expected["Identity"] = 1
    assert outcome.after == expected
    assert counts(outcome.model) == {"rms_norm": 1}


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (
            "q = Mul(x, x) v = ReduceMean(q, axes) e = Add(v, eps) r = Sqrt(e) y = Div(z, r)",
            "squared",
        ),
        (
            "q = Mul(x, x) v = ReduceMean(q, axes) e = Add(v, v) r = Sqrt(e) y = Div(x, r)",
            "computed",
        ),
        (
            "q = Mul(x, x) v = ReduceMean(q, axes) e = Add(v, eps) r = Sqrt(e) y = Div(r, x)",
            "squared",
        ),
    ],
)
def test_rms_norm_refuses(build: Any, run_passes: Any, body: str, reason: str) -> None:
    model = build(
        f"""net (float[2, 3, 5] x, float[2, 3, 5] z) => (float[2, 3, 5] y)
        <int64[1] axes = {{-1}}, float eps = {{0.001}}> {{ {body} }}"""
    )
    outcome = run_passes(model, [RecogniseRmsNorm])
    assert outcome.matches == 0
    assert any(reason in refusal for refusal in outcome.refusals) or reason == "computed"


def test_operators_are_marked_once(build: Any, run_passes: Any) -> None:
    model = build(
        """net (float[1, 2, 4] x) => (float[1, 2, 4] y)
        { a = Gelu(x) b = LpNormalization<axis=1>(a) y = HardSwish(b) }"""
    )
    outcome = run_passes(model, [MarkOperators, MarkOperators])
    assert outcome.matches == 3
    assert counts(outcome.model) == {"gelu": 1, "hard_swish": 1, "l2_norm": 1}
