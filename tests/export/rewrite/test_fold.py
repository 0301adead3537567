"""Affine maps into weights, split projections, views, parallel branches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgec.export.rewrite.canonicalise.share_common import ShareCommon
from edgec.export.rewrite.fold.affine_backward import FoldAffineBackward
from edgec.export.rewrite.fold.affine_forward import FoldAffineForward
from edgec.export.rewrite.fold.compose_views import ComposeViews
from edgec.export.rewrite.fold.merge_parallel import MergeParallel
from edgec.export.rewrite.fold.split_projections import SplitProjections
from edgec.export.rewrite.fold.transposed_reduce import ReduceBeforeTranspose
from edgec.export.rewrite.graph import MODULE_KEY

Weights = dict[str, np.ndarray[Any, Any]]


def f32(rng: np.random.Generator, *shape: int) -> np.ndarray[Any, Any]:
    return rng.standard_normal(shape).astype(np.float32)


def batch_norm(rng: np.random.Generator, channels: int) -> Weights:
    return {
        "g": f32(rng, channels),
        "b": f32(rng, channels),
        "m": f32(rng, channels),
        "v": np.abs(f32(rng, channels)) + 0.5,
    }


BN = "float[{c}] g, float[{c}] b, float[{c}] m, float[{c}] v"


@pytest.mark.parametrize("group", [1, 2, 6])
@pytest.mark.parametrize("bias", [True, False])
def test_batch_norm_into_convolution(
    build: Any, run_passes: Any, rng: np.random.Generator, group: int, bias: bool
) -> None:
    weights = {"w": f32(rng, 6, 6 // group, 3, 3), **batch_norm(rng, 6)}
    if bias:
        weights["k"] = f32(rng, 6)
    model = build(
        f"""net (float[1, 6, 5, 5] x, float[6, {6 // group}, 3, 3] w, {BN.format(c=6)}
             {", float[6] k" if bias else ""}) => (float[1, 6, 5, 5] y)
        {{ c = Conv<group={group}, pads=[1, 1, 1, 1]>(x, w{", k" if bias else ""})
           y = BatchNormalization<epsilon=0.001>(c, g, b, m, v) }}""",
        weights,
    )
    assert run_passes(model, [FoldAffineBackward]).after == {"Conv": 1}


def test_batch_norm_into_transposed_convolution(
    build: Any, run_passes: Any, rng: np.random.Generator
) -> None:
    model = build(
        f"""net (float[1, 4, 5, 5] x, float[4, 6, 2, 2] w, {BN.format(c=6)})
             => (float[1, 6, 10, 10] y)
        {{ c = ConvTranspose<strides=[2, 2]>(x, w) y = BatchNormalization(c, g, b, m, v) }}""",
        {"w": f32(rng, 4, 6, 2, 2), **batch_norm(rng, 6)},
    )
    assert run_passes(model, [FoldAffineBackward]).after == {"ConvTranspose": 1}


@pytest.mark.parametrize("trans", [0, 1])
def test_batch_norm_into_gemm(
    build: Any, run_passes: Any, rng: np.random.Generator, trans: int
) -> None:
    shape = (6, 4) if trans else (4, 6)
    model = build(
        f"""net (float[3, 4] x, float[{shape[0]}, {shape[1]}] w, float[6] k, {BN.format(c=6)})
             => (float[3, 6] y)
        {{ c = Gemm<transB={trans}>(x, w, k) y = BatchNormalization(c, g, b, m, v) }}""",
        {"w": f32(rng, *shape), "k": f32(rng, 6), **batch_norm(rng, 6)},
    )
    assert run_passes(model, [FoldAffineBackward]).after == {"Gemm": 1}


def test_layer_scale_through_views(build: Any, run_passes: Any, rng: np.random.Generator) -> None:
    """EdgeNeXt: Linear, × gamma, back to NCHW; the scale is found behind Reshape and Transpose."""
    model = build(
        """net (float[1, 12, 4] x, float[4, 6] w, float[6] k, float[6, 1, 1] gamma)
             => (float[1, 6, 3, 4] y)
        <int64[4] s = {1, 3, 4, 6}>
        { m = MatMul(x, w) a = Add(m, k) r = Reshape(a, s) t = Transpose<perm=[0, 3, 1, 2]>(r)
          y = Mul(t, gamma) }""",
        {"w": f32(rng, 4, 6), "k": f32(rng, 6), "gamma": f32(rng, 6, 1, 1)},
    )
    outcome = run_passes(model, [FoldAffineBackward])
    assert outcome.after == {"MatMul": 1, "Add": 1, "Reshape": 1, "Transpose": 1}


def test_scale_that_varies_in_space_is_kept(
    build: Any, run_passes: Any, rng: np.random.Generator
) -> None:
    model = build(
        """net (float[1, 2, 3, 3] x, float[4, 2, 1, 1] w, float[3, 3] s) => (float[1, 4, 3, 3] y)
        { c = Conv(x, w) y = Mul(c, s) }""",
        {"w": f32(rng, 4, 2, 1, 1), "s": f32(rng, 3, 3)},
    )
    assert run_passes(model, [FoldAffineBackward]).matches == 0


def test_shift_is_not_folded_into_an_operator_without_bias(
    build: Any, run_passes: Any, rng: np.random.Generator
) -> None:
    model = build(
        f"""net (float[2, 6, 4] x, float[4, 5] w, {BN.format(c=6)}) => (float[2, 6, 5] y)
        {{ m1 = MatMul(x, w) y = BatchNormalization(m1, g, b, m, v) }}""",
        {"w": f32(rng, 4, 5), **batch_norm(rng, 6)},
    )
    assert run_passes(model, [FoldAffineBackward]).matches == 0


def test_second_reader_blocks_the_fold(
    build: Any, run_passes: Any, rng: np.random.Generator
) -> None:
    model = build(
        """net (float[1, 2, 3, 3] x, float[4, 2, 1, 1] w, float s)
             => (float[1, 4, 3, 3] y, float[1, 4, 3, 3] c)
        { c = Conv(x, w) y = Mul(c, s) }""",
        {"w": f32(rng, 4, 2, 1, 1), "s": np.float32(3.0).reshape(())},
    )
    assert run_passes(model, [FoldAffineBackward]).matches == 0


def test_shared_weights_are_not_changed_for_the_other_operator(
    build: Any, run_passes: Any, rng: np.random.Generator
) -> None:
    model = build(
        """net (float[1, 2, 3, 3] x, float[1, 2, 3, 3] z, float[4, 2, 1, 1] w, float s)
             => (float[1, 4, 3, 3] y)
        { c = Conv(x, w) m = Mul(c, s) d = Conv(z, w) y = Sub(m, d) }""",
        {"w": f32(rng, 4, 2, 1, 1), "s": np.float32(3.0).reshape(())},
    )
    assert run_passes(model, [FoldAffineBackward]).after == {"Conv": 2, "Sub": 1}


def test_attention_scale_goes_into_the_query_projection(
    build: Any, run_passes: Any, rng: np.random.Generator
) -> None:
    model = build(
        """net (float[1, 8, 2, 3] x, float[8, 8, 1, 1] wq, float[8] bq, float[8, 8, 1, 1] wk)
             => (float[2, 6, 6] y)
        <int64[3] s = {2, 4, 6}, float scale = {0.5}>
        { q = Conv(x, wq, bq) k = Conv(x, wk) qr = Reshape(q, s) kr = Reshape(k, s)
          qt = Transpose<perm=[0, 2, 1]>(qr) a = MatMul(qt, kr) b = Mul(a, scale)
          y = Softmax(b) }""",
        {"wq": f32(rng, 8, 8, 1, 1), "bq": f32(rng, 8), "wk": f32(rng, 8, 8, 1, 1)},
    )
    outcome = run_passes(model, [FoldAffineBackward])
    assert outcome.after == {"Conv": 2, "Reshape": 2, "Transpose": 1, "MatMul": 1, "Softmax": 1}


def test_temperature_per_head_goes_into_the_projection(
    build: Any, run_passes: Any, rng: np.random.Generator
) -> None:
    model = build(
        """net (float[1, 8, 2, 3] x, float[8, 8, 1, 1] wq, float[8] bq, float[2, 6, 4] k,
               float[2, 1, 1] t) => (float[2, 4, 4] y)
        <int64[3] s = {2, 4, 6}>
        { q = Conv(x, wq, bq) qr = Reshape(q, s) a = MatMul(qr, k) y = Mul(a, t) }""",
        {"wq": f32(rng, 8, 8, 1, 1), "bq": f32(rng, 8), "t": f32(rng, 2, 1, 1)},
    )
    assert "Mul" not in run_passes(model, [FoldAffineBackward]).after


def test_temperature_behind_l2_normalisation_is_kept(
    build: Any, run_passes: Any, rng: np.random.Generator
) -> None:
    """Cross-covariance attention normalises q, which would undo any scale of its weights."""
    model = build(
        """net (float[2, 4, 6] x, float[6, 6] w, float[2, 6, 4] k, float[2, 1, 1] t)
             => (float[2, 4, 4] y)
        { q = MatMul(x, w) n = LpNormalization<axis=-1, p=2>(q) a = MatMul(n, k) y = Mul(a, t) }""",
        {"w": f32(rng, 6, 6), "t": f32(rng, 2, 1, 1)},
    )
    assert run_passes(model, [FoldAffineBackward]).matches == 0


def test_scale_shared_by_two_partitions_of_one_projection(
    build: Any, run_passes: Any, rng: np.random.Generator
) -> None:
    """EMOv2: close and remote windows read the same q; both scale, so the projection can."""
    model = build(
        """net (float[1, 4, 2, 4] x, float[4, 4, 1, 1] w, float[4, 4, 4] k) => (float[4, 4, 4] y)
        <int64[3] s = {4, 2, 4}, int64[3] t = {2, 4, 4}, float scale = {0.5}>
        { q = Conv(x, w) h = Reshape(q, s) a = Transpose<perm=[0, 2, 1]>(h)
          b = Transpose<perm=[2, 0, 1]>(h) k2 = Slice(k, zero, two, axis)
          c = MatMul(a, k2) d = MatMul(b, k2) e = Mul(c, scale) f = Mul(d, scale)
          y = Sub(e, f) }""".replace(
            "float scale",
            "int64[1] zero = {0}, int64[1] two = {2}, int64[1] axis = {1}, float scale",
        ),
        {"w": f32(rng, 4, 4, 1, 1)},
    )
    outcome = run_passes(model, [FoldAffineBackward, ShareCommon, FoldAffineBackward])
    assert "Mul" not in outcome.after


def test_scale_after_layer_norm_goes_into_its_gain(
    build: Any, run_passes: Any, rng: np.random.Generator
) -> None:
    model = build(
        """net (float[2, 5] x, float[5] g, float[5] s, float[5] k) => (float[2, 5] y)
        { n = LayerNormalization<axis=-1>(x, g) m = Mul(n, s) y = Add(m, k) }""",
        {n: f32(rng, 5) for n in "gsk"},
    )
    assert run_passes(model, [FoldAffineBackward]).after == {"LayerNormalization": 1}


@pytest.mark.parametrize(
    "body",
    ["y = Div(c, s)", "y = Sub(c, s)", "y = Sub(s, c)", "y = Add(s, c)", "y = Mul(s, c)"],
)
def test_every_constant_operator_folds(
    build: Any, run_passes: Any, rng: np.random.Generator, body: str
) -> None:
    model = build(
        f"""net (float[1, 2, 3, 3] x, float[4, 2, 1, 1] w, float[4] k, float[4, 1, 1] s)
             => (float[1, 4, 3, 3] y) {{ c = Conv(x, w, k) {body} }}""",
        {"w": f32(rng, 4, 2, 1, 1), "k": f32(rng, 4), "s": f32(rng, 4, 1, 1)},
    )
    assert run_passes(model, [FoldAffineBackward]).after == {"Conv": 1}


def test_constant_over_tensor_is_no_affine_map(
    build: Any, run_passes: Any, rng: np.random.Generator
) -> None:
    model = build(
        """net (float[1, 2, 3, 3] x, float[4, 2, 1, 1] w, float s) => (float[1, 4, 3, 3] y)
        { c = Conv(x, w) y = Div(s, c) }""",
        {"w": f32(rng, 4, 2, 1, 1), "s": np.float32(2.0).reshape(())},
    )
    assert run_passes(model, [FoldAffineBackward]).matches == 0


def test_fused_node_keeps_the_module_of_the_main_node(
    build: Any, run_passes: Any, rng: np.random.Generator
) -> None:
    model = build(
        f"""net (float[1, 2, 3, 3] x, float[4, 2, 1, 1] w, {BN.format(c=4)})
             => (float[1, 4, 3, 3] y)
        {{ c = Conv(x, w) y = BatchNormalization(c, g, b, m, v) }}""",
        {"w": f32(rng, 4, 2, 1, 1), **batch_norm(rng, 4)},
    )
    for node, module in zip(model.graph, ["block.conv", "block.norm"], strict=True):
        node.metadata_props[MODULE_KEY] = module
    outcome = run_passes(model, [FoldAffineBackward])
    assert [n.metadata_props[MODULE_KEY] for n in outcome.model.graph] == ["block.conv"]


@pytest.mark.parametrize("group", [1, 3])
def test_batch_norm_into_following_pointwise_convolution(
    build: Any, run_passes: Any, rng: np.random.Generator, group: int
) -> None:
    model = build(
        f"""net (float[1, 6, 4, 4] x, float[9, {6 // group}, 1, 1] w, {BN.format(c=6)})
             => (float[1, 9, 4, 4] y)
        {{ r = Relu(x) n = BatchNormalization(r, g, b, m, v) y = Conv<group={group}>(n, w) }}""",
        {"w": f32(rng, 9, 6 // group, 1, 1), **batch_norm(rng, 6)},
    )
    assert run_passes(model, [FoldAffineForward]).after == {"Relu": 1, "Conv": 1}


def test_batch_norm_before_padded_convolution_is_kept(
    build: Any, run_passes: Any, rng: np.random.Generator
) -> None:
    model = build(
        f"""net (float[1, 6, 4, 4] x, float[9, 6, 3, 3] w, {BN.format(c=6)})
             => (float[1, 9, 4, 4] y)
        {{ n = BatchNormalization(x, g, b, m, v) y = Conv<pads=[1, 1, 1, 1]>(n, w) }}""",
        {"w": f32(rng, 9, 6, 3, 3), **batch_norm(rng, 6)},
    )
    assert run_passes(model, [FoldAffineForward]).matches == 0


def test_pure_scale_passes_padding(build: Any, run_passes: Any, rng: np.random.Generator) -> None:
    model = build(
        """net (float[1, 6, 4, 4] x, float[9, 6, 3, 3] w, float[6, 1, 1] s)
             => (float[1, 9, 4, 4] y)
        { n = Mul(x, s) y = Conv<pads=[1, 1, 1, 1]>(n, w) }""",
        {"w": f32(rng, 9, 6, 3, 3), "s": f32(rng, 6, 1, 1)},
    )
    assert run_passes(model, [FoldAffineForward]).after == {"Conv": 1}


def test_all_readers_take_it_or_none(build: Any, run_passes: Any, rng: np.random.Generator) -> None:
    text = f"""net (float[1, 6, 4, 4] x, float[9, 6, 1, 1] w, float[6, 6, 1, 1] z,
             {BN.format(c=6)}) => (float[1, 9, 4, 4] y, float[1, 6, 4, 4] u)
        {{ n = BatchNormalization(x, g, b, m, v) y = Conv(n, w) u = %s }}"""
    weights = {"w": f32(rng, 9, 6, 1, 1), "z": f32(rng, 6, 6, 1, 1), **batch_norm(rng, 6)}
    both = run_passes(build(text % "Conv(n, z)", weights), [FoldAffineForward])
    assert both.after == {"Conv": 2}
    assert run_passes(build(text % "Relu(n)", weights), [FoldAffineForward]).matches == 0


def test_batch_norm_through_the_mean_into_the_head(
    build: Any, run_passes: Any, rng: np.random.Generator
) -> None:
    model = build(
        f"""net (float[1, 6, 4, 4] x, float[6, 5] w, float[5] k, {BN.format(c=6)})
             => (float[1, 5] y)
        <int64[2] axes = {{2, 3}}>
        {{ n = BatchNormalization(x, g, b, m, v) p = ReduceMean<keepdims=0>(n, axes)
           y = Gemm(p, w, k) }}""",
        {"w": f32(rng, 6, 5), "k": f32(rng, 5), **batch_norm(rng, 6)},
    )
    assert run_passes(model, [FoldAffineForward]).after == {"ReduceMean": 1, "Gemm": 1}


QKV = {
    "split": "a, b, c = Split<axis=1, num_outputs=3>(p)",
    "slices": "a = Slice(p, i0, i1, ax) b = Slice(p, i1, i2, ax) c = Slice(p, i2, i3, ax)",
}


@pytest.mark.parametrize("parts", QKV.values(), ids=QKV.keys())
def test_fused_projection_is_split(
    build: Any, run_passes: Any, rng: np.random.Generator, parts: str
) -> None:
    model = build(
        f"""net (float[1, 4, 3, 3] x, float[12, 4, 1, 1] w, float[12] k)
             => (float[1, 4, 3, 3] y)
        <int64[1] i0 = {{0}}, int64[1] i1 = {{4}}, int64[1] i2 = {{8}}, int64[1] i3 = {{99}},
         int64[1] ax = {{1}}>
        {{ p = Conv(x, w, k) {parts} m = Mul(a, b) y = Sub(m, c) }}""",
        {"w": f32(rng, 12, 4, 1, 1), "k": f32(rng, 12)},
    )
    assert run_passes(model, [SplitProjections]).after == {"Conv": 3, "Mul": 1, "Sub": 1}


def test_unbound_heads_are_split(build: Any, run_passes: Any, rng: np.random.Generator) -> None:
    """(B, N, 3, h, d) → permute → unbind(0), as in ViT-style attention."""
    model = build(
        """net (float[1, 6, 8] x, float[8, 24] w, float[24] k) => (float[1, 2, 6, 6] y)
        <int64[5] s = {1, 6, 3, 2, 4}, int64 i0 = {0}, int64 i1 = {1}, int64 i2 = {2}>
        { p = MatMul(x, w) a = Add(p, k) r = Reshape(a, s) t = Transpose<perm=[2, 0, 3, 1, 4]>(r)
          q = Gather(t, i0) kk = Gather(t, i1) v = Gather(t, i2)
          kt = Transpose<perm=[0, 1, 3, 2]>(kk) u = Sub(q, v) y = MatMul(u, kt) }""",
        {"w": f32(rng, 8, 24), "k": f32(rng, 24)},
    )
    outcome = run_passes(model, [SplitProjections, ComposeViews])
    assert "Gather" not in outcome.after
    assert outcome.after["MatMul"] == 4
    assert outcome.after["Transpose"] == 3


def test_overlapping_parts_are_kept(build: Any, run_passes: Any, rng: np.random.Generator) -> None:
    model = build(
        """net (float[1, 4, 3, 3] x, float[12, 4, 1, 1] w) => (float[1, 8, 3, 3] y)
        <int64[1] i0 = {0}, int64[1] i1 = {4}, int64[1] i2 = {8}, int64[1] i3 = {12},
         int64[1] ax = {1}>
        { p = Conv(x, w) a = Slice(p, i0, i2, ax) b = Slice(p, i1, i3, ax) y = Mul(a, b) }""",
        {"w": f32(rng, 12, 4, 1, 1)},
    )
    assert run_passes(model, [SplitProjections]).matches == 0


def test_projection_with_another_reader_is_kept(
    build: Any, run_passes: Any, rng: np.random.Generator
) -> None:
    model = build(
        """net (float[1, 4, 3, 3] x, float[8, 4, 1, 1] w) => (float[1, 4, 3, 3] y, float z)
        { p = Conv(x, w) a, b = Split<axis=1, num_outputs=2>(p) y = Mul(a, b)
          z = ReduceMax<keepdims=0>(p) }""",
        {"w": f32(rng, 8, 4, 1, 1)},
    )
    assert run_passes(model, [SplitProjections]).matches == 0


def test_spatial_slices_are_kept(build: Any, run_passes: Any, rng: np.random.Generator) -> None:
    model = build(
        """net (float[1, 4, 4, 4] x, float[8, 4, 1, 1] w) => (float[1, 8, 2, 4] y)
        { p = Conv(x, w) a, b = Split<axis=2, num_outputs=2>(p) y = Mul(a, b) }""",
        {"w": f32(rng, 8, 4, 1, 1)},
    )
    assert run_passes(model, [SplitProjections]).matches == 0


@settings(max_examples=25, deadline=None)
@given(
    heads=st.integers(1, 3),
    dim=st.integers(1, 4),
    parts=st.integers(2, 4),
    order=st.permutations(range(4)),
)
def test_projection_layouts(
    build: Any, run_passes: Any, heads: int, dim: int, parts: int, order: list[int]
) -> None:
    """Any order of (part, head, dim, position) after the reshape."""
    rng = np.random.default_rng(3)
    channels, axis = parts * heads * dim, order.index(0)
    gathers = " ".join(f"g{i} = Gather<axis={axis}>(t, i{i})" for i in range(parts))
    total = " ".join(
        f"s{i} = Sub({'g0' if i == 1 else f's{i - 1}'}, g{i})" for i in range(1, parts)
    )
    indices = ", ".join(f"int64 i{i} = {{{i}}}" for i in range(parts))
    rest = [[parts, heads, dim, 6][o] for o in order if o != 0]
    model = build(
        f"""net (float[1, 4, 2, 3] x, float[{channels}, 4, 1, 1] w)
             => (float[{", ".join(map(str, rest))}] y)
        <int64[4] s = {{{parts}, {heads}, {dim}, 6}}, {indices}>
        {{ p = Conv(x, w) r = Reshape(p, s) t = Transpose<perm={list(order)}>(r) {gathers} {total}
           y = Neg(s{parts - 1}) }}""",
        {"w": f32(rng, channels, 4, 1, 1)},
    )
    outcome = run_passes(model, [SplitProjections])
    assert outcome.after["Conv"] == parts
    assert "Gather" not in outcome.after


def test_inverse_transposes_cancel(build: Any, run_passes: Any) -> None:
    model = build(
        """net (float[1, 4, 2, 3] x) => (float[1, 4, 2, 3] y)
        { a = Transpose<perm=[0, 2, 3, 1]>(x) b = Transpose<perm=[0, 3, 1, 2]>(a) y = Relu(b) }"""
    )
    assert run_passes(model, [ComposeViews]).after == {"Relu": 1}


def test_chain_with_second_reader_keeps_the_shared_part(build: Any, run_passes: Any) -> None:
    model = build(
        """net (float[1, 4, 6] x) => (float[1, 4, 6] y, float[1, 6, 4] z)
        { a = Transpose<perm=[0, 2, 1]>(x) z = Exp(a) b = Transpose<perm=[0, 2, 1]>(a)
          y = Relu(b) }"""
    )
    outcome = run_passes(model, [ComposeViews])
    assert outcome.after == {"Transpose": 2, "Exp": 1, "Relu": 1}


@pytest.mark.parametrize("max_rank", [4, 5, 6])
def test_rank_of_window_partition(build: Any, run_passes: Any, max_rank: int) -> None:
    model = build(
        """net (float[1, 8, 6, 6] x) => (float[4, 2, 9, 4] y)
        <int64[6] s = {1, 8, 2, 3, 2, 3}, int64[4] t = {4, 2, 4, 9}>
        { r = Relu(x) a = Reshape(r, s) b = Transpose<perm=[0, 2, 4, 1, 3, 5]>(a)
          c = Reshape(b, t) y = Transpose<perm=[0, 1, 3, 2]>(c) }"""
    )
    outcome = run_passes(model, [ComposeViews], max_rank=max_rank)
    ranks = [len(n.outputs[0].shape) for n in outcome.model.graph]
    assert max(ranks) <= max_rank


def test_parallel_heads_are_averaged(build: Any, run_passes: Any, rng: np.random.Generator) -> None:
    model = build(
        """net (float[1, 4] x, float[4, 3] a, float[4, 3] b, float[3] c, float[3] d)
             => (float[1, 3] y)
        <float two = {2.0}>
        { p = Gemm(x, a, c) q = Gemm(x, b, d) s = Add(p, q) y = Div(s, two) }""",
        {"a": f32(rng, 4, 3), "b": f32(rng, 4, 3), "c": f32(rng, 3), "d": f32(rng, 3)},
    )
    assert run_passes(model, [MergeParallel, FoldAffineBackward]).after == {"Gemm": 1}


@pytest.mark.parametrize(
    "second", ["Conv<pads=[1, 1, 1, 1], dilations=[1, 1]>(z, b)", "Conv<pads=[0, 0, 2, 2]>(x, b)"]
)
def test_branches_that_differ_are_kept(
    build: Any, run_passes: Any, rng: np.random.Generator, second: str
) -> None:
    model = build(
        f"""net (float[1, 4, 5, 5] x, float[1, 4, 5, 5] z, float[3, 4, 3, 3] a,
               float[3, 4, 3, 3] b) => (float[1, 3, 5, 5] y)
        {{ p = Conv<pads=[1, 1, 1, 1]>(x, a) q = {second} y = Add(p, q) }}""",
        {"a": f32(rng, 3, 4, 3, 3), "b": f32(rng, 3, 4, 3, 3)},
    )
    assert run_passes(model, [MergeParallel]).matches == 0


def test_transpose_before_global_mean_is_dropped(build: Any, run_passes: Any) -> None:
    model = build(
        """net (float[1, 3, 4, 6] x) => (float[1, 6] y)
        <int64[2] axes = {2, 3}>
        { t = Transpose<perm=[0, 3, 1, 2]>(x) y = ReduceMean<keepdims=0>(t, axes) }"""
    )
    assert run_passes(model, [ReduceBeforeTranspose]).after == {"ReduceMean": 1}


def test_transpose_that_orders_the_result_is_kept(build: Any, run_passes: Any) -> None:
    model = build(
        """net (float[2, 3, 4] x) => (float[4, 3] y)
        <int64[1] axes = {2}>
        { t = Transpose<perm=[2, 1, 0]>(x) y = ReduceMean<keepdims=0>(t, axes) }"""
    )
    assert run_passes(model, [ReduceBeforeTranspose]).matches == 0
