"""C artifacts on simulated boards: they agree, counts are exact, memory limits hold."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from edgec.export.doctor import examine
from edgec.export.emit.c.lower import lower
from edgec.export.emit.c.source import Sources, write_sources
from edgec.export.errors import BudgetError, InternalError, MissingToolError, UsageError
from edgec.export.files import write_texts
from edgec.export.tflite import Model, Operator, Quantization, Subgraph, Tensor
from edgec.export.tflite.reference.executor import run
from edgec.profiles.memory.plan import plan
from edgec.runtime.qemu import run as run_module
from edgec.runtime.qemu.boards import BOARDS, get_board
from edgec.runtime.qemu.run import COMPILER, SIMULATOR, count_instructions

needs_tools = pytest.mark.skipif(
    shutil.which(COMPILER) is None or shutil.which(SIMULATOR) is None,
    reason="needs gcc-arm-none-eabi, libnewlib-arm-none-eabi and qemu-system-arm",
)


def network() -> Model:
    rng = np.random.default_rng(0)

    def quantized(name: str, shape: tuple[int, ...], constant: bool = False) -> Tensor:
        data = rng.integers(-127, 128, shape, dtype=np.int8) if constant else None
        return Tensor(name, shape, "INT8", data, Quantization.per_tensor(0.05, 0))

    tensors = [
        quantized("x", (1, 8, 8, 4)),
        quantized("w", (8, 3, 3, 4), True),
        quantized("h", (1, 8, 8, 8)),
        quantized("y", (1, 8, 8, 8)),
    ]
    stride = {"padding": "SAME", "stride_w": 1, "stride_h": 1}
    operators = [Operator("CONV_2D", [0, 1, -1], [2], stride), Operator("RELU", [2], [3])]
    return Model([Subgraph(tensors, [0], [3], operators)])


@pytest.fixture
def written(tmp_path: Path) -> tuple[Path, Sources]:
    model = network()
    lowered = lower(model)
    rng = np.random.default_rng(1)
    feeds = [{"x": rng.integers(-128, 128, (1, 8, 8, 4), dtype=np.int8)} for _ in range(2)]
    golden = [(feed, run(model, feed)) for feed in feeds]
    sources = write_sources(model, lowered, plan(lowered.program), prefix="net", golden=golden)
    write_texts(tmp_path, sources.files)
    return tmp_path, sources


@needs_tools
@pytest.mark.needs_tool
@pytest.mark.parametrize("board", sorted(BOARDS))
def test_every_core_computes_the_same_bytes(board: str, written: tuple[Path, Sources]) -> None:
    folder, _ = written
    count = count_instructions(folder, get_board(board), steps=2, samples=2)
    assert count.agreed
    assert len(count.steps) == 2
    assert count.steps[0] > count.steps[1] > 0, "a convolution costs more than a table"
    # 18,432 multiply-accumulates, a handful of instructions each
    assert 18_000 < count.instructions < 1_000_000
    assert 0 < count.stack_bytes < 2048
    again = count_instructions(folder, get_board(board), steps=2, samples=2)
    assert again.instructions == count.instructions, "counts are exact"


@needs_tools
@pytest.mark.needs_tool
def test_a_wrong_byte_is_noticed(written: tuple[Path, Sources]) -> None:
    folder, _ = written
    file = folder / "net_golden.h"
    text = file.read_text()
    at = text.index("{", text.index("golden_1_output_0")) + 1
    file.write_text(text[:at] + " 99 - " + text[at:].lstrip())
    assert not count_instructions(folder, BOARDS["mps2-an500"], steps=2, samples=2).agreed


@needs_tools
@pytest.mark.needs_tool
def test_the_memories_of_the_device_are_the_limit(written: tuple[Path, Sources]) -> None:
    folder, sources = written
    board = BOARDS["mps2-an500"]
    enough = sources.arena_bytes + 8192
    count = count_instructions(folder, board, steps=2, samples=2, ram=enough, flash=65536)
    assert count.ram_bytes <= enough
    for limits in ({"ram": 4096}, {"flash": 2048}):
        with pytest.raises(BudgetError) as caught:
            count_instructions(folder, board, steps=2, samples=2, **limits)
        assert caught.value.code == "EC551"
        assert "bytes more" in str(caught.value)


@needs_tools
@pytest.mark.needs_tool
def test_a_program_that_crashes(written: tuple[Path, Sources]) -> None:
    folder, _ = written
    (folder / "main.c").write_text("int main(void) { *(volatile int *)0xF0000001 = 1; return 0; }")
    with pytest.raises(InternalError) as caught:
        count_instructions(folder, BOARDS["mps2-an500"], steps=2, samples=2)
    assert caught.value.code == "EC148"


@needs_tools
@pytest.mark.needs_tool
def test_a_program_that_hangs_is_given_up(
    written: tuple[Path, Sources], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = written
    (folder / "main.c").write_text('int main(void) { for (;;) { __asm volatile(""); } }')
    image_sizes = run_module._sizes

    def once_built(image: Path) -> dict[str, int]:
        sizes = image_sizes(image)
        monkeypatch.setattr(run_module, "TIMEOUT_SECONDS", 1)
        return sizes

    monkeypatch.setattr(run_module, "_sizes", once_built)
    with pytest.raises(InternalError, match=r"qemu.* did not end within 1 s") as caught:
        count_instructions(folder, BOARDS["mps2-an500"], steps=2, samples=2)
    assert caught.value.code == "EC148"


@needs_tools
@pytest.mark.needs_tool
@pytest.mark.parametrize(
    "says",
    [
        "echo nonsense",  # no counts
        "head -c 4096 /dev/urandom | tr -d '\\0'",
        "echo 'edgec-count 10 0 20 30 40'",  # no ticks to divide by
        "echo 'edgec-count 10 10 20 30'",  # one step of two
        "kill -9 $$",
    ],
)
def test_a_simulator_that_babbles_or_dies(
    says: str, written: tuple[Path, Sources], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake = tmp_path / "bin" / SIMULATOR
    fake.parent.mkdir()
    fake.write_text(f"#!/bin/sh\n{says}\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(fake.parent), prepend=":")
    with pytest.raises(InternalError) as caught:
        count_instructions(written[0], BOARDS["mps2-an500"], steps=2, samples=2)
    assert caught.value.code == "EC148"


def test_the_doctor_knows_the_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    found = {finding.what: finding for finding in examine()}
    for tool in (COMPILER, SIMULATOR):
        assert found[tool].status == "missing"
        assert "apt-get install" in found[tool].hint


def test_missing_tools_and_unknown_boards(
    written: tuple[Path, Sources], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="mps2-an500"):
        get_board("stm32f746")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(MissingToolError, match="not installed"):
        count_instructions(written[0], BOARDS["mps2-an500"], steps=2, samples=2)
