"""Both runners of .tflite files: one face, integers in and out, refusals that say what to do."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgec.export.errors import InputError, MissingToolError, UnsupportedError
from edgec.export.tflite import Model, Operator, Quantization, Signature, Subgraph, Tensor, save
from edgec.runtime.litert_runner import LiteRTRunner, dequantized
from edgec.runtime.tflite_runtime_runner import VARIABLE, TFLiteRuntimeRunner


def network() -> Model:
    """int8 (1, 4, 4, 2) → 1x1 convolution that doubles channel 0 and negates channel 1 → RELU."""
    scale = Quantization.per_tensor(0.5, 1)
    weight = np.array([[[[2, 0]]], [[[0, -1]]]], np.int8)
    tensors = [
        Tensor("x", (1, 4, 4, 2), "INT8", None, scale),
        Tensor("w", (2, 1, 1, 2), "INT8", weight, Quantization.per_tensor(1.0)),
        Tensor("b", (2,), "INT32", np.zeros(2, np.int32), Quantization.per_tensor(0.5)),
        Tensor("y", (1, 4, 4, 2), "INT8", None, scale),
        Tensor("z", (1, 4, 4, 2), "INT8", None, scale),
    ]
    options = {"padding": "VALID", "stride_w": 1, "stride_h": 1}
    operators = [Operator("CONV_2D", [0, 1, 2], [3], options, 3), Operator("RELU", [3], [4], {}, 2)]
    signature = Signature("serving_default", {"image": 0}, {"scores": 4})
    return Model([Subgraph(tensors, [0], [4], operators, "main")], signatures=[signature])


def expected(x: np.ndarray) -> np.ndarray:
    real = (x.astype(int) - 1) * np.array([2, -1])
    return np.clip(np.maximum(real, 0) + 1, -128, 127)


@pytest.fixture
def feed() -> np.ndarray:
    return np.random.default_rng(0).integers(-128, 128, (1, 4, 4, 2)).astype(np.int8)


@pytest.mark.parametrize("kernels", ["xnnpack", "builtin", "reference"])
def test_litert(kernels: Any, feed: np.ndarray, tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert")
    save(network(), tmp_path / "net.tflite")
    runner = LiteRTRunner(tmp_path / "net.tflite", kernels=kernels, threads=2)
    assert runner.inputs == {"image": ((1, 4, 4, 2), "int8")}
    assert runner.outputs == {"scores": ((1, 4, 4, 2), "int8")}
    np.testing.assert_array_equal(runner.run({"image": feed})["scores"], expected(feed))
    assert len(runner.seconds(3)) == 3
    # RELU of int8 has no XNNPACK kernel: only the convolution is taken over
    assert runner.partitions() == ([[0]] if kernels == "xnnpack" else [])
    with pytest.raises(InputError, match="x"):
        runner.run({"x": feed})
    with pytest.raises(InputError, match="shape"):
        runner.run({"image": feed[:, :2]})
    with pytest.raises(InputError, match="dtype"):
        runner.run({"image": feed.astype(np.float32)})


def test_intermediate_values(feed: np.ndarray) -> None:
    pytest.importorskip("ai_edge_litert")
    runner = LiteRTRunner(network(), kernels="reference", keep=True)
    outputs = runner.run({"image": feed})
    names = [tensor.name for tensor in runner.model.main.tensors]
    between, last = runner.value(names.index("y")), runner.value(names.index("z"))
    np.testing.assert_array_equal(next(iter(outputs.values())), last)
    np.testing.assert_array_equal(np.maximum(between, 1), last)


def test_litert_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ai_edge_litert")
    with pytest.raises(InputError, match="not a TFLite file"):
        LiteRTRunner(b"no model")
    model = network()
    model.main.operators[0].version = 99
    with pytest.raises(UnsupportedError, match="LiteRT refuses") as caught:
        LiteRTRunner(model)
    assert caught.value.code == "EC302"
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    with pytest.raises(MissingToolError, match="needs LiteRT") as missing:
        LiteRTRunner(network())
    assert missing.value.exit_code == 6


def test_dequantized() -> None:
    tensor = Tensor("x", (2,), "INT8", None, Quantization.per_tensor(0.5, 1))
    np.testing.assert_array_equal(dequantized(np.array([1, 3], np.int8), tensor), [0, 1])
    rows = Quantization(np.array([1, 2], np.float32), np.array([0, 1]), 0)
    tensor = Tensor("w", (2, 2), "INT8", None, rows)
    values = dequantized(np.array([[1, 2], [3, 4]], np.int8), tensor)
    np.testing.assert_array_equal(values, [[1, 2], [4, 6]])
    assert values.dtype == np.float32
    plain = np.ones(2, np.float32)
    assert dequantized(plain, Tensor("x", (2,), "FLOAT32")) is plain


STANDIN = """
import json, os, sys, time
folder = sys.argv[3]
for line in sys.stdin:
    {body}
"""


def standin(folder: Path, body: str) -> Path:
    """A program in the place of the other environment's Python."""
    script = folder / "standin.py"
    script.write_text(STANDIN.format(body=body), "utf-8")
    program = folder / "python"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {script} "$@"\n', "utf-8")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return program


def test_other_process_is_killed_on_timeout(tmp_path: Path) -> None:
    program = standin(tmp_path, "time.sleep(60)")
    with pytest.raises(UnsupportedError, match=r"no answer in 0\.2 s") as caught:
        TFLiteRuntimeRunner(network(), python=program, timeout=0.2)
    assert caught.value.code == "EC303"


def test_other_process_crashes(tmp_path: Path) -> None:
    program = standin(tmp_path, "print('deep trouble', file=sys.stderr); os._exit(3)")
    with pytest.raises(UnsupportedError, match="ended") as caught:
        TFLiteRuntimeRunner(network(), python=program)
    assert caught.value.why == "status 3; deep trouble"


def test_other_environment_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(MissingToolError, match="no Python environment"):
        TFLiteRuntimeRunner(network())
    # an ordinary environment lacks the package
    import venv

    venv.create(tmp_path / "empty", with_pip=False)
    with pytest.raises(MissingToolError, match="lacks tflite-runtime"):
        TFLiteRuntimeRunner(network(), python=tmp_path / "empty" / "bin" / "python")


@pytest.mark.needs_tool
def test_tflite_runtime(feed: np.ndarray) -> None:
    if not os.environ.get(VARIABLE):
        pytest.skip(f"{VARIABLE} names no environment with tflite-runtime")
    with TFLiteRuntimeRunner(network()) as runner:
        assert runner.runtime.startswith("2.14")
        assert runner.inputs == {"image": ((1, 4, 4, 2), "int8")}
        np.testing.assert_array_equal(runner.run({"image": feed})["scores"], expected(feed))
    model = network()
    model.main.operators[0].version = 99
    with pytest.raises(UnsupportedError, match="refuses the model"):
        TFLiteRuntimeRunner(model)
