"""Builds a C artifact for a simulated board, with a device's memory sizes, and counts."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from edgec.export.errors import BudgetError, InternalError, MissingToolError, UnsupportedError
from edgec.runtime.qemu.boards import Board

COMPILER = "arm-none-eabi-gcc"
SIMULATOR = "qemu-system-arm"
FLAGS = ("-std=c99", "-O2", "-ffreestanding", "-ffunction-sections", "-fdata-sections")
TIMEOUT_SECONDS = 600
STACK_BYTES = 4096

LINKER = """\
ENTRY(reset)
MEMORY
{{
    VECTORS (rx) : ORIGIN = {vectors:#x}, LENGTH = {vectors_bytes}
    FLASH (rx) : ORIGIN = {code:#x}, LENGTH = {flash}
{memories}
}}
SECTIONS
{{
    .vectors : {{ KEEP(*(.vectors)) }} > {vector_region}
    .text : {{ *(.text*) *(.rodata*) }} > FLASH
    .ARM.exidx : {{ *(.ARM.exidx*) }} > FLASH
{arenas}
    .data : {{ *(.data*) }} > {ram}
    .bss (NOLOAD) : {{
        . = ALIGN(8);
        __bss_start = .;
        *(.bss*) *(COMMON)
        . = ALIGN(8);
        __bss_end = .;
    }} > {ram}
    .stack (NOLOAD) : {{
        __stack_bottom = .;
        . += {stack};
        . = ALIGN(8);
        __stack_top = .;
    }} > {ram}
}}
"""


@dataclass(frozen=True)
class Memory:
    """A RAM of the device, and the arena that lies in it.

    Attributes:
        region: its name.
        capacity: bytes.
        identifier: of the arena; empty where there is none.
        bytes: of the arena.
    """

    region: str
    capacity: int
    identifier: str = ""
    bytes: int = 0


@dataclass(frozen=True)
class Count:
    """What one run on a simulated board showed.

    Attributes:
        board, core: what was simulated.
        agreed: the self-test passed: every output byte is as expected.
        instructions: of all golden samples together, over their number; exact, not cycles.
        steps: the same per kernel call.
        code_bytes, constant_bytes, ram_bytes: sections of the image, start-up included.
        stack_bytes: most that was used.
        compiler, flags: what the numbers depend on.
    """

    board: str
    core: str
    agreed: bool
    instructions: int
    steps: tuple[int, ...]
    flash_bytes: int
    ram_bytes: int
    stack_bytes: int
    compiler: str
    simulator: str
    flags: tuple[str, ...]


def count_instructions(
    folder: Path,
    board: Board,
    *,
    steps: int,
    samples: int,
    ram: int | None = None,
    flash: int | None = None,
    memories: Sequence[Memory] = (),
    extra_flags: Sequence[str] = (),
) -> Count:
    """Build the C sources in `folder` for `board` and run their self-test.

    Args:
        steps: kernel calls of the network.
        samples: golden samples of the self-test.
        ram, flash: bytes that the device has; the board's own by default.
        memories: in place of `ram`, for arenas in several memories. They follow each other in the
            board's RAM; data and stack of the program go where most is left.
        extra_flags: for the compiler, e.g. another ``-O``.

    Raises:
        MissingToolError: no cross compiler or no simulator.
        BudgetError: the image does not fit `ram` or `flash`.
        UnsupportedError: it does not compile.
        InternalError: the simulated program failed.
    """
    for tool in (COMPILER, SIMULATOR):
        if shutil.which(tool) is None:
            raise MissingToolError(
                "EC650",
                f"{tool} is not installed",
                fix="apt-get install gcc-arm-none-eabi libnewlib-arm-none-eabi qemu-system-arm",
            )
    flags = (*board.flags, *FLAGS, *extra_flags)
    with tempfile.TemporaryDirectory(prefix="edgec-qemu-") as temporary:
        image = Path(temporary) / "image.elf"
        script = Path(temporary) / "link.ld"
        script.write_text(
            LINKER.format(
                vectors=board.vectors,
                vectors_bytes=board.vectors_bytes,
                code=board.code,
                data=board.data,
                flash=flash or board.code_bytes,
                **_ram(board, memories or [Memory("RAM", ram or board.data_bytes)]),
                stack=STACK_BYTES,
                vector_region="FLASH" if board.vectors == board.code else "VECTORS",
            )
        )
        startup = resources.files("edgec.runtime.qemu").joinpath("startup.c")
        with resources.as_file(startup) as start:
            sources = [
                str(p) for p in sorted(folder.glob("*.c")) + sorted(folder.glob("kernels/*.c"))
            ]
            argv = [COMPILER, *flags, "-DEDGEC_FREESTANDING", "-DEDGEC_PROFILE"]
            argv += [f"-DEDGEC_MOST_STEPS={steps}", f"-I{folder}", str(start), *sources]
            argv += [_section(memory) for memory in memories if memory.identifier]
            argv += ["-nostartfiles", "-nostdlib", "-Wl,--gc-sections", f"-Wl,-T,{script}"]
            built = _run([*argv, "-lm", "-lc", "-lgcc", "-o", str(image)])
        if built.returncode:
            raise _not_built(built.stderr, board)
        sizes = _sizes(image)
        argv = [SIMULATOR, "-M", board.machine, "-kernel", str(image), "-nographic"]
        argv += ["-monitor", "none", "-serial", "none"]
        argv += ["-semihosting-config", "enable=on,target=native"]
        argv += ["-icount", "shift=0,align=off,sleep=off"]
        done = _run(argv)
    text = done.stdout + done.stderr
    found = re.search(r"edgec-count((?: [0-9a-f]+){3,})", text)
    known, known_ticks, stack, *ticks = [int(n, 16) for n in found[1].split()] if found else [0] * 3
    if not known_ticks or len(ticks) != steps:
        raise InternalError(
            "EC148",
            f"the program on {board.machine} did not end as it should",
            why=(text.strip().splitlines() or [f"status {done.returncode}"])[-1][:300],
        )
    per_tick = known / known_ticks
    counts = tuple(round(t * per_tick / max(samples, 1)) for t in ticks)
    return Count(
        board=board.machine,
        core=board.core,
        agreed=done.returncode == 0,
        instructions=sum(counts),
        steps=counts,
        flash_bytes=sizes["text"],
        ram_bytes=sizes["data"] + sizes["bss"],
        stack_bytes=stack,
        compiler=_first_line([COMPILER, "--version"]),
        simulator=_first_line([SIMULATOR, "--version"]),
        flags=flags,
    )


def _ram(board: Board, memories: Sequence[Memory]) -> dict[str, str]:
    """The RAM of a linker script: its memories, the arenas, and where everything else goes."""
    regions, arenas, place = [], [], board.data
    for number, memory in enumerate(memories):
        name = f"RAM{number}" if len(memories) > 1 else "RAM"
        regions.append(f"    {name} (rwx) : ORIGIN = {place:#x}, LENGTH = {memory.capacity}")
        if memory.identifier:
            section = f"edgec_{memory.identifier}"
            arenas.append(f"    .{section} (NOLOAD) : {{ *(.bss.{section}) }} > {name}")
        place += -(-memory.capacity // 32) * 32
    if place > board.data + board.data_bytes and len(memories) > 1:
        raise BudgetError(
            "EC551",
            f"{board.machine} has less RAM than the memories of the target together",
            why=f"{place - board.data:,} of {board.data_bytes:,} bytes",
            fix="choose another board",
        )
    free = max(range(len(memories)), key=lambda n: memories[n].capacity - memories[n].bytes)
    return {
        "memories": "\n".join(regions),
        "arenas": "\n".join(arenas),
        "ram": f"RAM{free}" if len(memories) > 1 else "RAM",
    }


def _section(memory: Memory) -> str:
    section = f".bss.edgec_{memory.identifier}"
    return f'-DEDGEC_IN_{memory.identifier.upper()}=__attribute__((section("{section}")))'


def _not_built(messages: str, board: Board) -> BudgetError | UnsupportedError:
    over = re.search(r"region `(\w+)' overflowed by (\d+) bytes", messages)
    if over:
        return BudgetError(
            "EC551",
            f"the image needs {over[2]} bytes more {over[1]} than the device has",
            fix="choose a larger device, a smaller input or network, or move constants elsewhere",
        )
    last = [line for line in messages.splitlines() if "error" in line] or [messages[-300:]]
    return UnsupportedError("EC331", f"the C sources do not compile for {board.core}", why=last[0])


def _sizes(image: Path) -> dict[str, int]:
    lines = _run(["arm-none-eabi-size", str(image)]).stdout.splitlines()
    text, data, bss = (int(value) for value in lines[1].split()[:3])
    return {"text": text + data, "data": data, "bss": bss}


def _run(argv: Sequence[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            list(argv),
            capture_output=True,
            text=True,
            errors="replace",  # what a program prints need not be text
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise InternalError(
            "EC148", f"{argv[0]} did not end within {TIMEOUT_SECONDS} s", fix="report the network"
        ) from error


def _first_line(argv: Sequence[str]) -> str:
    return (_run(argv).stdout.splitlines() or ["unknown"])[0]
