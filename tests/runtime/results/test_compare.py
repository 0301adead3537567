"""Figures of records, and two records side by side."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from edgec.export.errors import InputError, UsageError
from edgec.runtime.results.compare import compare_records, find_record
from edgec.runtime.results.figures import summarize
from edgec.runtime.results.store import Store

Record = dict[str, Any]


def test_ratios_and_what_only_one_has(measurement: Record) -> None:
    other = deepcopy(measurement)
    other["results"][0]["latency"]["median_ms"] = 3.0
    del other["results"][1]
    found = compare_records(measurement, other)
    rows = {(r["artifact"], r["name"]): r for r in found["figures"]}
    assert rows["onnx/model.onnx", "median_ms"]["ratio"] == 1.5
    assert rows["onnx/model.onnx", "min_ms"]["ratio"] == 1.0
    missing = rows['tflite/"quoted".tflite', "median_ms"]
    assert (missing["a"], missing["b"], missing["ratio"]) == (2.0, None, None)


def test_operators_that_differ(export: Record) -> None:
    other = deepcopy(export)
    other["graph"]["operators"] = {"Conv": 2, "Gelu": 4}
    assert compare_records(export, other)["operators"] == [
        {"operator": "Add", "a": 1, "b": 0},
        {"operator": "Gelu", "a": 0, "b": 4},
    ]


def test_kinds_do_not_mix(measurement: Record, export: Record) -> None:
    with pytest.raises(UsageError, match="EC235"):
        compare_records(measurement, export)


def test_records_are_found_by_path_and_number(
    tmp_path: Path, measurement: Record, export: Record
) -> None:
    (tmp_path / "bench.json").write_text(json.dumps(measurement))
    (tmp_path / "printed.json").write_text(
        json.dumps({"schema": "edgec.export/1", "report": export})
    )
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "report.json").write_text(json.dumps(export))
    path = tmp_path / "results.sqlite3"
    with Store.open(path) as store:
        store.add(measurement)
    assert find_record(str(tmp_path / "bench.json"), None) == measurement
    assert find_record(str(tmp_path / "printed.json"), None) == export
    assert find_record(str(bundle), None) == export
    assert find_record("1", str(path)) == measurement


@pytest.mark.parametrize(
    "content",
    ["", "[1, 2]", "{}", '{"schema": "edgec.bench/1"}', '{"schema": "edgec.report/1", "graph": 3}'],
)
def test_what_is_no_record(tmp_path: Path, content: str) -> None:
    path = tmp_path / "record.json"
    path.write_text(content)
    with pytest.raises(InputError, match="EC710"):
        find_record(str(path), None)


def test_a_count_has_no_latency(measurement: Record) -> None:
    count = {
        "schema": "edgec.count/1",
        "device": "qemu:mps2-an500",
        "model": "net",
        "target": "stm32h743",
        "instructions": 1000,
        "arena_bytes": 64,
    }
    names = {f.name for f in summarize(count).figures}
    assert names == {"instructions", "arena_bytes"}
