"""Every rule on a graph that breaks it and on one close by that does not."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from edgec.export.explain import catalogue, explain, rule_catalogue
from edgec.export.lint.base import SEVERITIES
from edgec.export.lint.rules import RULES

ATTENTION = "g (float16[1,2,8,4] x) => (y) { y = Attention(x, x, x) }"
DLA: dict[str, Any] = {"version": "10.3", "facts": {"dla_cores": 2}}
POOLED = (
    "g (float[1,3,4,4] x) => (float[1,2,1,1] p) <float[2,3,1,1] w = {1,2,3,4,5,6}>"
    "{ c = Conv(x, w)  p = GlobalAveragePool(c) }"
)
WINDOW = "Pool<kernel_shape = [4, 4]>(c)"


@dataclass(frozen=True)
class Case:
    """A rule, a graph that breaks it `count` times at `node`, and one that does not."""

    code: str
    bad: str
    good: str
    node: str | None
    options: dict[str, Any] = field(default_factory=dict)
    good_options: dict[str, Any] | None = None
    count: int = 1

    @property
    def id(self) -> str:
        return f"{self.code}-{self.node or 'graph'}"


LAYER_NORM = (
    "g (float[1,4,8] x, float[8] s, float[8] b) => (float[1,4,8] y)"
    "{ y = LayerNormalization<axis = -1>(x, s, b) }"
)
RELU = "g (float[1,4] x) => (float[1,4] y) { y = Relu(x) }"


def reshape(rank: int) -> str:
    shape = ",".join(["1"] * (rank - 1) + ["4"])
    return (
        f"g (float[1,4] x) => (float[1,4] y) <int64[{rank}] s = {{{shape}}}, int64[2] t = {{1,4}}>"
        "{ r = Reshape(x, s)  y = Reshape(r, t) }"
    )


def pair(zero: str = "int8 z = {0}", scale: str = "float s = {0.5}", attributes: str = "") -> str:
    """A quantizer pair on the input of a Relu."""
    return (
        f"g (float[1,3,4,4] x) => (float[1,3,4,4] y) <{scale}, {zero}>"
        f"{{ q = QuantizeLinear{attributes}(x, s, z)  d = DequantizeLinear{attributes}(q, s, z)"
        "  y = Relu(d) }"
    )


def weight(axis: int, scales: int, op: str = "Conv", shape: str = "2,3,1,1", value: int = 1) -> str:
    """A Conv with both operands quantized, the weight per channel along `axis`."""
    size = eval(shape.replace(",", "*"))
    out = 2 if op == "Conv" else 3
    ones, zeros = ",".join([str(value)] * size), ",".join(["0"] * scales)
    steps = ",".join(["0.5"] * scales)
    inputs = 3 if op == "Conv" else 2
    return (
        f"g (float[1,{inputs},4,4] x) => (float[1,{out},4,4] y) <float s = {{0.5}},"
        f" int8 z = {{0}}, int8[{shape}] w = {{{ones}}}, float[{scales}] ws = {{{steps}}},"
        f" int8[{scales}] wz = {{{zeros}}}>"
        "{ q = QuantizeLinear(x, s, z)  d = DequantizeLinear(q, s, z)"
        f"  dw = DequantizeLinear<axis = {axis}>(w, ws, wz)  y = {op}(d, dw) }}"
    )


def residual(left: str, right: str) -> str:
    """An Add of two arms: ``x`` (float), ``dx`` (quantized), ``c`` (out of a Conv), ``dc``."""
    return (
        "g (float[1,2,4,4] x) => (float[1,2,4,4] y) <float s = {0.5}, int8 z = {0},"
        " float[2,2,1,1] w = {1,2,3,4}>"
        "{ qx = QuantizeLinear(x, s, z)  dx = DequantizeLinear(qx, s, z)  c = Conv(x, w)"
        "  qc = QuantizeLinear(c, s, z)  dc = DequantizeLinear(qc, s, z)"
        f"  y = Add({left}, {right}) }}"
    )


def written_out_norm(kind: str, square: str = "Pow(c, two)") -> str:
    two = 0x4000 if kind == "float16" else 2  # half precision is written as its bits
    return (
        f"g ({kind}[1,4,8] x) => ({kind}[1,4,8] y) <{kind} two = {{{two}}}, {kind} e = {{1}}>"
        "{ m = ReduceMean<axes = [-1]>(x)  c = Sub(x, m)"
        f"  p = {square}  v = ReduceMean<axes = [-1]>(p)  a = Add(v, e)  d = Sqrt(a)"
        "  y = Div(c, d) }"
    )


GELU = (
    "g (float[1,4] x) => (float[1,4] y) <float r = {1.41421}, float one = {ONE}, float h = {0.5}>"
    "{ a = Div(x, r)  e = Erf(a)  f = Add(e, one)  g = Mul(x, f)  y = Mul(g, h) }"
)
RESIZE = (
    "g (float[1,1,2,2] x) => (float[1,1,4,4] y) <float[4] s = {1,1,2,2}>"
    '{ y = Resize<mode = "MODE", coordinate_transformation_mode = "asymmetric",'
    ' nearest_mode = "floor">(x, , s) }'
)
STORED = (
    "g (float[1,4] x) => (float[1,4] y) <int8[4,1] w = {1,2,3,4}, float s = {0.5}, int8 z = {0}>"
)
DOUBLE = (
    "g (float[1,4] x) => (float[1,4] y) <float s = {0.5}, int8 z = {0}>"
    "{ q = QuantizeLinear(x, s, z)  d = DequantizeLinear(q, s, z)"
)
ORDER = (
    "g (float[1,2,4,4] x) => (float[1,2,4,4] y) <float s = {0.5}, int8 z = {0},"
    " float[2,2,1,1] w = {1,2,3,4}>"
)
PAIR = "q = QuantizeLinear({0}, s, z)  d = DequantizeLinear(q, s, z)"

PHONE = {"runtime": "pixel-android", "version": "2.3"}
PI = {"runtime": "raspberry-pi-5", "version": "1.22"}
CORAL = {"runtime": "coral-edgetpu", "version": "2.14"}
LINEAR = (
    "g (float[1,2] x) => (float[1,4] y) <float[2,4] w = {1,2,3,4,5,6,7,8}> { y = MatMul(x, w) }"
)


def behind_relu(op_type: str) -> str:
    """An operator at the end of a graph."""
    return f"g (float[1,4] x) => (float[1,4] y) {{ a = Relu(x)  y = {op_type}(a) }}"


def deep(rank: int, dtype: str = "float") -> str:
    """An activation over `rank` dimensions between two others."""
    shape = ",".join(["1"] * (rank - 3) + ["2,4,4"])
    return (
        f"g ({dtype}[1,4,8] x) => ({dtype}[1,4,8] y)"
        f"<int64[{rank}] s = {{{shape}}}, int64[3] t = {{1,4,8}}>"
        "{ a = Relu(x)  r = Reshape(a, s)  p = Sigmoid(r)  b = Reshape(p, t)  y = Relu(b) }"
    )


CASES = [
    Case(
        "E101",
        ATTENTION,
        ATTENTION,
        "y",
        {"version": "10.13", "opset": 23},
        {"version": "10.16", "opset": 23},
    ),
    Case("E101", LAYER_NORM, LAYER_NORM, "y", {"version": "8.5"}, {"version": "8.6"}),
    Case(
        "E101",
        "g (float[4] x, bool[4] c) => (float[n] y) { y = Compress(x, c) }",
        RELU,
        "y",
    ),
    Case(
        "E101",
        "g (float[3] x) => (float[3] y) { y = NoSuchOperator(x) }",
        "g (float[3] x) => (float[3] y) { y = Mish(x) }",  # inlined: has no kernel
        "y",
        {"runtime": "onnxruntime", "version": "1.22", "opset": 18},
    ),
    Case(
        "E102", RELU, RELU, None, {"version": "8.2", "opset": 14}, {"version": "8.2", "opset": 13}
    ),
    Case("E102", RELU, RELU, None, {"opset": 8}, {"opset": 9}),
    Case("E103", reshape(9), reshape(8), "r"),
    Case(
        "E104",
        "g (int64[1,4] x) => (int64[1,4] y) { y = Identity(x) }",
        "g (int64[1,4] x) => (int64[1,4] y) { y = Identity(x) }",
        "x",
        {"version": "8.5"},
        {"version": "10.3"},
        count=2,  # input and output
    ),
    Case(
        "E104",
        "g (float[1,4] x) => (float[1,4] y)"
        "{ a = Cast<to = 11>(x)  b = Exp(a)  y = Cast<to = 1>(b) }",
        "g (float[1,4] x) => (float[1,4] y)"
        "{ a = Cast<to = 10>(x)  b = Exp(a)  y = Cast<to = 1>(b) }",
        "a",
        count=2,
    ),
    Case(
        "E104",
        "g (int32[1,4] x) => (int32[1,4] y) { y = Clip(x) }",
        "g (float[1,4] x) => (float[1,4] y) { y = Clip(x) }",
        "y",
    ),
    Case(
        "E104",
        "g (int8[1,4] x) => (int8[1,4] y) { y = Abs(x) }",
        "g (float16[1,4] x) => (float16[1,4] y) { y = Abs(x) }",
        "y",
    ),
    Case(
        "E104",
        "g (bfloat16[1,4] x) => (bfloat16[1,4] y) { y = Exp(x) }",
        "g (float16[1,4] x) => (float16[1,4] y) { y = Exp(x) }",
        "y",
        {"runtime": "onnxruntime", "version": "1.22"},
    ),
    Case(
        "E105",
        "g (float[1,4] x) => (float[1,4] y) { y = com.microsoft.FastGelu(x) }",
        RELU,
        "y",
        {"domains": '"com.microsoft" : 1'},
    ),
    Case(
        "E105",
        "g (float[1,4] x) => (float[1,4] y) { y = my.plugins.Swoosh(x) }",
        "g (float[1,4] x) => (float[1,4] y) { y = com.microsoft.FastGelu(x) }",
        "y",
        {
            "domains": '"my.plugins" : 1, "com.microsoft" : 1',
            "runtime": "onnxruntime",
            "version": "1.22",
        },
    ),
    Case("E106", RELU.replace("float[1,4]", "float[n,4]"), RELU, "x"),
    Case(
        "E106",
        "g (float[] x) => (float[] y) { y = Relu(x) }",
        "g (float[1,4] x) => (float[1,4] y) { y = Relu(x) }",
        "x",
    ),
    Case("E107", RESIZE.replace("MODE", "cubic"), RESIZE.replace("MODE", "nearest"), "y"),
    Case(
        "E107",
        "g (float[1,4] x, int64[1] s, int64[1] e, int64[1] a) => (float[n,m] y)"
        "{ y = Slice(x, s, e, a) }",
        "g (float[1,4] x, int64[1] s, int64[1] e) => (float[n,m] y) <int64[1] a = {1}>"
        "{ y = Slice(x, s, e, a) }",
        "y",
    ),
    Case(
        "E107",
        "g (float[1,1,4,4] x) => (float[1,1,2,2] y, int64[1,1,2,2] i)"
        "{ y, i = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(x) }",
        "g (float[1,1,4,4] x) => (float[1,1,2,2] y)"
        "{ y = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(x) }",
        "y",
    ),
    Case(
        "E107",
        "g (float[1,1,4,4] x, float[1,1,1,1] w) => (float[1,1,4,4] y) { y = Conv(x, w) }",
        weight(0, 2),
        "y",
        {"version": "8.2", "opset": 13},
    ),
    Case(
        "E107",
        "g (float[1,4,1] x, int64[1] a) => (y) { y = Squeeze(x, a) }",
        "g (float[1,4,1] x) => (y) <int64[1] a = {2}> { y = Squeeze(x, a) }",
        "y",
        {"version": "10.16"},
    ),
    Case("E201", pair("int8 z = {3}"), pair(), "q", count=2),
    Case("E202", pair("uint8 z = {0}"), pair(), "q"),
    Case(
        "E202",
        "g (float[1,4] x) => (float[1,4] y) <float s = {0.5}>"
        "{ q = QuantizeLinear(x, s)  y = DequantizeLinear(q, s) }",
        pair(),
        "q",
    ),
    Case(
        "E203",
        "g (float[1,2,4,4] x) => (float[1,2,4,4] y) <float[2,2,1,1] w = {1,2,3,4},"
        " int32[2] b = {5,6}, float s = {0.5}> { d = DequantizeLinear(b, s)  y = Conv(x, w, d) }",
        "g (float[1,2,4,4] x) => (float[1,2,4,4] y) <float[2,2,1,1] w = {1,2,3,4},"
        " float[2] b = {5,6}> { y = Conv(x, w, b) }",
        "d",
    ),
    Case(
        "E204",
        pair("int8[3] z = {0,0,0}", "float[3] s = {1,2,3}", "<axis = 1>"),
        weight(0, 2),
        "q",
    ),
    Case("E205", weight(1, 3), weight(0, 2), "dw"),
    Case(
        "E205",
        weight(0, 2, "ConvTranspose"),
        weight(1, 3, "ConvTranspose"),
        "dw",
    ),
    Case("E206", pair(scale="float s = {0}"), pair(), "q", count=2),
    Case("E206", pair(scale="float s = {-0.5}"), pair(), "q", count=2),
    Case(
        "E206",
        "g (float[1,4] x, float s) => (float[1,4] y) <int8 z = {0}>"
        "{ q = QuantizeLinear(x, s, z)  y = DequantizeLinear(q, s, z) }",
        pair(),
        "q",
        count=2,
    ),
    Case(
        "E213",
        "g (float x) => (float y) <float s = {0.5}, int8 z = {0}>"
        "{ q = QuantizeLinear(x, s, z)  y = DequantizeLinear(q, s, z) }",
        pair(),
        "q",
    ),
    Case(
        "E214",
        "g (float16[1,4] x) => (float[1,4] y) <float s = {0.5}, int8 z = {0}>"
        "{ q = QuantizeLinear(x, s, z)  y = DequantizeLinear(q, s, z) }",
        pair(),
        "q",
    ),
    Case(
        "E207",
        STORED + "{ t = Transpose(w)  d = DequantizeLinear(t, s, z)  y = Add(x, d) }",
        STORED + "{ d = DequantizeLinear(w, s, z)  t = Transpose(d)  y = Add(x, t) }",
        "t",
    ),
    Case(
        "W108",
        "g (float[1,4] x) => (int64[1] y) { y = ArgMax<axis = 1, keepdims = 0>(x) }",
        RELU,
        "y",
        {"runtime": "stm32h743", "version": "2026.8"},
    ),
    Case(
        "W208",
        DOUBLE + "  r = QuantizeLinear(d, s, z)  y = DequantizeLinear(r, s, z) }",
        DOUBLE + "  y = Relu(d) }",
        "r",
    ),
    Case(
        "W208",
        DOUBLE + "  r = QuantizeLinear(x, s, z)  e = DequantizeLinear(r, s, z)  y = Add(d, e) }",
        DOUBLE + "  y = Add(d, d) }",
        "q",
    ),
    Case(
        "W209",
        ORDER + "{ c = Conv(x, w)  " + PAIR.format("c") + "  y = Relu(d) }",
        ORDER + "{ c = Conv(x, w)  r = Relu(c)  " + PAIR.format("r") + "  y = MaxPool"
        "<kernel_shape = [1, 1]>(d) }",
        "y",
    ),
    Case("W210", residual("dc", "x"), residual("dx", "c"), "y"),
    Case("W210", residual("dc", "x"), residual("dx", "dc"), "y"),
    Case("W210", residual("x", "dx"), residual("x", "c"), "y"),
    Case(
        "W211",
        ORDER + "{ " + PAIR.format("x") + "  y = Conv(d, w) }",
        weight(0, 2),
        "y",
    ),
    Case(
        "W212",
        weight(0, 2, value=65),
        weight(0, 2, value=64),
        "y",
        {"runtime": "onnxruntime", "version": "1.22"},
    ),
    Case("W301", written_out_norm("float16"), written_out_norm("float"), "p"),
    Case("W301", written_out_norm("float16", "Mul(c, c)"), written_out_norm("float"), "p"),
    Case(
        "W302",
        "g (float16[1,4] x) => (float16[1,4] y) { y = Softmax(x) }",
        "g (float[1,4] x) => (float[1,4] y) { y = Softmax(x) }",
        "y",
    ),
    Case("I401", written_out_norm("float"), LAYER_NORM, "p"),
    Case(
        "I401",
        written_out_norm("float"),
        written_out_norm("float"),
        "p",
        {"version": "8.6"},
        {"version": "8.5"},
    ),
    Case("W501", deep(5), deep(4), "r", PHONE, count=3),
    Case("W501", deep(5), deep(5), "r", PHONE, PI, count=3),
    # no .tflite file is made from a graph of half precision
    Case("W501", deep(5), deep(5, "float16"), "r", PHONE, count=3),
    Case("I502", behind_relu("LogSoftmax"), behind_relu("Softmax"), "y", PI),
    Case("W503", behind_relu("Exp"), behind_relu("Sigmoid"), "y", CORAL),
    Case(
        "I504",
        LINEAR,
        LINEAR,
        None,
        CORAL | {"facts": {"parameter_cache_bytes": 7}},
        CORAL | {"facts": {"parameter_cache_bytes": 64}},
    ),
    Case("I402", GELU.replace("ONE", "1"), GELU.replace("ONE", "2"), "e"),
    Case(
        "I402",
        GELU.replace("ONE", "1"),
        GELU.replace("ONE", "1"),
        "e",
        {"version": "10.3"},
        {"version": "8.6"},
    ),
    Case("I601", POOLED, POOLED, None, DLA, {"version": "10.3"}),
    Case("I601", POOLED, POOLED, None, DLA, {**DLA, "version": "10.16"}),
    Case("I602", POOLED, POOLED.replace("Global", "").replace("Pool(c)", WINDOW), "p", DLA),
    Case("I603", pair(), POOLED, None, DLA),
]


@pytest.mark.parametrize("case", CASES, ids=[f"{i}-{c.id}" for i, c in enumerate(CASES)])
def test_a_rule_finds_what_breaks_it_and_nothing_else(case: Case, find) -> None:
    found = find(case.bad, select=(case.code,), **case.options)
    assert len(found) == case.count, found
    assert found[0].node == case.node
    assert found[0].code == case.code
    good_options = case.options if case.good_options is None else case.good_options
    assert find(case.good, select=(case.code,), **good_options) == []


def test_every_rule_has_a_case_and_an_explanation() -> None:
    codes = [rule.code for rule in RULES]
    assert len(set(codes)) == len(codes)
    assert {case.code for case in CASES} == set(codes)
    assert list(rule_catalogue()) == codes
    assert not set(codes) & set(catalogue())
    for code in codes:
        assert code[0] in SEVERITIES
        entry = explain(code.lower())
        assert entry.code == code
        for text in (entry.title, entry.cause, entry.example, entry.fix):
            assert len(text) > 8, code


def test_messages_name_the_runtime_the_operator_and_the_way_out(find) -> None:
    (found,) = find(LAYER_NORM, "8.5")
    assert found.code == "E101"
    assert found.message == "TensorRT 8.5 does not execute LayerNormalization"
    assert "TensorRT 8.6" in found.fix
    assert found.where == "y (LayerNormalization)"


def test_nodes_of_subgraphs_and_functions_are_checked_too(find) -> None:
    branches = (
        "g (bool c, float[1,4] x) => (float[1,4] y) { y = If(c) <"
        "then_branch = a () => (float[1,4] t) { t = my.plugins.Swoosh(x) },"
        "else_branch = b () => (float[1,4] e) { e = Relu(x) }> }"
    )
    found = find(branches, domains='"my.plugins" : 1', select=("E105",))
    assert [f.node for f in found] == ["t"]
    function = (
        "g (float[1,4] x) => (float[1,4] y) { y = local.twice(x) }\n"
        '<domain: "local", opset_import: ["" : 17]> twice (a) => (b) { b = Add(a, a) }'
    )
    assert find(function, domains='"local" : 1') == []


def test_the_module_path_is_reported(graph) -> None:
    import onnx_ir as ir

    from edgec.export.lint.engine import lint
    from edgec.targets.registry import get_target

    model = ir.from_proto(graph(LAYER_NORM))
    model.graph[0].metadata_props["edgec.module"] = "stages.0.norm"
    report = lint(model, get_target("jetson-nano"))
    assert [(f.code, f.module) for f in report.findings] == [
        ("E101", "stages.0.norm"),
        ("E102", None),
    ]
    assert report.findings[0].where == "y (LayerNormalization), module stages.0.norm"
    assert report.findings[1].where == "graph"
