"""Builds with CMSIS-NN give the same bytes; EDGEC_CMSIS_NN names a checkout of it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgec.export.emit.c import cmsis_nn
from edgec.export.emit.c.lower import lower
from edgec.export.emit.c.source import Sources
from edgec.export.tflite import Model
from edgec.runtime.qemu.boards import BOARDS, Board
from edgec.runtime.qemu.run import COMPILER, FLAGS, SIMULATOR, Count, count_instructions

CMSIS_NN = os.environ.get("EDGEC_CMSIS_NN")
needs_cmsis_nn = pytest.mark.skipif(
    not CMSIS_NN, reason="EDGEC_CMSIS_NN does not name a checkout of ARM-software/CMSIS-NN"
)
needs_boards = pytest.mark.skipif(
    not all(map(shutil.which, (COMPILER, SIMULATOR))), reason=f"needs {COMPILER} and {SIMULATOR}"
)
needs_cmake = pytest.mark.skipif(shutil.which("cmake") is None, reason="needs cmake")


def test_constants_without_the_zero_point(convolutions: Model) -> None:
    calls = lower(convolutions).calls
    model = convolutions.main
    for number, call in enumerate(calls):
        extra = cmsis_nn.constants(call)
        assert (extra["plain_bias"] == model.tensors[8 + 2 * number].data).all()
        assert extra["shift"].dtype == np.int32
    wide = replace(calls[0], parameters={**calls[0].parameters, "wide": 1})
    assert cmsis_nn.constants(wide) == {}


@needs_cmsis_nn
@pytest.mark.needs_tool
def test_the_same_bytes_on_this_machine(
    convolutions: Model, write_c: Callable[..., tuple[Path, Sources]]
) -> None:
    assert CMSIS_NN is not None
    folder, _ = write_c(convolutions)
    argv = ["make", "-s", "test", f"CMSIS_NN={CMSIS_NN}"]
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=False)
    assert done.stdout == "edgec self-test: 3 samples agree\n", done.stderr


@needs_cmsis_nn
@pytest.mark.needs_tool
@needs_boards
@pytest.mark.parametrize("board", ["mps2-an500", "mps3-an547"])
def test_the_same_bytes_on_boards(
    board: str, convolutions: Model, write_c: Callable[..., tuple[Path, Sources]]
) -> None:
    assert CMSIS_NN is not None
    folder, sources = write_c(convolutions)
    steps = len(sources.steps)
    own = count_instructions(folder, BOARDS[board], steps=steps, samples=3)
    for name in cmsis_nn.SOURCES:
        shutil.copy(Path(CMSIS_NN) / "Source" / name, folder / "kernels")
    flags = ("-DEDGEC_CMSIS_NN", f"-I{Path(CMSIS_NN) / 'Include'}")
    theirs = count_instructions(folder, BOARDS[board], steps=steps, samples=3, extra_flags=flags)
    assert theirs.agreed
    different = [a != b for a, b in zip(own.steps, theirs.steps, strict=True)]
    assert any(different), "Arm's kernels were called"


def by_cmake(folder: Path, board: Board, steps: int, *options: str) -> Count:
    """Counts of a firmware whose library of the network CMake has built."""
    build = folder.parent / "by-cmake"
    shutil.rmtree(build, ignore_errors=True)
    flags = " ".join((*board.flags, *FLAGS[1:], "-DEDGEC_PROFILE"))
    argv = ["cmake", "-S", folder, "-B", build, "-DCMAKE_SYSTEM_NAME=Generic"]
    argv += [f"-DCMAKE_C_COMPILER={COMPILER}", "-DCMAKE_TRY_COMPILE_TARGET_TYPE=STATIC_LIBRARY"]
    argv += [f"-DCMAKE_C_FLAGS={flags}", "-DCMAKE_C_FLAGS_RELEASE=", *options]
    for command in (argv, ["cmake", "--build", build, "--parallel", "2"]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    (build / "main").mkdir()
    shutil.copy(folder / "main.c", build / "main")
    library = f"-Wl,--whole-archive,{build / 'libnet_model.a'},--no-whole-archive"
    return count_instructions(
        build / "main", board, steps=steps, samples=3, extra_flags=(f"-I{folder}", library)
    )


@needs_cmsis_nn
@needs_boards
@needs_cmake
@pytest.mark.needs_tool
@pytest.mark.parametrize("name", ["mps2-an385", "mps2-an500", "mps3-an547"])
def test_cmake_builds_what_make_builds(
    name: str, convolutions: Model, write_c: Callable[..., tuple[Path, Sources]]
) -> None:
    assert CMSIS_NN is not None
    folder, sources = write_c(convolutions)
    board, steps = BOARDS[name], len(sources.steps)
    own = by_cmake(folder, board, steps)
    theirs = by_cmake(folder, board, steps, f"-DCMSIS_NN={CMSIS_NN}")
    assert own.agreed
    assert theirs.agreed
    assert own.steps == count_instructions(folder, board, steps=steps, samples=3).steps
    different = [a != b for a, b in zip(own.steps, theirs.steps, strict=True)]
    assert any(different), "Arm's kernels were called"


@needs_cmake
@pytest.mark.needs_tool
def test_a_wrong_path_is_told(
    convolutions: Model, write_c: Callable[..., tuple[Path, Sources]]
) -> None:
    folder, _ = write_c(convolutions)
    for argv in (
        ["cmake", "-S", folder, "-B", folder / "build", "-DCMSIS_NN=/nowhere"],
        ["make", "-C", folder, "test", "CMSIS_NN=/nowhere"],
    ):
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert done.returncode
        assert "no Include/arm_nnfunctions.h in /nowhere" in " ".join(done.stderr.split())
