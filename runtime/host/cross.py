"""Static programs for other machines, made by the compilers that this machine has."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from edgec.export.errors import MissingToolError, UnsupportedError

VARIABLE = "EDGEC_CROSS_CC"
COMPILERS = {
    "x86_64": ("x86_64-linux-gnu-gcc", "gcc-x86-64-linux-gnu libc6-dev-amd64-cross"),
    "aarch64": ("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu libc6-dev-arm64-cross"),
    "armv7l": ("arm-linux-gnueabihf-gcc", "gcc-arm-linux-gnueabihf libc6-dev-armhf-cross"),
    "armv8l": ("arm-linux-gnueabihf-gcc", "gcc-arm-linux-gnueabihf libc6-dev-armhf-cross"),
    "riscv64": ("riscv64-linux-gnu-gcc", "gcc-riscv64-linux-gnu libc6-dev-riscv64-cross"),
}
"""What ``uname -m`` says → compiler, and the Debian packages that bring it."""


def compiler_for(machine: str) -> str:
    """A compiler of this machine for another one: ``EDGEC_CROSS_CC``, or that of Debian's name,
    or ``cc`` where the machines are alike.

    Raises:
        MissingToolError: EC653.
    """
    wanted = os.environ.get(VARIABLE)
    if wanted:
        if shutil.which(wanted):
            return wanted
        raise MissingToolError(
            "EC653",
            f"{VARIABLE} names no program: {wanted}",
            fix="set it to a C compiler for the device, or unset it",
        )
    name, packages = COMPILERS.get(machine, ("", ""))
    if name and shutil.which(name):
        return name
    if machine == platform.machine() and shutil.which("cc"):
        return "cc"
    raise MissingToolError(
        "EC653",
        f"no C compiler on the device, and none here for {machine}",
        fix=f"install gcc on the device, or here: apt-get install {packages}"
        if packages
        else f"install a compiler on the device, or name one here with {VARIABLE}",
    )


def build_static(compiler: str, folder: Path, flags: Sequence[str], program: Path) -> None:
    """Compile the sources of `folder` into one static program.

    Raises:
        UnsupportedError: EC331, they do not compile.
    """
    sources = [str(p) for p in (*sorted(folder.glob("*.c")), *sorted(folder.glob("kernels/*.c")))]
    argv = [compiler, *flags, "-static", f"-I{folder}", "-o", str(program), *sources, "-lm"]
    built = subprocess.run(argv, capture_output=True, text=True, check=False)
    if built.returncode:
        raise not_compiled(compiler, built.stderr)


def not_compiled(where: str, messages: str) -> UnsupportedError:
    """EC331 with the compiler's first complaint."""
    lines = [line for line in messages.splitlines() if "error" in line] or [messages[-300:]]
    return UnsupportedError("EC331", "the C sources do not compile", where=where, why=lines[0])


def first_line(compiler: str) -> str:
    """What ``--version`` begins with."""
    said = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False)
    return (said.stdout.splitlines() or [compiler])[0]
