"""Networks that come quantized keep their integers in every format."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from edgec.export import as_in_file
from edgec.export.as_in_file import quantized_as
from edgec.export.bundle import Bundle
from edgec.export.errors import UnsupportedError, UsageError
from edgec.export.pipeline import compile_model
from edgec.export.tflite import decode, load, save
from edgec.export.tflite.marks import METADATA
from edgec.models.preprocess import Preprocess
from edgec.runtime.litert_runner import LiteRTRunner


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory, tiny_onnx: Path) -> dict[str, Path]:
    """A small network in float32 and in int8, as .onnx and .tflite."""
    folder = tmp_path_factory.mktemp("as_in_file")
    bundle = compile_model(
        str(tiny_onnx),
        target="generic-c99",
        calib="random",
        formats="onnx,tflite",
        out=str(folder / "bundle"),
    )
    found = {"float.onnx": "onnx/model.onnx", "float.tflite": "tflite/model_fp32.tflite"}
    found |= {"int8.onnx": "onnx/model_int8.onnx", "int8.tflite": "tflite/model_int8.tflite"}
    for name, path in found.items():
        shutil.copy(bundle.path / path, folder / name)
    return {name: folder / name for name in found}


def test_only_quantized_activations_count(files: dict[str, Path], tmp_path: Path) -> None:
    assert {name: quantized_as(str(path)) for name, path in files.items()} == {
        "float.onnx": None,
        "float.tflite": None,
        "int8.onnx": "int8",
        "int8.tflite": "int8",
    }
    broken = tmp_path / "broken.tflite"
    broken.write_bytes(b"TFL3")
    assert quantized_as(str(broken)) is None
    assert quantized_as("emov2_5m") is None


@pytest.mark.parametrize("name", ["int8.onnx", "int8.tflite"])
def test_every_format_keeps_the_integers(files: dict[str, Path], name: str, tmp_path: Path) -> None:
    bundle = compile_model(
        str(files[name]),
        target="stm32h743",
        formats="onnx,tflite,c",
        out=str(tmp_path / "bundle"),
    )
    built = {a.format: a for a in bundle.manifest.artifacts}
    assert {kind: a.scheme for kind, a in built.items()} == {
        "onnx": as_in_file.scheme_of("int8"),
        "tflite": as_in_file.scheme_of("int8"),
        "c": as_in_file.scheme_of("int8"),
    }
    assert built["onnx"].checks["vs_source"]["max_abs"] == 0.0
    assert bundle.artifact().path == "onnx/model_int8.onnx"
    written = decode((bundle.path / "tflite" / "model_int8.tflite").read_bytes())
    assert _constants(written.main) == _constants(decode(files["int8.tflite"].read_bytes()).main)


@pytest.fixture(scope="session")
def wide(tmp_path_factory: pytest.TempPathFactory, tiny_onnx: Path) -> Path:
    """The small network with int16 activations, as a file that we wrote."""
    bundle = compile_model(
        str(tiny_onnx),
        target="raspberry-pi-5",
        precision="int16x8",
        calib="random",
        formats="tflite",
        out=str(tmp_path_factory.mktemp("wide") / "bundle"),
    )
    return bundle.path / "tflite" / "model_int16x8.tflite"


def test_int16_activations_stay_int16_in_every_format(wide: Path, tmp_path: Path) -> None:
    assert quantized_as(str(wide)) == "int16x8"
    bundle = compile_model(
        str(wide), target="raspberry-pi-5", formats="tflite,c", out=str(tmp_path / "bundle")
    )
    built = {a.format: (a.precision, a.scheme) for a in bundle.manifest.artifacts}
    assert built == dict.fromkeys(("onnx", "tflite", "c"), ("int16x8", "int16x8 (as in the file)"))
    again = (bundle.path / "tflite" / "model_int16x8.tflite").read_bytes()
    assert _constants(decode(again).main) == _constants(decode(wide.read_bytes()).main)
    runners = [LiteRTRunner(data, kernels="reference") for data in (wide.read_bytes(), again)]
    rng = np.random.default_rng(0)
    for _ in range(4):
        ((shape, _),) = runners[0].inputs.values()
        feed = {next(iter(runners[0].inputs)): rng.standard_normal(shape).astype(np.float32)}
        one, two = (next(iter(runner.run(feed).values())) for runner in runners)
        np.testing.assert_array_equal(one, two)


def test_a_file_of_our_own_comes_back_byte_by_byte(wide: Path, tmp_path: Path) -> None:
    bundle = compile_model(
        str(wide), target="raspberry-pi-5", formats="tflite", out=str(tmp_path / "bundle")
    )
    assert (bundle.path / "tflite" / "model_int16x8.tflite").read_bytes() == wide.read_bytes()


def test_preprocessing_and_labels_are_read_from_the_file(wide: Path, tmp_path: Path) -> None:
    model = load(wide)
    (_, channels, *size) = (model.main.tensors[model.main.inputs[0]].shape[i] for i in (0, 3, 1, 2))
    classes = model.main.tensors[model.main.outputs[0]].shape[1]
    assert channels == 3
    preprocess = Preprocess(size=(size[0], size[1]), mean=(0.5, 0.5, 0.5), std=(0.2, 0.3, 0.4))
    labels = [f"class {number}" for number in range(classes)]
    entry = json.loads(model.metadata[METADATA])
    entry |= {"preprocess": preprocess.to_json(), "labels": labels}
    for name, told, expected in (
        ("good", entry, (preprocess, tuple(labels))),
        ("wide", entry | {"preprocess": preprocess.to_json() | {"size": [10**6, 10**6]}}, None),
        ("odd", entry | {"preprocess": {"size": "x"}, "labels": [1, 2]}, None),
    ):
        model.metadata[METADATA] = json.dumps(told).encode()
        save(model, tmp_path / f"{name}.tflite")
        bundle = compile_model(
            str(tmp_path / f"{name}.tflite"), target="x86", out=str(tmp_path / name)
        )
        manifest = bundle.manifest
        if expected is None:
            assert manifest.preprocess is None
        else:
            assert (manifest.preprocess, manifest.labels) == expected


def test_products_of_int16_do_not_saturate(wide: Path, tmp_path: Path) -> None:
    bundle = compile_model(str(wide), target="x86", out=str(tmp_path / "bundle"))
    assert bundle.manifest.artifacts[0].checks["lint"]["warnings"] == 0


def test_int16_activations_are_refused_where_nothing_runs_them(wide: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="EC387"):
        compile_model(str(wide), target="jetson", out=str(tmp_path / "bundle"))
    with pytest.raises(UsageError, match="EC231"):
        compile_model(str(wide), target="x86", precision="int8", out=str(tmp_path / "bundle"))


def _constants(graph: object) -> list[bytes]:
    """The integer weights of a file, in a fixed order."""
    arrays = (tensor.data for tensor in graph.tensors if tensor.dtype == "INT8")  # type: ignore[attr-defined]
    return sorted(np.asarray(a).tobytes() for a in arrays if a is not None)


def test_the_bundle_runs_and_says_what_it_is(files: dict[str, Path], tmp_path: Path) -> None:
    bundle = compile_model(str(files["int8.onnx"]), target="x86", out=str(tmp_path / "bundle"))
    assert isinstance(bundle, Bundle)
    assert "as in the file" in (bundle.path / "report.txt").read_text("utf-8")
    golden = np.load(bundle.path / "golden" / "inputs_0.npz")
    (result,) = bundle.run({k: golden[k] for k in golden})
    assert all(np.isfinite(v).all() for v in result.outputs.values())


@pytest.mark.parametrize(
    "options",
    [{"precision": "fp32"}, {"calib": "random"}, {"recipe": "plain"}, {"precision": "mixed"}],
    ids=str,
)
def test_nothing_quantizes_twice(
    files: dict[str, Path], options: dict[str, str], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="EC231"):
        compile_model(
            str(files["int8.tflite"]), target="x86", out=str(tmp_path / "bundle"), **options
        )
    assert not (tmp_path / "bundle").exists()
