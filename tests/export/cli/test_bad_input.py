"""Bad input of every kind: one clear error, the documented exit code, nothing left behind."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from edgec.export.explain import catalogue

Edit = Callable[[onnx.ModelProto], None]


def refused(result: tuple[int, str, str], exit_code: int, *words: str) -> None:
    """The run ended with `exit_code` and one error that names `words` and a fix."""
    code, _, err = result
    assert code == exit_code, err
    assert "Traceback" not in err
    assert "error: EC" in err
    assert err.split("error: ")[1][:5] in catalogue()
    for word in words:
        assert word in err, err
    assert "fix:" in err
    left = [p.name for p in Path("build").iterdir()] if Path("build").is_dir() else []
    assert left == []


def edited(tiny_onnx: Path, edit: Edit) -> Path:
    model = onnx.load(tiny_onnx)
    edit(model)
    path = Path("edited.onnx")
    path.write_bytes(model.SerializeToString())
    return path


def poison(value: float) -> Edit:
    def edit(model: onnx.ModelProto) -> None:
        array = numpy_helper.to_array(model.graph.initializer[0]).copy()
        array.flat[7] = value
        model.graph.initializer[0].CopyFrom(numpy_helper.from_array(array, "w0"))

    return edit


def cycle(model: onnx.ModelProto) -> None:
    model.graph.node[0].input[0] = "r1"


def shape(*dims: int | str) -> Edit:
    def edit(model: onnx.ModelProto) -> None:
        value = helper.make_tensor_value_info("image", TensorProto.FLOAT, dims)
        model.graph.input[0].CopyFrom(value)

    return edit


def opset(version: int) -> Edit:
    def edit(model: onnx.ModelProto) -> None:
        model.opset_import[0].version = version

    return edit


def operator(name: str) -> Edit:
    def edit(model: onnx.ModelProto) -> None:
        model.graph.node[1].op_type = name

    return edit


def duplicate_output(model: onnx.ModelProto) -> None:
    model.graph.node[3].output[0] = "c0"


def no_outputs(model: onnx.ModelProto) -> None:
    del model.graph.output[:]


def short_weight(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].raw_data = model.graph.initializer[0].raw_data[:-4]


def external(location: str) -> Edit:
    def edit(model: onnx.ModelProto) -> None:
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        entry = tensor.external_data.add()
        entry.key, entry.value = "location", location

    return edit


@pytest.mark.parametrize(
    ("edit", "exit_code", "words"),
    [
        pytest.param(poison(np.nan), 7, ["w0"], id="NaN weight"),
        pytest.param(poison(np.inf), 7, ["w0"], id="infinite weight"),
        pytest.param(cycle, 7, [], id="cyclic graph"),
        pytest.param(shape(1, 0, 16, 16), 7, ["image"], id="zero-sized channels"),
        pytest.param(shape(1, 3, 0, 16), 7, ["image"], id="zero-sized height"),
        pytest.param(shape(1, 5, 16, 16), 7, [], id="channels that do not fit the weights"),
        pytest.param(shape(1, 3, "h", "w"), 2, ["--shape", "image"], id="open dimensions"),
        pytest.param(opset(5), 3, ["5"], id="opset too old"),
        pytest.param(opset(999), 3, ["999"], id="opset of the future"),
        pytest.param(operator("Frobnicate"), 7, ["Frobnicate"], id="unknown operator"),
        pytest.param(duplicate_output, 7, [], id="two producers of one value"),
        pytest.param(no_outputs, 7, [], id="no outputs"),
        pytest.param(short_weight, 7, ["w0"], id="weight shorter than its shape"),
        pytest.param(external("missing.bin"), 7, [], id="external data missing"),
        pytest.param(external("../../etc/passwd"), 7, [], id="external data outside"),
        pytest.param(external("/etc/passwd"), 7, [], id="external data absolute"),
    ],
)
def test_broken_networks(
    main, tiny_onnx: Path, edit: Edit, exit_code: int, words: list[str]
) -> None:
    path = edited(tiny_onnx, edit)
    refused(main("export", "-m", path, "-t", "jetson"), exit_code, *words)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.onnx", b""),
        ("text.onnx", b"this is a text file, not a network\n" * 50),
        ("zeros.onnx", bytes(4096)),
        ("image.onnx", b"\x89PNG\r\n\x1a\n" + bytes(range(256))),
        ("broken.pt2", b"PK\x03\x04 not an archive"),
        ("text.pt2", b"nothing"),
    ],
)
def test_files_that_are_no_networks(main, name: str, content: bytes) -> None:
    Path(name).write_bytes(content)
    refused(main("export", "-m", name, "-t", "jetson"), 7, name)


@pytest.mark.parametrize("share", [0.01, 0.3, 0.7, 0.99])
def test_truncated_networks(main, tiny_onnx: Path, share: float) -> None:
    data = tiny_onnx.read_bytes()
    Path("cut.onnx").write_bytes(data[: int(len(data) * share)])
    refused(main("export", "-m", "cut.onnx", "-t", "jetson"), 7, "cut.onnx")


def test_a_folder_or_nothing_instead_of_a_network(main) -> None:
    Path("dir.onnx").mkdir()
    refused(main("export", "-m", "dir.onnx", "-t", "jetson"), 7, "dir.onnx")
    refused(main("export", "-m", "none.onnx", "-t", "jetson"), 7, "none.onnx")
    refused(main("export", "-m", "none.py:make", "-t", "jetson"), 7, "none.py")


def test_unknown_names_come_with_the_nearest(main, tiny_onnx: Path) -> None:
    refused(main("export", "-m", "edgenext_smal", "-t", "jetson"), 2, "edgenext_small")
    refused(main("export", "-m", tiny_onnx, "-t", "raspbery-pi-5"), 2, "raspberry-pi-5")
    refused(main("models", "show", "emov3"), 2, "emov2")
    refused(main("explain", "EC999"), 2, "EC999")
    refused(
        main("export", "-m", tiny_onnx, "-t", "jetson", "--shape", "picture=1,3,16,16"), 2, "image"
    )
    refused(main("export", "-m", tiny_onnx, "-t", "jetson", "--skip-pass", "magic"), 2, "magic")


@pytest.mark.parametrize(
    ("arguments", "exit_code", "words"),
    [
        (["-t", "jetson", "--precision", "int8"], 2, ["--calib"]),
        (["-t", "jetson", "--precision", "int3"], 2, ["int3"]),
        (["-t", "jetson", "--input-size", "huge"], 2, ["input-size"]),
        (["-t", "jetson", "--weights", "random"], 2, ["--weights"]),
        (["-t", "jetson", "--labels", "none.txt"], 7, ["none.txt"]),
        (["-t", "jetson", "--preprocess", "none.json"], 7, ["none.json"]),
        (["-t", "jetson", "--config", "none.toml"], 7, ["none.toml"]),
        (["-t", "none.toml"], 7, ["none.toml"]),
        (["-t", "jetson-nano", "--precision", "int8", "--calib", "."], 3, ["int8"]),
        (["-t", "jetson-nano", "--calib", "."], 3, ["int8"]),
        (["-t", "raspberry-pi-5", "--format", "tensorrt"], 3, ["TensorRT"]),
        (["-t", "jetson", "--format", "tflite"], 3, ["tflite"]),
        (["-t", "jetson", "--out", "."], 2, ["output"]),
        (["-t", "x86", "--flash", "1K"], 5, ["KiB"]),
    ],
)
def test_options_that_cannot_be(
    main, tiny_onnx: Path, arguments: list[str], exit_code: int, words: list[str]
) -> None:
    refused(main("export", "-m", tiny_onnx, *arguments), exit_code, *words)


def png(path: Path, mode: str = "RGB") -> None:
    Image.new(mode, (16, 16), 100).save(path)


def make_calibration(kind: str) -> str:
    """Make unusable calibration data called ``calib…`` here and return its name."""
    folder = Path("calib")
    if kind == "missing":
        return "calib"
    folder.mkdir()
    if kind == "no images":
        (folder / "readme.txt").write_text("x")
    elif kind == "text as image":
        png(folder / "a.png")
        (folder / "b.png").write_text("not an image")
    elif kind == "cut image":
        png(folder / "a.png")
        data = (folder / "a.png").read_bytes()
        (folder / "b.png").write_bytes(data[: len(data) // 2])
    elif kind == "cut zip":
        png(folder / "a.png")
        with zipfile.ZipFile("calib.zip", "w") as archive:
            archive.write(folder / "a.png")
        data = Path("calib.zip").read_bytes()
        Path("calib.zip").write_bytes(data[:-30])
        return "calib.zip"
    elif kind == "empty zip":
        zipfile.ZipFile("calib.zip", "w").close()
        return "calib.zip"
    elif kind == "npz without images":
        np.savez("calib.npz", numbers=np.zeros(3))
        return "calib.npz"
    elif kind == "npz of pickles":
        np.savez("calib.npz", images=np.array([{}], dtype=object))
        return "calib.npz"
    elif kind == "tensor of wrong shape":
        np.savez("calib.npz", image=np.zeros((4, 3, 8, 8), np.float32))
        return "calib.npz"
    elif kind == "tensor with NaN":
        np.savez("calib.npz", image=np.full((4, 3, 16, 16), np.nan, np.float32))
        return "calib.npz"
    elif kind == "images of wrong rank":
        np.savez("calib.npz", images=np.zeros((4, 16), np.uint8))
        return "calib.npz"
    elif kind == "other file":
        Path("calib.tar").write_bytes(b"x")
        return "calib.tar"
    return "calib"


@pytest.mark.parametrize(
    "kind",
    [
        "missing",
        "empty folder",
        "no images",
        "text as image",
        "cut image",
        "cut zip",
        "empty zip",
        "npz without images",
        "npz of pickles",
        "tensor of wrong shape",
        "tensor with NaN",
        "images of wrong rank",
        "other file",
    ],
)
def test_unusable_calibration_data(main, tiny_onnx: Path, preprocess_json: Path, kind: str) -> None:
    name = make_calibration(kind)
    result = main(
        "export",
        "-m",
        tiny_onnx,
        "-t",
        "x86",
        "--precision",
        "int8",
        "--calib",
        name,
        "--preprocess",
        preprocess_json,
    )
    refused(result, 7, "calib")


def test_images_without_known_preprocessing(main, tiny_onnx: Path, image_folder: Path) -> None:
    result = main(
        "export", "-m", tiny_onnx, "-t", "x86", "--precision", "int8", "--calib", image_folder
    )
    refused(result, 7, "--preprocess")


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("{", "JSON"),
        ("[]", "object"),
        ('{"colour": "red"}', "colour"),
        ('{"mean": [0.5], "std": [1, 1, 1, 1]}', "fix"),
        ('{"channels": "L", "mean": [0.5], "std": [0.5]}', "1, 1, 16, 16"),
        ('{"size": [8, 8]}', "8, 8"),
        ('{"interpolation": "magic"}', "magic"),
        ('{"crop": 0}', "fix"),
    ],
)
def test_bad_preprocessing_files(main, tiny_onnx: Path, text: str, word: str) -> None:
    Path("p.json").write_text(text)
    refused(main("export", "-m", tiny_onnx, "-t", "x86", "--preprocess", "p.json"), 7, word)


class Hostile:
    """Unpickling this would create a folder."""

    def __reduce__(self):
        return (os.mkdir, ("pwned",))


def make_weights(kind: str) -> str:
    """Make unusable weights for emov2_1m here and return the file's name."""
    from edgec.models import create_model

    path = Path("weights.pth")
    if kind == "missing":
        return "weights.pth"
    if kind == "hostile pickle":
        path.write_bytes(pickle.dumps({"net": Hostile()}))
    elif kind == "hostile torch file":
        torch.save({"net": Hostile()}, path)
    elif kind == "text":
        path.write_text("weights")
    elif kind == "another variant":
        torch.save(create_model("edgenext_xx_small").state_dict(), path)
    elif kind == "NaN":
        state = create_model("emov2_1m").state_dict()
        state["head.weight"][0, 0] = float("nan")
        torch.save(state, path)
    elif kind == "one key missing":
        state = create_model("emov2_1m").state_dict()
        del state["head.bias"]
        torch.save({"net": state}, path)
    return str(path)


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        ("missing", "weights.pth"),
        ("hostile pickle", "weights.pth"),
        ("hostile torch file", "weights.pth"),
        ("text", "weights.pth"),
        ("another variant", "edgenext_xx_small"),
        ("NaN", "head.weight"),
        ("one key missing", "head.bias"),
    ],
)
def test_unusable_weights(main, kind: str, word: str) -> None:
    name = make_weights(kind)
    result = main("export", "-m", "emov2_1m", "-t", "jetson", "--weights", name)
    refused(result, 7, word)
    assert not Path("pwned").exists()


def test_hostile_pickles_are_named(main) -> None:
    name = make_weights("hostile torch file")
    _, _, err = main("export", "-m", "emov2_1m", "-t", "jetson", "--weights", name)
    assert "mkdir" in err


@pytest.mark.parametrize(
    ("code", "exit_code", "word"),
    [
        ("raise RuntimeError('my bug')", 7, "my bug"),
        ("def other(): pass", 7, "make"),
        ("def make(): return 3", 7, "int"),
        ("def make(", 7, "net.py"),
        ("import does_not_exist_anywhere", 7, "does_not_exist_anywhere"),
    ],
)
def test_broken_factories(main, code: str, exit_code: int, word: str) -> None:
    Path("net.py").write_text(code)
    result = main("export", "-m", "net.py:make", "-t", "jetson", "--input-size", "16")
    refused(result, exit_code, word)


def test_a_factory_needs_a_shape_and_the_zoo_takes_none(main) -> None:
    Path("net.py").write_text("def make(): return None")
    refused(main("export", "-m", "net.py:make", "-t", "jetson"), 2, "--input-size")
    result = main("export", "-m", "emov2_1m", "-t", "jetson", "--shape", "input=1,3,64,64")
    refused(result, 2, "--input-size")


@pytest.fixture(scope="module")
def bundle(tiny_onnx: Path, preprocess_json: Path, tmp_path_factory) -> Path:
    """A bundle to ask wrong things of."""
    import edgec

    out = tmp_path_factory.mktemp("bad") / "bundle"
    edgec.compile(str(tiny_onnx), target="x86", preprocess=str(preprocess_json), out=str(out))
    return out


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        ("missing.png", "missing.png"),
        ("text.png", "text.png"),
        ("empty", "no images"),
        ("wrong.npy", "16"),
        ("pickle.npy", "pickle.npy"),
        ("named.npz", "image"),
        ("cut.npz", "cut.npz"),
    ],
)
def test_bad_data_for_run(main, bundle: Path, kind: str, word: str) -> None:
    if kind == "text.png":
        Path(kind).write_text("x")
    elif kind == "empty":
        Path(kind).mkdir()
    elif kind == "wrong.npy":
        np.save(kind, np.zeros((1, 3, 9, 9), np.float32))
    elif kind == "pickle.npy":
        np.save(kind, np.array([{}], dtype=object))
    elif kind == "named.npz":
        np.savez(kind, picture=np.zeros((1, 3, 16, 16), np.float32))
    elif kind == "cut.npz":
        np.savez(kind, image=np.zeros((1, 3, 16, 16), np.float32))
        Path(kind).write_bytes(Path(kind).read_bytes()[:200])
    refused(main("run", bundle, "--input", kind), 7, word)


def test_bad_bundles_artifacts_and_devices(main, bundle: Path, image_folder: Path) -> None:
    Path("nothing").mkdir()
    for verb, *rest in (("run", "--input", "x.png"), ("eval", "--data", "x"), ("bench",)):
        refused(main(verb, "nothing", *rest), 7, "manifest.json")
    refused(main("run", bundle, "--input", "x.png", "--artifact", "int8"), 2, "model.onnx")
    refused(main("bench", bundle, "--device", "telnet://board"), 2, "ssh://")
    refused(main("bench", bundle, "--device", "ssh://nobody@nowhere.invalid"), 6, "nowhere")
    refused(main("build", bundle, "--device", "local"), 2, "recipe")
    refused(main("eval", bundle, "--data", "nothing"), 7, "nothing")
    refused(main("cache", "clear", "--part", "all"), 2, "stages")


def test_an_output_that_exists_is_never_touched(main, tiny_onnx: Path) -> None:
    Path("mine").mkdir()
    Path("mine/precious").write_text("x")
    refused(main("export", "-m", tiny_onnx, "-t", "jetson", "--out", "mine"), 2, "--overwrite")
    assert Path("mine/precious").read_text() == "x"
    Path("file").write_text("x")
    refused(main("export", "-m", tiny_onnx, "-t", "jetson", "--out", "file", "--overwrite"), 2)
    assert Path("file").read_text() == "x"


def test_a_full_disk_while_writing(main, tiny_onnx: Path, monkeypatch) -> None:
    import errno

    real = Path.write_bytes

    def full(self: Path, data: bytes) -> int:
        if self.suffix == ".onnx":
            real(self, data[:100])
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(self, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    refused(main("export", "-m", tiny_onnx, "-t", "jetson", "--no-cache"), 6, "space")
