"""Operator tables: the facts that separate versions, how they are chosen and how they are made."""

from __future__ import annotations

import tomllib

import pytest

from edgec.targets.operators import make_onnxruntime, make_tensorrt
from edgec.targets.operators.table import Kernel, parse_table, select_table, table_versions

DOCUMENT = """
TensorRT 9.9 supports operators in the inclusive range of opset 9 to opset 20. Latest …

| Operator    | Supported  | Supported Types | Restrictions |
|-------------|------------|-----------------|--------------|
| Abs         | Y          | FP32, FP16, BF16, INT64 |
| Compress    | N          |
| Conv        | Y          | FP32, | 2D only\\. Weights `W` must be an initailizer<br />No more.   |
| Abs         | Y          | FP32, FP16, BF16, INT64 |
"""


def test_the_newest_table_that_is_not_newer_is_taken_and_said() -> None:
    assert table_versions("tensorrt") == ["8.2", "8.5", "8.6", "10.1"]
    for version, table in (("8.2", "8.2"), ("8.2.1", "8.2"), ("8.4", "8.2"), ("10.3", "10.1")):
        assert select_table("tensorrt", version).table.version == table
    assert select_table("tensorrt", "8.2").note == ""
    assert select_table("tensorrt", "8.2.1").note == ""
    assert "10.1: the newest table not newer than 10.3" in select_table("tensorrt", "10.3").note
    older = select_table("tensorrt", "7.1")
    assert older.table.version == "8.2"
    assert "newer than 7.1" in older.note
    with pytest.raises(KeyError):
        select_table("tflite", "2.14")


@pytest.mark.parametrize("version", table_versions("tensorrt"))
def test_every_tensorrt_table_names_its_source(version: str) -> None:
    table = select_table("tensorrt", version).table
    assert f"branch {version}-GA" in table.source
    assert "Apache-2.0" in table.source
    assert len(table.operators) > 140


def test_the_facts_that_separate_tensorrt_versions() -> None:
    def supports(version: str, name: str) -> bool:
        row = select_table("tensorrt", version).table.find("", name)
        return row is not None and row.supported

    caps = [select_table("tensorrt", v).table.opset for v in table_versions("tensorrt")]
    assert caps == [13, 17, 17, 20]
    for name, first in (
        ("LayerNormalization", 2),
        ("HardSwish", 1),
        ("Gelu", 3),
        ("GridSample", 1),
    ):
        assert [supports(v, name) for v in table_versions("tensorrt")] == [
            index >= first for index in range(4)
        ], name


def test_an_onnxruntime_kernel_of_open_range_matches_its_version_alone() -> None:
    assert Kernel(13, None, frozenset()).covers(13)
    assert not Kernel(13, None, frozenset()).covers(14)
    assert Kernel(11, 21, frozenset()).covers(21)
    assert not Kernel(11, 21, frozenset()).covers(22)
    table = select_table("onnxruntime", "1.22").table
    conv, mish = table.find("", "Conv"), table.find("", "Mish")
    assert conv is not None
    assert conv.types_at(11) == {"float"}
    assert conv.executes(22)
    assert mish is not None
    assert mish.function
    assert table.find("com.microsoft", "FusedConv") is not None
    assert table.find("com.microsoft.nchwc", "Conv") is None


def test_the_document_is_parsed_into_a_table() -> None:
    text = make_tensorrt.table_text(DOCUMENT, "9.9", "9.9-GA", "0123456789abcdef")
    table = parse_table(tomllib.loads(text))
    assert (table.oldest_opset, table.opset) == (9, 20)
    assert sorted(table.operators) == ["Abs", "Compress", "Conv"]
    assert table.operators["Abs"].types == {"float", "float16", "bfloat16", "int64"}
    assert not table.operators["Compress"].supported
    assert table.operators["Conv"].restrictions == (
        "2D only. Weights `W` must be an initializer No more."
    )
    with pytest.raises(ValueError, match="disagree"):
        make_tensorrt.rows(DOCUMENT + "| Abs | N |\n")
    with pytest.raises(ValueError, match="no opset"):
        make_tensorrt.opset_range("TensorRT supports operators.")


def test_the_installed_onnxruntime_can_be_described() -> None:
    table = parse_table(tomllib.loads(make_onnxruntime.table_text("9.9")))
    conv, split = table.operators["Conv"], table.operators["Split"]
    assert conv.executes(11)
    assert "float" in conv.types_at(11)
    assert "int64" in split.types_at(18)
    assert table.opset >= 22
