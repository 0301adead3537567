"""`--precision mixed` where the files can hold blocks with 16-bit activations: .tflite and C."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgec
from edgec.export.bundle import Artifact
from edgec.export.tflite import load
from edgec.runtime.onnx_runner import OnnxRunner
from edgec.runtime.runners import open_runner

Make = Any


@pytest.fixture(scope="module")
def make(spread_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Export for a target, in mixed precision within 10 points."""
    folder = tmp_path_factory.mktemp("mixed")
    rng = np.random.default_rng(4)
    np.savez(folder / "x.npz", x=rng.standard_normal((128, 3, 12, 12)).astype(np.float32))

    def run(target: str, **options: Any) -> edgec.Bundle:
        return edgec.compile(
            str(spread_onnx),
            target=target,
            precision="mixed",
            calib=str(folder / "x.npz"),
            max_drop=10.0,
            out=str(folder / target),
            **options,
        )

    return run


@pytest.fixture(scope="module")
def board(make: Make) -> edgec.Bundle:
    pytest.importorskip("ai_edge_litert")
    return make("cortex-m-tflm", formats="tflite,c")  # type: ignore[no-any-return]


def artifact(bundle: edgec.Bundle, kind: str) -> Artifact:
    return next(
        a for a in bundle.manifest.artifacts if a.format == kind and "int" in a.precision
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["tflite", "c"])
def test_the_search_of_each_format_is_in_its_artifact(board: edgec.Bundle, kind: str) -> None:
    made = artifact(board, kind)
    scheme = "tflite-full"
    assert made.scheme == f"int8, mixed ({scheme})"
    found = made.checks["mixed"]
    assert found["met"]
    assert "int16x8" in found["chosen"]["precisions"].values()
    assert "int8" in found["chosen"]["precisions"].values()
    assert found["chosen"]["held_out_drop"] <= 10.0
    text = (board.path / "report.txt").read_text("utf-8")
    assert "int16x8 blocks  activations" in text


def test_the_onnx_file_has_none(board: edgec.Bundle) -> None:
    """ONNX Runtime has no integer convolution of 16-bit activations."""
    assert board.manifest.calibration is not None
    step = board.manifest.calibration["recipe"]["steps"][-1]
    assert "int16x8" not in step["chosen"]["precisions"].values()


def test_the_file_has_both_widths(board: edgec.Bundle) -> None:
    made = artifact(board, "tflite")
    main = load(board.path / made.path).main
    assert {"INT8", "INT16"} <= {main.tensors[op.outputs[0]].dtype for op in main.operators}
    assert {main.tensors[i].dtype for i in (*main.inputs, *main.outputs)} <= {"INT8", "INT16"}
    assert made.checks["drop"] <= 10.0
    assert made.checks["vs_qdq"]["builtin"]["max_steps"] <= 2


def test_the_c_runs_here(board: edgec.Bundle) -> None:
    if shutil.which("cc") is None or shutil.which("make") is None:
        pytest.skip("needs a C compiler and make: apt install gcc libc6-dev make")
    done = subprocess.run(
        ["make", "-s", "test"], cwd=board.path / "c", capture_output=True, text=True, check=False
    )
    assert "agree" in done.stdout, done.stderr  # with the integer reference, byte for byte
    made = artifact(board, "c")
    assert made.checks["executed"]
    x = np.random.default_rng(9).standard_normal((1, 3, 12, 12)).astype(np.float32)
    (found,) = open_runner(board, made).run({"x": x}).values()
    (wanted,) = OnnxRunner(board.path / "onnx" / "model.onnx").run({"x": x}).values()
    assert np.abs(found - wanted).max() < 0.1 * np.abs(wanted).max()


def test_phones_and_single_board_computers(make: Make) -> None:
    pytest.importorskip("ai_edge_litert")
    made = artifact(make("arm64-litert", formats="tflite"), "tflite")
    assert "int16x8" in made.checks["mixed"]["chosen"]["precisions"].values()
    assert made.checks["vs_qdq"]["xnnpack"]["max_steps"] <= 2


def test_the_edge_tpu_computes_on_eight_bits(make: Make) -> None:
    made = artifact(make("coral-edgetpu", formats="tflite"), "tflite")
    points = made.checks["mixed"]["front"]
    assert not any("int16x8" in point["precisions"].values() for point in points)
