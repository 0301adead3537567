"""Slices: chains, parts of concatenations, neighbours; and projections that are split or not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgec.export.rewrite.fold.affine_backward import FoldAffineBackward
from edgec.export.rewrite.fold.merge_slices import MergeSlices
from edgec.export.rewrite.fold.split_projections import SplitProjections


def f32(seed: int, *shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@st.composite
def bounds(draw: Any, size: int) -> tuple[int, int, int]:
    """(start, end, step) of a slice of `size` that keeps something; ends may be negative."""
    start = draw(st.integers(0, size - 1))
    end = draw(st.integers(start + 1, size))
    end = end - size if end < size and draw(st.booleans()) else end
    return start, end, draw(st.integers(1, 2))


def kept(size: int, cut: tuple[int, int, int]) -> int:
    return len(range(size)[slice(*cut)])


@settings(max_examples=25, deadline=None)
@given(st.data(), st.tuples(st.integers(2, 6), st.integers(2, 6)), st.booleans())
def test_slice_of_a_slice(
    build: Any, run_passes: Any, data: Any, shape: tuple[int, int], same_axis: bool
) -> None:
    first = data.draw(bounds(shape[1]))
    axis = 1 if same_axis else 0
    second = data.draw(bounds(kept(shape[1], first) if same_axis else shape[0]))
    sizes = [shape[0], kept(shape[1], first)]
    sizes[axis] = kept(sizes[axis], second)
    numbers = "".join(
        f"int64[1] {n}{i} = {{{v}}}, "
        for i, cut in enumerate((first, second))
        for n, v in zip("sec", cut, strict=True)
    )
    model = build(
        f"""net (float[{shape[0]}, {shape[1]}] x) => (float[{sizes[0]}, {sizes[1]}] y)
        <{numbers} int64[1] a0 = {{1}}, int64[1] a1 = {{{axis - 2}}}>
        {{ t = Slice(x, s0, e0, a0, c0) y = Slice(t, s1, e1, a1, c1) }}"""
    )
    assert run_passes(model, [MergeSlices]).after == {"Slice": 1}


def test_chain_with_an_output_inside_is_kept(build: Any, run_passes: Any) -> None:
    model = build(
        """net (float[5, 6] x) => (float[4, 5] y, float[4, 6] t)
        <int64[1] one = {1}, int64[1] big = {9}, int64[1] a0 = {0}, int64[1] a1 = {1}>
        { t = Slice(x, one, big, a0) y = Slice(t, one, big, a1) }"""
    )
    assert run_passes(model, [MergeSlices]).matches == 0


@pytest.mark.parametrize(
    ("start", "end", "after"),
    [(1, 5, {}), (2, 5, {"Slice": 1}), (0, 1, {}), (0, 3, {"Slice": 1, "Concat": 1})],
    ids=["patches", "some patches", "class token", "across both"],
)
def test_slice_of_a_concatenation(
    build: Any, run_passes: Any, start: int, end: int, after: dict[str, int]
) -> None:
    """A class token in front of patches, cut off again."""
    model = build(
        f"""net (float[1, 1, 3] c0, float[1, 4, 3] p0) => (float[1, {end - start}, 3] y)
        <int64[1] s = {{{start}}}, int64[1] e = {{{end}}}, int64[1] a = {{1}}>
        {{ c = Relu(c0) p = Relu(p0) t = Concat<axis=1>(c, p) z = Slice(t, s, e, a)
           y = Gelu(z) }}"""
    )
    outcome = run_passes(model, [MergeSlices])
    assert {k: v for k, v in outcome.after.items() if k in ("Slice", "Concat")} == after


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 3), min_size=2, max_size=4), st.integers(0, 2), st.integers(0, 2))
def test_concatenation_of_neighbours(
    build: Any, run_passes: Any, sizes: list[int], before: int, behind: int
) -> None:
    total = before + sum(sizes) + behind
    ends = np.cumsum([before, *sizes])
    numbers = ", ".join(f"int64[1] e{i} = {{{e}}}" for i, e in enumerate(ends))
    slices = " ".join(f"t{i} = Slice(x, e{i}, e{i + 1}, a)" for i in range(len(sizes)))
    parts = ", ".join(f"t{i}" for i in range(len(sizes)))
    model = build(
        f"""net (float[2, {total}] x0) => (float[2, {sum(sizes)}] y)
        <{numbers}, int64[1] a = {{1}}>
        {{ x = Relu(x0) {slices} t = Concat<axis=1>({parts}) y = Gelu(t) }}"""
    )
    after = run_passes(model, [MergeSlices]).after
    assert after == {"Relu": 1, "Gelu": 1} | ({"Slice": 1} if before or behind else {})


@pytest.mark.parametrize("order", ["t1, t0", "t0, t0"])
def test_concatenation_in_another_order_is_kept(build: Any, run_passes: Any, order: str) -> None:
    model = build(
        f"""net (float[2, 4] x) => (float[2, 4] y)
        <int64[1] s = {{0}}, int64[1] m = {{2}}, int64[1] e = {{4}}, int64[1] a = {{1}}>
        {{ t0 = Slice(x, s, m, a) t1 = Slice(x, m, e, a) y = Concat<axis=1>({order}) }}"""
    )
    assert run_passes(model, [MergeSlices]).after["Concat"] == 1


def test_slices_that_partition_a_tensor_are_a_split(build: Any, run_passes: Any) -> None:
    model = build(
        """net (float[2, 6] x) => (float[2, 2] y, float[2, 4] z)
        <int64[1] s = {0}, int64[1] m = {2}, int64[1] e = {6}, int64[1] a = {1}>
        { z = Slice(x, m, e, a) y = Slice(x, s, m, a) }"""
    )
    assert run_passes(model, [MergeSlices]).after == {"Split": 1}


@pytest.mark.parametrize(("end", "start"), [(3, 2), (2, 3)], ids=["overlap", "gap"])
def test_slices_that_do_not_partition_are_kept(
    build: Any, run_passes: Any, end: int, start: int
) -> None:
    model = build(
        f"""net (float[2, 6] x) => (float[2, {end}] y, float[2, {6 - start}] z)
        <int64[1] s = {{0}}, int64[1] m = {{{end}}}, int64[1] n = {{{start}}},
         int64[1] e = {{6}}, int64[1] a = {{1}}>
        {{ y = Slice(x, s, m, a) z = Slice(x, n, e, a) }}"""
    )
    outcome = run_passes(model, [MergeSlices])
    assert outcome.matches == 0
    assert "overlap" in outcome.refusals[0]


def qkv(build: Any, form: str, tokens: int = 6) -> Any:
    """One projection for q, k and v of 2 heads with 4 channels, taken apart in different ways."""
    split = {
        "split": """r = Reshape(p, s4) q0, k0, v0 = Split<axis=3, num_outputs=3>(r)
            q = Transpose<perm=[0, 2, 1, 3]>(q0) k = Transpose<perm=[0, 2, 3, 1]>(k0)
            v = Transpose<perm=[0, 2, 1, 3]>(v0)""",
        "gather": """r = Reshape(p, s5) t = Transpose<perm=[2, 0, 3, 1, 4]>(r)
            q = Gather<axis=0>(t, i0) k1 = Gather<axis=0>(t, i1) v = Gather<axis=0>(t, i2)
            k = Transpose<perm=[0, 1, 3, 2]>(k1)""",
    }[form]
    return build(
        f"""net (float[1, {tokens}, 8] x, float[8, 24] w, float[24] b)
             => (float[1, 2, {tokens}, 4] y)
        <int64[4] s4 = {{1, {tokens}, 2, 12}}, int64[5] s5 = {{1, {tokens}, 3, 2, 4}},
         int64 i0 = {{0}}, int64 i1 = {{1}}, int64 i2 = {{2}}, float scale = {{0.5}}>
        {{ m = MatMul(x, w) p = Add(m, b) {split} qs = Mul(q, scale) s = MatMul(qs, k)
           a = Softmax<axis=-1>(s) y = MatMul(a, v) }}""",
        {"w": f32(1, 8, 24), "b": f32(2, 24)},
    )


def test_plain_split_of_a_projection_stays(build: Any, run_passes: Any) -> None:
    """TinyViT: three projections would be five nodes more, and save nothing but the Split."""
    outcome = run_passes(qkv(build, "split"), [SplitProjections, FoldAffineBackward])
    assert outcome.after["MatMul"] == 3
    assert "more operators" in outcome.refusals[0]
    assert "Mul" not in outcome.after  # the scale went into its part of the weights


def test_gathers_and_rank_five_go(build: Any, run_passes: Any) -> None:
    outcome = run_passes(qkv(build, "gather"), [SplitProjections, FoldAffineBackward])
    assert not outcome.after.keys() & {"Gather", "Mul"}
    assert outcome.after["MatMul"] == 5
    ranks = [len(v.shape) for n in outcome.model.graph for v in n.outputs]
    assert max(ranks) == 4


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=2, max_size=4), st.data(), st.booleans())
def test_scale_of_a_part_folds_through_split(
    build: Any, run_passes: Any, sizes: list[int], data: Any, shift: bool
) -> None:
    part = data.draw(st.integers(0, len(sizes) - 1))
    total = sum(sizes)
    names = [f"t{i}" for i in range(len(sizes))]
    ends = [f"y{i} = Gelu({n})" for i, n in enumerate(names) if i != part]
    op = "Add" if shift else "Mul"
    outputs = ", ".join(f"float[1, {s}, 3, 3] y{i}" for i, s in enumerate(sizes))
    model = build(
        f"""net (float[1, 2, 3, 3] x, float[{total}, 2, 1, 1] w, float[{total}] b,
                 float[{sizes[part]}, 1, 1] f) => ({outputs})
        <int64[{len(sizes)}] s = {{{", ".join(map(str, sizes))}}}>
        {{ c = Conv(x, w, b) {", ".join(names)} = Split<axis=1>(c, s)
           u = {op}(t{part}, f) y{part} = Gelu(u) {" ".join(ends)} }}""",
        {"w": f32(1, total, 2, 1, 1), "b": f32(2, total), "f": f32(3, sizes[part], 1, 1)},
    )
    after = run_passes(model, [FoldAffineBackward]).after
    assert after == {"Conv": 1, "Split": 1, "Gelu": len(sizes)}
