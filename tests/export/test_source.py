"""Every kind of ``--model`` reaches the same bundle: names, paths, factories, programs, modules."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import edgec
from edgec.export.errors import InputError, UsageError
from edgec.export.source import describe, image_input

SOURCE = """
from torch import nn

def make():
    return nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
                         nn.Flatten(), nn.Linear(4, 5))
"""


def network() -> nn.Module:
    names: dict[str, object] = {}
    exec(SOURCE, names)
    made: nn.Module = names["make"]()  # type: ignore[operator]
    return made.eval()


def outputs_agree(bundle: edgec.export.bundle.Bundle, reference: nn.Module) -> None:
    x = np.random.default_rng(0).standard_normal((1, 3, 16, 16)).astype(np.float32)
    (result,) = bundle.run(x)
    with torch.no_grad():
        expected = reference(torch.from_numpy(x)).numpy()
    (actual,) = result.outputs.values()
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


def test_a_factory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text("import torch\ntorch.manual_seed(3)\n" + SOURCE)
    bundle = edgec.compile("net.py:make", target="x86", input_size=16)
    assert bundle.path.name == "make-generic-x86-64-fp32"
    torch.manual_seed(3)
    outputs_agree(bundle, network())


def test_an_exported_program(tmp_path: Path) -> None:
    reference = network()
    program = torch.export.export(reference, (torch.zeros(1, 3, 16, 16),))
    torch.export.save(program, tmp_path / "net.pt2")
    bundle = edgec.compile(str(tmp_path / "net.pt2"), target="x86", out=str(tmp_path / "b"))
    outputs_agree(bundle, reference)


def test_a_module(tmp_path: Path) -> None:
    reference = network()
    bundle = edgec.compile(
        reference, target="x86", input_shape=(3, 16, 16), out=str(tmp_path / "b")
    )
    outputs_agree(bundle, reference)
    assert not reference.training


@pytest.mark.slow
def test_a_subnet_of_mcuformer(tmp_path: Path) -> None:
    config = {"layer_num": 2, "mlp_ratio": 4, "num_heads": [3, 4], "embed_dim": 168, "img": 64,
              "patch": 16, "rank": 0.5, "num_classes": 10}  # fmt: skip
    (tmp_path / "subnet.json").write_text(json.dumps(config))
    bundle = edgec.compile(
        str(tmp_path / "subnet.json"),
        target="jetson-nano",
        weights="random",
        out=str(tmp_path / "b"),
    )
    assert bundle.manifest.outputs[0].shape == (1, 10)
    assert bundle.manifest.inputs[0].shape == (1, 3, 64, 64)


def test_the_input_size_changes_a_zoo_network(tmp_path: Path) -> None:
    bundle = edgec.compile(
        "edgenext_cifar10", target="x86", weights="random", input_size=64, out=str(tmp_path / "b")
    )
    assert bundle.manifest.inputs[0].shape == (1, 3, 64, 64)
    assert bundle.manifest.preprocess is not None
    assert bundle.manifest.preprocess.size == (64, 64)
    assert bundle.manifest.labels is not None
    assert bundle.manifest.labels[3] == "cat"
    assert bundle.manifest.headline.startswith("RANDOM WEIGHTS")


def test_kinds_and_names(tmp_path: Path, tiny_onnx: Path) -> None:
    assert describe("emov2_5m") == ("zoo", "emov2_5m")
    assert describe("timm:repvit_m0_9.dist_450e_in1k") == ("timm", "repvit_m0_9.dist_450e_in1k")
    assert describe(str(tiny_onnx)) == ("onnx", "tiny")
    odd = tmp_path / "it's; $(x).json"
    odd.write_text("{}")
    assert describe(str(odd)) == ("config", "it_s_x")
    with pytest.raises(InputError):
        describe("none.pt2")


def test_the_image_input_of_an_onnx_file(tiny_onnx: Path, tmp_path: Path) -> None:
    assert image_input(tiny_onnx, (32, 48)) == {"image": (1, 3, 32, 48)}
    import onnx

    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[2] a, float[2] b) => (float[2] y)'
        "{ y = Add(a, b) }"
    )
    onnx.save(model, tmp_path / "two.onnx")
    with pytest.raises(UsageError, match="one image input"):
        image_input(tmp_path / "two.onnx", (32, 32))
