"""Operator tables: the facts that separate versions, how they are chosen and how they are made."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from edgec.targets.operators import make_c, make_onnxruntime, make_tensorrt, make_tflm
from edgec.targets.operators.table import (
    Kernel,
    parse_table,
    select_table,
    table_runtimes,
    table_versions,
    tflite_mapping,
    view_rank,
)

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
    assert table_versions("tensorrt") == ["8.2", "8.5", "8.6", "10.1", "10.15"]
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
    assert view_rank("tflite", "2.14") == 5


@pytest.mark.parametrize("version", table_versions("tensorrt"))
def test_every_tensorrt_table_names_its_source(version: str) -> None:
    table = select_table("tensorrt", version).table
    assert f"branch {version}-GA" in table.source or f"of TensorRT {version}," in table.source
    assert "Apache-2.0" in table.source
    assert len(table.operators) > 140


def test_the_facts_that_separate_tensorrt_versions() -> None:
    def supports(version: str, name: str) -> bool:
        row = select_table("tensorrt", version).table.find("", name)
        return row is not None and row.supported

    caps = [select_table("tensorrt", v).table.opset for v in table_versions("tensorrt")]
    assert caps == [13, 17, 17, 20, 24]
    for name, first in (
        ("LayerNormalization", 2),
        ("HardSwish", 1),
        ("Gelu", 3),
        ("GridSample", 1),
        ("Attention", 4),
    ):
        assert [supports(v, name) for v in table_versions("tensorrt")] == [
            index >= first for index in range(5)
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
    text = make_tensorrt.table_text(DOCUMENT, "9.9", "branch 9.9-GA (0123456789ab)")
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
    assert make_tensorrt.version_of("TensorRT 10.15 supports operators in") == "10.15"
    with pytest.raises(ValueError, match="no version"):
        make_tensorrt.version_of("TensorRT supports operators.")


def test_the_installed_onnxruntime_can_be_described() -> None:
    table = parse_table(tomllib.loads(make_onnxruntime.table_text("9.9")))
    conv, split = table.operators["Conv"], table.operators["Split"]
    assert conv.executes(11)
    assert "float" in conv.types_at(11)
    assert "int64" in split.types_at(18)
    assert table.opset >= 22


TFLITE = [
    (runtime, version)
    for runtime in table_runtimes()
    for version in table_versions(runtime)
    if select_table(runtime, version).table.builtins
]


def test_tflite_tables_speak_about_onnx() -> None:
    assert ("litert", "2.3") in TFLITE
    assert ("tflm", "2026.8") in TFLITE
    known = {name for pair in TFLITE for name in select_table(*pair).table.builtins}
    unknown = {b for becomes in tflite_mapping().values() for b in becomes} - known
    assert not unknown  # no misspelt builtin
    for runtime, version in TFLITE:
        table = select_table(runtime, version).table
        conv = table.find("", "Conv")
        assert conv is not None
        assert conv.executes(11)
        assert {"float", "int8"} <= conv.types_at(11)
        assert table.find("", "Erf") is None
        assert table.opset == 0  # no ONNX is read there
    gelu = [select_table(*pair).table.find("", "Gelu") for pair in TFLITE]
    executes = {
        pair: row is not None and row.supported for pair, row in zip(TFLITE, gelu, strict=True)
    }
    assert executes["litert", "2.3"]
    assert not executes["tflm", "2026.8"]


def test_the_last_tflite_runtime_has_no_int8_division() -> None:
    old, new = (
        select_table(*pair).table for pair in (("tflite-runtime", "2.14"), ("litert", "2.3"))
    )
    div = old.find("", "Div")
    assert div is not None
    assert "int8" not in div.types_at(14)
    assert "float" in div.types_at(14)
    versions = [
        max(k.until or 0 for k in table.builtins["FULLY_CONNECTED"].kernels) for table in (old, new)
    ]
    assert versions[0] < versions[1]


def test_rank_of_views_follows_the_table() -> None:
    assert view_rank("tflite-runtime", "2.14") == 4
    assert view_rank("tflm", "2026.8") == 4
    assert view_rank("onnxruntime", "1.22") == view_rank("tensorrt", "10.1") == 5


def test_a_kernel_file_of_its_own_tells_its_types_and_rank() -> None:
    files = {
        "add.cc": "{ case kTfLiteFloat32: BroadcastAdd4DSlow(); case kTfLiteInt8: }"
        "TFLMRegistration Register_ADD() { } TFLMRegistration Register_ADD_INT8() { }",
        "both.cc": "case kTfLiteFloat32: TFLMRegistration Register_SIN() {} "
        "TFLMRegistration Register_COS() {}",
    }
    assert make_tflm.types_of("ADD", files) == ["float", "int8"]
    assert make_tflm.rank_of("ADD", files) == 4
    assert make_tflm.types_of("SIN", files) == []  # which of the two is not known
    assert make_tflm.rank_of("SIN", files) is None
    resolver = "AddBuiltin(BuiltinOperator_ADD, r); AddBuiltin(\n    BuiltinOperator_SIN, r)"
    assert make_tflm.registered(resolver) == ["ADD", "SIN"]


def test_the_table_of_the_c_kernels_is_that_of_the_emitter(root: Path) -> None:
    path = root / "targets" / "operators" / f"edgec-c-{make_c.VERSION}.toml"
    assert path.read_text("utf-8") == make_c.table_text(), "run targets/operators/make_c.py"
    table = select_table("edgec-c", make_c.VERSION).table
    assert table.builtins["CONV_2D"].types == {"float", "int8", "int16"}
    assert not table.find("", "ArgMax").supported
    assert table.find("", "LayerNormalization").supported
