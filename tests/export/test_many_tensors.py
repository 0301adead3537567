"""Networks with several inputs and outputs of any rank and type, from the file to every verb."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

import edgec
from edgec.export.bundle import Bundle
from edgec.export.errors import EdgecError, InputError, UnsupportedError

Arrays = dict[str, np.ndarray]


def weights(seed: int, **shapes: tuple[int, ...]) -> list[onnx.TensorProto]:
    rng = np.random.default_rng(seed)
    found = []
    for name, shape in shapes.items():
        fan = max(1, int(np.prod(shape[1:])))
        array = rng.standard_normal(shape) * (1.4 / np.sqrt(fan))
        found.append(numpy_helper.from_array(array.astype(np.float32), name))
    return found


def graph(signature: str, body: str, **shapes: tuple[int, ...]) -> onnx.ModelProto:
    text = f'<ir_version: 8, opset_import: ["" : 17]> net {signature} {{ {body} }}'
    model = onnx.parser.parse_model(text)
    model.graph.initializer.extend(weights(len(body), **shapes))
    return model


IMAGE_AND_VECTOR = graph(
    "(float[1,3,16,16] image, float[1,4] pose, float scale) => (float[1,5] logits)",
    """
    c = Conv<strides=[2,2], pads=[1,1,1,1]>(image, w)
    r = Relu(c)
    p = GlobalAveragePool(r)
    f = Flatten(p)
    q = Gemm<transB=1>(pose, u)
    j = Concat<axis=1>(f, q)
    l = Gemm<transB=1>(j, v)
    logits = Mul(l, scale)
    """,
    w=(8, 3, 3, 3),
    u=(4, 4),
    v=(5, 12),
)
TOKENS = graph(
    "(int64[1,6] tokens, bool[1,6,1] mask) => (float[1,6,8] states, int64[1,6] best)",
    """
    e = Gather(table, tokens)
    m = Cast<to=1>(mask)
    k = Mul(e, m)
    h = MatMul(k, w)
    a = Relu(h)
    states = MatMul(a, v)
    best = ArgMax<axis=2, keepdims=0>(states)
    """,
    table=(11, 8),
    w=(8, 16),
    v=(16, 8),
)
VIDEO = graph(
    "(float[1,3,4,8,8] clip) => (float[1,6,2,4,4] map, float[1,6] pooled)",
    """
    c = Conv<strides=[2,2,2], pads=[1,1,1,1,1,1]>(clip, w)
    map = Relu(c)
    p = GlobalAveragePool(map)
    pooled = Flatten(p)
    """,
    w=(6, 3, 3, 3, 3),
)
DETECTOR = graph(
    "(float[batch,3,16,16] image) => (float[batch,64,4] boxes, float[64] top, int64 first)",
    """
    c = Conv<strides=[2,2], pads=[1,1,1,1]>(image, w)
    r = Relu(c)
    b = Conv(r, v)
    shape = Constant<value_ints=[0,4,-1]>()
    f = Reshape(b, shape)
    boxes = Transpose<perm=[0,2,1]>(f)
    axes = Constant<value_ints=[0,2]>()
    top = ReduceMax<axes=[0,2], keepdims=0>(boxes)
    first = ArgMax<axis=0, keepdims=0>(top)
    """,
    w=(8, 3, 3, 3),
    v=(4, 8, 1, 1),
)
MODELS = {
    "image_and_vector": IMAGE_AND_VECTOR,
    "tokens": TOKENS,
    "video": VIDEO,
    "detector": DETECTOR,
}
RANKS = {
    "siamese": ({"left": 4, "right": 4}, {"embedding": 2, "distance": 1}),
    "image_and_vector": ({"image": 4, "pose": 2, "scale": 0}, {"logits": 2}),
    "tokens": ({"tokens": 2, "mask": 3}, {"states": 3, "best": 2}),
    "video": ({"clip": 5}, {"map": 5, "pooled": 2}),
    "detector": ({"image": 4}, {"boxes": 3, "top": 1, "first": 0}),
}


def samples(count: int, inputs: Any, seed: int = 0) -> Arrays:
    """Stacks of inputs: `count` samples on a first axis of their own."""
    rng = np.random.default_rng(seed)
    found: Arrays = {}
    for tensor in inputs:
        shape = (count, *tensor.shape)
        if tensor.dtype == "int64":
            found[tensor.name] = rng.integers(0, 11, shape)
        elif tensor.dtype == "bool":
            found[tensor.name] = rng.random(shape) > 0.2
        else:
            found[tensor.name] = rng.standard_normal(shape).astype(np.float32)
    return found


@pytest.fixture(scope="module")
def file(siamese_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("networks")
    shutil.copy(siamese_onnx, folder / "siamese.onnx")
    for name, model in MODELS.items():
        onnx.save(model, folder / f"{name}.onnx")
    return lambda name: folder / f"{name}.onnx"


@pytest.fixture(scope="module")
def bundle(
    file: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Bundle]:
    """An int8 bundle for x86 by network, calibrated on 20 samples; each is exported once."""
    made: dict[str, Bundle] = {}

    def build(name: str) -> Bundle:
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            plain = edgec.compile(str(file(name)), target="x86", out=str(folder / "fp32"))
            np.savez(folder / "calib.npz", **samples(20, plain.manifest.inputs))
            made[name] = edgec.compile(
                str(file(name)),
                target="x86",
                precision="int8",
                calib=str(folder / "calib.npz"),
                force=True,
                out=str(folder / "int8"),
            )
        return made[name]

    return build


@pytest.mark.parametrize("name", RANKS)
def test_the_export_computes_what_the_file_computes(
    name: str, bundle: Callable[[str], Bundle], file: Callable[[str], Path]
) -> None:
    made = bundle(name)
    inputs, outputs = RANKS[name]
    assert {t.name: len(t.shape) for t in made.manifest.inputs} == inputs
    assert {t.name: len(t.shape) for t in made.manifest.outputs} == outputs
    session = onnxruntime.InferenceSession(str(file(name)))
    stacks = samples(3, made.manifest.inputs, seed=5)
    for index in range(3):
        feeds = {key: np.asarray(array[index]) for key, array in stacks.items()}
        (result,) = made.run(feeds)
        expected = session.run(None, feeds)
        names = [value.name for value in session.get_outputs()]
        for key, want in zip(names, expected, strict=True):
            np.testing.assert_allclose(result.outputs[key], want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", RANKS)
def test_int8_is_compared_output_by_output(name: str, bundle: Callable[[str], Bundle]) -> None:
    made = bundle(name)
    artifact = made.artifact("int8")
    assert artifact.checks["data"] == "held-out samples"
    compared = artifact.checks["vs_fp32"]["outputs"]
    outputs = {t.name: t for t in made.manifest.outputs}
    assert set(compared) == set(outputs)
    for key, found in compared.items():
        if outputs[key].dtype == "int64":
            assert found["sqnr_db"] is None
            assert found["equal"] >= 50
        else:
            assert found["equal"] is None
            assert found["sqnr_db"] > 15, (key, found)
            assert found["cosine"] > 0.9
    assert (artifact.checks["vs_fp32"]["top1_agreement"] is None) == (name != "image_and_vector")
    text = (made.path / "report.txt").read_text()
    if len(outputs) > 1:
        assert all(f"  {key} " in text for key in outputs)


@pytest.mark.parametrize("name", ["siamese", "tokens", "detector"])
def test_eval_run_and_bench_take_arrays_by_name(
    name: str, bundle: Callable[[str], Bundle], tmp_path: Path, main: Any
) -> None:
    made = bundle(name)
    stacks = samples(4, made.manifest.inputs, seed=9)
    np.savez(tmp_path / "x.npz", **stacks)
    code, out, _ = main("eval", made.path, "--data", tmp_path / "x.npz", "-q", "--json")
    assert code == 0
    record = json.loads(out)
    assert (record["count"], record["noun"], record["labelled"]) == (4, "samples", False)
    master, int8 = record["results"]
    assert master["sqnr_db"] is None
    assert set(int8["outputs"]) == {t.name for t in made.manifest.outputs}
    code, out, _ = main("eval", made.path, "--data", tmp_path / "x.npz", "-q")
    assert code == 0
    for tensor in made.manifest.outputs:
        assert f"  {tensor.name} " in out
    code, out, _ = main("run", made.path, "--input", tmp_path / "x.npz", "--json")
    assert code == 0
    results = json.loads(out)["results"]
    assert [r["item"] for r in results] == [f"x.npz {i}" for i in range(4)]
    shapes = {t.name: list(t.shape) for t in made.manifest.outputs}
    assert {key: o["shape"] for key, o in results[0]["outputs"].items()} == shapes
    if name == "tokens":
        code, out, _ = main("bench", made.path, "--runs", "50", "-q", "--json")
        assert code == 0
        assert json.loads(out)["results"][0]["output_check"]["max_abs"] == 0


def test_float16_keeps_integers_and_booleans(file: Callable[[str], Path], tmp_path: Path) -> None:
    made = edgec.compile(str(file("tokens")), target="jetson", out=str(tmp_path / "b"))
    model = onnx.load(made.file(made.artifact("fp16")))
    kinds = [v.type.tensor_type.elem_type for v in (*model.graph.input, *model.graph.output)]
    expected = [onnx.TensorProto.INT64, onnx.TensorProto.BOOL]
    assert kinds == [*expected, onnx.TensorProto.FLOAT, onnx.TensorProto.INT64]
    found = made.artifact("fp16").checks["vs_fp32"]["outputs"]
    assert found["states"]["sqnr_db"] > 50
    assert found["best"]["equal"] == 100


def test_an_open_batch_is_fixed_by_the_shape(file: Callable[[str], Path], tmp_path: Path) -> None:
    made = edgec.compile(
        str(file("detector")),
        target="x86",
        shapes={"image": (3, 3, 16, 16)},
        out=str(tmp_path / "b"),
    )
    assert made.manifest.inputs[0].shape == (3, 3, 16, 16)
    assert made.manifest.outputs[0].shape == (3, 64, 4)
    np.save(tmp_path / "x.npy", np.zeros((3, 3, 16, 16), np.float32))
    assert len(made.run(tmp_path / "x.npy")) == 1


def test_random_calibration_is_possible_and_loud(
    file: Callable[[str], Path], tmp_path: Path, main: Any
) -> None:
    out = tmp_path / "b"
    code, text, err = main(
        *("export", "-m", file("tokens"), "-t", "x86", "--precision", "int8"),
        *("--calib", "random", "-o", out),
    )
    assert code == 0, err
    assert "RANDOM inputs" in err
    assert "RANDOM inputs" in text
    made = edgec.load(out)
    assert made.manifest.calibration is not None
    assert made.manifest.calibration["kind"] == "random"
    assert made.artifact("int8").checks["data"] == "random inputs"


def test_noise_has_a_gate_of_its_own(
    bundle: Callable[[str], Bundle], file: Callable[[str], Path], tmp_path: Path
) -> None:
    inputs = bundle("siamese").manifest.inputs
    np.savez(tmp_path / "calib.npz", **samples(16, inputs))
    options = {"target": "x86", "precision": "int8", "calib": str(tmp_path / "calib.npz")}
    with pytest.raises(EdgecError) as caught:
        edgec.compile(str(file("siamese")), min_sqnr=90, out=str(tmp_path / "b"), **options)
    assert (caught.value.code, caught.value.exit_code) == ("EC482", 4)
    assert not (tmp_path / "b").exists()
    kept = edgec.compile(
        str(file("siamese")), min_sqnr=90, force=True, out=str(tmp_path / "b"), **options
    )
    assert kept.artifact("int8").checks["sqnr_gate"] == "failed"
    assert "FAILED THE ACCURACY GATE" in (kept.path / "report.txt").read_text()


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda a: a.pop("mask"), "no array 'mask'"),
        (lambda a: a.pop("tokens"), "no array 'tokens'"),
        (lambda a: a.update(other=a["mask"]), "no input takes the array 'other'"),
        (lambda a: a.update(tokens=a["tokens"].astype(np.int32)), "int32, the network takes int64"),
        (lambda a: a.update(tokens=a["tokens"][..., :5]), r"\(samples, 1, 6\) is needed"),
        (lambda a: a.update(mask=a["mask"][:3]), "different numbers of samples"),
        (lambda a: a.update(labels=np.zeros(3, int)), "labels"),
    ],
)
def test_bad_calibration_arrays_are_named(
    change: Callable[[Arrays], object],
    word: str,
    bundle: Callable[[str], Bundle],
    tmp_path: Path,
) -> None:
    from edgec.export.data import open_samples

    inputs = bundle("tokens").manifest.inputs
    arrays = samples(4, inputs)
    change(arrays)
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(InputError, match=word) as caught:
        open_samples(str(tmp_path / "bad.npz"), inputs, None)
    assert caught.value.code in ("EC775", "EC778")


def test_bad_inputs_of_run_are_named(bundle: Callable[[str], Bundle], tmp_path: Path) -> None:
    made = bundle("tokens")
    good = {key: np.asarray(array[0]) for key, array in samples(1, made.manifest.inputs).items()}
    cases: list[tuple[Arrays, str]] = [
        ({"tokens": good["tokens"]}, "EC788"),
        ({**good, "more": good["mask"]}, "EC788"),
        ({**good, "tokens": good["tokens"][:, :5]}, "EC789"),
        ({**good, "tokens": good["tokens"].astype(np.float32)}, "EC798"),
        ({**good, "mask": good["mask"].astype(np.float32)}, "EC798"),
    ]
    for arrays, code in cases:
        np.savez(tmp_path / "x.npz", **arrays)
        with pytest.raises(InputError) as caught:
            made.run(tmp_path / "x.npz")
        assert caught.value.code == code
    with pytest.raises(InputError, match="it has 2 inputs") as caught:
        made.run(tmp_path / "cat.jpg")
    assert caught.value.code == "EC791"
    with pytest.raises(InputError, match="2 inputs") as caught:
        from edgec.export.data import open_samples

        open_samples(str(tmp_path), made.manifest.inputs, None)
    assert caught.value.code == "EC796"


@pytest.mark.parametrize(
    ("signature", "body", "what"),
    [
        ("(string[1] text, float[2] x) => (float[2] y)", "y = Relu(x)", "'text'.*it is text"),
        ("(float[2,3] x) => (seq(float) y)", "y = SplitToSequence(x)", "'y'.*it is sequence"),
    ],
)
def test_what_is_no_tensor_is_refused(signature: str, body: str, what: str, tmp_path: Path) -> None:
    onnx.save(graph(signature, body), tmp_path / "x.onnx")
    with pytest.raises(UnsupportedError, match=f"(?s){what}") as caught:
        edgec.compile(str(tmp_path / "x.onnx"), target="x86", out=str(tmp_path / "b"))
    assert caught.value.code == "EC348"


@pytest.mark.parametrize(
    ("signature", "body"),
    [
        ("() => (float[2] y)", "y = Constant<value_floats=[1.0, 2.0]>()"),
        ("(float[1,3] x, int64[2] n) => (float[1,3] y, int64[2] m)", "y = Relu(x) m = Identity(n)"),
        (
            "(float[4] x) => (float[4] y, float[0] rest)",
            "y = Relu(x) end = Constant<value_ints=[4]>() rest = Slice(x, end, end)",
        ),
        ("(uint8[1,2,2,3] x) => (float[1,2,2,3] y)", "y = Cast<to=1>(x)"),
    ],
    ids=["nothing in", "passed through", "nothing out", "bytes"],
)
def test_odd_networks(signature: str, body: str, tmp_path: Path) -> None:
    onnx.save(graph(signature, body), tmp_path / "x.onnx")
    made = edgec.compile(str(tmp_path / "x.onnx"), target="x86", out=str(tmp_path / "b"))
    (result,) = made.run(made.path / "golden" / "inputs_0.npz")
    golden = np.load(made.path / "golden" / "outputs_0.npz")
    for tensor in made.manifest.outputs:
        assert result.outputs[tensor.name].shape == tensor.shape
        np.testing.assert_array_equal(result.outputs[tensor.name], golden[tensor.name])


def test_labels_beside_the_arrays_make_accuracy(
    bundle: Callable[[str], Bundle], tmp_path: Path
) -> None:
    from edgec.runtime.evaluate import evaluate_bundle

    made = bundle("image_and_vector")
    stacks = samples(6, made.manifest.inputs, seed=2)
    best = [
        int(
            np.argmax(
                made.run({k: np.asarray(a[i]) for k, a in stacks.items()})[0].outputs["logits"]
            )
        )
        for i in range(6)
    ]
    best[0] = (best[0] + 1) % 5
    np.savez(tmp_path / "x.npz", labels=np.array(best), **stacks)
    record = evaluate_bundle(made, str(tmp_path / "x.npz"), limit=None)
    assert record["labelled"]
    assert record["results"][0]["top1"] == pytest.approx(100 * 5 / 6, abs=1e-3)
