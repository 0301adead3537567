"""Offsets for tflite-micro: complete, aligned, and tensors that live together lie apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import edgec
from edgec.export.emit.tflite.offline_plan import METADATA, offline_allocation
from edgec.export.tflite import Model, Operator, Subgraph, Tensor, load


def entry(content: bytes) -> list[int]:
    version, subgraph, count, *offsets = np.frombuffer(content, "<i4").tolist()
    assert (version, subgraph, count) == (1, 0, len(offsets))
    return offsets


def check(model: Model, offsets: list[int]) -> None:
    """Lives counted here from the operators, without the planner's code."""
    main = model.main
    assert len(offsets) == len(main.tensors)
    last = len(main.operators)
    lives: dict[int, tuple[int, int]] = dict.fromkeys(main.inputs, (-1, -1))
    for step, op in enumerate(main.operators):
        for index in op.outputs:
            lives[index] = (step, step)
        for index in op.inputs:
            if index in lives:
                lives[index] = (lives[index][0], step)
    for index in main.outputs:
        lives[index] = (lives[index][0], last)
    for index, offset in enumerate(offsets):
        assert (offset >= 0) == (index in lives)
        assert offset == -1 or offset % 16 == 0
    spans = []
    for index, (first, end) in lives.items():
        tensor = main.tensors[index]
        size = tensor.elements * tensor.numpy_dtype.itemsize
        spans.append((first, end, offsets[index], offsets[index] + size))
    for number, (a0, a1, low, high) in enumerate(spans):
        for b0, b1, other_low, other_high in spans[:number]:
            together = a0 <= b1 and b0 <= a1
            assert not together or high <= other_low or other_high <= low


def test_files_for_tflite_micro_carry_a_plan(tiny_onnx: Path, tmp_path: Path) -> None:
    bundle = edgec.compile(
        str(tiny_onnx), target="cortex-m-tflm", calib="random", out=str(tmp_path / "b")
    )
    files = sorted((bundle.path / "tflite").glob("*.tflite"))
    assert len(files) > 1
    for file in files:
        model = load(file)
        check(model, entry(model.metadata[METADATA]))


def test_others_do_not(tiny_onnx: Path, tmp_path: Path) -> None:
    bundle = edgec.compile(
        str(tiny_onnx), target="raspberry-pi-5", formats=("tflite",), out=str(tmp_path / "b")
    )
    for file in (bundle.path / "tflite").glob("*.tflite"):
        assert METADATA not in load(file).metadata


@pytest.mark.parametrize("variable", [False, True])
def test_branches_and_variables(variable: bool) -> None:
    tensors = [Tensor(f"t{n}", (1, 40 + n), "FLOAT32") for n in range(5)]
    tensors[3].is_variable = variable
    operators = [
        Operator("RELU", [0], [1]),
        Operator("NEG", [0], [2]),
        Operator("ADD", [1, 2], [3]),
        Operator("MUL", [3, 0], [4]),
    ]
    model = Model([Subgraph(tensors, [0], [4], operators)])
    content = offline_allocation(model)
    if variable:
        assert content is None
    else:
        assert content is not None
        check(model, entry(content))
