"""Einsum in plain operators."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgec.export.rewrite.canonicalise.einsum import LowerEinsum
from edgec.export.rewrite.recognise.patterns import patterns
from edgec.export.rewrite.stages import PREPARE, RECOGNISE


def _model(build: Any, equation: str, *shapes: tuple[int, ...], result: tuple[int, ...]) -> Any:
    names = "abc"[: len(shapes)]
    inputs = ", ".join(f"float{list(s)} {n}" for n, s in zip(names, shapes, strict=True))
    return build(
        f"""g ({inputs}) => (float{list(result) or ""} y)
        {{ y = Einsum<equation="{equation}">({", ".join(names)}) }}"""
    )


@pytest.mark.parametrize(
    ("equation", "shapes", "result", "after"),
    [
        ("bhid,bhdj->bhij", [(2, 3, 4, 5), (2, 3, 5, 6)], (2, 3, 4, 6), {"MatMul": 1}),
        (
            "bhid,bhjd->bhij",
            [(2, 3, 4, 5), (2, 3, 6, 5)],
            (2, 3, 4, 6),
            {"MatMul": 1, "Transpose": 1},
        ),
        ("...id,...dj", [(2, 4, 5), (2, 5, 6)], (2, 4, 6), {"MatMul": 1}),
        ("ij->ji", [(3, 4)], (4, 3), {"Transpose": 1}),
        ("bij->b", [(2, 3, 4)], (2,), {"ReduceSum": 1}),
        ("i,j->ij", [(3,), (4,)], (3, 4), {"Reshape": 2, "Mul": 1}),
        ("bnc,c->bnc", [(2, 3, 4), (4,)], (2, 3, 4), None),
        ("nchw,kc->nkhw", [(2, 3, 4, 5), (6, 3)], (2, 6, 4, 5), None),
        ("bi,bi->", [(2, 3), (2, 3)], (), None),
        ("bik,bjl->bij", [(2, 3, 4), (2, 5, 6)], (2, 3, 5), None),
    ],
)
def test_products_become_one_matmul(
    build: Any,
    run_passes: Any,
    equation: str,
    shapes: list[tuple[int, ...]],
    result: tuple[int, ...],
    after: dict[str, int] | None,
) -> None:
    outcome = run_passes(_model(build, equation, *shapes, result=result), [LowerEinsum])
    assert "Einsum" not in outcome.after
    assert after is None or outcome.after == after


@pytest.mark.parametrize(
    ("equation", "shapes", "result"),
    [
        ("ii->i", [(3, 3)], (3,)),
        ("ij,jk,kl->il", [(2, 3), (3, 4), (4, 5)], (2, 5)),
        ("bij,bjk->bik", [(2, 3, 4), (1, 4, 5)], (2, 3, 5)),
    ],
)
def test_the_rest_is_left_alone(
    build: Any, run_passes: Any, equation: str, shapes: list[tuple[int, ...]], result: Any
) -> None:
    assert run_passes(_model(build, equation, *shapes, result=result), [LowerEinsum]).matches == 0


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_any_two_operands(build: Any, run_passes: Any, data: st.DataObject) -> None:
    letters = "ijklm"
    sizes = {c: data.draw(st.integers(1, 4)) for c in letters}
    terms = [
        "".join(data.draw(st.permutations(letters))[: data.draw(st.integers(1, 4))])
        for _ in range(2)
    ]
    present = sorted(set("".join(terms)))
    result = "".join(data.draw(st.permutations(present))[: data.draw(st.integers(0, 4))])
    shapes = [tuple(sizes[c] for c in term) for term in terms]
    equation = f"{','.join(terms)}->{result}"
    found = run_passes(
        _model(build, equation, *shapes, result=tuple(sizes[c] for c in result)), [LowerEinsum]
    )
    assert "Einsum" not in found.after
    # what the pass is compared with agrees with numpy on what the equation means
    assert np.einsum(equation, *(np.ones(s) for s in shapes)).shape == tuple(
        sizes[c] for c in result
    )


def test_attention_of_einsums_is_recognised(build: Any, run_passes: Any) -> None:
    model = build(
        """g (float[1, 2, 8, 4] q, float[1, 2, 8, 4] k, float[1, 2, 8, 4] v)
        => (float[1, 2, 8, 4] y) <float s = {0.5}> {
          p = Einsum<equation="bhid,bhjd->bhij">(q, k) m = Mul(p, s)
          a = Softmax<axis=-1>(m) y = Einsum<equation="bhij,bhjd->bhid">(a, v) }"""
    )
    outcome = run_passes(model, [*PREPARE, *RECOGNISE])
    assert "Einsum" not in outcome.after
    assert [found.kind for found in patterns(outcome.model)] == ["attention"]
