"""The tables against those that LiteRT's own package generates from its schema."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest

from edgec.export.tflite import options, schema
from edgec.export.tflite.fields import ENUMS, Field

official = pytest.importorskip("ai_edge_litert.schema_py_generated")
SOURCE = inspect.getsource(official)


def members(name: str) -> list[str]:
    found = {k: v for k, v in vars(getattr(official, name)).items() if not k.startswith("_")}
    assert sorted(found.values()) == list(range(len(found)))
    return sorted(found, key=lambda k: found[k])


def snake(name: str) -> str:
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    return re.sub(r"(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def slots(table: str) -> dict[int, tuple[str, str, float]]:
    """Field name, builder method and default by slot, from the generated builder functions."""
    found = {}
    pattern = (
        rf"def {table}Add(\w+)\(builder, \w+\):\n    builder.Prepend(\w+)Slot\((\d+), .*, (.*)\)"
    )
    for name, method, slot, default in re.findall(pattern, SOURCE):
        found[int(slot)] = (snake(name), method, float(default))
    return found


def test_operators_have_their_codes() -> None:
    assert list(schema.OPERATORS) == members("BuiltinOperator")


def test_unions_have_their_numbers() -> None:
    assert list(options.OPTIONS) == members("BuiltinOptions")[1:]
    assert list(options.OPTIONS_2) == members("BuiltinOptions2")[1:]


@pytest.mark.parametrize(
    ("ours", "theirs", "prefix"),
    [
        ("TensorType", "TensorType", ""),
        ("Activation", "ActivationFunctionType", ""),
        ("Padding", "Padding", ""),
        ("MirrorPadMode", "MirrorPadMode", ""),
        ("WeightsFormat", "FullyConnectedOptionsWeightsFormat", ""),
        ("LSHProjectionType", "LSHProjectionType", ""),
        ("CombinerType", "CombinerType", ""),
        ("LSTMKernelType", "LSTMKernelType", ""),
        ("ReduceWindowFunction", "ReduceWindowFunction", ""),
        ("RngAlgorithm", "RngAlgorithm", ""),
        ("CustomOptionsFormat", "CustomOptionsFormat", ""),
        ("ComparisonDirection", "StablehloComparisonDirection", "STABLEHLO_COMPARISON_DIRECTION_"),
        ("ComparisonType", "StablehloComparisonType", "STABLEHLO_COMPARISON_TYPE_"),
        ("QuantizationDetails", "QuantizationDetails", ""),
    ],
)
def test_enumerations(ours: str, theirs: str, prefix: str) -> None:
    assert [prefix + m for m in ENUMS[ours][1]] == members(theirs)


def test_every_enumeration_is_compared() -> None:
    (mark,) = test_enumerations.pytestmark
    assert {case[0] for case in mark.args[1]} == set(ENUMS)


TABLES: dict[str, tuple[Field, ...]] = {**schema.TABLES, **options.OPTIONS, **options.OPTIONS_2}


@pytest.mark.parametrize("table", TABLES)
def test_fields_have_their_slots_types_and_defaults(table: str) -> None:
    theirs = slots(table)
    ours = TABLES[table]
    if table != "DimensionMetadata":
        assert {f.slot for f in ours} == set(theirs)
    for field in ours:
        name, method, default = theirs[field.slot]
        # the generated names are CamelCase: where digits were set off is lost
        assert field.name.replace("_", "") == name.replace("_", "")
        if field.kind in ("scalar", "enum"):
            assert field.scalar == method.lower()
            assert field.default == default
        else:
            assert method == "UOffsetTRelative"
            if field.kind == "vector":
                assert element(table, name) == field.type


def element(table: str, field: str) -> Any:
    """Type of a vector's elements, from the generated accessor."""
    body = SOURCE[SOURCE.index(f"\nclass {table}(object)") :]
    for name, flags in re.findall(
        r"def (\w+)\(self, j\):\n.*\n.*\n.*Vector\(o\)\n.*?number_types\.(\w+)Flags", body
    ):
        if snake(name) == field:
            return flags.lower()
    return None
