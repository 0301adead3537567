"""Kernels on int16 give the same bytes on every core: plain C, DSP extension, Helium."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from edgec.export.emit.c.lower import lower
from edgec.export.emit.c.reference import reference
from edgec.export.emit.c.source import Sources, write_sources
from edgec.export.files import write_texts
from edgec.export.tflite import Model, Operator, Quantization, Subgraph, Tensor
from edgec.profiles.memory.plan import plan
from edgec.runtime.qemu.boards import BOARDS, get_board
from edgec.runtime.qemu.run import COMPILER, SIMULATOR, count_instructions

needs_tools = pytest.mark.skipif(
    shutil.which(COMPILER) is None or shutil.which(SIMULATOR) is None,
    reason="needs gcc-arm-none-eabi, libnewlib-arm-none-eabi and qemu-system-arm",
)
STRIDE = {"padding": "SAME", "stride_w": 1, "stride_h": 1}
UNIT = 2.0**-15


def network() -> Model:
    """Operators side by side, with sizes that leave rests of all unrolled loops."""
    rng = np.random.default_rng(0)
    tensors: list[Tensor] = []

    def tensor(*shape: int, scale: float = 2e-4, weights: bool = False, long: bool = False) -> int:
        data, dtype = None, "INT16"
        if weights:
            data, dtype = rng.integers(-127, 128, shape).astype(np.int8), "INT8"
            scale = 0.004
        grid: Quantization | None = Quantization.per_tensor(scale)
        if long:
            data, dtype, grid = rng.integers(-(1 << 34), 1 << 34, shape), "INT64", None
        tensors.append(Tensor(f"t{len(tensors)}", shape, dtype, data, grid))
        return len(tensors) - 1

    image, wide, rows = tensor(1, 5, 7, 7), tensor(1, 5, 7, 19), tensor(3, 21)
    a, b, column = tensor(2, 5, 11), tensor(2, 11, 7), tensor(3, 1, scale=1e-4)

    def image_out(channels: int) -> int:
        return tensor(1, 5, 7, channels, scale=3e-3)

    def matrix(*shape: int) -> int:
        return tensor(*shape, weights=True)

    depth = {**STRIDE, "depth_multiplier": 1}
    operators = [
        Operator("CONV_2D", [image, matrix(9, 3, 3, 7), -1], [image_out(9)], STRIDE),
        Operator("CONV_2D", [image, matrix(6, 1, 1, 7), -1], [image_out(6)], STRIDE),
        Operator("DEPTHWISE_CONV_2D", [image, matrix(1, 3, 3, 7), -1], [image_out(7)], depth),
        Operator("DEPTHWISE_CONV_2D", [wide, matrix(1, 3, 3, 19), -1], [image_out(19)], depth),
        Operator("FULLY_CONNECTED", [rows, matrix(10, 21), -1], [tensor(3, 10, scale=3e-3)]),
        Operator(
            "FULLY_CONNECTED",
            [rows, matrix(5, 21), tensor(5, long=True)],
            [tensor(3, 5, scale=0.5)],
        ),
        Operator("BATCH_MATMUL", [a, b], [tensor(2, 5, 7, scale=2e-3)]),
        Operator("ADD", [rows, rows], [tensor(3, 21, scale=3e-4)], {"pot_scale_int16": False}),
        Operator("SUB", [rows, column], [tensor(3, 21)], {"pot_scale_int16": False}),
        Operator("MUL", [rows, rows], [tensor(3, 21, scale=2e-4)]),
        Operator("GELU", [rows], [tensor(3, 21)]),
        Operator("SOFTMAX", [rows], [tensor(3, 21, scale=UNIT)], {"beta": 1.0}),
        Operator("L2_NORMALIZATION", [rows], [tensor(3, 21, scale=UNIT)]),
        Operator("QUANTIZE", [rows], [tensor(3, 21, scale=3e-4)]),
    ]
    outputs = [op.outputs[0] for op in operators]
    return Model([Subgraph(tensors, [image, wide, rows, a, b, column], outputs, operators)])


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Sources]:
    model = network()
    lowered = lower(model)
    rng = np.random.default_rng(1)
    feeds = {
        model.main.tensors[i].name: rng.integers(-32768, 32768, model.main.tensors[i].shape).astype(
            np.int16
        )
        for i in model.main.inputs
    }
    golden = [(feeds, reference(model, feeds))]
    # all inputs and outputs at once: nothing to search for
    planned = plan(lowered.program, time_limit=1)
    sources = write_sources(model, lowered, planned, prefix="net", golden=golden)
    folder = tmp_path_factory.mktemp("c")
    write_texts(folder, sources.files)
    return folder, sources


@needs_tools
@pytest.mark.needs_tool
@pytest.mark.parametrize("board", sorted(BOARDS))
def test_every_core_computes_the_same_bytes(board: str, written: tuple[Path, Sources]) -> None:
    folder, sources = written
    count = count_instructions(folder, get_board(board), steps=len(sources.steps), samples=1)
    assert count.agreed
