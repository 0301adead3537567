"""Arenas in several memories: the same bytes, one pointer and one static assertion for each."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgec.export.emit.c.source import Sources
from edgec.export.tflite import Model, Operator, Quantization, Subgraph, Tensor
from edgec.profiles.memory.regions import Region
from edgec.runtime.qemu.boards import BOARDS
from edgec.runtime.qemu.run import COMPILER, SIMULATOR, Memory, count_instructions

AGREE = "edgec self-test: 3 samples agree\n"
MEMORIES = (Region("fast-1", "ram", 400), Region("slow", "ram", 4096))


def residual() -> Model:
    """A block of two convolutions and a sum."""
    rng = np.random.default_rng(2)
    grid = Quantization.per_tensor(0.05, -3)
    options = {"padding": "SAME", "stride_w": 1, "stride_h": 1}

    def weight(name: str) -> Tensor:
        data = rng.integers(-127, 128, (4, 3, 3, 4), dtype=np.int8)
        return Tensor(name, data.shape, "INT8", data, Quantization.per_tensor(0.002, 0))

    acts = [Tensor(name, (1, 8, 8, 4), "INT8", None, grid) for name in "xhgy"]
    operators = [
        Operator("CONV_2D", [0, 4, -1], [1], options),
        Operator("CONV_2D", [1, 5, -1], [2], options),
        Operator("ADD", [0, 2], [3]),
    ]
    return Model([Subgraph([*acts, weight("v"), weight("w")], [0], [3], operators)])


def test_two_memories_give_the_same_bytes(self_test: Callable[..., str]) -> None:
    assert self_test(residual(), memories=MEMORIES) == AGREE


def test_one_memory_that_suffices_is_one_arena(
    write_c: Callable[..., tuple[Path, Sources]],
) -> None:
    alone, _ = write_c(residual())
    texts = {p.name: p.read_text() for p in alone.glob("net.*")}
    roomy, sources = write_c(residual(), memories=(Region("a", "ram", None), *MEMORIES))
    assert len(sources.arenas) == 1
    assert not (roomy / "regions.ld").exists()
    assert {p.name: p.read_text() for p in roomy.glob("net.*")} == texts
    assert "void net_run(void *arena);" in texts["net.h"]


def test_each_memory_is_checked_at_compile_time(
    write_c: Callable[..., tuple[Path, Sources]],
) -> None:
    folder, sources = write_c(residual(), memories=MEMORIES, bases={"slow": 0x20000000})
    first, second = sources.arenas
    assert (first.name, first.capacity, second.name) == ("fast_1", 400, "slow")
    script = (folder / "regions.ld").read_text()
    assert "EDGEC_SLOW (rw) : ORIGIN = 0x20000000, LENGTH = 4096" in script
    assert ".edgec_fast_1 (NOLOAD)" in script
    if shutil.which("cc") is None:
        pytest.skip("needs a C compiler: apt install gcc libc6-dev")

    def compiles(*flags: str) -> bool:
        argv = ["cc", "-std=c99", "-I.", "-c", "net.c", "-o", "net.o", *flags]
        return subprocess.run(argv, cwd=folder, capture_output=True, check=False).returncode == 0

    assert compiles()
    for arena in sources.arenas:
        limit = f"-DEDGEC_RAM_{arena.upper}_BYTES="
        assert compiles(f"{limit}{arena.bytes}")
        assert not compiles(f"{limit}{arena.bytes - 1}")


@pytest.mark.needs_tool
@pytest.mark.skipif(
    not all(map(shutil.which, (COMPILER, SIMULATOR))), reason=f"needs {COMPILER} and {SIMULATOR}"
)
@pytest.mark.parametrize("board", ["mps2-an385", "mps2-an500", "mps3-an547"])
def test_simulated_boards_keep_the_memories_apart(
    board: str, write_c: Callable[..., tuple[Path, Sources]]
) -> None:
    folder, sources = write_c(residual(), memories=MEMORIES)
    sizes = {"fast-1": 400, "slow": 4096}
    memories = [Memory(a.region, sizes[a.region], a.name, a.bytes) for a in sources.arenas]
    # data and stack of the firmware
    memories.append(Memory("other", 16384))
    count = count_instructions(
        folder, BOARDS[board], steps=len(sources.steps), samples=3, memories=memories
    )
    assert count.agreed
