"""How the tables of delegates are made, and that shipped ones are what was made."""

from __future__ import annotations

import tomllib

import pytest

from edgec.targets.operators import make_edgetpu, make_gpu
from edgec.targets.operators.delegates import delegate_table, parse_delegate
from edgec.targets.registry import get_target, list_targets
from edgec.targets.schema import DELEGATES

SWITCH = """
  if (flags) { case kTfLiteBuiltinBefore: }
  switch (opcode) {
    case kTfLiteBuiltinDepthwiseConv2d:
    case kTfLiteBuiltinReluN1To1:
    case kTfLiteBuiltinResizeNearestNeighbor: {
    case kTfLiteBuiltinCustom:
"""
PAGE = """| Operation name | Known limitations |
| --- | --- |
| ResizeBilinear | Input/output is a 3-dimensional tensor. |
| ReluN1To1 | |
| Conv2d | Must use the same dilation in x and y dimensions. |
"""


def test_cases_of_the_switch_are_read() -> None:
    assert make_gpu.builtins(SWITCH) == [
        "DEPTHWISE_CONV_2D",
        "RELU_N1_TO_1",
        "RESIZE_NEAREST_NEIGHBOR",
    ]


def test_rows_of_a_page_are_read() -> None:
    assert make_edgetpu.rows(PAGE) == {
        "RESIZE_BILINEAR": "Input/output is a 3-dimensional tensor.",
        "RELU_N1_TO_1": "",
        "CONV_2D": "Must use the same dilation in x and y dimensions.",
    }


def test_limits_are_read() -> None:
    data = tomllib.loads(
        'delegate = "d"\ntitle = "D"\nversion = "1.2"\nsource = "s"\n[operators]\n'
        'ADD = { "int8" = { ranks = [1, 2], ratio = [-10, 8] } }\nSUB = { limitation = "none" }\n'
    )
    table = parse_delegate(data)
    form = table.forms["ADD"]["int8"]
    assert (form.ranks, form.ratio, form.product) == ((1, 2), (-10, 8), None)
    assert table.operators == {"ADD", "SUB"}
    assert table.limitations == {"SUB": "none"}


def test_targets_name_delegates_with_tables() -> None:
    named = {d for name in list_targets() for d in get_target(name).delegates}
    assert named == set(DELEGATES)
    for name in DELEGATES:
        assert delegate_table(name).name == name


def test_the_installed_delegate_is_as_the_table_says() -> None:
    pytest.importorskip("ai_edge_litert")
    from edgec.targets.operators import make_xnnpack

    table = delegate_table("xnnpack")
    for name, form in (("ABS", "float"), ("TRANSPOSE_CONV", "int8"), ("BATCH_MATMUL", "int8")):
        base = make_xnnpack.call(name, form)
        if name == "TRANSPOSE_CONV":
            base = make_xnnpack.changed(base, make_xnnpack._constant)
        assert make_xnnpack.taken(base)
        limits = parse_delegate(
            {
                "delegate": "xnnpack",
                "title": "",
                "source": "",
                "operators": {name: {form: make_xnnpack.limits(name, form, base)}},
            }
        )
        assert limits.forms[name][form] == table.forms[name][form]
    assert not make_xnnpack.taken(make_xnnpack.call("CUMSUM", "float"))
