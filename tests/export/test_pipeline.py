"""The pipeline on a small network: bundles are whole, checked and reproducible."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

import edgec
from edgec.export.bundle import Bundle
from edgec.export.errors import AccuracyGateError, BudgetError, InputError, UsageError
from edgec.export.files import sha256_file


@pytest.fixture(scope="module")
def jetson(tiny_onnx: Path, image_folder: Path, preprocess_json: Path, tmp_path_factory) -> Bundle:
    """A calibrated bundle of the small network for the Jetson."""
    return edgec.compile(
        str(tiny_onnx),
        target="jetson",
        calib=str(image_folder),
        preprocess=str(preprocess_json),
        out=str(tmp_path_factory.mktemp("bundles") / "jetson"),
    )


@pytest.fixture(scope="module")
def x86(tiny_onnx: Path, image_folder: Path, preprocess_json: Path, tmp_path_factory) -> Bundle:
    """A calibrated int8 bundle of the small network for x86."""
    return edgec.compile(
        str(tiny_onnx),
        target="x86",
        precision="int8",
        calib=str(image_folder),
        preprocess=str(preprocess_json),
        out=str(tmp_path_factory.mktemp("bundles") / "x86"),
    )


def test_the_bundle_holds_what_the_manifest_says(jetson: Bundle) -> None:
    built = {a.path: a for a in jetson.manifest.artifacts}
    assert set(built) == {
        "onnx/model.onnx",
        "onnx/model_fp16.onnx",
        "onnx/model_int8.onnx",
        "tensorrt",
    }
    assert built["tensorrt"].status == "bundle"
    assert not list(jetson.path.rglob("*.engine"))
    on_disk = {p.relative_to(jetson.path).as_posix() for p in jetson.path.rglob("*") if p.is_file()}
    assert on_disk == set(jetson.manifest.files) | {"manifest.json", "log.txt"}
    for name, digest in jetson.manifest.files.items():
        assert sha256_file(jetson.path / name) == digest


def test_artifacts_are_valid_onnx_at_the_targets_opset(jetson: Bundle) -> None:
    for artifact in jetson.manifest.artifacts:
        if artifact.format == "onnx":
            model = onnx.load(jetson.file(artifact))
            onnx.checker.check_model(model, full_check=True)
            assert {(o.domain, o.version) for o in model.opset_import} == {("", 20)}


def test_int8_for_tensorrt_is_symmetric(jetson: Bundle) -> None:
    model = onnx.load(jetson.file(jetson.artifact("int8")))
    held = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    quantizers = [n for n in model.graph.node if n.op_type == "QuantizeLinear"]
    assert quantizers
    for node in quantizers:
        if len(node.input) == 3 and node.input[2]:
            zero = held[node.input[2]]
            assert zero.dtype == np.int8
            assert not zero.any()


def test_int8_for_x86_runs_on_integer_kernels(x86: Bundle) -> None:
    weighted = x86.artifact("int8").checks["integer_kernels"]["weighted"]
    assert weighted["Conv"] == {"integer": 2, "float": 0}
    assert weighted["Gemm"]["float"] == 0


def test_precisions_agree_with_fp32(jetson: Bundle, x86: Bundle) -> None:
    assert jetson.artifact("fp16").checks["vs_fp32"]["sqnr_db"] > 45
    for bundle in (jetson, x86):
        assert bundle.artifact("int8").checks["vs_fp32"]["sqnr_db"] > 15
        assert bundle.artifact("int8").checks["data"] == "held-out images"


def test_provenance_of_calibration_is_kept(x86: Bundle) -> None:
    data = x86.manifest.calibration
    assert data is not None
    assert (data["count"], data["used"], data["held_out"]) == (40, 30, 10)
    assert len(data["sha256"]) == 64
    assert list(data["preprocess"]["mean"]) == [0.5, 0.5, 0.5]


def test_golden_outputs_come_from_the_master(x86: Bundle) -> None:
    for index in range(2):
        feeds = dict(np.load(x86.path / "golden" / f"inputs_{index}.npz"))
        golden = dict(np.load(x86.path / "golden" / f"outputs_{index}.npz"))
        (result,) = x86.run(feeds)
        for name, expected in golden.items():
            np.testing.assert_array_equal(result.outputs[name], expected)


def test_an_equal_export_gives_equal_bytes(
    x86: Bundle, tiny_onnx: Path, image_folder: Path, preprocess_json: Path, tmp_path: Path
) -> None:
    again = edgec.compile(
        str(tiny_onnx),
        target="x86",
        precision="int8",
        calib=str(image_folder),
        preprocess=str(preprocess_json),
        out=str(tmp_path / "again"),
    )
    names = {p.relative_to(x86.path) for p in x86.path.rglob("*") if p.is_file()}
    assert names == {p.relative_to(again.path) for p in again.path.rglob("*") if p.is_file()}
    for name in sorted(names - {Path("log.txt")}):
        assert (x86.path / name).read_bytes() == (again.path / name).read_bytes(), name


def test_lint_lists_every_artifact(x86: Bundle) -> None:
    record = json.loads((x86.path / "lint.json").read_text())
    built = [a for a in x86.manifest.artifacts if a.format == "onnx"]
    assert list(record["artifacts"]) == [a.path for a in built]
    for artifact in built:
        report = record["artifacts"][artifact.path]
        counts = {key: report[key] for key in ("errors", "warnings")}
        assert counts == artifact.checks["lint"]
        assert len(report["findings"]) >= sum(counts.values())
    assert "lint      0 errors" in (x86.path / "report.txt").read_text()


def test_no_path_of_this_machine_is_in_a_bundle(jetson: Bundle, tmp_path: Path) -> None:
    needle = str(tmp_path.parent).encode()
    for name in jetson.manifest.files:
        assert needle not in (jetson.path / name).read_bytes(), name
    assert needle not in (jetson.path / "manifest.json").read_bytes()


def test_run_takes_images_folders_arrays_and_files(
    x86: Bundle, image_folder: Path, tmp_path: Path
) -> None:
    image = image_folder / "0" / "0.png"
    (one,) = x86.run(image)
    assert one.classes is not None
    assert len(one.classes) == 5
    assert abs(sum(c.probability for c in x86.run(image, top=10)[0].classes or ()) - 1) < 1e-6
    assert len(x86.run(image_folder / "0", artifact="int8")) == 10
    array = np.zeros((1, 3, 16, 16), np.float32)
    np.save(tmp_path / "one.npy", array[0])
    np.save(tmp_path / "many.npy", np.repeat(array, 3, axis=0))
    np.savez(tmp_path / "named.npz", image=array)
    assert len(x86.run(tmp_path / "one.npy")) == 1
    assert len(x86.run(tmp_path / "many.npy")) == 3
    (named,) = x86.run(tmp_path / "named.npz")
    np.testing.assert_array_equal(named.outputs["logits"], x86.run(array)[0].outputs["logits"])


def test_a_changed_artifact_is_noticed(tiny_onnx: Path, tmp_path: Path) -> None:
    bundle = edgec.compile(str(tiny_onnx), target="x86", out=str(tmp_path / "b"))
    file = bundle.path / "onnx" / "model.onnx"
    file.write_bytes(file.read_bytes() + b"x")
    with pytest.raises(InputError, match="changed after"):
        edgec.load(tmp_path / "b").run(np.zeros((1, 3, 16, 16), np.float32))
    file.unlink()
    with pytest.raises(InputError, match="missing"):
        edgec.load(tmp_path / "b").run(np.zeros((1, 3, 16, 16), np.float32))


@pytest.mark.parametrize(
    "edit",
    [
        lambda m: m.update(schema="edgec.bundle/99"),
        lambda m: m["artifacts"][0].update(path="../../etc/passwd"),
        lambda m: m["artifacts"][0].update(path="/etc/passwd"),
        lambda m: m.pop("artifacts"),
        lambda m: m.update(inputs=3),
    ],
)
def test_bad_manifests_are_refused(tiny_onnx: Path, tmp_path: Path, edit) -> None:
    edgec.compile(str(tiny_onnx), target="x86", out=str(tmp_path / "b"))
    file = tmp_path / "b" / "manifest.json"
    manifest = json.loads(file.read_text())
    edit(manifest)
    file.write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="manifest cannot be used"):
        edgec.load(tmp_path / "b")


def test_the_accuracy_gate_stops_and_force_marks(
    tiny_onnx: Path, misleading_calibration: Path, preprocess_json: Path, tmp_path: Path
) -> None:
    options = {
        "target": "x86",
        "precision": "int8",
        "calib": str(misleading_calibration),
        "max_drop": 0.0,
        "preprocess": str(preprocess_json),
        "out": str(tmp_path / "b"),
    }
    with pytest.raises(AccuracyGateError, match="points"):
        edgec.compile(str(tiny_onnx), **options)
    assert not (tmp_path / "b").exists()
    kept = edgec.compile(str(tiny_onnx), force=True, **options)
    assert kept.artifact("int8").checks["gate"] == "failed"
    assert "FAILED THE ACCURACY GATE" in (kept.path / "report.txt").read_text()


@pytest.mark.parametrize(("budget", "code"), [({"flash": "1K"}, "EC580"), ({"ram": 4096}, "EC581")])
def test_the_budget_gate_bills(tiny_onnx: Path, tmp_path: Path, budget, code: str) -> None:
    with pytest.raises(BudgetError) as caught:
        edgec.compile(str(tiny_onnx), target="x86", out=str(tmp_path / "b"), **budget)
    assert caught.value.code == code
    assert not (tmp_path / "b").exists()


def test_budgets_that_fit_pass(tiny_onnx: Path, tmp_path: Path) -> None:
    edgec.compile(str(tiny_onnx), target="x86", ram="1M", flash="64K", out=str(tmp_path / "b"))


def test_a_torch_module_compiles(tmp_path: Path) -> None:
    from torch import nn

    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)
    ).eval()
    bundle = edgec.compile(
        network, target="jetson-nano", input_shape=(3, 16, 16), out=str(tmp_path / "b")
    )
    model = onnx.load(bundle.path / "onnx" / "model.onnx")
    assert model.opset_import[0].version == 13
    with pytest.raises(UsageError):
        edgec.compile({"not": "a module"}, target="jetson", input_shape=(3, 8, 8))


def test_hostile_names_reach_no_path(tmp_path: Path) -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[1,3,4,4] x) => (float[1,3,4,4] y)'
        "{ y = Relu(x) }"
    )
    for value in (*model.graph.input, *model.graph.output):
        value.name = f"../../{value.name}';$(touch x)\"\n"
    model.graph.node[0].input[0] = model.graph.input[0].name
    model.graph.node[0].output[0] = model.graph.output[0].name
    path = tmp_path / "it's a $(model).onnx"
    onnx.save(model, path)
    bundle = edgec.compile(str(path), target="jetson", out=str(tmp_path / "b"))
    assert {p.name for p in tmp_path.iterdir()} == {"b", path.name}
    (result,) = bundle.run(np.ones((1, 3, 4, 4), np.float32))
    assert list(result.outputs) == [model.graph.output[0].name]


def test_weakly_typed_builders_are_told_what_overflows(tmp_path: Path) -> None:
    """Every square, mean and softmax, in both graphs; no residual Add, which is to stay int8."""
    bundle = edgec.compile(
        "edgenext_cifar10",
        target="jetson-xavier-nx",
        precision="int8",
        calib="random",
        weights="random",
        out=str(tmp_path / "bundle"),
        force=True,
    )
    recipe = json.loads((bundle.path / "tensorrt" / "recipe.json").read_text())
    for engine in recipe["engines"]:
        graph = onnx.load(bundle.path / "tensorrt" / engine["onnx"]).graph
        kinds = {node.name: node.op_type for node in graph.node}
        pinned = set(engine["float32_layers"])
        if engine["name"] == "fp32":
            assert not pinned
            continue
        unsafe = {n for n, kind in kinds.items() if kind in ("Pow", "ReduceMean", "Softmax")}
        assert len(unsafe) > 10
        assert unsafe <= pinned <= set(kinds)
        inside = {kinds[name] for name in pinned} - {"Pow", "ReduceMean", "Softmax", "Sqrt"}
        assert inside <= {"Sub", "Add", "Div", "LpNormalization"}
        quantized = {n.input[0] for n in graph.node if n.op_type == "QuantizeLinear"}
        residual = {n.name for n in graph.node if n.op_type == "Add" and n.output[0] in quantized}
        assert bool(residual) == (engine["name"] == "int8")
        assert not residual & pinned


def test_a_zoo_network_is_compared_with_torch_and_legal_for_an_older_runtime(
    tmp_path: Path,
) -> None:
    bundle = edgec.compile(
        "edgenext_cifar10",
        target="jetson-xavier-nx",
        precision="fp32",
        weights="random",
        out=str(tmp_path / "bundle"),
    )
    report = json.loads((bundle.path / "report.json").read_text())
    assert 0 < report["graph"]["capture_max_abs"] < 1e-4
    assert "PyTorch" in (bundle.path / "report.txt").read_text()
    model = onnx.load(bundle.file(bundle.artifact("fp32")))
    assert model.opset_import[0].version == 17
    assert "LayerNormalization" not in {node.op_type for node in model.graph.node}
    assert not [p for p in model.metadata_props if p.key.startswith("edgec.capture")]
