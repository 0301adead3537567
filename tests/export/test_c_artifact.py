"""The C artifact of an export: built, golden, limited by the target's memory, counted in QEMU."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import edgec
from edgec.export.errors import BudgetError, InputError, UsageError
from edgec.runtime.onnx_runner import OnnxRunner
from edgec.runtime.qemu.run import COMPILER, SIMULATOR
from edgec.runtime.runners import open_runner


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, tiny_onnx: Path) -> edgec.Bundle:
    out = tmp_path_factory.mktemp("c") / "it's a $(bundle)"
    return edgec.compile(str(tiny_onnx), target="stm32f746", calib="random", out=str(out))


def test_the_artifact_is_described(bundle: edgec.Bundle) -> None:
    artifact = next(a for a in bundle.manifest.artifacts if a.format == "c")
    assert artifact.status == "built"
    assert artifact.checks["arena_proved"]
    assert artifact.checks["arena_bytes"] == artifact.checks["arena_lower_bound"]
    assert artifact.checks["golden_sqnr_db"] > 15
    files = [name for name in bundle.manifest.files if name.startswith("c/")]
    assert {"c/tiny.c", "c/tiny.h", "c/main.c", "c/Makefile"} <= set(files)
    assert "arena" in (bundle.path / "report.txt").read_text()


def test_the_self_test_passes_on_this_machine(bundle: edgec.Bundle) -> None:
    if shutil.which("cc") is None or shutil.which("make") is None:
        pytest.skip("needs a C compiler and make: apt install gcc libc6-dev make")
    done = subprocess.run(
        ["make", "-s", "test"], cwd=bundle.path / "c", capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "2 samples agree" in done.stdout


@pytest.fixture(scope="module")
def wide_bundle(tmp_path_factory: pytest.TempPathFactory, inverted_residual: Path) -> edgec.Bundle:
    return edgec.compile(
        str(inverted_residual),
        target="generic-c99",
        precision="int16x8",
        calib="random",
        formats="c",
        out=str(tmp_path_factory.mktemp("int16") / "bundle"),
    )


def test_int16_activations(wide_bundle: edgec.Bundle) -> None:
    artifact = next(a for a in wide_bundle.manifest.artifacts if a.format == "c")
    assert (artifact.status, artifact.precision) == ("built", "int16x8")
    assert artifact.scheme == "int16x8 (c-int16x8)"
    assert artifact.checks["executed"]
    # rounded weights are all that is between it and float
    assert artifact.checks["golden_sqnr_db"] > 35
    kinds = {port["dtype"] for side in artifact.checks["ports"].values() for port in side}
    assert kinds == {"int16"}
    # sigmoid and product are one function with a table
    names = artifact.checks["step_names"]
    assert [name.split()[0] for name in names] == [
        "CONV_2D",
        "CUSTOM",
        "DEPTHWISE_CONV_2D",
        "CONV_2D",
    ]


def test_c_on_int16_runs_here(wide_bundle: edgec.Bundle) -> None:
    if shutil.which("cc") is None:
        pytest.skip("needs a C compiler: apt install gcc libc6-dev")
    artifact = next(a for a in wide_bundle.manifest.artifacts if a.format == "c")
    runner = open_runner(wide_bundle, artifact)
    x = np.random.default_rng(3).normal(size=(1, 8, 24, 24)).astype(np.float32)
    (found,) = runner.run({"x": x}).values()
    (wanted,) = OnnxRunner(wide_bundle.path / "onnx" / "model.onnx").run({"x": x}).values()
    # two standard deviations are beyond the range of random calibration at most
    assert np.median(np.abs(found - wanted)) < 0.01 * np.abs(wanted).max()


def test_equal_exports_give_equal_c(bundle: edgec.Bundle, tiny_onnx: Path, tmp_path: Path) -> None:
    other = edgec.compile(
        str(tiny_onnx), target="stm32f746", calib="random", out=str(tmp_path / "again")
    )
    for name in bundle.manifest.files:
        if name.startswith("c/"):
            assert other.manifest.files[name] == bundle.manifest.files[name], name


def small_target(tmp_path: Path, root: Path, ram: int, flash: int) -> str:
    text = (root / "targets" / "stm32f746.toml").read_text()
    text = text.replace('aliases = ["f746"]', "aliases = []")
    text = text.replace("bytes = 327680", f"bytes = {ram}").replace(
        "bytes = 1048576", f"bytes = {flash}"
    )
    path = tmp_path / "small.toml"
    path.write_text(text)
    return str(path)


@pytest.fixture(scope="module")
def inverted_residual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A block that widens 8 channels to 48 before a depthwise convolution."""
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        block (float[1,8,24,24] x) => (float[1,8,12,12] y) {
          e = Conv<kernel_shape=[1,1]>(x, we, be)
          s = Sigmoid(e)
          a = Mul(e, s)
          d = Conv<kernel_shape=[3,3], pads=[1,1,1,1], strides=[2,2], group=48>(a, wd, bd)
          y = Conv<kernel_shape=[1,1]>(d, wp, bp)
        }"""
    )
    rng = np.random.default_rng(5)
    for name, shape in {"e": (48, 8, 1, 1), "d": (48, 1, 3, 3), "p": (8, 48, 1, 1)}.items():
        weight = (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
        bias = rng.standard_normal(shape[0]).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(weight, f"w{name}"))
        model.graph.initializer.append(onnx.numpy_helper.from_array(bias, f"b{name}"))
    path = tmp_path_factory.mktemp("block") / "block.onnx"
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("by_option", [False, True])
def test_expansions_go_row_by_row_where_ram_is_short(
    by_option: bool, root: Path, inverted_residual: Path, tmp_path: Path
) -> None:
    def compiled(ram: int, out: str) -> dict[str, Any]:
        limits = {"ram": ram} if by_option else {}
        target = small_target(tmp_path, root, 327680 if by_option else ram, 1 << 20)
        bundle = edgec.compile(
            str(inverted_residual),
            target=target,
            precision="int8",
            calib="random",
            formats="c",
            out=str(tmp_path / out),
            **limits,
        )
        return next(a for a in bundle.manifest.artifacts if a.format == "c").checks

    wide = 24 * 24 * 48
    roomy, tight = compiled(1 << 17, "roomy"), compiled(wide - 1, "tight")
    assert roomy["streamed"] == []
    assert roomy["arena_bytes"] >= wide
    assert len(tight["streamed"]) == 1
    assert tight["arena_bytes"] < wide
    assert tight["macs"] == roomy["macs"]
    assert tight["golden_sqnr_db"] == roomy["golden_sqnr_db"]
    if by_option:
        with pytest.raises(BudgetError) as caught:
            compiled(4096, "none")
        assert caught.value.code == "EC581"
        why = str(caught.value.why)
        for part in ("arena", "inputs and outputs", "scratch", "stack", "constants", "code"):
            assert part in why
        assert "peak at step" in why


@pytest.mark.parametrize(("ram", "flash"), [(512, 1 << 20), (65536, 256)])
def test_memories_that_are_too_small_are_the_bill(
    ram: int, flash: int, root: Path, tiny_onnx: Path, tmp_path: Path
) -> None:
    target = small_target(tmp_path, root, ram, flash)
    with pytest.raises(BudgetError) as caught:
        edgec.compile(str(tiny_onnx), target=target, calib="random", out=str(tmp_path / "b"))
    assert caught.value.code == "EC550"
    for part in ("arena", "inputs and outputs", "scratch", "stack", "constants", "code"):
        assert part in str(caught.value.why)
    assert not (tmp_path / "b").exists()


def test_code_counts_against_the_flash(tiny_onnx: Path, tmp_path: Path) -> None:
    def compiled(flash: int, out: str) -> dict[str, Any]:
        return (
            edgec.compile(
                str(tiny_onnx),
                target="stm32f746",
                calib="random",
                formats="c",
                flash=flash,
                out=str(tmp_path / out),
            )
            .manifest.artifacts[-1]
            .checks
        )

    checks = compiled(1 << 20, "roomy")
    needed = checks["constant_bytes"] + checks["code_bytes"]
    assert checks["code_bytes"] > 1000
    compiled(needed, "exact")
    with pytest.raises(BudgetError) as caught:
        compiled(needed - 1, "less")
    assert caught.value.code == "EC580"
    assert "code and parameters about" in str(caught.value.why)


def test_the_bill_of_several_memories(root: Path, inverted_residual: Path, tmp_path: Path) -> None:
    """None of them holds the arena, nor do they together."""
    text = (root / "targets" / "stm32h743.toml").read_text()
    for size, small in (("131072", "3000"), ("524288", "4000"), ("294912", "3500")):
        text = text.replace(size, small)
    path = tmp_path / "small.toml"
    path.write_text(text.replace('aliases = ["h743"]', "aliases = []"))
    with pytest.raises(BudgetError) as caught:
        compiled_block(inverted_residual, str(path), tmp_path / "bundle")
    assert caught.value.code == "EC550"
    assert "of ram 'axi', which has 4,000 bytes" in caught.value.what
    why = str(caught.value.why)
    assert "nor do axi and dtcm and d2 hold it together, which have 10,500" in why
    assert "peak at step" in why
    assert not (tmp_path / "bundle").exists()


@pytest.fixture(scope="module")
def spread(
    root: Path, inverted_residual: Path, tmp_path_factory: pytest.TempPathFactory
) -> edgec.Bundle:
    """For an STM32H743 with memories none of which holds the arena alone."""
    text = (root / "targets" / "stm32h743.toml").read_text()
    text = text.replace('aliases = ["h743"]', "aliases = []").replace("131072", "9000")
    folder = tmp_path_factory.mktemp("spread")
    path = folder / "spread.toml"
    path.write_text(text.replace("524288", "10000").replace("294912", "9900"))
    return compiled_block(inverted_residual, str(path), folder / "bundle")


def compiled_block(model: Path, target: str, out: Path) -> edgec.Bundle:
    options = {"precision": "int8", "calib": "random", "formats": "c"}
    return edgec.compile(str(model), target=target, out=str(out), **options)


def test_several_memories_hold_the_arena(
    spread: edgec.Bundle, inverted_residual: Path, tmp_path: Path
) -> None:
    artifact = next(a for a in spread.manifest.artifacts if a.format == "c")
    arenas = artifact.checks["arenas"]
    assert len(arenas) > 1
    assert all(0 < arena["bytes"] <= arena["capacity"] for arena in arenas)
    assert artifact.checks["arena_bytes"] == sum(arena["bytes"] for arena in arenas)
    for name in ("regions.ld", "README.md"):
        assert ".edgec_dtcm" in (spread.path / "c" / name).read_text()
    if shutil.which("cc") is None or shutil.which("make") is None:
        pytest.skip("needs a C compiler and make: apt install gcc libc6-dev make")
    from edgec.runtime.host import remote
    from edgec.runtime.runners import open_runner

    argv = ["make", "-s", "test", "mlperf"]
    done = subprocess.run(argv, cwd=spread.path / "c", capture_output=True, text=True, check=False)
    assert "2 samples agree" in done.stdout, done.stderr
    # the same network: equal to the last bit
    bundle = compiled_block(inverted_residual, "stm32h743", tmp_path / "whole")
    whole = next(a for a in bundle.manifest.artifacts if a.format == "c")
    assert "arenas" not in whole.checks
    feeds = dict(np.load(bundle.path / "golden" / "inputs_0.npz"))
    outputs = [open_runner(b, a).run(feeds) for b, a in ((spread, artifact), (bundle, whole))]
    for name, value in outputs[0].items():
        assert (value == outputs[1][name]).all()
    # the program that is sent to other machines
    for name, content in remote.sources_of(spread, artifact).items():
        (tmp_path / "sent" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "sent" / name).write_bytes(content)
    sent = sorted(str(p) for p in (tmp_path / "sent").rglob("*.c"))
    argv = ["cc", "-std=c99", "-Dmain=edgec_self_test", f"-I{tmp_path / 'sent'}", *sent, "-lm"]
    done = subprocess.run(
        [*argv, "-DEDGEC_PROFILE", "-o", str(tmp_path / "program")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = subprocess.run(
        [str(tmp_path / "program"), "5", "1", "1", "0"], capture_output=True, text=True, check=False
    )
    assert "self-test 0" in said.stdout


@pytest.mark.needs_tool
def test_simulated_boards_have_several_memories(spread: edgec.Bundle, main) -> None:
    if shutil.which(COMPILER) is None or shutil.which(SIMULATOR) is None:
        pytest.skip(f"needs {COMPILER} and {SIMULATOR}")
    for board in ("mps2-an500", "mps3-an547"):
        code, out, _ = main("bench", spread.path, "--device", f"qemu:{board}", "--json")
        assert code == 0
        assert json.loads(out)["agreed"]


def test_floats_are_written_where_fp32_is_asked_for(tiny_onnx: Path, tmp_path: Path) -> None:
    options = {"target": "stm32f746", "precision": "fp32"}
    made = edgec.compile(str(tiny_onnx), out=str(tmp_path / "f"), **options)
    artifact = next(a for a in made.manifest.artifacts if a.format == "c")
    assert artifact.precision == "fp32"
    assert artifact.checks["executed"]
    assert "scale" not in artifact.checks["ports"]["inputs"][0]
    if shutil.which("make") is not None and shutil.which("cc") is not None:
        argv = ["make", "-s", "test"]
        done = subprocess.run(
            argv, cwd=made.path / "c", capture_output=True, text=True, check=False
        )
        assert "2 samples agree" in done.stdout, done.stderr


def test_bits_of_a_c_library_are_not_executed_here(tmp_path: Path) -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]> net (float[1,8] x) => (float[1,8] y) {
             a = Abs(x)  p = Constant<value_float=2.3>()  y = Pow(a, p) }"""
    )
    onnx.save(model, tmp_path / "net.onnx")
    made = edgec.compile(
        str(tmp_path / "net.onnx"),
        target="generic-c99",
        precision="fp32",
        formats=("c",),
        out=str(tmp_path / "b"),
    )
    (artifact,) = (a for a in made.manifest.artifacts if a.format == "c")
    assert artifact.status == "built"
    assert not artifact.checks["executed"]


def test_a_float_plan_that_overwrites_is_caught(
    tiny_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgec.export.emit.c.forms import Fitted, Forms
    from edgec.export.errors import InternalError

    whole = Forms.fitted

    def overwriting(*arguments: Any) -> Fitted:
        found = whole(*arguments)
        buffers = tuple(replace(b, offset=0) for b in found.plan.buffers)
        return replace(found, plan=replace(found.plan, buffers=buffers))

    monkeypatch.setattr(Forms, "fitted", overwriting)
    with pytest.raises(InternalError, match="EC151"):
        edgec.compile(
            str(tiny_onnx),
            target="stm32f746",
            precision="fp32",
            formats=("c",),
            out=str(tmp_path / "b"),
        )
    assert not (tmp_path / "b").exists()


def test_parts_stay_in_float(tiny_onnx: Path, tmp_path: Path) -> None:
    """The last layer in float behind integers, to the last bit as the reference."""
    made = edgec.compile(
        str(tiny_onnx),
        target="generic-c99",
        precision="int8",
        calib="random",
        keep_float=("Gemm",),
        out=str(tmp_path / "mixed"),
    )
    artifact = next(a for a in made.manifest.artifacts if a.format == "c")
    assert artifact.status == "built"
    assert artifact.checks["executed"].startswith("byte by byte")
    kernels = {name.rpartition("/")[2] for name in made.manifest.files if "/kernels/" in name}
    assert {"edgec_conv_s8.c", "edgec_convert_f32.c", "edgec_matmul_f32.c"} <= kernels
    if shutil.which("make") is not None and shutil.which("cc") is not None:
        argv = ["make", "-s", "test"]
        done = subprocess.run(
            argv, cwd=made.path / "c", capture_output=True, text=True, check=False
        )
        assert "2 samples agree" in done.stdout, done.stderr


def test_there_is_no_c_in_float16(root: Path, tiny_onnx: Path, tmp_path: Path) -> None:
    text = (root / "targets" / "generic-c99.toml").read_text().replace('["c99"]', "[]")
    target = tmp_path / "half.toml"
    target.write_text(text.replace('["fp32", "int8"]', '["fp32", "fp16", "int8"]'))
    with pytest.raises(UsageError) as caught:
        edgec.compile(
            str(tiny_onnx),
            target=str(target),
            precision="fp16",
            formats=("c",),
            out=str(tmp_path / "b"),
        )
    assert caught.value.code == "EC282"


def test_operators_that_only_the_c_kernels_have(tmp_path: Path) -> None:
    """tflite-micro has no GELU: its file spells it out, the C does not."""
    float32 = onnx.TensorProto.FLOAT
    nodes = [
        onnx.helper.make_node("Conv", ["x", "w"], ["h"], pads=[1, 1, 1, 1]),
        onnx.helper.make_node("Gelu", ["h"], ["g"]),
        onnx.helper.make_node("GlobalAveragePool", ["g"], ["y"]),
    ]
    weights = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)
    graph = onnx.helper.make_graph(
        nodes,
        "net",
        [onnx.helper.make_tensor_value_info("x", float32, (1, 3, 8, 8))],
        [onnx.helper.make_tensor_value_info("y", float32, (1, 4, 1, 1))],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    opset = onnx.helper.make_opsetid("", 20)
    path = tmp_path / "gelu.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=9), path)
    made = edgec.compile(str(path), target="stm32f746", calib="random", out=str(tmp_path / "b"))
    formats = {a.format: a for a in made.manifest.artifacts if a.status == "built"}
    assert {"tflite", "c"} <= set(formats)
    steps = formats["c"].checks["step_names"]
    assert [step.split()[0] for step in steps] == ["CONV_2D", "GELU", "MEAN"]


def test_it_runs_on_this_machine(bundle: edgec.Bundle, main, tmp_path: Path) -> None:
    if shutil.which("cc") is None:
        pytest.skip("needs a C compiler: apt install gcc libc6-dev")
    from edgec.runtime.runners import open_runner

    artifact = next(a for a in bundle.manifest.artifacts if a.format == "c")
    runner = open_runner(bundle, artifact)
    feeds = dict(np.load(bundle.path / "golden" / "inputs_0.npz"))
    wanted = np.load(bundle.path / "golden" / "outputs_0.npz")
    for name, value in runner.run(feeds).items():
        assert value.shape == wanted[name].shape
        noise = np.square(value - wanted[name]).mean() / np.square(wanted[name]).mean()
        assert noise < 0.05
    code, out, _ = main(
        "bench", bundle.path, "--artifact", "c", "--runs", "50", "--warmup", "1", "--json"
    )
    assert code == 0
    (result,) = json.loads(out)["results"]
    assert result["runtime"] == "C"
    assert {step["name"] for step in result["layers"]} == set(artifact.checks["step_names"])
    assert all(step["ms"] > 0 for step in result["layers"])


def test_changed_sources_are_not_run(bundle: edgec.Bundle, tmp_path: Path) -> None:
    copy = shutil.copytree(bundle.path, tmp_path / "copy")
    with (copy / "c" / "tiny.c").open("a") as file:
        file.write("/* changed */\n")
    changed = edgec.load(copy)
    artifact = next(a for a in changed.manifest.artifacts if a.format == "c")
    with pytest.raises(InputError, match="changed after"):
        changed.file(artifact)


@pytest.mark.needs_tool
def test_bench_counts_instructions(bundle: edgec.Bundle, main, tmp_path: Path) -> None:
    if shutil.which(COMPILER) is None or shutil.which(SIMULATOR) is None:
        pytest.skip(f"needs {COMPILER} and {SIMULATOR}")
    code, out, _ = main("bench", bundle.path, "--device", "qemu:mps2-an386")
    assert code == 0
    assert "every output byte agrees" in out
    code, out, _ = main("bench", bundle.path, "--device", "qemu:mps3-an547", "--json")
    record = json.loads(out)
    assert record["agreed"]
    assert record["limits"] == {"ram": 327680, "flash": 1048576}
    assert sum(record["steps"]) == record["instructions"] > 0


def test_a_bundle_without_c_and_an_unknown_board(
    bundle: edgec.Bundle, main, tiny_onnx: Path, tmp_path: Path
) -> None:
    code, _, error = main("bench", bundle.path, "--device", "qemu:pdp11")
    assert code == 2
    assert "mps2-an500" in error
    plain = edgec.compile(str(tiny_onnx), target="x86", out=str(tmp_path / "plain"))
    code, _, error = main("bench", plain.path, "--device", "qemu:mps2-an500")
    assert code == 2
    assert "no C artifact" in error
