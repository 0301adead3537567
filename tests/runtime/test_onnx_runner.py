"""The runner: clear refusals, and int8 graphs judged as they are written."""

from __future__ import annotations

import platform
from pathlib import Path

import numpy as np
import pytest

from edgec.export.errors import InputError, UnsupportedError
from edgec.runtime.onnx_runner import OnnxRunner, made_for_elsewhere


def test_names_and_shapes_are_checked(tiny_onnx: Path) -> None:
    runner = OnnxRunner(tiny_onnx)
    assert runner.inputs == {"image": ((1, 3, 16, 16), "float32")}
    assert runner.outputs == {"logits": ((1, 10), "float32")}
    with pytest.raises(InputError, match="picture"):
        runner.run({"picture": np.zeros((1, 3, 16, 16), np.float32)})
    with pytest.raises(InputError, match="shape"):
        runner.run({"image": np.zeros((1, 3, 8, 8), np.float32)})


def test_other_dtypes_are_cast(tiny_onnx: Path) -> None:
    runner = OnnxRunner(tiny_onnx)
    x = np.ones((1, 3, 16, 16))
    np.testing.assert_array_equal(
        runner.run({"image": x})["logits"], runner.run({"image": x.astype(np.float32)})["logits"]
    )


def test_what_cannot_be_loaded_is_said() -> None:
    with pytest.raises(UnsupportedError, match="cannot load"):
        OnnxRunner(b"no model")


def test_schemes_belong_to_hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    assert not made_for_elsewhere(None)
    assert not made_for_elsewhere("int8 (ort-x86)")
    assert made_for_elsewhere("int8 (ort-arm)")
    assert made_for_elsewhere("int8 (tensorrt)")
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert made_for_elsewhere("int8 (ort-x86)")
    assert not made_for_elsewhere("int8 (ort-arm)")
