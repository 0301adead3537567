"""``--features``: backbones through the real export, in fp32 and int8."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

import edgec
from edgec.export.bundle import Bundle
from edgec.export.errors import UsageError
from edgec.export.plan import dry_run, prepare
from edgec.models import create_model, get_spec
from edgec.models.features import Staged
from edgec.models.random_init import randomize

# torch.onnx warns about its own use of torch.utils._pytree
pytestmark = pytest.mark.filterwarnings("ignore:.isinstance.treespec:FutureWarning")


@pytest.fixture(scope="module")
def bundle(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Stages 2 and 4 of a small EMOv2, int8 for x86, in a size that is not its own."""
    return edgec.compile(
        "emov2_cifar10",
        target="x86",
        precision="int8",
        weights="random",
        features="2,/8",
        input_size="32x48",
        calib=str(image_folder),
        out=str(tmp_path_factory.mktemp("features") / "bundle"),
    )


def reference(name: str, x: np.ndarray) -> list[np.ndarray]:
    """All stage outputs of the network in torch, with the weights of ``--weights random``."""
    network = create_model(name)
    randomize(network, 0)
    assert isinstance(network, Staged)
    with torch.no_grad():
        return [y.numpy() for y in network.stage_maps(torch.from_numpy(x))]


def test_the_manifest_describes_the_maps(bundle: Bundle) -> None:
    second, fourth = bundle.manifest.outputs
    assert (second.name, second.shape, second.stride) == ("stage2", (1, 32, 8, 12), 4)
    assert (fourth.name, fourth.shape, fourth.channels) == ("stage4", (1, 96, 4, 6), 96)
    entry = json.loads((bundle.path / "manifest.json").read_text())["outputs"][0]
    assert entry == {
        "name": "stage2",
        "shape": [1, 32, 8, 12],
        "dtype": "float32",
        "stride": 4,
        "channels": 32,
    }
    assert bundle.manifest.labels is None
    assert "accuracy" not in bundle.manifest.model
    assert bundle.manifest.weights["note"].count("classifier") == 1
    assert "feature maps of stages 2, 4" in bundle.manifest.headline


def test_the_maps_are_those_of_torch(bundle: Bundle) -> None:
    x = np.random.default_rng(0).standard_normal((1, 3, 32, 48)).astype(np.float32)
    (result,) = bundle.run(x)
    expected = reference("emov2_cifar10", x)
    for name, want in (("stage2", expected[1]), ("stage4", expected[3])):
        error = np.abs(result.outputs[name] - want).max()
        assert error <= 1e-4 * np.abs(want).max()
    assert result.classes is None


def test_nothing_of_the_classifier_is_in_the_file(bundle: Bundle) -> None:
    model = onnx.load(bundle.file(bundle.artifact()))
    spec = get_spec("emov2_cifar10")
    held = sum(int(np.prod(t.dims)) for t in model.graph.initializer)
    assert held < spec.params
    assert not [t.name for t in model.graph.initializer if spec.num_classes in t.dims]
    assert {o.name for o in model.graph.output} == {"stage2", "stage4"}
    paths = {p.value for n in model.graph.node for p in n.metadata_props}
    assert any(path.startswith("stage3.1") for path in paths)
    assert not any(path.startswith(("backbone", "head")) for path in paths)


def test_int8_is_judged_by_noise(bundle: Bundle, main: Any, image_folder: Path) -> None:
    found = bundle.artifact("int8").checks["vs_fp32"]
    assert found["top1_agreement"] is None
    assert set(found["outputs"]) == {"stage2", "stage4"}
    assert all(o["sqnr_db"] > 10 and o["cosine"] > 0.9 for o in found["outputs"].values())
    text = (bundle.path / "report.txt").read_text()
    assert "stage2: float32 1x32x8x12, stride 4" in text
    assert "stage4  SQNR" in text
    code, out, _ = main("eval", bundle.path, "--data", image_folder, "--limit", "4", "--json")
    assert code == 0
    record = json.loads(out)
    assert not record["labelled"]
    assert set(record["results"][1]["outputs"]) == {"stage2", "stage4"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["edgenext_cifar10", "mobilevit_cifar10", "efficientformerv2_cifar10"]
)
def test_other_families(name: str, tmp_path: Path) -> None:
    made = edgec.compile(
        name, target="jetson-nano", weights="random", features="all", out=str(tmp_path / "b")
    )
    stages = get_spec(name).stages
    assert [(o.name, o.stride, o.channels) for o in made.manifest.outputs] == [
        (s.name, s.stride, s.channels) for s in stages
    ]
    x = np.random.default_rng(0).standard_normal((1, 3, 32, 32)).astype(np.float32)
    (result,) = made.run(x)
    for stage, want in zip(stages, reference(name, x), strict=True):
        error = np.abs(result.outputs[stage.name] - want).max()
        assert error <= 1e-4 * np.abs(want).max()


@pytest.mark.slow
def test_a_subnet_of_mcuformer(tmp_path: Path) -> None:
    config = {"layer_num": 2, "mlp_ratio": 2, "num_heads": 1, "embed_dim": 64, "img": 64,
              "patch": 16, "rank": 0.5, "num_classes": 10}  # fmt: skip
    file = tmp_path / "subnet.json"
    file.write_text(json.dumps(config))
    made = edgec.compile(
        str(file), target="x86", weights="random", features="all", out=str(tmp_path / "b")
    )
    (output,) = made.manifest.outputs
    assert (output.name, output.shape, output.stride) == ("stage1", (1, 64, 4, 4), 16)


def test_wrong_stages_are_refused_before_any_work(tiny_onnx: Path) -> None:
    for model, features, code in (
        ("emov2_5m", "5", "EC227"),
        ("emov2_5m", "/64", "EC227"),
        ("emov2_5m", "two", "EC206"),
        ("emov2_5m", "", "EC206"),
        (str(tiny_onnx), "all", "EC280"),
        (torch.nn.ReLU(), "all", "EC280"),
    ):
        with pytest.raises(UsageError) as caught:
            prepare(model, "jetson", {"features": features})
        assert caught.value.code == code


def test_a_plan_names_the_stages() -> None:
    job = prepare("mobilevit_s", "jetson", {"features": "/8,/16,/32"})
    assert job.out.name == "mobilevit_s-features-jetson-orin-nano-jp6.2-fp16"
    text = "\n".join(dry_run(job)["steps"])
    assert "3 (stride 8, 96 channels), 4 (stride 16, 128 channels), 5 (stride 32" in text
