"""Compiles generated C with every warning and sanitizer, and runs its self-test."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgec.export.emit.c import execute
from edgec.export.emit.c.lower import Lowered, lower
from edgec.export.emit.c.reference import reference
from edgec.export.emit.c.source import Sources, write_sources
from edgec.export.files import write_texts
from edgec.export.tflite import Model, Operator, Quantization, Subgraph, Tensor
from edgec.export.tflite.names import input_names
from edgec.profiles.memory.plan import plan
from edgec.profiles.memory.regions import ANY_RAM, Region

FLAGS = (
    "-O1 -g -std=c99 -Wall -Wextra -Wconversion -pedantic -Werror "
    "-fsanitize=address,undefined -fno-sanitize-recover=all"
)
Arrays = Mapping[str, np.ndarray]


def random_feeds(model: Model, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        name: random_integers(rng, model.main.tensors[index])
        for name, index in zip(input_names(model), model.main.inputs, strict=True)
    }


def random_integers(rng: np.random.Generator, tensor: Tensor) -> np.ndarray:
    limits = np.iinfo(tensor.numpy_dtype)
    found = rng.integers(limits.min, limits.max + 1, tensor.shape)
    return np.asarray(found.astype(tensor.numpy_dtype))


@pytest.fixture
def convolutions() -> Model:
    """Padded 3x3, depthwise with stride 2, depthwise with stride 1, 1x1, dilated 3x3, 5x5."""
    rng = np.random.default_rng(4)
    shapes = [(1, 12, 11, 3), (1, 12, 11, 8), (1, 6, 6, 8), (1, 6, 6, 8), (1, 6, 6, 17)]
    shapes += [(1, 6, 6, 6), (1, 6, 6, 5)]
    kernels = [(8, 3, 3, 3), (1, 3, 3, 8), (1, 3, 3, 8), (17, 1, 1, 8), (6, 3, 3, 17), (5, 5, 5, 6)]
    tensors = [
        Tensor(f"t{n}", shape, "INT8", None, Quantization.per_tensor(0.05, -7 + n))
        for n, shape in enumerate(shapes)
    ]
    operators = []
    for n, shape in enumerate(kernels):
        depthwise = shape[0] == 1
        axis = 3 if depthwise else 0
        scale = (rng.random(shape[axis]) * 0.01 + 1e-3).astype(np.float32)
        data = rng.integers(-127, 128, shape, dtype=np.int8)
        grid = Quantization(scale, np.zeros(len(scale), np.int64), axis)
        bias = rng.integers(-4000, 4000, len(scale)).astype(np.int32)
        tensors += [
            Tensor(f"w{n}", shape, "INT8", data, grid),
            Tensor(f"b{n}", bias.shape, "INT32", bias),
        ]
        options: dict[str, Any] = {"padding": "SAME", "stride_w": 1, "stride_h": 1}
        if n == 1:
            options |= {"stride_w": 2, "stride_h": 2}
        if n == 4:
            options |= {"dilation_w_factor": 2, "dilation_h_factor": 2}
        if n == 3:
            options["fused_activation_function"] = "RELU"
        if depthwise:
            options["depth_multiplier"] = 1
        code = "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D"
        operators.append(Operator(code, [n, 7 + 2 * n, 8 + 2 * n], [n + 1], options))
    return Model([Subgraph(tensors, [0], [len(kernels)], operators)])


@pytest.fixture
def write_c(tmp_path: Path) -> Callable[..., tuple[Path, Sources]]:
    """Writes the C of a model with golden data: random inputs, outputs of the reference."""

    def write(
        model: Model,
        *,
        expected: Callable[[Arrays], Arrays] | None = None,
        rewrite: Callable[[Lowered], Lowered] = lambda lowered: lowered,
        samples: Sequence[Arrays] = (),
        memories: Sequence[Region] = (ANY_RAM,),
        **options: Any,
    ) -> tuple[Path, Sources]:
        lowered = rewrite(lower(model))
        golden = []
        for feeds in samples or [random_feeds(model, seed) for seed in range(3)]:
            golden.append((feeds, expected(feeds) if expected else reference(model, feeds)))
        planned = plan(lowered.program, memories, time_limit=2)
        if expected is None:
            execute.check(model, lowered, planned, golden)
        sources = write_sources(
            model,
            lowered,
            planned,
            **{"prefix": "net", "golden": golden, **options},
        )
        folder = tmp_path / "c"
        shutil.rmtree(folder, ignore_errors=True)
        write_texts(folder, sources.files)
        return folder, sources

    return write


@pytest.fixture
def with_kernels(run_folder: Path) -> Callable[..., list[str]]:
    """Arguments of ``make`` that link kernels compiled before: many networks call the same ones.

    What a kernel is compiled from is its own text, all headers beside it, the compiler and its
    flags; where one of them differs, it is compiled again.
    """

    def arguments(folder: Path, flags: str, compiler: str = "cc") -> list[str]:
        makefile = (folder / "Makefile").read_text()
        (sources,) = re.findall(r"^SOURCES = (.*)$", makefile, re.MULTILINE)
        headers = [h.name.encode() + h.read_bytes() for h in sorted(folder.glob("kernels/*.h"))]
        linked = []
        for source in sources.split():
            if source.startswith("kernels/"):
                text = (folder / source).read_bytes()
                parts = [compiler.encode(), flags.encode(), source.encode(), text, *headers]
                made = run_folder / f"{hashlib.sha256(b'|'.join(parts)).hexdigest()}.o"
                if not made.is_file():
                    argv = [compiler, "-std=c99", *flags.split(), "-I.", "-c", source]
                    done = subprocess.run(
                        [*argv, "-o", "kernel.o"],
                        cwd=folder, capture_output=True, text=True, check=False,
                    )  # fmt: skip
                    assert done.returncode == 0, done.stderr[:2000]
                    assert not done.stderr, done.stderr[:2000]
                    (folder / "kernel.o").rename(made)
                source = str(made)
            linked.append(source)
        return [f"CC={compiler}", f"CFLAGS={flags}", f"SOURCES={' '.join(linked)}"]

    return arguments


@pytest.fixture
def self_test(
    write_c: Callable[..., tuple[Path, Sources]], with_kernels: Callable[..., list[str]]
) -> Callable[..., str]:
    """What the self-test of a model's C prints, built with sanitizers."""
    if shutil.which("cc") is None or shutil.which("make") is None:
        pytest.skip("needs a C compiler and make: apt install gcc libc6-dev make")

    def check(model: Model, **options: Any) -> str:
        folder, _ = write_c(model, **options)
        done = subprocess.run(
            ["make", "-s", "test", *with_kernels(folder, FLAGS)],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert not done.stderr, done.stderr[:2000]
        return done.stdout

    return check
