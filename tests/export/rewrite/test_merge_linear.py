"""Linear chains and parallel branches become one operator where that is exact and cheaper."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgec.export.rewrite.fold.affine_backward import FoldAffineBackward
from edgec.export.rewrite.fold.linear_chains import MergeLinearChains
from edgec.export.rewrite.fold.merge_branches import MergeBranches
from edgec.export.rewrite.fold.merge_parallel import MergeParallel

Weights = dict[str, np.ndarray[Any, Any]]


def f32(seed: int, *shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def declared(weights: Weights) -> str:
    return ", ".join(
        f"float[{', '.join(map(str, array.shape))}] {name}" for name, array in weights.items()
    )


WIDTH = st.integers(1, 9)


@settings(max_examples=20, deadline=None)
@given(WIDTH, WIDTH, WIDTH, st.booleans(), st.booleans(), st.integers(0, 99))
def test_two_matrices(
    build: Any, run_passes: Any, a: int, r: int, b: int, first: bool, second: bool, seed: int
) -> None:
    """`first`, `second`: whether they have a bias."""
    weights = {"u": f32(seed, a, r), "w": f32(seed + 1, r, b)}
    weights |= {"k": f32(seed + 2, r)} if first else {}
    weights |= {"l": f32(seed + 3, b)} if second else {}
    inner = "m = MatMul(x, u) t = Add(m, k)" if first else "t = MatMul(x, u)"
    outer = "o = MatMul(t, w) y = Add(l, o)" if second else "y = MatMul(t, w)"
    model = build(
        f"""net (float[2, 3, {a}] x, {declared(weights)}) => (float[2, 3, {b}] y)
        {{ {inner} {outer} }}""",
        weights,
    )
    outcome = run_passes(model, [MergeLinearChains])
    if a * b <= a * r + r * b:
        assert outcome.after["MatMul"] == 1
        assert outcome.after.get("Add", 0) == int(first or second)
    else:
        assert outcome.matches == 0
        assert "MACs" in outcome.refusals[0]


def test_three_factors_keep_the_cheapest_form(build: Any, run_passes: Any) -> None:
    """MCUFormer's low-rank layers: 16 → 3 → 3 → 16 is 16 → 3 → 16, not 16 → 16."""
    weights = {"a": f32(1, 16, 3), "b": f32(2, 3, 3), "c": f32(3, 3, 16), "k": f32(4, 16)}
    model = build(
        f"""net (float[1, 5, 16] x, {declared(weights)}) => (float[1, 5, 16] y)
        {{ p = MatMul(x, a) q = MatMul(p, b) r = MatMul(q, c) y = Add(r, k) }}""",
        weights,
    )
    outcome = run_passes(model, [MergeLinearChains, MergeLinearChains])
    assert outcome.after == {"MatMul": 2, "Add": 1}
    assert outcome.matches == 1


@pytest.mark.parametrize("trans", [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_two_gemms(build: Any, run_passes: Any, trans: tuple[int, int]) -> None:
    shapes = [(6, 4) if trans[0] else (4, 6), (3, 6) if trans[1] else (6, 3)]
    weights = {"u": f32(1, *shapes[0]), "k": f32(2, 6), "w": f32(3, *shapes[1]), "l": f32(4, 3)}
    model = build(
        f"""net (float[2, 4] x, {declared(weights)}) => (float[2, 3] y)
        {{ t = Gemm<transB={trans[0]}>(x, u, k) y = Gemm<transB={trans[1]}>(t, w, l) }}""",
        weights,
    )
    assert run_passes(model, [MergeLinearChains]).after == {"Gemm": 1}


@settings(max_examples=15, deadline=None)
@given(
    st.integers(1, 4),
    st.integers(3, 8),
    st.integers(1, 3),
    st.sampled_from([1, 3]),
    st.sampled_from([1, 2]),
    st.sampled_from([0, 1]),
    st.booleans(),
)
def test_pointwise_after_convolution(
    build: Any, run_passes: Any, a: int, r: int, b: int, k: int, stride: int, pad: int, bias: bool
) -> None:
    weights = {"u": f32(1, r, a, k, k), "w": f32(2, b, r, 1, 1), "l": f32(3, b)}
    weights |= {"k": f32(4, r)} if bias else {}
    model = build(
        f"""net (float[1, {a}, 7, 8] x, {declared(weights)}) => (float[1, {b}, oh, ow] y)
        {{ t = Conv<strides=[{stride}, {stride}], pads=[{pad}, {pad}, {pad}, {pad}]>(x, u
             {", k" if bias else ""}) y = Conv(t, w, l) }}""",
        weights,
    )
    model.graph.outputs[0].shape = model.graph[-1].outputs[0].shape
    outcome = run_passes(model, [MergeLinearChains])
    fits = a * b * k * k <= a * r * k * k + r * b
    assert outcome.after == {"Conv": 1 if fits else 2}


@pytest.mark.parametrize("pad", [0, 1])
@pytest.mark.parametrize("bias", [True, False])
def test_convolution_after_pointwise(build: Any, run_passes: Any, pad: int, bias: bool) -> None:
    weights = {"u": f32(1, 8, 4, 1, 1), "w": f32(2, 4, 8, 3, 3), "l": f32(3, 4)}
    weights |= {"k": f32(4, 8)} if bias else {}
    size = 6 if pad else 4
    model = build(
        f"""net (float[1, 4, 6, 6] x, {declared(weights)}) => (float[1, 4, {size}, {size}] y)
        {{ t = Conv(x, u{", k" if bias else ""})
           y = Conv<pads=[{pad}, {pad}, {pad}, {pad}]>(t, w, l) }}""",
        weights,
    )
    outcome = run_passes(model, [MergeLinearChains])
    if pad and bias:
        assert outcome.matches == 0
        assert "padding" in outcome.refusals[0]
    else:
        assert outcome.after == {"Conv": 1}


@pytest.mark.parametrize(
    ("body", "outputs", "reason"),
    [
        ("t = Conv(x, u) y = Conv(t, w)", ", float[1, 8, 6, 6] t", None),
        ("t = Conv(x, u) z = Relu(t) y = Conv(z, w)", "", None),
        ("t = Conv<group=4>(x, d) y = Conv(t, e)", "", "groups"),
        ("t = Conv(x, u) y = Conv<strides=[2, 2]>(t, w)", "", None),
    ],
    ids=["output inside", "activation", "depthwise", "stride"],
)
def test_chain_refuses(
    build: Any, run_passes: Any, body: str, outputs: str, reason: str | None
) -> None:
    weights = {"u": f32(1, 8, 4, 1, 1), "w": f32(2, 2, 8, 1, 1)}
    weights |= {"d": f32(3, 4, 1, 3, 3), "e": f32(4, 4, 4, 1, 1)}
    size = "1, 4, 4, 4" if "group" in body else "1, 2, 3, 3" if "strides" in body else "1, 2, 6, 6"
    model = build(
        f"""net (float[1, 4, 6, 6] x, {declared(weights)}) => (float[{size}] y{outputs})
        {{ {body} }}""",
        weights,
    )
    outcome = run_passes(model, [MergeLinearChains])
    if "strides" in body:  # a 1×1 first, then any stride
        assert outcome.after == {"Conv": 1}
        return
    assert outcome.matches == 0
    assert reason is None or reason in outcome.refusals[0]


def test_shared_weights_do_not_count_as_saved(build: Any, run_passes: Any) -> None:
    """Both layers read one matrix; a product would have to be stored beside it."""
    weights = {"w": f32(1, 4, 4), "v": f32(2, 4, 4)}
    model = build(
        f"""net (float[1, 5, 4] x, float[1, 5, 4] z, {declared(weights)})
             => (float[1, 5, 4] y, float[1, 5, 4] u)
        {{ p = MatMul(x, w) y = MatMul(p, v) q = MatMul(z, w) u = MatMul(q, v) }}""",
        weights,
    )
    outcome = run_passes(model, [MergeLinearChains])
    assert outcome.matches == 0
    assert "weights instead of" in outcome.refusals[0]


def norm(seed: int, channels: int, name: str) -> Weights:
    draws = {k: f32(seed + i, channels) for i, k in enumerate("gbm")}
    draws["v"] = np.abs(f32(seed + 3, channels)) + 0.5
    return {f"{k}{name}": array for k, array in draws.items()}


@settings(max_examples=15, deadline=None)
@given(
    st.sampled_from([1, 2]),
    st.sampled_from([1, 4]),
    st.permutations(["c3", "c1", "n"]),
    st.booleans(),
    st.integers(0, 99),
)
def test_repvgg_block(
    build: Any,
    run_passes: Any,
    stride: int,
    group: int,
    order: list[str],
    left: bool,
    seed: int,
) -> None:
    """3×3 + BN, 1×1 + BN and, at stride 1, BN of the input, in any order of the sums."""
    weights = {"w3": f32(seed, 4, 4 // group, 3, 3), "w1": f32(seed + 1, 4, 4 // group, 1, 1)}
    weights |= norm(seed + 2, 4, "3") | norm(seed + 7, 4, "1") | norm(seed + 12, 4, "0")
    terms = [t for t in order if stride == 1 or t != "n"]
    total = f"s0 = Add({terms[0]}, {terms[1]})"
    if len(terms) == 3:
        total += f" s1 = Add({'s0, ' + terms[2] if left else terms[2] + ', s0'})"
    size = 6 if stride == 1 else 3
    last = "s1" if len(terms) == 3 else "s0"
    identity = "n = BatchNormalization(x, g0, b0, m0, v0)" if stride == 1 else ""
    if stride == 2:
        weights = {k: v for k, v in weights.items() if not k.endswith("0")}
    model = build(
        f"""net (float[1, 4, 6, 6] z, {declared(weights)}) => (float[1, 4, {size}, {size}] y)
        {{ x = Relu(z)
           a3 = Conv<group={group}, strides=[{stride}, {stride}], pads=[1, 1, 1, 1]>(x, w3)
           c3 = BatchNormalization(a3, g3, b3, m3, v3)
           a1 = Conv<group={group}, strides=[{stride}, {stride}]>(x, w1)
           c1 = BatchNormalization(a1, g1, b1, m1, v1) {identity} {total} y = Relu({last}) }}""",
        weights,
    )
    outcome = run_passes(model, [FoldAffineBackward, MergeBranches])
    assert outcome.after == {"Conv": 1, "Relu": 2}


@settings(max_examples=15, deadline=None)
@given(
    st.sampled_from(["c", "s", "p"]),
    st.sampled_from([3, 5]),
    st.sampled_from([1, 2, 6]),
    st.booleans(),
    st.booleans(),
)
def test_convolution_plus_its_input(
    build: Any, run_passes: Any, branch: str, kernel: int, group: int, swapped: bool, bias: bool
) -> None:
    """c: x itself; s: x times a number per channel; p: every second pixel, beside stride 2."""
    weights = {"w": f32(1, 6, 6 // group, kernel, kernel), "f": f32(2, 6, 1, 1)}
    weights |= {"k": f32(3, 6)} if bias else {}
    stride, size = (2, 4) if branch == "p" else (1, 8)
    other = {"c": "o = Relu(x0)", "s": "o = Mul(x, f)", "p": "o = Slice(x, from, to, axes, step)"}
    term = "x" if branch == "c" else "o"
    pad = kernel // 2
    model = build(
        f"""net (float[1, 6, 8, 8] x0, {declared(weights)}) => (float[1, 6, {size}, {size}] y)
        <int64[2] from = {{0, 0}}, int64[2] to = {{8, 8}}, int64[2] axes = {{2, 3}},
         int64[2] step = {{2, 2}}>
        {{ x = Sigmoid(x0) {other[branch] if branch != "c" else ""}
           c = Conv<group={group}, strides=[{stride}, {stride}],
                    pads=[{pad}, {pad}, {pad}, {pad}]>(x, w{", k" if bias else ""})
           y = Add({f"{term}, c" if swapped else f"c, {term}"}) }}""",
        weights,
    )
    assert run_passes(model, [MergeBranches]).after == {"Sigmoid": 1, "Conv": 1}


@pytest.mark.parametrize("order", ["c, o", "o, c"])
def test_difference_and_residual(build: Any, run_passes: Any, order: str) -> None:
    """FastViT's mixer: x + γ · (Conv(x) - BN(x)), all one depthwise convolution."""
    weights = {"w": f32(1, 6, 1, 3, 3), "k": f32(2, 6), "f": f32(3, 6, 1, 1)} | norm(4, 6, "")
    model = build(
        f"""net (float[1, 6, 5, 5] x0, {declared(weights)}) => (float[1, 6, 5, 5] y)
        {{ x = Relu(x0) c = Conv<group=6, pads=[1, 1, 1, 1]>(x, w, k)
           o = BatchNormalization(x, g, b, m, v) d = Sub({order}) s = Mul(d, f) y = Add(x, s) }}""",
        weights,
    )
    outcome = run_passes(model, [MergeBranches, FoldAffineBackward, MergeBranches])
    assert outcome.after == {"Relu": 1, "Conv": 1}


def test_depthwise_branch_joins_a_dense_one(build: Any, run_passes: Any) -> None:
    weights = {"w": f32(1, 6, 6, 3, 3), "d": f32(2, 6, 1, 3, 3), "k": f32(3, 6)}
    model = build(
        f"""net (float[1, 6, 5, 5] x, {declared(weights)}) => (float[1, 6, 5, 5] y)
        {{ a = Conv<pads=[1, 1, 1, 1]>(x, w) b = Conv<group=6, pads=[1, 1, 1, 1]>(x, d, k)
           y = Add(b, a) }}""",
        weights,
    )
    assert run_passes(model, [MergeBranches]).after == {"Conv": 1}


BRANCHES = {
    "dense 1×1 beside a depthwise one": (
        "a = Conv<group=6, pads=[1, 1, 1, 1]>(x, d) b = Conv(x, p) y = Add(a, b)",
        "more groups",
    ),
    "other dilation": (
        "a = Conv<pads=[2, 2, 2, 2], dilations=[2, 2]>(x, w) b = Conv<pads=[1, 1, 1, 1]>(x, w)"
        " y = Add(a, b)",
        "dilation",
    ),
    "rows and columns": (
        "a = Conv<pads=[0, 1, 0, 1]>(x, r) b = Conv<pads=[1, 0, 1, 0]>(x, c) y = Add(a, b)",
        "inside",
    ),
    "residual of a linear layer": ("a = Conv(x, p) y = Add(a, x)", "linear layer"),
}


@pytest.mark.parametrize(("body", "reason"), BRANCHES.values(), ids=BRANCHES.keys())
def test_branches_refuse(build: Any, run_passes: Any, body: str, reason: str) -> None:
    weights = {"w": f32(1, 6, 6, 3, 3), "d": f32(2, 6, 1, 3, 3), "p": f32(3, 6, 6, 1, 1)}
    weights |= {"r": f32(4, 6, 6, 1, 3), "c": f32(5, 6, 6, 3, 1)}
    model = build(
        f"net (float[1, 6, 5, 5] x, {declared(weights)}) => (float[1, 6, 5, 5] y) {{ {body} }}",
        weights,
    )
    outcome = run_passes(model, [MergeBranches])
    assert outcome.matches == 0
    assert reason in outcome.refusals[0]


def test_pointwise_block_with_batch_norm_branch(build: Any, run_passes: Any) -> None:
    """MobileOne: a dense 1×1 and BN of the input; trained branches, not a residual."""
    weights = {"p": f32(1, 6, 6, 1, 1), "k": f32(2, 6)} | norm(4, 6, "")
    model = build(
        f"""net (float[1, 6, 5, 5] x0, {declared(weights)}) => (float[1, 6, 5, 5] y)
        {{ x = Relu(x0) c = Conv(x, p, k) o = BatchNormalization(x, g, b, m, v) y = Add(o, c) }}""",
        weights,
    )
    assert run_passes(model, [MergeBranches]).after == {"Relu": 1, "Conv": 1}


def test_branch_with_an_output_inside_is_kept(build: Any, run_passes: Any) -> None:
    weights = {"w": f32(1, 6, 6, 3, 3), "p": f32(3, 6, 6, 1, 1)}
    model = build(
        f"""net (float[1, 6, 5, 5] x, {declared(weights)})
             => (float[1, 6, 5, 5] y, float[1, 6, 5, 5] b)
        {{ a = Conv<pads=[1, 1, 1, 1]>(x, w) b = Conv(x, p) y = Add(a, b) }}""",
        weights,
    )
    assert run_passes(model, [MergeBranches]).matches == 0


def test_averaged_heads(build: Any, run_passes: Any) -> None:
    """EfficientFormer and DeiT average two classifiers: one Gemm."""
    weights = {"a": f32(1, 3, 6), "b": f32(2, 3, 6), "k": f32(3, 3), "l": f32(4, 3)}
    model = build(
        f"""net (float[2, 6] x, {declared(weights)}) => (float[2, 3] y) <float two = {{2.0}}>
        {{ h = Gemm<transB=1>(x, a, k) d = Gemm<transB=1>(x, b, l) s = Add(h, d)
           y = Div(s, two) }}""",
        weights,
    )
    assert run_passes(model, [MergeParallel, FoldAffineBackward]).after == {"Gemm": 1}
