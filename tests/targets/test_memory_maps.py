"""Memory maps against second sources: pyOCD's flash targets, and what edgec links for QEMU."""

from __future__ import annotations

import importlib

import pytest

from edgec.runtime.qemu.boards import BOARDS
from edgec.targets import get_target

PYOCD = {
    "stm32h743": ("STM32H743xx", "STM32H743xx"),
    "stm32h747": ("STM32H743xx", "STM32H743xx"),  # the same die family: RM0399 beside RM0433
    "stm32f412": ("STM32F412xx", "STM32F412xG"),
}

UNKNOWN_THERE = {"axi"}  # pyOCD's STM32H743 has the TCMs, D2 and D3, but no AXI SRAM


@pytest.mark.parametrize("name", sorted(PYOCD))
def test_every_memory_lies_in_one_that_pyocd_knows(name: str) -> None:
    pytest.importorskip("pyocd", reason="pip install pyocd: the second source of memory maps")
    module, symbol = PYOCD[name]
    found = importlib.import_module(f"pyocd.target.builtin.target_{module}")
    regions = list(getattr(found, symbol).MEMORY_MAP)
    memories = [m for m in get_target(name).memory if m.name not in UNKNOWN_THERE]
    assert len(memories) >= 2
    for memory in memories:
        kind = "FlashRegion" if memory.kind == "flash" else "RamRegion"
        covered = 0
        assert memory.base is not None
        end = memory.base + memory.bytes
        for region in sorted(regions, key=lambda region: region.start):
            if type(region).__name__ == kind and memory.base <= region.start < end:
                covered += min(region.end + 1, end) - region.start
        assert covered == memory.bytes, memory.name


@pytest.mark.parametrize("board", sorted(BOARDS))
def test_the_simulated_boards_are_those_that_edgec_links_for(board: str) -> None:
    target, known = get_target(f"qemu-{board}"), BOARDS[board]
    ram, code = target.memory
    assert (ram.base, ram.bytes) == (known.data, known.data_bytes)
    assert (code.base, code.bytes) == (known.code, known.code_bytes)
    core = str(target.fact("core")).removeprefix("Arm ")
    assert known.core.startswith(core)
