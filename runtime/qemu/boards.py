"""Boards that QEMU simulates: core, compiler flags, memory map (QEMU documentation, "Arm MPS2")."""

from __future__ import annotations

from dataclasses import dataclass

from edgec.export.errors import UsageError


@dataclass(frozen=True)
class Board:
    """A machine of qemu-system-arm.

    Attributes:
        machine: QEMU's name.
        core: for people.
        flags: what gcc needs for the core.
        vectors, code, data: addresses of the vector table, of code and constants, and of RAM.
        vectors_bytes, code_bytes, data_bytes: what the board has there.
    """

    machine: str
    core: str
    flags: tuple[str, ...]
    vectors: int
    code: int
    data: int
    vectors_bytes: int = 4 << 20
    code_bytes: int = 4 << 20
    data_bytes: int = 4 << 20


_M33 = ("-mcpu=cortex-m33", "-mfpu=fpv5-sp-d16", "-mfloat-abi=hard")
BOARDS = {
    board.machine: board
    for board in (
        Board("mps2-an385", "Cortex-M3", ("-mcpu=cortex-m3",), 0, 0, 0x20000000),
        Board(
            "mps2-an386",
            "Cortex-M4F",
            ("-mcpu=cortex-m4", "-mfpu=fpv4-sp-d16", "-mfloat-abi=hard"),
            0,
            0,
            0x20000000,
        ),
        Board(
            "mps2-an500",
            "Cortex-M7",
            ("-mcpu=cortex-m7", "-mfpu=fpv5-d16", "-mfloat-abi=hard"),
            0,
            0,
            0x20000000,
        ),
        Board("mps2-an505", "Cortex-M33", _M33, 0x10000000, 0x10000000, 0x38000000),
        Board(
            "mps3-an547",
            "Cortex-M55 with Helium",
            ("-mcpu=cortex-m55", "-mfloat-abi=hard"),
            0x10000000,
            0x70000000,
            0x31000000,
            vectors_bytes=512 << 10,
            code_bytes=64 << 20,
        ),
    )
}


def get_board(name: str) -> Board:
    """A board by QEMU's machine name.

    Raises:
        UsageError: edgec knows no such board.
    """
    if name not in BOARDS:
        raise UsageError("EC281", f"no board {name!r}", fix="one of: " + ", ".join(sorted(BOARDS)))
    return BOARDS[name]
