"""Sigmoid, HardSigmoid, HardSwish and SiLU in every spelling, and formulas that only look alike."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgec.export.rewrite.legalise.opset import ConvertOpset
from edgec.export.rewrite.recognise.hard_sigmoid import RecogniseHardSigmoid
from edgec.export.rewrite.recognise.hard_swish import RecogniseHardSwish
from edgec.export.rewrite.recognise.patterns import counts, patterns
from edgec.export.rewrite.recognise.sigmoid import RecogniseSigmoid
from edgec.export.rewrite.recognise.silu import RecogniseSilu

SHAPES = st.lists(st.integers(1, 5), min_size=1, max_size=4).map(lambda d: ", ".join(map(str, d)))
CONSTANTS = "float three = {3.0}, float six = {6.0}, float sixth = {0.16666667}, float zero = {0.0}"
SHIFTED = ("a = Add(x, three)", "a = Add(three, x)")
CLIPPED = (
    "c = Clip(a, zero, six)",
    "m = Max(a, zero) c = Min(m, six)",
    "m = Max(zero, a) c = Min(six, m)",
    "m = Min(a, six) c = Max(m, zero)",
    "m = Relu(a) c = Min(m, six)",
)
GATED = (
    "s = Div(x, six) y = Mul(s, c)",
    "s = Mul(sixth, x) y = Mul(c, s)",
    "s = Div(c, six) y = Mul(x, s)",
    "s = Mul(c, sixth) y = Mul(s, x)",
    "p = Mul(x, c) y = Div(p, six)",
    "p = Mul(c, x) y = Mul(p, sixth)",
)


@settings(max_examples=30, deadline=None)
@given(SHAPES, st.sampled_from(SHIFTED), st.sampled_from(CLIPPED), st.sampled_from(GATED))
def test_hard_swish(
    build: Any, run_passes: Any, shape: str, shifted: str, clipped: str, gated: str
) -> None:
    model = build(
        f"""g (float[{shape}] x) => (float[{shape}] y) <{CONSTANTS}>
        {{ {shifted} {clipped} {gated} }}"""
    )
    assert run_passes(model, [RecogniseHardSigmoid, RecogniseHardSwish]).after == {"HardSwish": 1}


@settings(max_examples=15, deadline=None)
@given(SHAPES, st.sampled_from(SHIFTED), st.sampled_from(CLIPPED), st.booleans())
def test_hard_sigmoid(
    build: Any, run_passes: Any, shape: str, shifted: str, clipped: str, divided: bool
) -> None:
    tail = "y = Div(c, six)" if divided else "y = Mul(sixth, c)"
    model = build(
        f"g (float[{shape}] x) => (float[{shape}] y) <{CONSTANTS}> {{ {shifted} {clipped} {tail} }}"
    )
    outcome = run_passes(model, [RecogniseHardSigmoid])
    assert outcome.after == {"HardSigmoid": 1}
    assert outcome.model.graph[0].attributes["alpha"].as_float() == pytest.approx(1 / 6)


def test_hard_sigmoid_scaled_before_clipping(build: Any, run_passes: Any) -> None:
    """Keras's spelling: the slope is 1/5, and it is applied first."""
    model = build(
        """g (float[2, 6] x) => (float[2, 6] y)
        <float a = {0.2}, float b = {0.5}, float zero = {0.0}, float one = {1.0}>
        { s = Mul(x, a) t = Add(s, b) y = Clip(t, zero, one) }"""
    )
    outcome = run_passes(model, [RecogniseHardSigmoid])
    assert outcome.after == {"HardSigmoid": 1}


@settings(max_examples=20, deadline=None)
@given(
    st.sampled_from([(2.0, 0.0, 6.0), (3.0, 0.0, 5.0), (3.0, -1.0, 6.0), (3.0, 0.5, 6.0)]),
    st.sampled_from(GATED),
)
def test_other_constants_are_no_hard_swish(
    build: Any, run_passes: Any, numbers: tuple[float, float, float], gated: str
) -> None:
    shift, low, high = numbers
    model = build(
        f"""g (float[2, 6] x) => (float[2, 6] y)
        <float three = {{{shift}}}, float six = {{{high}}}, float sixth = {{{1 / high}}},
         float zero = {{{low}}}>
        {{ a = Add(x, three) c = Clip(a, zero, six) {gated} }}"""
    )
    outcome = run_passes(model, [RecogniseHardSigmoid, RecogniseHardSwish])
    assert outcome.matches == 0
    assert "slope" in outcome.refusals[0]


@pytest.mark.parametrize(
    ("body", "outputs"),
    [
        ("h = HardSigmoid<alpha=0.16666667>(x) y = Mul(z, h)", ""),
        ("h = HardSigmoid<alpha=0.2>(x) y = Mul(x, h)", ""),
        ("h = HardSigmoid<alpha=0.16666667>(x) y = Mul(x, h)", ", float[2, 6] h"),
        ("h = HardSigmoid<alpha=0.16666667>(x) y = Mul(h, h)", ""),
    ],
    ids=["other tensor", "other slope", "gate is an output", "square"],
)
def test_hard_swish_refuses(build: Any, run_passes: Any, body: str, outputs: str) -> None:
    model = build(f"g (float[2, 6] x, float[2, 6] z) => (float[2, 6] y{outputs}) {{ {body} }}")
    outcome = run_passes(model, [RecogniseHardSwish])
    assert outcome.matches == 0
    assert outcome.refusals


def test_clipped_tensor_with_second_reader_is_kept(build: Any, run_passes: Any) -> None:
    model = build(
        f"""g (float[2, 6] x) => (float[2, 6] y, float[2, 6] c) <{CONSTANTS}>
        {{ a = Add(x, three) c = Clip(a, zero, six) y = Mul(c, sixth) }}"""
    )
    assert run_passes(model, [RecogniseHardSigmoid]).matches == 0


@pytest.mark.parametrize("opset", [13, 14])
def test_hard_swish_below_opset_14(build: Any, run_passes: Any, opset: int) -> None:
    model = build("g (float[2, 6] x) => (float[2, 6] y) { y = HardSwish(x) }")
    after = run_passes(model, [ConvertOpset], target_opset=opset).after
    assert after == ({"HardSwish": 1} if opset >= 14 else {"HardSigmoid": 1, "Mul": 1})


@settings(max_examples=15, deadline=None)
@given(SHAPES, st.booleans(), st.sampled_from(["quotient", "product", "reciprocal"]))
def test_silu_with_exp(build: Any, run_passes: Any, shape: str, one_first: bool, form: str) -> None:
    total = "s = Add(one, e)" if one_first else "s = Add(e, one)"
    tail = {
        "quotient": "y = Div(x, s)",
        "product": "g0 = Div(one, s) y = Mul(g0, x)",
        "reciprocal": "g0 = Reciprocal(s) y = Mul(x, g0)",
    }[form]
    model = build(
        f"""g (float[{shape}] x) => (float[{shape}] y) <float one = {{1.0}}>
        {{ n = Neg(x) e = Exp(n) {total} {tail} }}"""
    )
    outcome = run_passes(model, [RecogniseSigmoid, RecogniseSilu])
    assert outcome.after == {"Sigmoid": 1, "Mul": 1}
    assert counts(outcome.model) == {"silu": 1}


@pytest.mark.parametrize("product", ["y = Mul(x, s)", "y = Mul(s, x)"])
def test_silu_in_one_operand_order(build: Any, run_passes: Any, product: str) -> None:
    model = build(f"g (float[2, 6] x) => (float[2, 6] y) {{ s = Sigmoid(x) {product} }}")
    outcome = run_passes(model, [RecogniseSilu, RecogniseSilu])
    assert outcome.matches == 1  # the second run finds its mark
    (silu,) = patterns(outcome.model)
    assert (silu.kind, [v.name for v in silu.inputs], [v.name for v in silu.outputs]) == (
        "silu",
        ["x"],
        ["y"],
    )
    assert [v.name for v in silu.nodes[1].inputs] == ["x", "s"]


@pytest.mark.parametrize(
    ("body", "outputs", "reason"),
    [
        ("s = Sigmoid(x) y = Mul(z, s)", "", "another tensor"),
        ("s = Sigmoid(x) y = Mul(x, s)", ", float[2, 6] s", "no product"),
        ("t = Mul(x, z) s = Sigmoid(t) y = Mul(x, s)", "", "another tensor"),
        ("s = Sigmoid(x) y = Add(x, s)", "", "no product"),
    ],
)
def test_gates_are_no_silu(
    build: Any, run_passes: Any, body: str, outputs: str, reason: str
) -> None:
    model = build(f"g (float[2, 6] x, float[2, 6] z) => (float[2, 6] y{outputs}) {{ {body} }}")
    outcome = run_passes(model, [RecogniseSilu])
    assert outcome.matches == 0
    assert reason in outcome.refusals[0]


def test_numerator_that_broadcasts_is_kept(build: Any, run_passes: Any) -> None:
    model = build(
        """g (float[6] x, float[2, 6] z) => (float[2, 6] y) <float one = {1.0}>
        { n = Neg(x) e = Exp(n) s = Add(one, e) y = Div(z, s) }"""
    )
    outcome = run_passes(model, [RecogniseSigmoid])
    assert outcome.matches == 0
    assert "broadcasts" in outcome.refusals[0]


def test_patterns_inside_a_subgraph(build: Any, run_passes: Any) -> None:
    model = build(
        f"""g (float[2, 6] x, bool b) => (float[2, 6] y) <{CONSTANTS}>
        {{ y = If(b) <
             then_branch = t () => (float[2, 6] u)
               {{ h = HardSigmoid<alpha=0.16666667>(x) u = Mul(h, x) }},
             else_branch = e () => (float[2, 6] w) {{ s = Sigmoid(x) w = Mul(s, x) }}
           > }}"""
    )
    outcome = run_passes(model, [RecogniseHardSwish, RecogniseSilu])
    assert outcome.after == {"If": 1, "HardSwish": 1, "Sigmoid": 1, "Mul": 1}
    assert counts(outcome.model) == {"silu": 1}


def test_computed_bounds_are_no_constants(build: Any, run_passes: Any) -> None:
    model = build(
        """g (float[2, 6] x, float h) => (float[2, 6] y) <float three = {3.0}, float zero = {0.0}>
        { a = Add(x, three) c = Clip(a, zero, h) y = Div(c, h) }"""
    )
    assert run_passes(model, [RecogniseHardSigmoid]).matches == 0
