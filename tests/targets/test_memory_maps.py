"""Memory maps against second sources: pyOCD's flash targets, and what edgec links for QEMU."""

from __future__ import annotations

import pytest

from edgec.runtime.qemu.boards import BOARDS
from edgec.targets import get_target

PYOCD = {
    "stm32h743": "stm32h743xx",
    "stm32h747": "stm32h743xx",  # the same die family: RM0399 beside RM0433
    "stm32f412": "stm32f412xg",
    "nrf52840": "nrf52840",
    "rp2040": "rp2040",
}
UNKNOWN_THERE = {"axi"}  # pyOCD's STM32H743 has the TCMs, D2 and D3, but no AXI SRAM


@pytest.mark.parametrize("name", sorted(PYOCD))
def test_every_memory_lies_in_one_that_pyocd_knows(name: str) -> None:
    builtin = pytest.importorskip(
        "pyocd.target.builtin", reason="pip install pyocd: the second source of memory maps"
    )
    regions = list(builtin.BUILTIN_TARGETS[PYOCD[name]].MEMORY_MAP)
    memories = [m for m in get_target(name).memory if m.name not in UNKNOWN_THERE]
    assert memories
    for memory in memories:
        kind = "FlashRegion" if memory.kind == "flash" else "RamRegion"
        assert memory.base is not None
        end = memory.base + memory.bytes
        covered = sum(
            max(0, min(region.end + 1, end) - max(region.start, memory.base))
            for region in regions
            if type(region).__name__ == kind
        )
        assert covered == memory.bytes, memory.name


@pytest.mark.parametrize("board", sorted(BOARDS))
def test_the_simulated_boards_are_those_that_edgec_links_for(board: str) -> None:
    target, known = get_target(f"qemu-{board}"), BOARDS[board]
    ram, code = target.memory
    assert (ram.base, ram.bytes) == (known.data, known.data_bytes)
    assert (code.base, code.bytes) == (known.code, known.code_bytes)
    core = str(target.fact("core")).removeprefix("Arm ")
    assert known.core.startswith(core)
