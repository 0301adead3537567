"""What is written is what is read."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgec.export.errors import InputError, UnsupportedError
from edgec.export.tflite import (
    Model,
    Operator,
    Quantization,
    Signature,
    Subgraph,
    Tensor,
    decode,
    encode,
    load,
    save,
)
from edgec.export.tflite import encode as encode_function
from edgec.export.tflite.fields import ENUMS, Field
from edgec.export.tflite.schema import (
    BITS,
    DTYPES,
    OPERATORS,
    option_fields,
    tensor_type,
)


def assert_equal(one: Any, two: Any) -> None:
    """Both are the same model, part by part."""
    assert type(one) is type(two)
    if isinstance(one, np.ndarray):
        assert one.dtype == two.dtype
        np.testing.assert_array_equal(one, two)
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(two)
        for a, b in zip(one, two, strict=True):
            assert_equal(a, b)
    elif isinstance(one, dict):
        assert list(one) == list(two)
        for key in one:
            assert_equal(one[key], two[key])
    elif hasattr(one, "__dataclass_fields__"):
        assert_equal(vars(one), vars(two))
    else:
        assert one == two


def test_small_model(small: Model, tmp_path: Path) -> None:
    data = encode(small)
    again = decode(data)
    assert_equal(small, again)
    assert encode(again) == data
    assert encode(small) == data
    save(small, tmp_path / "small.tflite")
    assert_equal(load(tmp_path / "small.tflite"), again)


def test_interpreter_reads_the_same(small: Model) -> None:
    litert = pytest.importorskip("ai_edge_litert.interpreter")
    interpreter = litert.Interpreter(
        model_content=encode(small),
        experimental_op_resolver_type=litert.OpResolverType.BUILTIN_REF,
    )
    interpreter.allocate_tensors()
    (image,) = interpreter.get_input_details()
    assert image["name"] == "image"
    assert image["quantization"] == (pytest.approx(0.02), -3)
    assert list(interpreter.get_signature_list()) == ["serving_default"]
    for index, tensor in enumerate(small.main.tensors):
        if tensor.data is not None:
            np.testing.assert_array_equal(interpreter.get_tensor(index), tensor.data)
    interpreter.set_tensor(image["index"], np.full((1, 8, 8, 3), 5, np.int8))
    interpreter.invoke()


def test_constants_are_aligned_and_stored_once(small: Model) -> None:
    tensors = small.main.tensors
    content = np.arange(4099, dtype=np.uint8).view(np.int8)
    for name in ("one", "two"):
        tensors.append(Tensor(name, (4099,), "INT8", content))
    data = encode(small)
    assert data.count(content.tobytes()) == 1
    assert data.index(content.tobytes()) % 16 == 0
    weight = tensors[1].data
    assert weight is not None
    assert data.index(weight.tobytes()) % 16 == 0


def test_deprecated_code_is_capped() -> None:
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
    tensors = [Tensor("x", (2,), "FLOAT32"), Tensor("y", (2,), "FLOAT32")]
    model = Model([Subgraph(tensors, [0], [1], [Operator("GELU", [0], [1])])])
    code = schema.Model.GetRootAs(encode(model)).OperatorCodes(0)
    assert (code.DeprecatedBuiltinCode(), code.BuiltinCode()) == (127, 150)


def test_files_with_the_deprecated_code_only() -> None:
    """Before 2020 an operator's code was one byte, and the later field is absent."""
    tensors = [Tensor("x", (2,), "FLOAT32"), Tensor("y", (2,), "FLOAT32")]
    model = Model([Subgraph(tensors, [0], [1], [Operator("NEG", [0], [1])])])
    data = encode(model)
    old = data.replace(struct.pack("<i", 59), struct.pack("<i", 0))
    assert old != data
    assert decode(old).main.operators[0].code == "NEG"


def test_too_large(small: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setattr(sys.modules[encode_function.__module__], "MAX_BYTES", 100)
    with pytest.raises(UnsupportedError, match="2 GB") as caught:
        encode(small)
    assert caught.value.code == "EC300"


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"padding": "LEFT"}, "padding cannot be 'LEFT'"),
        ({"stride_w": 1.5}, "stride_w cannot be 1.5"),
        ({"stride_w": 1 << 40}, "stride_w cannot be"),
        ({"strides": 1}, "CONV_2D has no option 'strides'"),
    ],
)
def test_wrong_options_are_refused(small: Model, options: dict[str, Any], match: str) -> None:
    small.main.operators[0].options |= options
    with pytest.raises(InputError, match=match) as caught:
        encode(small)
    assert caught.value.code == "EC703"


# all of Unicode but surrogates; hypothesis takes seconds to find out that UTF-8 has the same
names = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


def option_value(field: Field) -> st.SearchStrategy[Any]:
    """Any value that a field can have."""
    if field.kind == "enum":
        return st.sampled_from(ENUMS[field.type][1])
    if field.kind == "string":
        return st.none() | names
    if field.type == "bool":
        scalar: st.SearchStrategy[Any] = st.booleans()
    elif field.type == "float32":
        scalar = st.floats(width=32, allow_nan=False)
    else:
        limits = np.iinfo(field.type)
        scalar = st.integers(int(limits.min), int(limits.max))
    return scalar if field.kind == "scalar" else st.none() | st.lists(scalar, max_size=4)


@st.composite
def tensor(draw: st.DrawFn) -> Tensor:
    dtype = draw(st.sampled_from([d for d in DTYPES if d not in ("RESOURCE", "VARIANT", "STRING")]))
    shape = tuple(draw(st.lists(st.integers(0, 5), max_size=4)))
    data = None
    if draw(st.booleans()):
        size = int(np.prod(shape)) * DTYPES[dtype].itemsize
        raw = np.frombuffer(draw(st.binary(min_size=size, max_size=size)), np.uint8)
        data = (raw % 2 if dtype == "BOOL" else raw).view(DTYPES[dtype]).reshape(shape)
        if dtype in BITS:
            bits = BITS[dtype]
            low = 0 if dtype.startswith("U") else -(1 << (bits - 1))
            data = np.asarray(data.astype(np.int16) % (1 << bits) + low, DTYPES[dtype])
    quantization = None
    if draw(st.booleans()):
        axis = draw(st.integers(0, len(shape) - 1)) if shape else 0
        count = shape[axis] if shape and shape[axis] and draw(st.booleans()) else 1
        scale = draw(st.lists(st.floats(0, 100, width=32), min_size=count, max_size=count))
        quantization = Quantization(np.array(scale, np.float32), np.zeros(count, np.int64), axis)
    signature = tuple(-1 if draw(st.booleans()) else d for d in shape)
    return Tensor(
        draw(names),
        shape,
        dtype,
        data,
        quantization,
        signature if -1 in signature else None,
        data is None and draw(st.booleans()),
    )


@st.composite
def models(draw: st.DrawFn) -> Model:
    tensors = draw(st.lists(tensor(), min_size=1, max_size=6))
    known = [i for i, t in enumerate(tensors) if t.data is not None or t.is_variable]
    computed = [i for i in range(len(tensors)) if i not in known]
    inputs = [i for i in computed if draw(st.booleans())]
    operators = []
    for output in computed:
        if output in inputs:
            continue
        code = draw(st.sampled_from(sorted(OPERATORS)))
        options = {field.name: draw(option_value(field)) for field in option_fields(code)}
        sources = st.sampled_from([-1, *known, *inputs])
        operator = Operator(
            code,
            draw(st.lists(sources, max_size=3)),
            [output],
            options,
            draw(st.integers(1, 9)),
            draw(names) if code == "CUSTOM" else None,
            draw(st.binary(max_size=9)),
        )
        operators.append(operator)
    outputs = [i for i in range(len(tensors)) if draw(st.booleans())]
    signature = Signature(draw(names), {"x": 0}, {"y": 0})
    return Model(
        [Subgraph(tensors, inputs, outputs, operators, draw(names))],
        draw(names),
        draw(st.dictionaries(names, st.binary(max_size=40), max_size=3)),
        [signature] if draw(st.booleans()) else [],
    )


@given(models())
@settings(max_examples=200, deadline=None)
def test_any_model(model: Model) -> None:
    data = encode(model)
    again = decode(data)
    assert_equal(model, again)
    assert encode(again) == data


def test_types_of_numpy() -> None:
    assert tensor_type(np.dtype(np.float32)) == "FLOAT32"
    assert tensor_type(np.dtype(">i4")) == "INT32"
    with pytest.raises(KeyError):
        tensor_type(np.dtype("datetime64[s]"))
