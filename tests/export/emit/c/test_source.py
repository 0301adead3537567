"""What is written: deterministic, escaped, complete, checked at compile time."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgec.export.emit.c.call import FUNCTIONS, SOURCES
from edgec.export.emit.c.lower import lower
from edgec.export.emit.c.text import array, comment, identifier
from edgec.export.tflite import Model, Operator, Quantization, Signature, Subgraph, Tensor
from edgec.profiles.memory.plan import plan

STRICT = "-O2 -std=c99 -Wall -Wextra -Wconversion -pedantic -Werror".split()
EVIL = 'x*/ int main(void){return system("id");} /*\n#include "/etc/passwd"\n??/ \\ é'


def tiny(name: str = "x") -> Model:
    """Convolution 1x1 → ReLU as a table → mean → two outputs."""
    rng = np.random.default_rng(0)

    def quantized(name: str, shape: tuple[int, ...], data: Any = None) -> Tensor:
        return Tensor(name, shape, "INT8", data, Quantization.per_tensor(0.05, 0))

    weight = rng.integers(-127, 128, (4, 1, 1, 3), dtype=np.int8)
    tensors = [
        quantized(name, (1, 4, 4, 3)),
        quantized(f"weight {name}", (4, 1, 1, 3), weight),
        quantized(f"conv {name}", (1, 4, 4, 4)),
        quantized(f"relu {name}", (1, 4, 4, 4)),
        Tensor("axes", (2,), "INT32", np.array([1, 2], np.int32)),
        quantized(f"mean {name}", (1, 4)),
    ]
    operators = [
        Operator("CONV_2D", [0, 1, -1], [2], {"padding": "SAME", "stride_w": 1, "stride_h": 1}),
        Operator("RELU", [2], [3]),
        Operator("MEAN", [3, 4], [5], {"keep_dims": False}),
    ]
    graph = Subgraph(tensors, [0], [5, 3], operators, "main")
    names = {f"mean {name}": 5, f"relu {name}": 3}
    return Model([graph], signatures=[Signature("serving_default", {name: 0}, names)])


def test_names_of_the_model_stay_text(self_test: Callable[..., str], tmp_path: Path) -> None:
    said = self_test(tiny(EVIL), prefix=EVIL, title=EVIL)
    assert said == "edgec self-test: 3 samples agree\n"
    for file in (tmp_path / "c").glob("*.[ch]"):
        code = re.sub(r"/\*.*?\*/", "", file.read_text(), flags=re.S)
        assert "system" not in code.replace("system_id", "")
        assert "passwd" not in re.sub(r"\w*etc_passwd\w*", "", code)


def odd_ends(form: str) -> Model:
    """A network whose inputs or outputs are unusual."""
    graph = tiny().main
    tensors, operators = list(graph.tensors), list(graph.operators)
    grid = Quantization.per_tensor(0.05, 0)
    inputs, outputs, names = [0], [5, 3], {"mean": 5, "relu": 3}
    if form == "an input that nothing reads":
        tensors.append(Tensor("unused", (1, 500), "INT8", None, grid))
        inputs.append(6)
    elif form == "an output twice":
        outputs, names = [5, 5, 3], {"mean": 5, "again": 5, "relu": 3}
    elif form == "no inputs":
        data = np.arange(4, dtype=np.int8).reshape(1, 4)
        tensors[4:] = [Tensor("c", (1, 4), "INT8", data, grid), replace(tensors[5], name="y")]
        operators = [Operator("CONCATENATION", [4], [5], {"axis": 1})]
        inputs, outputs, names = [], [5], {"y": 5}
    given = {tensors[i].name: i for i in inputs}
    graph = Subgraph(tensors, inputs, outputs, operators, "main")
    return Model([graph], signatures=[Signature("serving_default", given, names)])


ODD_ENDS = ["an input that nothing reads", "an output twice", "no inputs"]


@pytest.mark.parametrize("form", ODD_ENDS)
def test_unusual_ends(form: str, self_test: Callable[..., str], tmp_path: Path) -> None:
    assert self_test(odd_ends(form)) == "edgec self-test: 3 samples agree\n"
    header = (tmp_path / "c" / "net.h").read_text()
    assert ("net_input_unused(" in header) == (form == ODD_ENDS[0])
    assert ("net_output_again(" in header) == (form == ODD_ENDS[1])
    assert ("_input_" in header) == (form != ODD_ENDS[2])


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("net", "net"),
        ("int", "model_int"),
        ("", "model"),
        ("3d", "model_3d"),
        ("a b/c-d", "a_b_c_d"),
        ("Ü", "model"),
    ],
)
def test_identifiers(text: str, want: str) -> None:
    assert identifier(text) == want


def test_comments_end_where_they_should() -> None:
    made = comment(EVIL)
    assert "*/" not in made
    assert "\n" not in made
    assert "\\" not in made
    assert "??/" not in made


def test_arrays_hold_the_least_integer_and_are_never_empty() -> None:
    assert "(-2147483647 - 1)" in array("a", np.array([-(1 << 31)], np.int32))
    assert "e[1]" in array("e", np.array([], np.int8))


def test_equal_models_give_equal_text(write_c: Callable[..., Any]) -> None:
    assert write_c(tiny())[1].files == write_c(tiny())[1].files


def test_equal_constants_are_written_once(write_c: Callable[..., Any]) -> None:
    model = tiny()
    text = write_c(model)[1].files["net.c"]
    assert text.count("mantissa_") > 1
    assert len(re.findall(r"static const int32_t mantissa_\d+\[", text)) == 1


def test_quantize_and_dequantize_are_what_the_reference_does(
    write_c: Callable[..., Any], tmp_path: Path
) -> None:
    if shutil.which("cc") is None:
        pytest.skip("needs a C compiler")
    folder, _ = write_c(tiny())
    (tmp_path / "main.c").write_text(
        '#include <stdio.h>\n#include "net.h"\n'
        "int main(void) { for (int i = -3000; i <= 3000; ++i) {\n"
        "    const int8_t q = net_quantize((float)i / 64.0f, 0.125f, -7);\n"
        '    printf("%d %.9g\\n", q, (double)net_dequantize(q, 0.125f, -7)); }\n'
        '    printf("%d %d\\n", net_quantize(1e30f, 0.1f, 3), net_quantize(-1e30f, 0.1f, 3));\n'
        "    return 0; }\n"
    )
    argv = ["cc", *STRICT, f"-I{folder}", tmp_path / "main.c", "-o", tmp_path / "q"]
    subprocess.run(argv, check=True)
    lines = subprocess.run(
        [tmp_path / "q"], capture_output=True, text=True, check=True
    ).stdout.split()
    found = np.array(lines[:-2], np.float64).reshape(-1, 2)
    steps = np.arange(-3000, 3001) / 64 / 0.125
    wanted = np.clip(np.trunc(steps + np.copysign(0.5, steps)) - 7, -128, 127)
    np.testing.assert_array_equal(found[:, 0], wanted)
    np.testing.assert_array_equal(found[:, 1], (wanted + 7) * 0.125)
    assert lines[-2:] == ["127", "-128"]


def test_two_networks_in_one_firmware(write_c: Callable[..., Any], tmp_path: Path) -> None:
    if shutil.which("cc") is None:
        pytest.skip("needs a C compiler")
    first = write_c(tiny(), prefix="first")[0].rename(tmp_path / "one")
    second = write_c(tiny(), prefix="second")[0].rename(tmp_path / "two")
    main = tmp_path / "main.cpp"
    main.write_text(
        '#include "one/first.h"\n#include "two/second.h"\n'
        "int main() { static int a[FIRST_ARENA_BYTES], b[SECOND_ARENA_BYTES];\n"
        "first_run(a); second_run(b); return 0; }\n"
    )
    kernels = sorted((first / "kernels").glob("*.c"))
    objects = []
    for source in [first / "first.c", second / "second.c", *kernels]:
        out = tmp_path / f"{source.stem}.o"
        include = f"-I{source.parent if source.parent.name != 'kernels' else first}"
        subprocess.run(["cc", "-std=c99", include, "-c", source, "-o", out], check=True)
        objects.append(out)
    if shutil.which("c++") is None:
        pytest.skip("needs a C++ compiler for the headers' guards")
    subprocess.run(["c++", main, *objects, "-o", tmp_path / "both"], check=True)
    subprocess.run([tmp_path / "both"], check=True)


@pytest.mark.needs_tool
@pytest.mark.parametrize("name", ["test", "clean", "kernels", "string", "stdint", "edgec_kernels"])
def test_names_that_files_cannot_have(
    name: str, self_test: Callable[..., str], tmp_path: Path
) -> None:
    assert self_test(tiny(), prefix=name) == "edgec self-test: 3 samples agree\n"
    assert (tmp_path / "c" / f"model_{name}.h").is_file()
    if shutil.which("cmake") is not None:
        argv = ["cmake", "-S", tmp_path / "c", "-B", tmp_path / "made"]
        subprocess.run(argv, check=True, capture_output=True)


@pytest.mark.needs_tool
def test_threads_with_arenas_of_their_own(write_c: Callable[..., Any], tmp_path: Path) -> None:
    if shutil.which("cc") is None:
        pytest.skip("needs a C compiler")
    folder, _ = write_c(tiny())
    (tmp_path / "threads.c").write_text(
        '#include <pthread.h>\n#include <string.h>\n#include "net.h"\n#include "net_golden.h"\n'
        "static int32_t arenas[4][(NET_ARENA_BYTES + 3) / 4];\nstatic int wrong[4];\n"
        "static void *work(void *given) {\n    const int n = *(int *)given;\n"
        "    for (int i = 0; i < 50; ++i) {\n"
        "        memcpy(net_input_x(arenas[n]), n & 1 ? golden_1_input_0 : golden_0_input_0,\n"
        "               NET_INPUT_X_BYTES);\n        net_run(arenas[n]);\n"
        "        wrong[n] += memcmp(net_output_mean_x(arenas[n]),\n"
        "            n & 1 ? golden_1_output_0 : golden_0_output_0,\n"
        "            NET_OUTPUT_MEAN_X_BYTES) != 0;\n"
        "    }\n    return 0;\n}\n"
        "int main(void) {\n    pthread_t threads[4];\n    int numbers[4] = {0, 1, 2, 3};\n"
        "    for (int n = 0; n < 4; ++n) pthread_create(&threads[n], 0, work, &numbers[n]);\n"
        "    for (int n = 0; n < 4; ++n) pthread_join(threads[n], 0);\n"
        "    return wrong[0] + wrong[1] + wrong[2] + wrong[3];\n}\n"
    )
    sources = [tmp_path / "threads.c", folder / "net.c", *sorted((folder / "kernels").glob("*.c"))]
    argv = ["cc", "-std=c99", "-O1", "-fsanitize=thread", f"-I{folder}", *sources, "-pthread"]
    subprocess.run([*argv, "-o", tmp_path / "threads"], check=True)
    done = subprocess.run([tmp_path / "threads"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.needs_tool
def test_cmake_alone_and_in_a_firmware(write_c: Callable[..., Any], tmp_path: Path) -> None:
    if shutil.which("cmake") is None:
        pytest.skip("needs cmake: apt install cmake")
    first = write_c(tiny(), prefix="first")[0].rename(tmp_path / "one")
    write_c(tiny(), prefix="second")[0].rename(tmp_path / "two")
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.13)\nproject(firmware C)\nadd_subdirectory(one)\n"
        "add_subdirectory(two)\nadd_executable(firmware firmware.c)\n"
        "target_link_libraries(firmware first_model second_model)\n"
    )
    (tmp_path / "firmware.c").write_text(
        '#include "first.h"\n#include "second.h"\n'
        "int main(void) { static int a[FIRST_ARENA_BYTES], b[SECOND_ARENA_BYTES];\n"
        "first_run(a); second_run(b); return 0; }\n"
    )

    def run(*argv: str | Path) -> str:
        return subprocess.run(argv, check=True, capture_output=True, text=True).stdout

    run("cmake", "-G", "Unix Makefiles", "-S", first, "-B", tmp_path / "alone")
    run("cmake", "--build", tmp_path / "alone")
    assert run(tmp_path / "alone" / "first") == "edgec self-test: 3 samples agree\n"
    flags = (tmp_path / "alone/CMakeFiles/first_model.dir/flags.make").read_text()
    assert "-O3" in flags, "optimized unless told otherwise"
    run("cmake", "-S", tmp_path, "-B", tmp_path / "both")
    run("cmake", "--build", tmp_path / "both")
    run(tmp_path / "both" / "firmware")
    assert not list((tmp_path / "both").rglob("main.c.*")), "examples are not the firmware's"


@pytest.mark.needs_tool
def test_every_kernel_compiles_with_clang(tmp_path: Path) -> None:
    if shutil.which("clang") is None:
        pytest.skip("needs a second compiler: apt install clang")
    kernels = resources.files("edgec.runtime").joinpath("kernels")
    for name in sorted({*SOURCES.values(), *FUNCTIONS.values()}):
        with resources.as_file(kernels.joinpath(name)) as path:
            argv = ["clang", *STRICT, "-c", path, "-o", tmp_path / "k.o"]
            subprocess.run(argv, check=True)


@pytest.mark.needs_tool
def test_another_compiler_gives_the_same_bytes(write_c: Callable[..., Any]) -> None:
    if shutil.which("clang") is None or shutil.which("make") is None:
        pytest.skip("needs a second compiler: apt install clang make")
    folder, _ = write_c(tiny())
    argv = ["make", "-s", "test", "CC=clang", f"CFLAGS={' '.join(STRICT)}"]
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=False)
    assert done.stdout == "edgec self-test: 3 samples agree\n", done.stderr


@pytest.mark.needs_tool
def test_kernels_on_integers_need_no_c_library_and_no_arm(tmp_path: Path) -> None:
    compiler = "riscv64-unknown-elf-gcc"
    if shutil.which(compiler) is None:
        pytest.skip("needs another architecture: apt install gcc-riscv64-unknown-elf")
    # what a freestanding implementation need not have, kernels may not use
    (tmp_path / "string.h").write_text(
        "#include <stddef.h>\nvoid *memcpy(void *, const void *, size_t);\n"
        "void *memset(void *, int, size_t);\n"
    )
    kernels = resources.files("edgec.runtime").joinpath("kernels")
    machine = ["-march=rv32imac", "-mabi=ilp32", "-ffreestanding", f"-I{tmp_path}"]
    for name in sorted({*SOURCES.values(), *FUNCTIONS.values()}):
        if name.endswith(("_s8.c", "_s16.c")):
            with resources.as_file(kernels.joinpath(name)) as path:
                argv = [compiler, *STRICT, *machine, "-c", path, "-o", tmp_path / "k.o"]
                subprocess.run(argv, check=True)


def test_memories_that_are_too_small_fail_at_compile_time(write_c: Callable[..., Any]) -> None:
    if shutil.which("cc") is None:
        pytest.skip("needs a C compiler")
    folder, sources = write_c(tiny())

    def compiles(*flags: str) -> bool:
        argv = ["cc", "-std=c99", "-I.", "-c", "net.c", "-o", "net.o", *flags]
        return subprocess.run(argv, cwd=folder, capture_output=True, check=False).returncode == 0

    assert compiles(f"-DEDGEC_RAM_BYTES={sources.arena_bytes}")
    assert not compiles(f"-DEDGEC_RAM_BYTES={sources.arena_bytes - 1}")
    assert compiles(f"-DEDGEC_FLASH_BYTES={sources.weight_bytes}")
    assert not compiles(f"-DEDGEC_FLASH_BYTES={sources.weight_bytes - 1}")


def test_inputs_and_outputs_overlap_where_kernels_allow_it() -> None:
    lowered = lower(tiny())
    tight, loose = (plan(lowered.program, overlaps=o).peak for o in (True, False))
    assert tight < loose
