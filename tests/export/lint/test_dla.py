"""What NVIDIA's DLA takes of a graph: every limit of the tables, and how a graph is divided."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest

from edgec.export.lint.base import Context
from edgec.export.lint.dla import divide
from edgec.export.lint.engine import lint
from edgec.export.rewrite.inference import infer_shapes
from edgec.targets.operators.dla import dla_table, dla_tables
from edgec.targets.operators.table import select_table
from edgec.targets.registry import get_target, list_targets

ORIN, XAVIER = "jetson-orin-nx", "jetson-xavier-nx"


def reasons(model: onnx.ModelProto, target: str = ORIN) -> dict[str, str | None]:
    """Output name of every node → why the DLA leaves it to the GPU, None if it does not."""
    graph = ir.from_proto(model)
    infer_shapes(graph)
    device = get_target(target)
    table = select_table("tensorrt", device.runtime.version).table
    found = divide(Context(graph, device, table))
    assert found is not None
    why: dict[str, str | None] = {str(node.outputs[0].name): None for node in found.taken}
    return why | {str(node.outputs[0].name): text for node, text in found.left.items()}


def constant(name: str, *shape: int, kind: str = "float", value: str = "1") -> str:
    """An initializer in ONNX's text format."""
    size = f"[{','.join(map(str, shape))}]" if shape else ""
    return f"{kind}{size} {name} = {{{','.join([value] * math.prod(shape))}}}"


def ints(name: str, *values: int) -> str:
    return f"int64[{len(values)}] {name} = {{{','.join(map(str, values))}}}"


def one(call: str, *constants: str, x: str = "1,4,16,16") -> str:
    """A graph of one operator."""
    return f"g (float[{x}] x) => (y) <{', '.join(constants)}> {{ y = {call} }}"


def conv(attributes: str = "", weight: tuple[int, ...] = (4, 4, 3, 3), x: str = "1,4,16,16") -> str:
    return one(f"Conv{attributes}(x, w)", constant("w", *weight), x=x)


CASES = [
    # taken by the DLA, close by left to the GPU, and why
    (conv(), conv("<strides = [9, 9]>"), "stride 9x9, allowed are 1 to 8"),
    (conv(weight=(1, 1, 32, 1), x="1,1,40,8"), conv(weight=(1, 1, 33, 1), x="1,1,40,8"), "kernel"),
    (conv("<pads = [2,2,2,2]>"), conv("<pads = [3,3,3,3]>"), "padding as large as the kernel"),
    (conv("<dilations = [7, 7]>"), conv("<dilations = [33, 1]>", x="1,4,80,16"), "dilation"),
    (conv(), conv(weight=(8193, 4, 1, 1), x="1,4,1,1"), "8193 output channels"),
    (conv(), conv(x="4097,4,3,3"), "the batch is 4097, above 4096"),
    (conv(), conv(weight=(4, 4, 3), x="1,4,16"), "rank 3, not 4"),
    (conv(), conv(x="1,4,3,8193"), "a dimension of 8193, above 8192"),
    (
        conv(weight=(1, 512, 3, 3), x="1,512,14,14"),
        conv(weight=(1, 2048, 7, 7), x="1,2048,14,14"),
        "banks of 16",
    ),
    (
        one("ConvTranspose<strides = [2,2]>(x, w)", constant("w", 4, 2, 2, 2)),
        one("ConvTranspose<strides = [2,2], pads = [1,1,1,1]>(x, w)", constant("w", 4, 2, 4, 4)),
        "padding 1x1x1x1, allowed are 0 to 0",
    ),
    (
        one("ConvTranspose(x, w)", constant("w", 4, 2, 2, 2)),
        one("ConvTranspose<group = 2>(x, w)", constant("w", 4, 2, 2, 2)),
        "2 groups",
    ),
    (
        one("MatMul(x, w)", constant("w", 4, 3), x="1,4"),
        one("MatMul(x, w)", constant("w", 4, 3), x="1,9,4"),
        "rank 3, not 2",
    ),
    (
        one("Gemm(x, w)", constant("w", 4, 3), x="1,4"),
        one("Gemm<transA = 1>(x, x)", x="4,4"),
        "second operand is computed",
    ),
    (
        one("AveragePool<kernel_shape = [8, 8]>(x)"),
        one("AveragePool<kernel_shape = [9, 9]>(x)"),
        "kernel 9x9, allowed are 1 to 8",
    ),
    (
        one("Clip(x, l, h)", constant("l", value="0"), constant("h", value="6")),
        one("Clip(x, l, h)", constant("l", value="-1"), constant("h", value="6")),
        "clipped ReLU",
    ),
    (
        one("Clip(x, l, h)", constant("l", value="0"), constant("h", value="127")),
        one("Clip(x, l, h)", constant("l", value="0"), constant("h", value="128")),
        "clipped ReLU",
    ),
    (one("PRelu(x, w)", constant("w", 4, 1, 1)), one("PRelu(x, x)"), "operand is computed"),
    (one("LRN<size = 5>(x)"), one("LRN<size = 4>(x)"), "window is none of 3, 5, 7, 9"),
    (one("Concat<axis = 1>(x, x)"), one("Concat<axis = 2>(x, x)"), "along dimension 2"),
    (one("Concat<axis = 1>(x, x)"), one("Concat<axis = 1>(x)"), "single input"),
    (
        one('Resize<mode = "linear">(x, , s)', "float[4] s = {1,1,4,4}"),
        one('Resize<mode = "linear">(x, , s)', "float[4] s = {1,1,5,5}"),
        "factors",
    ),
    (
        one('Resize<mode = "nearest">(x, , s)', "float[4] s = {1,1,5,5}"),
        one('Resize<mode = "cubic">(x, , s)', "float[4] s = {1,1,2,2}"),
        "its mode is cubic",
    ),
    (
        one('Resize<mode = "nearest">(x, , s)', "float[4] s = {1,1,2,2}"),
        one('Resize<mode = "nearest">(x, , s)', "float[4] s = {1,2,2,2}"),
        "batch or channels",
    ),
    (
        one("Slice(x, a, b, i)", ints("a", 1), ints("b", 3), ints("i", 1)),
        one("Slice(x, a, b, i)", ints("a", 1), ints("b", 2), ints("i", 0), x="2,4,16,16"),
        "along dimension 0",
    ),
    (
        one("Slice(x, a, b, i)", ints("a", 1), ints("b", 3), ints("i", -1)),
        one("Slice(x, a, b)", ints("a", 0), ints("b", 1), x="2,4,16,16"),
        "along dimension 0",
    ),
    (
        one("Reshape(x, s)", ints("s", 1, 16, 4, 16)),
        one("Reshape(x, s)", ints("s", 1, 4, 256)),
        "output has rank 3",
    ),
    (
        one("Reshape(x, s)", ints("s", 1, 16, 4, 16)),
        one("Reshape(x, s)", ints("s", 4, 4, 8, 8)),
        "moves the batch",
    ),
    (
        one("Transpose<perm = [0,2,3,1]>(x)"),
        one("Transpose<perm = [1,0,2,3]>(x)"),
        "moves the batch",
    ),
    (
        one("Softmax<axis = 1>(x)", x="1,2000,1,1"),
        one("Softmax<axis = 1>(x)", x="1,2000,2,1"),
        "2000 elements, above 1024",
    ),
    (one("Softmax(x)"), one("Softmax<axis = 0>(x)"), "along dimension 0"),
    (
        one("ReduceMax<axes = [2,3]>(x)"),
        one("ReduceMax<axes = [0]>(x)"),
        "along dimension 0",
    ),
    (one("GlobalMaxPool(x)"), one("GlobalAveragePool(x)"), "no reduction by mean"),
    (
        one("Mul(x, c)", constant("c", 4, 1, 1)),
        one("Mul(x, c)", constant("c", 16)),
        "constant of shape 16 is stretched to 1x4x16x16",
    ),
    (one("Add(x, x)"), one("Gelu(x)"), "no such layer"),
    (one("Sigmoid(x)"), one("Sigmoid(x)", x="1,16,4"), "rank 3, not 4"),
    (one("Abs(x)"), one("Erf(x)"), "no such layer"),
]


@pytest.mark.parametrize(("taken", "left", "why"), CASES, ids=[c[2] for c in CASES])
def test_limits(graph, taken: str, left: str, why: str) -> None:
    assert reasons(graph(taken)) == {"y": None}
    opset = 20 if "Gelu" in left else 17
    (found,) = reasons(graph(left, opset=opset)).values()
    assert found is not None
    assert why in found


def test_xavier_has_no_softmax_no_division_and_no_maximum_over_positions(graph) -> None:
    for call, why in (
        ("Softmax(x)", "the DLA has it from Orin on"),
        ("Div(x, x)", "no division"),
        ("GlobalMaxPool(x)", "no such layer"),
    ):
        assert reasons(graph(one(call)), ORIN) == {"y": None}
        assert reasons(graph(one(call)), XAVIER) == {"y": why}
    # the limit on all dimensions is younger
    assert reasons(graph(one("Relu(x)", x="1,4,3,8193")), XAVIER) == {"y": None}


def test_one_operand_may_be_one_number_per_channel(graph) -> None:
    text = "g (float[1,4,8,8] x, float[{}] z) => (y) {{ y = Mul(x, z) }}"
    assert reasons(graph(text.format("1,4,1,1"))) == {"y": None}
    (why,) = reasons(graph(text.format("1,1,8,8"))).values()
    assert why == "an operand of shape 1x1x8x8 is stretched to 1x4x8x8"


def test_a_float32_island_of_a_float16_graph_stays_on_the_gpu(graph) -> None:
    found = reasons(
        graph(
            "g (float16[1,4,8,8] x) => (float16[1,4,8,8] y)"
            "{ a = Relu(x)  f = Cast<to = 1>(a)  s = Softmax(f)  y = Cast<to = 10>(s) }"
        )
    )
    assert found == {"a": None, "s": "it computes in float"}


def test_parts_have_the_gpu_between_them(graph) -> None:
    # the skip connection joins both convolutions, but the Gelu lies between them
    text = (
        "g (float[1,4,8,8] x) => (y) <" + constant("w", 4, 4, 1, 1) + ">"
        "{ a = Conv(x, w)  b = ACT(a)  c = Conv(b, w)  y = Add(a, c) }"
    )
    device = get_target(ORIN)
    table = select_table("tensorrt", device.runtime.version).table
    for act, parts, share in (("Relu", 1, 1.0), ("Gelu", 2, 1.0)):
        model = ir.from_proto(graph(text.replace("ACT", act), opset=20))
        infer_shapes(model)
        found = divide(Context(model, device, table))
        assert found is not None
        assert (found.parts, found.share) == (parts, share)


def test_the_share_counts_multiplications(graph) -> None:
    model = graph(
        "g (float[1,4,8,8] x) => (y) <"
        + ", ".join((constant("w", 4, 4, 3, 3), constant("v", 8, 1), ints("s", 1, 24, 6)))
        + ">{ a = Conv(x, w)  t = Reshape(a, s)  u = Transpose<perm = [0,2,1]>(t)"
        "  m = MatMul(t, u)  y = Relu(m) }"
    )
    (hit, *left) = lint(ir.from_proto(model), get_target(ORIN), select=("I60",)).findings
    share = 4 * 36 * 36 / (4 * 36 * 36 + 24 * 24 * 6)
    assert f"{share:.0%} of the multiplications, 1 of 5 operators, in 1 part " in hit.message
    assert [f.node for f in left] == ["t", "u", "m", "y"]


def test_open_shapes_have_no_share(graph) -> None:
    model = graph(
        "g (float[1,4,h,8] x) => (y) <" + constant("w", 4, 4, 3, 3) + "> { y = Conv(x, w) }"
    )
    (hit,) = lint(ir.from_proto(model), get_target(ORIN), select=("I601",)).findings
    assert "0 of 1 operators" in hit.message
    assert "multiplications" not in hit.message


def test_a_convolutional_network_needs_the_gpu_for_its_pooling_alone(tiny_onnx: Path) -> None:
    left = {op: why for op, why in reasons(onnx.load(tiny_onnx)).items() if why is not None}
    assert list(left) == ["p", "f"]
    assert "AveragePool" in str(left["p"])
    assert left["f"] == "no change of rank"


def test_which_targets_have_a_dla() -> None:
    found = {}
    for name in list_targets():
        target = get_target(name)
        cores, sm = target.fact("dla_cores"), target.fact("gpu_sm")
        if cores is not None and isinstance(sm, int):
            table = dla_table(sm, target.runtime.version)
            found[name] = None if table is None else (cores, table.title, table.since)
    assert found == {
        "jetson-agx-orin-jp6.2": (2, "Orin's DLA", "10.0"),
        "jetson-agx-orin-jp7.2": None,
        "jetson-agx-xavier-jp5.1": (2, "Xavier's DLA", "8.5"),
        "jetson-orin-nx-jp6.2": (2, "Orin's DLA", "10.0"),
        "jetson-xavier-nx-jp5.1": (2, "Xavier's DLA", "8.5"),
    }


def test_tables_name_their_sources_and_do_not_overlap() -> None:
    tables = dla_tables()
    assert len({(t.gpu_sm, t.since) for t in tables}) == len(tables) == 3
    for table in tables:
        assert "NVIDIA" in table.source
        assert not set(table.operators) & set(table.left)
        known = {schema.name for schema in onnx.defs.get_all_schemas() if not schema.domain}
        assert set(table.operators) | set(table.left) <= known
    assert dla_table(87, "8.5") is not dla_table(87, "10.3")
    assert dla_table(87, "10.7") is not None
    assert dla_table(87, "10.8") is None
    assert dla_table(86, "10.3") is None


def test_a_target_without_cores_has_no_findings(graph) -> None:
    model = ir.from_proto(graph(conv()))
    target = get_target(ORIN)
    bare = replace(target, facts={k: v for k, v in target.facts.items() if k != "dla_cores"})
    assert lint(model, target, select=("I6",)).findings
    assert not lint(model, bare, select=("I6",)).findings
