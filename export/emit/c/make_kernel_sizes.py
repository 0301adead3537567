"""Writes ``kernel_sizes.json``: code and stack of every function of the kernels.

Usage, with the cross compiler installed (apt install gcc-arm-none-eabi)::

    PYTHONPATH=.src python -m edgec.export.emit.c.make_kernel_sizes

Code is that of one compiler, one core and one set of flags, which are in the file; other cores and
compilers differ by some ten percent. Frames are the compiler's (``-fcallgraph-info=su``), the
largest on a core without the DSP extension, with it, and with Helium.
"""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from edgec.runtime.qemu.boards import BOARDS, Board
from edgec.runtime.qemu.run import COMPILER, FLAGS

BOARD = BOARDS["mps2-an500"]
OTHERS = (BOARDS["mps2-an385"], BOARDS["mps3-an547"])
PATH = Path(__file__).with_name("kernel_sizes.json")


def main() -> None:
    """Command line."""
    PATH.write_text(json.dumps(sizes(), indent=1) + "\n", "utf-8")


def sizes(others: Sequence[Board] = OTHERS) -> dict[str, Any]:
    """What the file holds; the frames on `others` are looked at too."""
    version = _said(COMPILER, "-dumpfullversion").strip()
    folder = resources.files("edgec.runtime").joinpath("kernels")
    functions: dict[str, dict[str, Any]] = {}
    with resources.as_file(folder) as kernels:
        for source in sorted(kernels.glob("*.c")):
            functions |= _functions(source, BOARD)
            for other in others:
                _add_frames(functions, _functions(source, other))
    return {
        "compiler": f"gcc {version}",
        "core": BOARD.core,
        "flags": [*BOARD.flags, *FLAGS],
        "functions": dict(sorted(functions.items())),
    }


def _add_frames(functions: dict[str, dict[str, Any]], others: dict[str, dict[str, Any]]) -> None:
    """Frames and calls of another core; what is inlined here may be called there."""
    for name, facts in others.items():
        mine = functions.setdefault(name, {"code": 0, "stack": 0, "calls": []})
        mine["stack"] = max(mine["stack"], facts["stack"])
        mine["calls"] = sorted({*mine["calls"], *facts["calls"]})


def _functions(source: Path, board: Board) -> dict[str, dict[str, Any]]:
    """Bytes of code, bytes of the frame, and what is called, by name; static ones by file, too."""
    with tempfile.TemporaryDirectory() as name:
        made = Path(name) / "k.o"
        flags = [*board.flags, *FLAGS, "-fcallgraph-info=su"]
        _said(COMPILER, *flags, "-c", str(source), "-o", str(made))
        graph = made.with_suffix(".ci").read_text()
        symbols = _said("arm-none-eabi-nm", "-S", str(made))
    code = {
        fields[3]: int(fields[1], 16)
        for fields in map(str.split, symbols.splitlines())
        if len(fields) == 4 and fields[2] in "tT"
    }

    def named(title: str) -> str:
        return title.rpartition("/")[2]

    found = {
        named(title): {"code": code[named(title).rpartition(":")[2]], "stack": int(frame)}
        for title, frame in re.findall(
            r'node: \{ title: "([^"]+)" label: "[^"]*\\n(\d+) bytes \(static\)"', graph
        )
    }
    calls = re.findall(r'edge: \{ sourcename: "([^"]+)" targetname: "([^"]+)"', graph)
    return {
        name: facts | {"calls": sorted({named(to) for come, to in calls if named(come) == name})}
        for name, facts in found.items()
    }


def _said(*argv: str) -> str:
    return subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=True).stdout


if __name__ == "__main__":
    main()
