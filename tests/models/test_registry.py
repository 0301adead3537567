"""Facts about the networks: where they come from and what belongs together."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

import edgec
from edgec.export.errors import UsageError
from edgec.models import get_spec, list_models
from edgec.models.published import shipped_checkpoint

ZOO = list_models()


def test_names() -> None:
    sizes = ("1m", "2m", "5m", "20m", "50m")
    assert set(ZOO) >= {f"emov2_{size}" for size in sizes}
    assert set(ZOO) >= {f"emov2_{s}_{px}" for s in sizes[:3] for px in (256, 512)}
    assert set(ZOO) >= {f"emo_{size}" for size in ("1m", "2m", "5m", "6m")}
    assert set(ZOO) >= {f"edgenext_{s}" for s in ("xx_small", "x_small", "small", "base")}
    assert set(ZOO) >= {f"edgenext_{s}_bn_hs" for s in ("xx_small", "x_small", "small")}
    assert set(ZOO) >= {f"efficientformer_{size}" for size in ("l1", "l3", "l7")}
    assert set(ZOO) >= {f"efficientformerv2_{size}" for size in ("s0", "s1", "s2", "l")}
    assert set(ZOO) >= {f"mcuformer_t_{config}" for config in "abcde"}
    millions = (26, 52, 96, 151, 214, 294, 508)
    assert set(ZOO) >= {f"mobile_former_{size}m" for size in millions}
    assert set(ZOO) >= {f"mobilevit_{size}" for size in ("xxs", "xs", "s")}
    assert set(ZOO) >= {f"mobilevitv2_{width:03}" for width in range(50, 201, 25)}
    assert set(ZOO) >= {f"mobilevitv2_{width}_384" for width in (150, 175, 200)}


def test_unknown_name_lists_the_nearest() -> None:
    with pytest.raises(UsageError) as caught:
        get_spec("emov2_5")
    assert caught.value.code == "EC220"
    assert "emov2_5m" in str(caught.value.fix)


@pytest.mark.parametrize("name", ZOO)
def test_facts_are_complete(name: str) -> None:
    spec = get_spec(name)
    assert spec.paper.startswith("arXiv ")
    for text in (spec.title, spec.code, spec.code_licence, spec.weights_licence):
        assert text
    assert spec.preprocess.size == spec.input_shape[1:]
    if not name.endswith("_cifar10"):
        assert spec.checkpoints or spec.notes, "say why there are no weights"
    assert all(accuracy.source for accuracy in spec.accuracy)
    json.dumps(spec.to_json())


@pytest.mark.parametrize("name", ZOO)
def test_checkpoints(name: str) -> None:
    checkpoints = get_spec(name).checkpoints
    assert len({c.tag for c in checkpoints}) == len(checkpoints)
    for checkpoint in checkpoints:
        url = urlsplit(checkpoint.url)
        if url.scheme == "edgec":  # part of the package
            file = shipped_checkpoint(checkpoint.url)
            assert hashlib.sha256(file.read_bytes()).hexdigest() == checkpoint.sha256
            assert file.stat().st_size < 2.5e6
            assert file.with_suffix(".md").is_file(), "a checkpoint needs a model card"
            continue
        assert url.scheme == "https"
        assert Path(url.path).suffix in (".pth", ".safetensors")
        if "/raw/" in checkpoint.url:  # a file inside a repository, pinned by its commit
            assert checkpoint.git_blob is not None
            assert len(checkpoint.git_blob) == 40


def test_preprocessing_belongs_to_the_weights() -> None:
    spec = get_spec("edgenext_small")
    assert spec.preprocess.crop == 0.875
    assert spec.preprocess_for(None) == spec.preprocess_for("in1k") == spec.preprocess
    assert spec.preprocess_for("in1k-usi").crop == 0.95
    assert spec.preprocess_for("in1k-usi").size == (256, 256)
    assert spec.checkpoint().tag == "in1k"
    assert spec.checkpoint("in1k-usi").url.endswith("edgenext_small_usi.pth")


def test_facts_are_read_without_torch() -> None:
    script = (
        "import sys; from edgec.models import get_spec, list_models\n"
        "[get_spec(name) for name in list_models()]\n"
        "print('torch' in sys.modules, 'numpy' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(Path(edgec.__file__).parents[1])},
        check=True,
    )
    assert done.stdout.split() == ["False", "False"]
