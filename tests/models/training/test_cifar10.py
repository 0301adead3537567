"""The training script: learns, resumes to the same weights, starts from weights, writes a card."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from edgec.models.training import augment, cifar10

NAME = "edgenext_cifar10"
FLAGS = ["--batch", "16", "--ema", "0.5", "--learning-rate", "0.002", "--strength", "0.1"]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty-eight images of two classes that differ in brightness; the last sixteen validate."""
    rng = np.random.default_rng(0)
    labels = np.arange(48) % 2
    streams = []
    for label in labels:
        pixels = rng.integers(0, 60, (32, 32, 3)) + 180 * label
        buffer = io.BytesIO()
        Image.fromarray(pixels.astype(np.uint8)).save(buffer, "JPEG", quality=95)
        streams.append(buffer.getvalue())
    path = tmp_path_factory.mktemp("data") / "cifar.npz"
    np.savez(
        path,
        jpeg=np.frombuffer(b"".join(streams), np.uint8),
        offsets=np.cumsum([0, *map(len, streams)]),
        labels=labels,
        is_train=np.arange(48) < 32,
    )
    return path


def train(archive: Path, out: Path, *more: str) -> int:
    return cifar10.main(
        [NAME, "--data", str(archive), "--out", str(out), "--device", "cpu", *FLAGS, *more]
    )


def test_a_stopped_run_goes_on_to_the_same_weights(
    archive: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert train(archive, tmp_path / "whole", "--epochs", "2") == 0
    result = json.loads(capsys.readouterr().out)
    assert result == {"model": NAME, "top1": 100.0, "epochs": 2}

    class Stop(Exception):
        pass

    accuracy = cifar10.Trainer.accuracy

    def interrupted(trainer: cifar10.Trainer, *data: torch.Tensor) -> float:
        if trainer.epoch == 2:
            raise Stop
        return accuracy(trainer, *data)

    monkeypatch.setattr(cifar10.Trainer, "accuracy", interrupted)
    with pytest.raises(Stop):
        train(archive, tmp_path / "parts", "--epochs", "2")
    monkeypatch.undo()
    assert train(archive, tmp_path / "parts", "--epochs", "2") == 0
    assert "going on after epoch 1" in capsys.readouterr().err
    states = [
        torch.load(tmp_path / run / "state.pt", weights_only=True) for run in ("whole", "parts")
    ]
    for key, value in states[0]["average"].items():
        assert torch.equal(value, states[1]["average"][key]), key

    weights = tmp_path / "whole" / f"{NAME}.safetensors"
    assert train(archive, tmp_path / "tuned", "--epochs", "1", "--start", str(weights)) == 0
    card = (tmp_path / "tuned" / f"{NAME}.md").read_text("utf-8")
    assert f"start {NAME}.safetensors" in card
    assert str(tmp_path) not in card
    assert load_file(weights).keys() == states[0]["average"].keys()


def test_another_recipe_does_not_go_on(archive: Path, tmp_path: Path) -> None:
    assert train(archive, tmp_path, "--epochs", "1") == 0
    with pytest.raises(ValueError, match="another network or recipe"):
        train(archive, tmp_path, "--epochs", "3")


def test_norms_biases_and_scales_do_not_decay() -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    decayed, rest = cifar10.parameter_groups(network, 0.1)
    assert [tuple(p.shape) for p in decayed["params"]] == [(4, 3, 3, 3)]
    assert [tuple(p.shape) for p in rest["params"]] == [(4,), (4,), (4,)]
    assert (decayed["weight_decay"], rest["weight_decay"]) == (0.1, 0.0)


def test_augmentation_repeats_and_stays_in_range() -> None:
    images = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(1))

    def run(seed: int, strength: float) -> torch.Tensor:
        return augment.augment(images, torch.Generator().manual_seed(seed), strength=strength)

    assert torch.equal(run(3, 1.0), run(3, 1.0))
    assert not torch.equal(run(3, 1.0), run(4, 1.0))
    strong = run(3, 1.0)
    assert strong.min() >= 0
    assert strong.max() <= 1
    # crop and flip move pixels and make none: with reflection every value was there before
    for image, original in zip(run(5, 0.0), images, strict=True):
        assert torch.isin(image[0], original[0]).all()
