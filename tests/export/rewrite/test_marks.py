"""Marks on nodes and what `patterns` makes of them."""

from __future__ import annotations

from typing import Any

import pytest

from edgec.export.rewrite.recognise.marks import (
    KINDS,
    PATTERN_KEY,
    Marker,
    add_mark,
    kinds_of,
    marks_of,
    merge_marks,
)
from edgec.export.rewrite.recognise.patterns import counts, patterns, recognised
from edgec.export.rewrite.stats import graph_stats


def silu(build: Any) -> Any:
    return build("g (float[2, 6] x) => (float[2, 6] y) { s = Sigmoid(x) y = Mul(x, s) }")


def test_numbers_go_on_from_the_marks_of_the_model(build: Any) -> None:
    model = silu(build)
    first, second = model.graph
    add_mark(first, "silu#6")
    Marker(model).mark("silu", [second])
    assert marks_of(second) == ("silu#7",)
    with pytest.raises(KeyError):
        Marker(model).mark("swish", [second])


def test_a_node_can_be_part_of_several_patterns(build: Any) -> None:
    model = silu(build)
    first, second = model.graph
    marker = Marker(model)
    marker.mark("silu", model.graph)
    marker.mark("squeeze_excite", [second])
    add_mark(second, "silu#0")  # once is enough
    assert second.metadata_props[PATTERN_KEY] == "silu#0 squeeze_excite#0"
    merge_marks(first, second)
    assert kinds_of(first) == ("silu", "squeeze_excite")
    assert recognised(model) == "recognised: 1 squeeze-excite, 1 SiLU"


def test_report_line_and_statistics(build: Any) -> None:
    model = silu(build)
    assert recognised(model) == "recognised: nothing"
    assert graph_stats(model).patterns == {}
    Marker(model).mark("silu", model.graph)
    assert graph_stats(model).patterns == counts(model) == {"silu": 1}
    assert len(set(KINDS.values())) == len(KINDS)


def test_dissolved_patterns_do_not_count(build: Any) -> None:
    """Without its sigmoid a product is no SiLU any more."""
    model = silu(build)
    add_mark(model.graph[1], "silu#0")
    add_mark(model.graph[0], "no_such_kind#0")
    assert patterns(model) == []


def test_boundary_between_quantizers(build: Any) -> None:
    """Quantizers inside of a pattern are no boundary."""
    model = build(
        """g (float[2, 6] x) => (float[2, 6] y)
        <float scale = {0.1}, int8 zero = {0}>
        { s = Sigmoid(x) sq = QuantizeLinear(s, scale, zero) sd = DequantizeLinear(sq, scale, zero)
          m = Mul(x, sd) mq = QuantizeLinear(m, scale, zero)
          y = DequantizeLinear(mq, scale, zero) }"""
    )
    Marker(model).mark("silu", [n for n in model.graph if n.op_type in ("Sigmoid", "Mul")])
    (found,) = patterns(model)
    assert [v.name for v in found.inputs] == ["x"]
    assert [v.name for v in found.outputs] == ["m"]
    assert (found.kind, found.number, found.module) == ("silu", 0, None)


def test_unmarked_reader_makes_an_output(build: Any) -> None:
    model = build(
        "g (float[2, 6] x) => (float[2, 6] y, float[2, 6] z) "
        "{ s = Sigmoid(x) y = Mul(x, s) z = Relu(s) }"
    )
    Marker(model).mark("silu", [n for n in model.graph if n.op_type != "Relu"])
    assert [v.name for v in patterns(model)[0].outputs] == ["s", "y"]
