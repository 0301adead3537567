"""Constants, no-ops, views, Expand, sequences and common subexpressions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgec.export.rewrite.canonicalise.drop_expand import DropExpand
from edgec.export.rewrite.canonicalise.fold_constants import MAX_BYTES, FoldConstants
from edgec.export.rewrite.canonicalise.gather_view import GatherToView
from edgec.export.rewrite.canonicalise.lift_constants import LiftConstants
from edgec.export.rewrite.canonicalise.no_op import RemoveNoOps
from edgec.export.rewrite.canonicalise.share_common import ShareCommon
from edgec.export.rewrite.canonicalise.split_sequences import SplitSequences
from edgec.export.rewrite.canonicalise.static_reshape import StaticReshape
from edgec.export.rewrite.stages import PREPARE


def test_shape_arithmetic_disappears(build: Any, run_passes: Any) -> None:
    model = build(
        """g (float[2, 3, 4] x) => (float[6, 4] y)
        <int64 zero = {0}, int64 two = {2}, int64[1] minus = {-1}, int64[1] ax = {0}>
        { s = Shape(x) c = Gather(s, two) u = Unsqueeze(c, ax) t = Concat<axis=0>(minus, u)
          y = Reshape(x, t) }"""
    )
    assert run_passes(model, PREPARE).after == {"Reshape": 1}


def test_positional_encoding_is_folded(build: Any, run_passes: Any) -> None:
    model = build(
        """g (float[1, 4, 8] x) => (float[1, 4, 8] y)
        <float[4, 1] p = {0, 1, 2, 3}, float[1, 8] f = {1, 2, 3, 4, 5, 6, 7, 8}>
        { a = Mul(p, f) s = Sin(a) y = Add(x, s) }"""
    )
    assert run_passes(model, [FoldConstants]).after == {"Add": 1}


def test_growing_constants_are_not_folded(build: Any, run_passes: Any) -> None:
    n = MAX_BYTES // 4 + 1
    model = build(
        f"""g (float[{n}] x) => (float[1] z)
        <float[1] one = {{1.0}}, int64[1] shape = {{{n}}}>
        {{ big = Expand(one, shape) y = Add(x, big) z = ReduceMax(y) }}"""
    )
    assert run_passes(model, [FoldConstants]).matches == 0


def test_quantized_constants_are_not_folded(build: Any, run_passes: Any) -> None:
    model = build(
        """g (float[2, 3] x) => (float[2, 3] y)
        <int8[3] w = {1, 2, 3}, float s = {0.5}>
        { d = DequantizeLinear(w, s) y = Mul(x, d) }"""
    )
    assert run_passes(model, [FoldConstants]).matches == 0


def test_random_numbers_are_not_folded(build: Any) -> None:
    model = build(
        """g (float[2, 3] x) => (float[2, 3] y)
        { r = RandomNormal<shape=[2, 3]>() y = Add(x, r) }"""
    )
    assert not FoldConstants()(model).modified


def test_initializer_that_is_also_an_input_is_not_constant(build: Any) -> None:
    model = build("g (float[2] x, float[2] w) => (float[2] y) { v = Exp(w) y = Add(x, v) }")
    value = model.graph.inputs[1]
    import onnx_ir as ir

    value.const_value = ir.tensor(np.ones(2, np.float32), name="w")
    model.graph.register_initializer(value)
    assert not FoldConstants()(model).modified


NO_OPS = {
    "identity": "t = Identity(x)",
    "dropout": "t = Dropout(x, ratio)",
    "cast": "t = Cast<to=1>(x)",
    "reshape": "t = Reshape(x, same)",
    "expand": "t = Expand(x, same)",
    "tile": "t = Tile(x, ones)",
    "transpose": "t = Transpose<perm=[0, 1, 2]>(x)",
    "slice": "t = Slice(x, zero1, big1, zero1)",
    "pad": "t = Pad(x, pads)",
    "concat": "t = Concat<axis=1>(x)",
    "add zero": "t = Add(x, zero)",
    "zero add": "t = Add(zero, x)",
    "sub zero": "t = Sub(x, zero)",
    "mul one": "t = Mul(one, x)",
    "div one": "t = Div(x, one)",
    "pow one": "t = Pow(x, one)",
    "clip": "t = Clip(x)",
    "reduce": "t = ReduceMean(x, zero1)",
}
CONSTANTS = """<float ratio = {0.5}, int64[3] same = {1, 3, 4}, int64[3] ones = {1, 1, 1},
    int64[1] zero1 = {0}, int64[1] big1 = {99}, int64[6] pads = {0, 0, 0, 0, 0, 0},
    float zero = {0.0}, float one = {1.0}>"""


@pytest.mark.parametrize("body", NO_OPS.values(), ids=NO_OPS.keys())
def test_no_op_is_removed(build: Any, run_passes: Any, body: str) -> None:
    model = build(
        f"g (float[1, 3, 4] x) => (float[1, 3, 4] y) {CONSTANTS} {{ {body} y = Relu(t) }}"
    )
    assert run_passes(model, [RemoveNoOps]).after == {"Relu": 1}


NOT_NO_OPS = {
    "one minus": "t = Sub(zero, x)",
    "one over": "t = Div(one, x)",
    "power of one": "t = Pow(one, x)",
    "reverse": "t = Slice(x, last, first, axis1, back)",
    "cast": "h = Cast<to=10>(x) t = Cast<to=1>(h)",
    "same-size transpose": "t = Transpose<perm=[0, 2, 1]>(x)",
    "broadcasting": "t = Add(x, zeros)",
    "shift": "t = Pad(x, shift)",
    "pads that are not known": "t = Pad(x, pads)",
}


@pytest.mark.parametrize("body", NOT_NO_OPS.values(), ids=NOT_NO_OPS.keys())
def test_what_looks_like_a_no_op_is_kept(build: Any, run_passes: Any, body: str) -> None:
    model = build(
        f"""g (float[1, 3, 3] x, int64[6] pads) => (float[n, 3, 3] y)
        <float zero = {{0.0}}, float one = {{1.0}}, int64[1] last = {{2}}, int64[1] first = {{-9}},
         int64[1] axis1 = {{1}}, int64[1] back = {{-1}}, float[2, 1, 1] zeros = {{0.0, 0.0}},
         int64[6] shift = {{0, -1, 0, 0, 1, 0}}>
        {{ {body} y = Relu(t) }}"""
    )
    assert run_passes(model, [RemoveNoOps]).matches == 0


def test_no_op_between_input_and_output_stays(build: Any, run_passes: Any) -> None:
    model = build("g (float[2] x) => (float[2] y) { y = Identity(x) }")
    assert run_passes(model, [RemoveNoOps]).after == {"Identity": 1}


def test_two_outputs_of_one_value_stay_two(build: Any, run_passes: Any) -> None:
    model = build("g (float[2] x) => (float[2] y, float[2] z) { y = Relu(x) z = Identity(y) }")
    assert run_passes(model, [RemoveNoOps, ShareCommon]).after == {"Relu": 1, "Identity": 1}


@pytest.mark.parametrize(
    "body",
    [
        "y = Squeeze(x, one)",
        "y = Reshape(x, zeros)",
        "y = Reshape<allowzero=1>(x, literal)",
    ],
)
def test_views_become_literal_reshapes(build: Any, run_passes: Any, body: str) -> None:
    model = build(
        f"""g (float[2, 1, 4] x) => (float[2, 4] y)
        <int64[1] one = {{1}}, int64[2] zeros = {{0, -1}}, int64[2] literal = {{2, 4}}>
        {{ {body} }}"""
    )
    outcome = run_passes(model, [StaticReshape])
    assert outcome.after == {"Reshape": 1}
    node = outcome.model.graph[0]
    assert node.inputs[1].const_value.numpy().tolist() == [2, 4]
    assert not node.attributes


def _gather(build: Any, data: tuple[int, ...], axis: int, indices: np.ndarray) -> Any:
    shape = (*data[:axis], *indices.shape, *data[axis + 1 :])
    values = ", ".join(str(i) for i in indices.ravel())
    return build(
        f"""g (float{list(data)} x) => (float{list(shape)} y)
        <int64{list(indices.shape) or ""} i = {{{values}}}>
        {{ a = Gather<axis={axis}>(x, i) y = Neg(a) }}"""
    )


@pytest.mark.parametrize(
    ("indices", "after"),
    [
        (np.arange(12).reshape(1, 12, 1, 1), {"Reshape": 1, "Neg": 1}),
        (np.arange(12).reshape(3, 4), {"Reshape": 1, "Neg": 1}),
        (np.arange(12) - 12, {"Neg": 1}),
        (np.arange(12).reshape(3, 4).T, {"Reshape": 1, "Transpose": 1, "Neg": 1}),
        (
            np.arange(12).reshape(2, 3, 2).transpose(2, 0, 1),
            {"Reshape": 1, "Transpose": 1, "Neg": 1},
        ),
        (
            np.arange(12).reshape(1, 4, 3, 1).transpose(2, 0, 3, 1),
            {"Reshape": 1, "Transpose": 1, "Neg": 1},
        ),
    ],
)
@pytest.mark.parametrize(("data", "axis"), [((12,), 0), ((2, 12, 5), 1), ((3, 12), -1)])
def test_gather_that_counts_is_a_view(
    build: Any, run_passes: Any, indices: np.ndarray, after: dict[str, int], data: tuple, axis: int
) -> None:
    model = _gather(build, data, axis % len(data), indices)
    assert run_passes(model, [GatherToView]).after == after


@pytest.mark.parametrize(
    "indices",
    [
        np.array(3),
        np.arange(11),
        np.arange(12)[::-1],
        np.array([*range(11), 0]),
        np.random.default_rng(0).permutation(12).reshape(3, 4),
        np.zeros((12, 1), int),
    ],
)
def test_gather_in_another_order_is_kept(build: Any, run_passes: Any, indices: np.ndarray) -> None:
    assert run_passes(_gather(build, (12, 2), 0, indices), [GatherToView]).matches == 0


def test_expand_before_broadcast_is_dropped(build: Any, run_passes: Any) -> None:
    model = build(
        """g (float[2, 3] x, float[1, 3] s) => (float[2, 3] y)
        <int64[2] shape = {2, 3}> { e = Expand(s, shape) y = Mul(x, e) }"""
    )
    assert run_passes(model, [DropExpand]).after == {"Mul": 1}


def test_expand_that_makes_the_shape_is_kept(build: Any, run_passes: Any) -> None:
    model = build(
        """g (float[1, 3] x, float[1, 3] s) => (float[2, 3] y)
        <int64[2] shape = {2, 3}> { e = Expand(s, shape) y = Mul(x, e) }"""
    )
    assert run_passes(model, [DropExpand]).matches == 0


def test_common_subexpressions_are_shared(build: Any, run_passes: Any) -> None:
    model = build(
        """g (float[4] x, float[4] z) => (float[4] y)
        { a = Add(x, z) b = Add(z, x) c = Exp(a) d = Exp(b) y = Sub(c, d) }"""
    )
    assert run_passes(model, [ShareCommon]).after == {"Add": 1, "Exp": 1, "Sub": 1}


def test_sub_is_not_commutative(build: Any, run_passes: Any) -> None:
    model = build(
        """g (float[4] x, float[4] z) => (float[4] y)
        { a = Sub(x, z) b = Sub(z, x) y = Mul(a, b) }"""
    )
    assert run_passes(model, [ShareCommon]).matches == 0


def test_equal_constants_count_as_the_same_input(build: Any, run_passes: Any) -> None:
    model = build(
        """g (float[2, 3] x) => (float[3, 2] y) <int64[2] s = {3, 2}, int64[2] t = {3, 2}>
        { a = Reshape(x, s) b = Reshape(x, t) y = Max(a, b) }"""
    )
    assert run_passes(model, [ShareCommon]).after == {"Reshape": 1, "Max": 1}


def test_sum_with_itself_is_a_scale(build: Any, run_passes: Any) -> None:
    model = build(
        """g (float[4] x) => (float[4] y) { a = Exp(x) b = Exp(x) s = Add(a, b) y = Neg(s) }"""
    )
    assert run_passes(model, [ShareCommon]).after == {"Exp": 1, "Mul": 1, "Neg": 1}


def test_random_numbers_are_not_shared(build: Any) -> None:
    model = build(
        """g (float[2] x) => (float[2] y)
        { a = RandomNormalLike(x) b = RandomNormalLike(x) y = Sub(a, b) }"""
    )
    assert not ShareCommon()(model).modified


@pytest.mark.parametrize(
    ("split", "after"),
    [
        ("s = SplitToSequence<axis=1>(x, sizes)", {"Split": 1, "Mul": 1}),
        ("s = SplitToSequence<axis=1>(x, step)", {"Split": 1, "Mul": 1}),
        ("s = SplitToSequence<axis=1>(x)", {"Split": 1, "Mul": 1}),
        ("s = SplitToSequence<axis=1, keepdims=0>(x)", {"Split": 1, "Reshape": 2, "Mul": 1}),
    ],
)
def test_sequences_become_split(
    build: Any, run_passes: Any, split: str, after: dict[str, int]
) -> None:
    model = build(
        f"""g (float[2, 4] x) => (float y)
        <int64[2] sizes = {{2, 2}}, int64 step = {{2}}, int64 i = {{0}}, int64 j = {{-1}}>
        {{ {split} a = SequenceAt(s, i) b = SequenceAt(s, j) p = Mul(a, b)
           y = ReduceSum<keepdims=0>(p) }}"""
    )
    outcome = run_passes(model, [SplitSequences])
    assert outcome.after == {**after, "ReduceSum": 1}


def test_constant_nodes_and_subgraph_constants_are_lifted(build: Any, run_passes: Any) -> None:
    model = build(
        """g (bool c, float[2] x) => (float[2] y)
        { y = If(c) <
            then_branch = t () => (float[2] p) { k = Constant<value_float=2.0>() p = Mul(x, k) },
            else_branch = e () => (float[2] q) { k = Constant<value_float=3.0>() q = Mul(x, k) }
          > }"""
    )
    outcome = run_passes(model, [LiftConstants])
    assert outcome.after == {"If": 1, "Mul": 2}


def test_passes_work_inside_subgraphs(build: Any, run_passes: Any) -> None:
    model = build(
        """g (bool c, float[2] x) => (float[2] y)
        { y = If(c) <
            then_branch = t () => (float[2] p) {
              a = Exp(x) b = Exp(x) s = Identity(a) p = Sub(s, b) },
            else_branch = e () => (float[2] q) { q = Neg(x) }
          > }"""
    )
    outcome = run_passes(model, [RemoveNoOps, ShareCommon])
    assert outcome.after == {"If": 1, "Exp": 1, "Sub": 1, "Neg": 1}
