"""What is said of code and stack before compiling is what compiling gives."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgec.export.emit.c import make_kernel_sizes
from edgec.export.emit.c.call import FUNCTIONS, SOURCES
from edgec.export.emit.c.cost import _table, cost_of
from edgec.export.emit.c.lower import lower
from edgec.export.emit.c.source import Sources
from edgec.export.tflite import Model
from edgec.runtime.qemu.boards import BOARDS
from edgec.runtime.qemu.run import COMPILER, FLAGS, SIMULATOR, count_instructions

BOARD = BOARDS["mps2-an500"]
needs_tools = pytest.mark.skipif(
    not all(map(shutil.which, (COMPILER, SIMULATOR))), reason=f"needs {COMPILER} and {SIMULATOR}"
)


def test_every_kernel_has_a_size() -> None:
    functions = _table()["functions"]
    assert {*SOURCES, *FUNCTIONS} <= functions.keys()
    assert all(functions[name]["code"] > 0 for name in (*SOURCES, *FUNCTIONS))
    assert all(facts["stack"] >= 0 for facts in functions.values())


def test_shared_code_counts_once(convolutions: Model) -> None:
    calls = lower(convolutions).calls
    one, all_ = cost_of(calls[:1]), cost_of(calls)
    assert one.code < all_.code < len(calls) * one.code
    assert all_.parameters > one.parameters > 4 * 20
    assert cost_of(()).code == 0


@needs_tools
@pytest.mark.needs_tool
def test_the_table_is_that_of_the_kernels() -> None:
    """Kernels that change need `make_kernel_sizes`; other compilers may differ by a third."""
    check_code(make_kernel_sizes.sizes(others=())["functions"])


@pytest.mark.slow
@needs_tools
@pytest.mark.needs_tool
def test_the_table_is_that_of_all_cores() -> None:
    fresh, table = make_kernel_sizes.sizes(), _table()
    check_code(fresh["functions"])
    if fresh["compiler"] == table["compiler"]:
        assert fresh["functions"] == table["functions"]


def check_code(fresh: dict[str, Any]) -> None:
    table = _table()["functions"]
    assert fresh.keys() >= {*SOURCES, *FUNCTIONS}
    for name in {*SOURCES, *FUNCTIONS}:
        assert fresh[name]["code"] == pytest.approx(table[name]["code"], rel=1 / 3, abs=64), name


@needs_tools
@pytest.mark.needs_tool
def test_the_linked_image_is_as_large(
    convolutions: Model, write_c: Callable[..., tuple[Path, Sources]]
) -> None:
    folder, sources = write_c(convolutions)
    counts = [
        count_instructions(folder, BOARDS[name], steps=len(sources.steps), samples=3)
        for name in ("mps2-an385", "mps2-an500", "mps3-an547")
    ]
    # main and start-up are on the stack too
    deepest = max(count.stack_bytes for count in counts)
    assert sources.cost.stack - 64 <= deepest <= sources.cost.stack + 128
    (folder / "main.c").write_text('#include "net.h"\nint main(void) { net_run(0); return 0; }\n')
    with_it = _linked(folder)
    (folder / "main.c").write_text("int main(void) { return 0; }\n")
    flash = with_it - _linked(folder)
    said = sources.weight_bytes + sources.cost.code + sources.cost.parameters
    assert said == pytest.approx(flash, rel=0.1)


def _linked(folder: Path) -> int:
    """Bytes of code and constants, without start-up."""
    image = folder / "image.elf"
    argv = [COMPILER, *BOARD.flags, *FLAGS, f"-I{folder}", *map(str, folder.rglob("*.c"))]
    argv = [a for a in argv if not a.endswith("firmware.c")]
    argv += ["-nostartfiles", "-Wl,--gc-sections", "-Wl,-e,main", "-o", str(image)]
    subprocess.run(argv, check=True)
    said = subprocess.run(
        ["arm-none-eabi-size", image], stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    return int(said.splitlines()[1].split()[0])
