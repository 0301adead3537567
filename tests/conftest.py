"""Fixtures shared by all tests: small networks, images, the command line."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

if TYPE_CHECKING:
    import edgec

ROOT = Path(__file__).resolve().parents[1]


def pytest_configure() -> None:
    """One thread for each worker: more of them fight over the cores.

    torch reads the variable when it is imported, which is later.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of this run that all its workers see, for what one of them makes for all."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "for-all-workers"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(autouse=True, scope="session")
def _user_folders(run_folder: Path) -> Iterator[None]:
    """No test reads or writes the user's cache or results; a network is captured once in a run."""
    ours = {"EDGEC_CACHE_DIR": str(run_folder / "cache"), "EDGEC_STORE": "none"}
    theirs = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)
    yield
    for name, value in theirs.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value


def tiny_network(*, classes: int = 10, size: int = 16, opset: int = 17, seed: int = 0):
    """Conv s2 + Relu, depthwise Conv + Relu with residual, pooling, Gemm; no weight is special."""
    rng = np.random.default_rng(seed)

    def tensor(name: str, *shape: int) -> onnx.TensorProto:
        fan = int(np.prod(shape[1:])) or 1
        array = rng.standard_normal(shape) * (1.5 / np.sqrt(fan) if len(shape) > 1 else 0.1)
        return numpy_helper.from_array(array.astype(np.float32), name)

    graph = helper.make_graph(
        [
            helper.make_node(
                "Conv", ["image", "w0", "b0"], ["c0"], strides=[2, 2], pads=[1, 1, 1, 1]
            ),
            helper.make_node("Relu", ["c0"], ["r0"]),
            helper.make_node("Conv", ["r0", "w1", "b1"], ["c1"], group=8, pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["c1"], ["r1"]),
            helper.make_node("Add", ["r0", "r1"], ["s"]),
            helper.make_node("GlobalAveragePool", ["s"], ["p"]),
            helper.make_node("Flatten", ["p"], ["f"]),
            helper.make_node("Gemm", ["f", "w2", "b2"], ["logits"], transB=1),
        ],
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, size, size])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, classes])],
        [
            tensor("w0", 8, 3, 3, 3),
            tensor("b0", 8),
            tensor("w1", 8, 1, 3, 3),
            tensor("b1", 8),
            tensor("w2", classes, 8),
            tensor("b2", classes),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


@pytest.fixture(scope="session")
def tiny_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Path of a small ONNX classifier: input ``image`` 1x3x16x16, output ``logits`` 1x10."""
    path = tmp_path_factory.mktemp("tiny") / "tiny.onnx"
    onnx.save(tiny_network(), path)
    return path


def siamese_network() -> onnx.ModelProto:
    """Two images through shared weights; their embedding and their distance."""
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        siamese (float[1,3,16,16] left, float[1,3,16,16] right)
            => (float[1,8] embedding, float[1] distance) {
          a = Conv<strides=[2,2], pads=[1,1,1,1]>(left, w)
          ar = Relu(a)
          b = Conv<strides=[2,2], pads=[1,1,1,1]>(right, w)
          br = Relu(b)
          ap = GlobalAveragePool(ar)
          bp = GlobalAveragePool(br)
          af = Flatten(ap)
          bf = Flatten(bp)
          embedding = Gemm<transB=1>(af, v)
          other = Gemm<transB=1>(bf, v)
          d = Sub(embedding, other)
          s = Mul(d, d)
          axis = Constant<value_ints=[1]>()
          distance = ReduceSum<keepdims=0>(s, axis)
        }"""
    )
    rng = np.random.default_rng(3)
    for name, shape in (("w", (8, 3, 3, 3)), ("v", (8, 8))):
        array = rng.standard_normal(shape) * (1.4 / np.sqrt(np.prod(shape[1:])))
        model.graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), name))
    return model


@pytest.fixture(scope="session")
def siamese_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Path of a network with two inputs, ``left`` and ``right``, and two outputs."""
    path = tmp_path_factory.mktemp("siamese") / "siamese.onnx"
    onnx.save(siamese_network(), path)
    return path


@pytest.fixture(scope="session")
def captured() -> Callable[[str], ir.Model]:
    """The graph of a zoo network with the random weights of seed 0, compared with torch.

    Tracing takes seconds, so it comes from the cache of stages where an earlier test captured it;
    each call gives a graph of its own.
    """

    def graph(name: str) -> ir.Model:
        from edgec.export.options import ExportOptions
        from edgec.export.progress import Reporter
        from edgec.export.source import capture

        options = ExportOptions(weights="random", seed=0)
        quiet = Reporter(quiet=True)
        return capture(name, options, needs_accuracy=False, reporter=quiet).graph

    return graph


@pytest.fixture(scope="session")
def preprocess_json(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A preprocessing file that fits `tiny_onnx`."""
    path = tmp_path_factory.mktemp("preprocess") / "preprocess.json"
    path.write_text('{"resize": "stretch", "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}')
    return path


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 small images in four class folders 0, 2, 4, 6: gradients with class-dependent colours."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(1)
    for label in (0, 2, 4, 6):
        (root / str(label)).mkdir()
        for index in range(10):
            base = rng.integers(0, 256, 3) * 0.5 + 20 * label
            ramp = np.linspace(0, 1, 24)[:, None, None] * rng.uniform(20, 120)
            noise = rng.normal(0, 12, (24, 24, 3))
            pixels = np.clip(base + ramp + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / str(label) / f"{index}.png")
    return root


def unseen_colours() -> np.ndarray:
    """Twenty 16x16 images: mid-grey ones, and every fourth (the held-out ones) of a strong colour.

    Preprocessing maps mid-grey to about zero, so ranges calibrated on the grey images clip away
    nearly all of the coloured ones: int8 must disagree with fp32 there.
    """
    images = np.full((20, 16, 16, 3), 128, np.uint8)
    images[3::4] = np.random.default_rng(3).choice([0, 255], (5, 1, 1, 3))
    return images


@pytest.fixture(scope="session")
def compile_tiny(
    tiny_onnx: Path, image_folder: Path, preprocess_json: Path
) -> Callable[..., edgec.Bundle]:
    """compile_tiny(out, target=, precision=, …): the tiny network, calibrated on `image_folder`.

    .tflite files are timed where it is asked for only.
    """
    import edgec

    def export(out: Path, **options: Any) -> edgec.Bundle:
        options = {"calib": str(image_folder), "preprocess": str(preprocess_json)} | options
        return edgec.compile(str(tiny_onnx), out=str(out), **({"time_mixes": False} | options))

    return export


@pytest.fixture(scope="session")
def int8_bundle(
    compile_tiny: Callable[..., edgec.Bundle], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A bundle of the tiny network with fp32 and int8 for x86; not to be changed."""
    out = tmp_path_factory.mktemp("int8") / "bundle"
    compile_tiny(out, target="x86", precision="int8")
    return out


@pytest.fixture
def misleading_calibration(tmp_path: Path) -> Path:
    """An .npz of `unseen_colours`."""
    path = tmp_path / "misleading.npz"
    np.savez(path, images=unseen_colours())
    return path


Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def cli(root: Path) -> Cli:
    """Run ``edgec`` as its own process: the installed script if there is one."""
    script = Path(sys.executable).parent / "edgec"
    command = [str(script)] if script.exists() else [sys.executable, "-m", "edgec"]

    def run(
        *arguments: str | Path,
        cwd: Path | None = None,
        env: dict[str, str] | None = None,
        timeout: float = 120,
    ) -> subprocess.CompletedProcess[str]:
        merged = {**os.environ, "NO_COLOR": "1", **(env or {})}
        paths = (str(root / ".src"), merged.get("PYTHONPATH"))
        merged["PYTHONPATH"] = os.pathsep.join(p for p in paths if p)
        return subprocess.run(
            [*command, *map(str, arguments)],
            cwd=cwd,
            env=merged,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run


@pytest.fixture
def main(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., tuple[int, str, str]]:
    """Run ``edgec`` in this process, in an empty folder: (exit code, stdout, stderr)."""
    from edgec.export.cli import main as entry

    monkeypatch.chdir(tmp_path)

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        code = 0
        try:
            entry([str(a) for a in arguments])
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture(scope="session")
def cudart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stand-in for CUDA's runtime library, compiled."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler: apt install gcc libc6-dev")
    out = tmp_path_factory.mktemp("cudart") / "libcudart.so"
    source = Path(__file__).parent / "standin" / "cudart.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(out), str(source)], check=True)
    return out


@pytest.fixture
def jetson_sysfs(tmp_path: Path) -> Path:
    """A tree like /sys of a Jetson: an INA3221 with two of its rails at work."""
    chip = tmp_path / "sys" / "bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3"
    chip.mkdir(parents=True)
    for number, (name, milliamperes) in enumerate({"VDD_IN": 1000, "VDD_CPU": 200}.items(), 1):
        (chip / f"in{number}_label").write_text(f"{name}\n")
        (chip / f"in{number}_input").write_text("5000\n")
        (chip / f"curr{number}_input").write_text(f"{milliamperes}\n")
    return tmp_path / "sys"
