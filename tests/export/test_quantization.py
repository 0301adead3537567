"""int8 of an export: mixed precision by budget, and calibration without data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest
import torch
from torch import nn

import edgec
from edgec.export.bundle import Bundle
from edgec.export.errors import BudgetError, UnsupportedError, UsageError

# torch.onnx warns about its own use of torch.utils._pytree
pytestmark = pytest.mark.filterwarnings("ignore:.isinstance.treespec:FutureWarning")


@pytest.fixture
def export(tiny_onnx: Path, image_folder: Path, preprocess_json: Path, tmp_path: Path) -> Any:
    """Export the small network in mixed precision."""

    def run(**options: Any) -> Bundle:
        options = {"precision": "mixed", "calib": str(image_folder)} | options
        return edgec.compile(
            str(tiny_onnx),
            target="x86",
            preprocess=str(preprocess_json),
            out=str(tmp_path / "b"),
            **options,
        )

    return run


def mixed_step(bundle: Bundle) -> dict[str, Any]:
    assert bundle.manifest.calibration is not None
    step: dict[str, Any] = bundle.manifest.calibration["recipe"]["steps"][-1]
    assert step["step"] == "mixed"
    return step


def test_the_report_says_which_recipe_was_chosen_and_why(export: Any) -> None:
    made = export(precision="int8", max_drop=100.0)
    text = (made.path / "report.txt").read_text("utf-8")
    assert "recipe auto (bias correction: 8 bits, and channels of" in text


def test_wide_weights_keep_the_bits_that_could_saturate(export: Any) -> None:
    made = export(precision="int8", max_drop=100.0, recipe="wide")
    artifact = made.artifact("int8")
    assert artifact.scheme == "int8 (ort-x86-u8)"
    graph = ir.load(made.path / artifact.path).graph
    weights = [v for v in graph.initializers.values() if v.shape.rank() == 4]
    assert {v.dtype for v in weights} == {ir.DataType.UINT8}


def test_a_budget_of_bytes_is_kept(export: Any) -> None:
    made = export(max_bytes=1000)
    step = mixed_step(made)
    assert step["met"]
    assert step["chosen"]["bytes"] <= 1000
    assert "int8" in step["chosen"]["precisions"].values()
    artifact = made.artifact("int8")
    assert artifact.scheme == "int8, mixed (ort-x86)"
    text = (made.path / "report.txt").read_text("utf-8")
    assert text.count(", chosen") == 1


def test_no_drop_at_all_can_be_asked_for(export: Any) -> None:
    made = export(max_drop=0.0)
    step = mixed_step(made)
    assert step["met"] == (step["chosen"]["held_out_drop"] <= 0)
    bytes_ = [point["bytes"] for point in step["front"]]
    assert len(bytes_) > 1
    operations = [point["bit_operations"] for point in step["front"]]
    assert operations == sorted(operations), "cheapest first"


def test_budgets_that_contradict_or_cannot_be_met(export: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="2 budgets"):
        export(max_bytes=1000, max_drop=1.0)
    with pytest.raises(UsageError, match="3 budgets"):
        export(max_bytes=1000, max_drop=1.0, max_latency=1.0)
    with pytest.raises(UsageError, match="--max-latency is a budget"):
        export(max_latency=1.0, precision="int8")
    with pytest.raises(UsageError, match="milliseconds above 0"):
        export(max_latency=0.0)
    with pytest.raises(UnsupportedError, match="EC397"):
        export(max_latency=1.0)
    with pytest.raises(UsageError, match="only"):
        export(max_bytes=1000, precision="int8")
    with pytest.raises(UsageError, match="calibration"):
        export(calib=None)
    with pytest.raises(BudgetError) as caught:
        export(max_bytes=10)
    assert caught.value.code == "EC582"
    assert not (tmp_path / "b").exists()


def test_calibration_without_data(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip
    with torch.no_grad():
        network.train()(torch.rand(32, 3, 12, 12))
    made = edgec.compile(
        network.eval(),
        target="x86",
        precision="int8",
        calib="none",
        calib_limit=4,
        input_shape=(1, 3, 12, 12),
        out=str(tmp_path / "b"),
    )
    checks = made.artifact("int8").checks
    assert checks["data"] == "distilled inputs"
    assert checks["vs_fp32"]["sqnr_db"] > 20
    assert "calibrated without data" in (made.path / "report.txt").read_text("utf-8")


def test_a_network_without_memory_cannot_do_without_data(tiny_onnx: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError) as caught:
        edgec.compile(
            str(tiny_onnx), target="x86", precision="int8", calib="none", out=str(tmp_path / "b")
        )
    assert caught.value.code == "EC367"
