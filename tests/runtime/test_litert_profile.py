"""Times of a .tflite file's operators by LiteRT's own profiler."""

from __future__ import annotations

from pathlib import Path

import pytest

import edgec
from edgec.export.tflite import load
from edgec.runtime import litert_profile
from edgec.runtime.bench import bench_local, read_golden
from edgec.runtime.litert_layers import join_operators, operator_times
from edgec.runtime.litert_profile import NotProfiled, time_operators
from edgec.runtime.litert_runner import Kernels
from edgec.runtime.modules import ModuleNames

pytest.importorskip("ai_edge_litert")


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("kernels", ["xnnpack", "builtin"])
def test_operators_are_timed_by_module(
    precision: str, kernels: Kernels, small_bundle: edgec.Bundle
) -> None:
    file = small_bundle.file(small_bundle.artifact(f"tflite/model_{precision}.tflite"))
    feeds, _ = read_golden(small_bundle)
    rows = time_operators(file, feeds, ModuleNames(small_bundle), runs=8, kernels=kernels)
    modules = [row["module"] for row in rows]
    assert {"stem.conv", "block", "head"} <= set(modules)
    assert sum(row["ms"] for row in rows) > 0
    assert [row["ms"] for row in rows] == sorted((row["ms"] for row in rows), reverse=True)
    if kernels == "builtin":
        codes = [operator.code for operator in load(file).main.operators]
        assert sorted(row["operator"] for row in rows) == sorted(codes), "each is told, once"
    else:
        assert any("NHWC" in row["operator"] for row in rows), "XNNPACK's own names"


def test_the_record_of_a_measurement_has_them(small_bundle: edgec.Bundle) -> None:
    artifact = small_bundle.artifact("tflite/model_int8.tflite")
    record = bench_local(small_bundle, [artifact], threads=1, runs=50, warmup=0)
    (result,) = record["results"]
    assert {"stem.conv", "block", "head"} <= {row["module"] for row in result["layers"]}


@pytest.mark.parametrize(
    ("worker", "reason"),
    [
        ("import os; os.abort()", "status -6"),
        ("raise RuntimeError('LiteRtCreateOptions returned 3')", "returned 3"),
        ("import time; time.sleep(60)", "did not end"),
        ("print('[[[\"CONV_2D\", 2, 5, 0]], []]')", "other operators"),
    ],
)
def test_another_interface_costs_the_table_only(
    worker: str,
    reason: str,
    small_bundle: edgec.Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    script = tmp_path / "worker.py"
    script.write_text(worker)
    monkeypatch.setattr(litert_profile, "WORKER", script)
    monkeypatch.setattr(litert_profile, "SECONDS", 2)
    artifact = small_bundle.artifact("tflite/model_int8.tflite")
    feeds, _ = read_golden(small_bundle)
    with pytest.raises(NotProfiled, match=reason):
        time_operators(small_bundle.file(artifact), feeds, ModuleNames(small_bundle), runs=2)
    (result,) = bench_local(small_bundle, [artifact], threads=1, runs=50, warmup=0)["results"]
    assert reason in result["no_layers"]
    assert result["latency"]["runs"] == 50


FILE = [
    ("CONV_2D", "a/Conv:out", "a"),
    ("LOGISTIC", "act/Sigmoid:out", "act"),
    ("MUL", "act/Mul:out", "act"),
    ("RESHAPE", "r:out", "other"),
    ("PAD", "p:out", "b"),
    ("DEPTHWISE_CONV_2D", "b/Conv:out", "b"),
    ("ADD", "sum:out", "block"),
    ("MUL", "scale:out", "gamma"),
    ("CONV_2D", "c/Conv:out", "c"),
]


def rows(*operators: str) -> list[dict[str, object]]:
    return [{"name": f"{o}:{n}", "operator": o, "ms": 9.0 - n} for n, o in enumerate(operators)]


def test_fused_operators_are_known_by_what_lies_around_them() -> None:
    """A 1x1 convolution is a fully connected layer, a SiLU a table, a view is nothing."""
    joined = join_operators(
        rows(
            "Fully Connected (NC, QS8, QC8W) GEMM",
            "Invalid Unary Op",
            "Convolution (NHWC, QC8) DWConv",
            "Add (ND)",
            "Copy (NC, X8)",
            "Convolution (NHWC, QC8) IGEMM",
        ),
        FILE,
    )
    assert [row["module"] for row in joined] == ["a", "act", "b", "block", None, "c"]
    assert joined[3]["name"] == "Add (ND) sum:out"
    assert joined[1]["name"] == "Invalid Unary Op:1"


def test_times_of_what_was_fused_are_divided() -> None:
    told = rows(
        "Fully Connected (NC, QS8, QC8W) GEMM",  # 9 ms
        "Invalid Unary Op",  # 8 ms: LOGISTIC and MUL
        "Convolution (NHWC, QC8) DWConv",
        "Add (ND)",
        "Copy (NC, X8)",  # a view is no work
        "Convolution (NHWC, QC8) IGEMM",
    )
    elements = [10, 30, 10, 10, 10, 10, 10, 10, 10]
    assert operator_times(told, FILE, elements) == [9.0, 6.0, 2.0, 0.0, 0.0, 7.0, 6.0, 0.0, 4.0]
    assert operator_times(told[:-1], FILE, elements) is None, "a convolution is missing"


def test_nothing_is_guessed_where_the_products_do_not_fit() -> None:
    fewer = join_operators(rows("Convolution (NHWC, F32) IGEMM", "Add (ND, F32)"), FILE)
    assert [row["module"] for row in fewer] == [None, "block"], "the file has one ADD"
    swapped = join_operators(
        rows(*["Convolution (NHWC, F32) IGEMM"] * 2, "Convolution (NHWC, F32) DWConv"), FILE
    )
    assert [row["module"] for row in swapped] == [None] * 3


def test_numbers_of_the_runtimes_own_kernels() -> None:
    told = [
        {"name": "[sum:out]:6", "operator": "ADD", "ms": 1.0},
        {"name": "[x]:99", "operator": "ADD", "ms": 0.5},
    ]
    assert [row["module"] for row in join_operators(told, FILE)] == ["block", None]
