"""ONNX files: versions, shapes, external data, and one clear error for each kind of damage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgec.export.capture import from_onnx
from edgec.export.capture.onnx_file import custom_operators
from edgec.export.errors import EdgecError, InputError, UnsupportedError, UsageError
from edgec.export.rewrite import numerics
from edgec.export.rewrite.engine import run_stages
from edgec.export.rewrite.graph import shape_of

Write = Callable[..., Path]


def test_small_model(onnx_file: Write, small_model: onnx.ModelProto) -> None:
    model = from_onnx(onnx_file(small_model))
    assert model.opset_imports[""] == 20
    assert [v.name for v in (*model.graph.inputs, *model.graph.outputs)] == ["image", "logits"]
    assert all(shape_of(v) is not None for n in model.graph for v in n.outputs)
    run_stages(model, target_opset=17)
    assert "BatchNormalization" not in [n.op_type for n in model.graph]


OLD = {
    7: "y = BatchNormalization<epsilon=0.01>(x, s, s, s, s)",
    8: 'a = Sum(x, x) y = Upsample<mode="nearest", scales=[1.0, 1.0, 2.0, 2.0]>(a)',
    9: "a = Slice<starts=[0, 0], ends=[2, 2], axes=[2, 3]>(x) y = PRelu(a, s1)",
    10: "y = Clip<min=-0.5, max=0.5>(x)",
    11: "u = Unsqueeze<axes=[0]>(x) v = Squeeze<axes=[0]>(u) y = Softmax<axis=1>(v)",
    12: "y = ReduceSum<axes=[2, 3], keepdims=0>(x)",
    13: 'y = Pad<mode="constant">(x, pads)',
    17: "y = LayerNormalization(x, s5)",
    18: "y, z = Split<axis=1, num_outputs=2>(x)",
    19: "y = AveragePool<kernel_shape=[2, 2], dilations=[2, 2]>(x)",
    21: "y = GroupNormalization<num_groups=2>(x, s, s)",
    22: "c = Conv<pads=[1, 1, 1, 1]>(x, w) y = Dropout(c)",
}


@pytest.mark.parametrize("opset", OLD)
def test_opsets(onnx_file: Write, opset: int) -> None:
    rng = np.random.default_rng(1)
    proto = onnx.parser.parse_model(
        f"""<ir_version: {4 if opset < 13 else 9}, opset_import: ["" : {opset}]>
        net (float[1, 4, 6, 5] x) => (float[{"a, b" if opset == 12 else "a, b, c, d"}] y)
        {{ {OLD[opset]} }}"""
    )
    constants = {
        "s": np.abs(rng.standard_normal(4)) + 0.5,
        "s1": np.full((4, 1, 1), 0.3),
        "s5": rng.standard_normal(5),
        "w": rng.standard_normal((4, 4, 3, 3)),
    }
    for name, array in constants.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array.astype(np.float32), name))
    proto.graph.initializer.append(
        onnx.numpy_helper.from_array(np.array([0, 0, 1, 1, 0, 0, 1, 1]), "pads")
    )
    model = from_onnx(onnx_file(proto))  # compares with the file's own graph
    assert model.opset_imports[""] == 20
    assert run_stages(model, target_opset=max(17, min(opset, 20))).verified


def test_opset_too_old(onnx_file: Write) -> None:
    proto = onnx.parser.parse_model(
        '<ir_version: 3, opset_import: ["" : 6]> n (float[2] x) => (float[2] y) { y = Abs(x) }'
    )
    with pytest.raises(UnsupportedError) as caught:
        from_onnx(onnx_file(proto))
    assert caught.value.code == "EC344"


DYNAMIC = """<ir_version: 8, opset_import: ["" : 17]>
    net (float[%s] x) => (float[p, q] y)
    { s = Shape(x) b = Gather(s, zero) u = Unsqueeze(b, zero1) m = Concat<axis=0>(u, minus)
      y = Reshape(x, m) }"""


def dynamic(dims: str) -> onnx.ModelProto:
    proto = onnx.parser.parse_model(DYNAMIC % dims)
    for name, array in (("zero", 0), ("zero1", [0]), ("minus", [-1])):
        proto.graph.initializer.append(
            onnx.numpy_helper.from_array(np.array(array, np.int64), name)
        )
    return proto


def test_batch_defaults_to_one_and_shape_arithmetic_disappears(onnx_file: Write) -> None:
    model = from_onnx(onnx_file(dynamic("batch, 3, 4, 4")))
    assert shape_of(model.graph.inputs[0]) == (1, 3, 4, 4)
    assert shape_of(model.graph.outputs[0]) == (1, 48)
    assert [n.op_type for n in model.graph] == ["Reshape"]


def test_open_dimensions_are_listed_with_the_flag(onnx_file: Write) -> None:
    path = onnx_file(dynamic("batch, 3, height, width"))
    with pytest.raises(UsageError) as caught:
        from_onnx(path)
    assert caught.value.code == "EC245"
    assert "height" in str(caught.value.why)
    assert "--shape x=1,3,224,224" in str(caught.value.fix)
    model = from_onnx(path, shapes={"x": (2, 3, 4, 6)})
    assert shape_of(model.graph.outputs[0]) == (2, 72)


@pytest.mark.parametrize(
    "shapes", [{"images": (1, 3, 4, 4)}, {"x": (1, 3, 4)}, {"x": (1, 5, 4, 4)}]
)
def test_wrong_shape_flags(onnx_file: Write, shapes: dict[str, tuple[int, ...]]) -> None:
    with pytest.raises(UsageError) as caught:
        from_onnx(onnx_file(dynamic("batch, 3, height, width")), shapes=shapes)
    assert caught.value.code == "EC241"
    assert "x" in str(caught.value)


def test_old_ir_lists_initializers_as_inputs(
    onnx_file: Write, small_model: onnx.ModelProto
) -> None:
    small_model.ir_version = 3
    for tensor in small_model.graph.initializer:
        small_model.graph.input.append(
            onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        )
    model = from_onnx(onnx_file(small_model))
    assert [v.name for v in model.graph.inputs] == ["image"]


def test_annotated_initializers_keep_their_shape(onnx_file: Write) -> None:
    proto = onnx.parser.parse_model(
        """<ir_version: 9, opset_import: ["" : 20]>
        g (float[1, 3, 4, 4] x) => (float[1, 2, 4, 4] y)
        <float s = {0.5}, int8 z = {0}, int8[2, 3, 1, 1] w = {1, 2, 3, 4, 5, 6}>
        { d = DequantizeLinear(w, s, z)  y = Conv(x, d) }"""
    )
    for tensor in proto.graph.initializer:
        proto.graph.value_info.append(
            onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        )
    graph = from_onnx(onnx_file(proto)).graph
    assert all(shape_of(value) is not None for node in graph for value in node.outputs)


def test_local_functions_are_inlined(onnx_file: Write) -> None:
    proto = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17, "local" : 1]>
        net (float[2] x) => (float[2] y) { y = local.twice(x) }
        <domain: "local", opset_import: ["" : 17]>
        twice (a) => (b) { b = Add(a, a) }"""
    )
    model = from_onnx(onnx_file(proto))
    assert [n.op_type for n in model.graph] == ["Add"]
    assert custom_operators(model) == []


def test_subgraphs(onnx_file: Write) -> None:
    proto = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 13]>
        net (bool c, float[2, 3] x) => (float[2, 3] y)
        { y = If(c) <
            then_branch = a () => (float[2, 3] p) { p = Softmax<axis=1>(x) },
            else_branch = b () => (float[2, 3] q) { q = Neg(x) } > }"""
    )
    model = from_onnx(onnx_file(proto))
    assert sorted(n.op_type for n in model.graph.all_nodes()) == ["If", "Neg", "Softmax"]
    assert run_stages(model, target_opset=13).verified


def test_custom_operator_needs_a_runtime_but_is_left_alone(
    onnx_file: Write, recwarn: Any, caplog: Any
) -> None:
    proto = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17, "my.ops" : 1]>
        net (float[2] x) => (float[2] y) { a = Abs(x) y = my.ops.Magic(a) }"""
    )
    path = onnx_file(proto)
    with pytest.raises(UnsupportedError) as caught:
        from_onnx(path)
    assert caught.value.code == "EC343"
    assert "my.ops::Magic" in str(caught.value.where)
    model = from_onnx(path, verify=False)
    assert custom_operators(model) == ["my.ops::Magic"]
    assert "my.ops::Magic" in caplog.text


def test_runtime_operators_of_other_domains_are_left_alone(onnx_file: Write) -> None:
    proto = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
        net (float[2] x) => (float[2] y) { a = Abs(x) y = com.microsoft.QuickGelu(a) }"""
    )
    model = from_onnx(onnx_file(proto))
    assert custom_operators(model) == ["com.microsoft::QuickGelu"]


@pytest.fixture
def external(small_model: onnx.ModelProto, tmp_path: Path) -> Callable[[dict[str, str]], Path]:
    """The small model with its first weight in weights.bin, external fields changed as given."""

    def write(fields: dict[str, str]) -> Path:
        tensor = small_model.graph.initializer[0]
        data = onnx.numpy_helper.to_array(tensor).tobytes()
        (tmp_path / "weights.bin").write_bytes(b"\0" * 16 + data)
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        entries = {
            "location": "weights.bin",
            "offset": "16",
            "length": str(len(data)),
            **fields,
        }
        for key, value in entries.items():
            tensor.external_data.add(key=key, value=value)
        path = tmp_path / "model.onnx"
        path.write_bytes(small_model.SerializeToString())
        return path

    return write


def test_external_data(external: Callable[[dict[str, str]], Path]) -> None:
    model = from_onnx(external({}))
    weight = model.graph.initializers["w"].const_value
    assert weight is not None
    assert weight.numpy().min() > 0


@pytest.mark.parametrize(
    "fields",
    [
        {"location": "nothing.bin"},
        {"location": "../weights.bin"},
        {"location": "/etc/hostname"},
        {"location": ""},
        {"offset": "100000"},
        {"offset": "-4"},
        {"length": "99999999"},
        {"length": "many"},
    ],
    ids=lambda f: "=".join(next(iter(f.items()))),
)
def test_bad_external_data(
    external: Callable[[dict[str, str]], Path], fields: dict[str, str]
) -> None:
    with pytest.raises(InputError) as caught:
        from_onnx(external(fields))
    assert caught.value.code == "EC746"


def test_external_data_behind_a_link_out_of_the_folder(
    external: Callable[[dict[str, str]], Path], tmp_path: Path
) -> None:
    path = external({"location": "link.bin"})
    outside = tmp_path.parent / "outside.bin"
    outside.write_bytes((tmp_path / "weights.bin").read_bytes())
    (tmp_path / "link.bin").symlink_to(outside)
    with pytest.raises(InputError) as caught:
        from_onnx(path)
    assert caught.value.code == "EC746"


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "empty"),
        (b"this is a text file, not a model\n" * 20, "text"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "LFS"),
        (b"PK\x03\x04" + bytes(60), "zip"),
        (b"\x1c\0\0\0TFL3" + bytes(60), "TFLite"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_something_else_named_onnx(tmp_path: Path, content: bytes, word: str) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        from_onnx(path)
    assert caught.value.code == "EC741"
    assert word in str(caught.value.why)


def test_truncated_file(onnx_file: Write, small_model: onnx.ModelProto) -> None:
    path = onnx_file(small_model)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputError) as caught:
        from_onnx(path)
    assert caught.value.code == "EC741"


def test_missing_file_and_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "no.onnx", tmp_path):
        with pytest.raises(InputError) as caught:
            from_onnx(path)
        assert caught.value.code == "EC740"


def test_too_large_a_file_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "huge.onnx"
    with path.open("wb") as stream:
        stream.truncate(3 << 30)  # sparse
    with pytest.raises(InputError) as caught:
        from_onnx(path)
    assert caught.value.code == "EC747"


def edit_cycle(m: onnx.ModelProto) -> None:
    m.graph.node[1].input[0] = "r"


def edit_order(m: onnx.ModelProto) -> None:
    nodes = list(m.graph.node)
    del m.graph.node[:]
    m.graph.node.extend([nodes[1], nodes[0], *nodes[2:]])


def edit_undefined(m: onnx.ModelProto) -> None:
    m.graph.node[2].input[0] = "nowhere"


def edit_twice(m: onnx.ModelProto) -> None:
    m.graph.node[2].output[0] = "c"


def edit_output(m: onnx.ModelProto) -> None:
    m.graph.output[0].name = "nowhere"


def edit_attribute(m: onnx.ModelProto) -> None:
    m.graph.node[2].attribute.append(onnx.helper.make_attribute("speed", 3))


def edit_size(m: onnx.ModelProto) -> None:
    m.graph.initializer[0].dims[0] = 5


def edit_negative(m: onnx.ModelProto) -> None:
    m.graph.initializer[0].dims[0] = -4


def edit_enormous(m: onnx.ModelProto) -> None:
    m.graph.initializer[0].dims[0] = 1 << 40


def edit_type(m: onnx.ModelProto) -> None:
    m.graph.initializer[0].data_type = 77


def edit_operator(m: onnx.ModelProto) -> None:
    m.graph.node[2].op_type = "Relux"


EDITS = [
    edit_cycle,
    edit_order,
    edit_undefined,
    edit_twice,
    edit_output,
    edit_attribute,
    edit_size,
    edit_negative,
    edit_enormous,
    edit_type,
    edit_operator,
]


@pytest.mark.parametrize("edit", EDITS, ids=lambda e: e.__name__[5:])
def test_malformed_graph(
    onnx_file: Write, small_model: onnx.ModelProto, edit: Callable[[onnx.ModelProto], None]
) -> None:
    edit(small_model)
    with pytest.raises(InputError) as caught:
        from_onnx(onnx_file(small_model))
    assert caught.value.code == "EC742"
    if edit is edit_cycle:
        assert "cycle" in caught.value.what


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_no_numbers(
    onnx_file: Write, small_model: onnx.ModelProto, value: float
) -> None:
    array = onnx.numpy_helper.to_array(small_model.graph.initializer[0]).copy()
    array[0, 0, 0, 0] = value
    small_model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(array, "w"))
    with pytest.raises(InputError) as caught:
        from_onnx(onnx_file(small_model))
    assert caught.value.code == "EC744"
    assert "'w'" in caught.value.what


def test_infinite_bound_is_fine(onnx_file: Write) -> None:
    proto = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        net (float[2] x) => (float[2] y) { y = Clip(x, lo, hi) }"""
    )
    for name, value in (("lo", 0.0), ("hi", np.inf)):
        proto.graph.initializer.append(
            onnx.numpy_helper.from_array(np.array(value, np.float32), name)
        )
    assert from_onnx(onnx_file(proto)).graph.num_nodes() == 1


def test_zero_sized_dimensions(onnx_file: Write, small_model: onnx.ModelProto) -> None:
    proto = dynamic("batch, 3, height, width")
    with pytest.raises(InputError) as caught:
        from_onnx(onnx_file(proto), shapes={"x": (1, 3, 0, 4)})
    assert caught.value.code == "EC745"


def test_an_input_that_is_an_output_too_keeps_its_shape(onnx_file: Write) -> None:
    text = "net (float[1, 3] x) => (float[1, 3] y, float[1, 3] x) { y = Relu(x) }"
    header = '<ir_version: 9, opset_import: ["" : 17]>'
    model = from_onnx(onnx_file(onnx.parser.parse_model(header + text)))
    assert [shape_of(v) for v in model.graph.outputs] == [(1, 3), (1, 3)]


def test_shape_that_depends_on_the_data(onnx_file: Write) -> None:
    proto = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        net (float[4, 4] x) => (int64[2, n] y) { y = NonZero(x) }"""
    )
    with pytest.raises(UnsupportedError) as caught:
        from_onnx(onnx_file(proto))
    assert caught.value.code == "EC345"
    assert "NonZero" in str(caught.value.where)


def test_deep_nesting_is_refused(onnx_file: Write) -> None:
    def leaf(name: str) -> onnx.GraphProto:
        result = onnx.helper.make_tensor_value_info(name, 1, [2])
        return onnx.helper.make_graph(
            [onnx.helper.make_node("Neg", ["x"], [name])], "g", [], [result]
        )

    graph = leaf("o")
    for i in range(20):
        node = onnx.helper.make_node(
            "If", ["c"], [f"o{i}"], then_branch=graph, else_branch=leaf(f"e{i}")
        )
        result = onnx.helper.make_tensor_value_info(f"o{i}", 1, [2])
        graph = onnx.helper.make_graph([node], "g", [], [result])
    graph.input.extend(
        [onnx.helper.make_tensor_value_info(*v) for v in (("c", 9, []), ("x", 1, [2]))]
    )
    opset = onnx.helper.make_opsetid("", 17)
    proto = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8)
    with pytest.raises(InputError) as caught:
        from_onnx(onnx_file(proto))
    assert caught.value.code in ("EC741", "EC742")


@settings(
    max_examples=250,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
@given(
    edits=st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 255)), max_size=4),
    cut=st.one_of(st.none(), st.integers(0, 10**9)),
    insert=st.binary(max_size=6),
)
def test_random_damage_never_escapes(
    onnx_file: Write,
    small_model: onnx.ModelProto,
    edits: list[tuple[int, int]],
    cut: int | None,
    insert: bytes,
) -> None:
    """A damaged file gives a clear error or a model that is valid; nothing else."""
    path = onnx_file(small_model)
    data = bytearray(path.read_bytes())
    for position, value in edits:
        data[position % len(data)] = value
    if cut is not None:
        at = cut % len(data)
        data = data[:at] + insert if len(insert) % 2 else data[:at] + insert + data[at:]
    path.write_bytes(bytes(data))
    try:
        model = from_onnx(path)
    except EdgecError:
        return
    onnx.checker.check_model(ir.to_proto(model))
    numerics.run(numerics.serialize(model), [numerics.seeded_inputs(model, 1)])
