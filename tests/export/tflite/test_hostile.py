"""Broken and hostile files: one clear error, never anything else."""

from __future__ import annotations

import struct
import sys
import time
import tracemalloc
from pathlib import Path

import flatbuffers
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgec.export.capture import from_tflite
from edgec.export.errors import EdgecError, InputError, UnsupportedError
from edgec.export.tflite import (
    Model,
    Operator,
    Quantization,
    Subgraph,
    Tensor,
    decode,
    encode,
    load,
    reader,
)
from edgec.export.tflite.names import input_names, output_names
from edgec.export.tflite.reader import MAX_ITEMS


def code_of(data: bytes) -> str | None:
    """Error code of reading a file, None if it can be read."""
    try:
        decode(data)
    except EdgecError as error:
        return error.code
    return None


@pytest.mark.parametrize("data", [b"", b"TFL3", b"\0\0\0\0TFL", b"PK\3\4" * 10])
def test_no_file_at_all(data: bytes) -> None:
    with pytest.raises(InputError, match="not a TFLite file") as caught:
        decode(data, "x.tflite")
    assert caught.value.code == "EC700"
    assert caught.value.where == "x.tflite"


def test_cut_off_anywhere(small: Model) -> None:
    data = encode(small)
    codes = {code_of(data[:size]) for size in range(len(data))}
    assert codes <= {"EC700", "EC701", "EC703", "EC705"}


@pytest.mark.parametrize("value", [0, 1, 4, 0x7FFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
def test_every_word_replaced(small: Model, value: int) -> None:
    data = encode(small)
    found = set()
    for place in range(0, len(data) - 3, 4):
        changed = bytearray(data)
        changed[place : place + 4] = struct.pack("<I", value)
        found.add(code_of(bytes(changed)))
    assert found - {None}
    assert all(code is None or code.startswith(("EC70", "EC30")) for code in found)


edit = st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=8))


@given(edits=st.lists(edit, min_size=1, max_size=4), whole=st.booleans())
@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_bytes_replaced(small: Model, edits: list[tuple[float, bytes]], whole: bool) -> None:
    data = bytearray(encode(small))
    # structure is in front, weights behind
    reach = len(data) if whole else len(data) // 2
    for place, content in edits:
        start = int(place * (reach - len(content)))
        data[start : start + len(content)] = content
    found = None
    try:
        model = decode(bytes(data))
        encode(model)
        from_tflite(model)
    except EdgecError as error:
        found = error.code
    assert found is None or found.startswith(("EC70", "EC30", "EC74"))


def crowded(count: int, name: str) -> bytes:
    """A file whose only subgraph refers to one tensor `count` times."""
    builder = flatbuffers.Builder()
    text = builder.CreateString(name)
    builder.StartObject(4)
    builder.PrependUOffsetTRelativeSlot(3, text, 0)
    tensor = builder.EndObject()
    builder.StartVector(4, count, 4)
    for _ in range(count):
        builder.PrependUOffsetTRelative(tensor)
    tensors = builder.EndVector()
    builder.StartObject(1)
    builder.PrependUOffsetTRelativeSlot(0, tensors, 0)
    subgraph = builder.EndObject()
    builder.StartVector(4, 1, 4)
    builder.PrependUOffsetTRelative(subgraph)
    subgraphs = builder.EndVector()
    builder.StartObject(3)
    builder.PrependUint32Slot(0, 3, 0)
    builder.PrependUOffsetTRelativeSlot(2, subgraphs, 0)
    builder.Finish(builder.EndObject(), file_identifier=b"TFL3")
    return bytes(builder.Output())


@pytest.mark.parametrize("length", [1, 1000], ids=["tables", "names"])
def test_one_table_in_very_many_places(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(decode(crowded(10, "x")).main.tensors) == 10
    monkeypatch.setattr(reader, "MAX_TABLES", 5000)
    data = crowded(5001 if length == 1 else MAX_ITEMS // 1000 + 1, "x" * length)
    tracemalloc.start()
    assert code_of(data) == "EC702"
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 << 20


def test_one_content_in_very_many_places() -> None:
    """Packed integers are unpacked for each tensor that shares them."""
    content = np.zeros(1 << 20, np.int8)
    tensors = [Tensor(f"t{i}", content.shape, "INT4", content) for i in range(40)]
    assert code_of(encode(Model([Subgraph(tensors[:2], [], [], [], "main")]))) is None
    assert code_of(encode(Model([Subgraph(tensors, [], [], [], "main")]))) == "EC702"


def broken(model: Model) -> bytes:
    """The file of a model that the writer would refuse, too."""
    module = sys.modules[encode.__module__]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "check", lambda model: None)
        return encode(model)


def test_indices_that_refer_to_nothing(small: Model) -> None:
    for change in ("inputs", "outputs"):
        before = getattr(small.main, change)
        setattr(small.main, change, [99])
        assert code_of(broken(small)) == "EC704"
        with pytest.raises(InputError, match="99"):
            encode(small)
        setattr(small.main, change, before)
    small.main.operators[0].inputs[1] = -2
    assert code_of(broken(small)) == "EC704"


def test_order_of_execution(small: Model) -> None:
    small.main.operators.reverse()
    with pytest.raises(InputError, match="nothing before it computes input") as caught:
        encode(small)
    assert caught.value.code == "EC707"
    assert code_of(broken(small)) == "EC707"


def test_two_operators_for_one_tensor(small: Model) -> None:
    small.main.operators.append(small.main.operators[0])
    assert code_of(broken(small)) == "EC707"


@pytest.mark.parametrize(
    "change",
    [
        lambda q: Quantization(q.scale[:3], q.zero_point[:3], 0),
        lambda q: Quantization(-q.scale, q.zero_point, 0),
        lambda q: Quantization(q.scale * np.float32(np.nan), q.zero_point, 0),
        lambda q: Quantization(q.scale, q.zero_point + 200, 0),
        lambda q: Quantization(q.scale, q.zero_point, 4),
    ],
)
def test_quantization_that_cannot_be_meant(small: Model, change: object) -> None:
    weight = small.main.tensors[1]
    weight.quantization = change(weight.quantization)  # type: ignore[operator]
    assert code_of(broken(small)) == "EC706"


def test_content_of_the_wrong_size(small: Model) -> None:
    weight = small.main.tensors[1]
    weight.shape = (4, 3, 3, 4)
    assert code_of(broken(small)) == "EC705"
    with pytest.raises(InputError, match="content"):
        encode(small)


def test_operators_of_the_future() -> None:
    tensors = [Tensor("x", (2,), "FLOAT32"), Tensor("y", (2,), "FLOAT32")]
    data = encode(Model([Subgraph(tensors, [0], [1], [Operator("GELU", [0], [1])])]))
    later = data.replace(struct.pack("<i", 150), struct.pack("<i", 999))
    with pytest.raises(InputError, match="operator code 999") as caught:
        decode(later)
    assert caught.value.code == "EC703"


def test_options_of_another_operator(small: Model) -> None:
    data = encode(small)
    operator = small.main.operators[0]
    assert operator.code == "CONV_2D"
    # options of kind 1 (Conv2DOptions) become kind 5 (Pool2DOptions)
    codes = set()
    for place, byte in enumerate(data):
        if byte == 1:
            codes.add(code_of(data[:place] + b"\5" + data[place + 1 :]))
    assert "EC703" in codes


def test_parts_that_are_not_read() -> None:
    official = pytest.importorskip("ai_edge_litert.schema_py_generated")
    model = Model([Subgraph([Tensor("x", (2,), "FLOAT32")], [0], [0], [])])
    table = official.ModelT.InitFromObj(official.Model.GetRootAs(encode(model)))
    table.subgraphs[0].tensors[0].sparsity = official.SparsityParametersT()
    builder = flatbuffers.Builder()
    builder.Finish(table.Pack(builder), file_identifier=b"TFL3")
    with pytest.raises(UnsupportedError, match="sparsity") as caught:
        decode(bytes(builder.Output()))
    assert caught.value.code == "EC301"


def test_very_many_equal_names() -> None:
    """Numbering them must not take quadratic time."""
    count = 30_000
    tensors = [Tensor("x", (1,), "FLOAT32")]
    model = decode(encode(Model([Subgraph(tensors, [0] * count, [0] * count, [])])))
    start = time.process_time()
    inputs, outputs = input_names(model), output_names(model)
    assert time.process_time() - start < 5
    assert inputs[:3] == ["x", "x_2", "x_3"]
    assert len({*inputs, *outputs}) == 2 * count


def test_unreadable(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read") as caught:
        load(tmp_path)
    assert caught.value.code == "EC708"
