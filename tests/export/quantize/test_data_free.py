"""Distilled inputs: they have the statistics that the network remembers."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import nn

from edgec.export.capture import from_torch
from edgec.export.errors import UnsupportedError
from edgec.export.quantize.calibrate import calibrate
from edgec.export.quantize.data_free import distil
from edgec.export.quantize.stream import run_activations
from edgec.export.rewrite.engine import run_stages


@pytest.fixture(scope="module")
def trained() -> tuple[ir.Model, np.ndarray]:
    """Conv, norm, SiLU twice, with the statistics of blurred, offset images; and such images."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8, momentum=None),
        nn.SiLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.BatchNorm2d(8, momentum=None),
        nn.SiLU(),
        nn.Conv2d(8, 4, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    images = 0.5 + 0.2 * nn.functional.avg_pool2d(torch.randn(64, 3, 18, 18) * 4, 7, 1)
    with torch.no_grad():
        network.train()(images)
    return from_torch(network.eval(), (3, 12, 12)), images.numpy()


def test_statistics_are_met(trained) -> None:
    """Closer than real samples of the same number come, and far closer than noise."""
    model, images = trained
    name = str(model.graph.inputs[0].name)
    norm = next(n for n in model.graph if n.op_type == "BatchNormalization")
    mean = norm.inputs[3].const_value.numpy()
    std = np.sqrt(norm.inputs[4].const_value.numpy())

    def distance(feeds) -> float:
        tensor = str(norm.inputs[0].name)
        seen = [values[tensor] for _, values in run_activations(model, feeds, [tensor])]
        values = np.concatenate(seen).transpose(1, 0, 2, 3).reshape(8, -1)
        return float((((values.mean(1) - mean) / std) ** 2).mean())

    found = distil(model, 8, steps=60, rate=0.05, bounds=(0.0, 1.0))
    assert len(found) == 8
    assert all(f[name].shape == (1, 3, 12, 12) and f[name].dtype == np.float32 for f in found)
    assert min(f[name].min() for f in found) >= 0.0
    assert max(f[name].max() for f in found) <= 1.0
    rng = np.random.default_rng(0)
    noise = [{name: rng.random((1, 3, 12, 12)).astype(np.float32)} for _ in range(8)]
    assert distance(found) < distance([{name: images[i : i + 1]} for i in range(8)]) + 0.01
    assert distance(found) < 0.2 * distance(noise) + 0.01


def test_ranges_are_those_of_the_training_data(trained) -> None:
    model, images = trained
    name = str(model.graph.inputs[0].name)
    found = distil(model, 16, steps=120, bounds=(0.0, 1.0))
    rewritten = ir.from_proto(ir.to_proto(model))
    run_stages(rewritten, target_opset=20, verify=False)
    real = calibrate(rewritten, [{name: x[None]} for x in images], method="mse")
    made = calibrate(rewritten, found, method="mse")
    assert not any(n.op_type == "BatchNormalization" for n in rewritten.graph)
    for tensor in real.histograms:
        if "Conv" in tensor and "output" not in tensor:
            wanted, has = real.range(tensor), made.range(tensor)
            width = wanted.high - wanted.low
            assert 0.6 < (has.high - has.low) / width < 1.8, tensor


def test_equal_seeds_give_equal_samples(trained) -> None:
    model, _ = trained
    name = str(model.graph.inputs[0].name)
    seen: list[int] = []
    first = distil(model, 3, steps=3, batch=2, on_progress=seen.append)
    again = distil(model, 3, steps=3, batch=2)
    other = distil(model, 3, steps=3, batch=2, seed=1)
    assert seen == [2, 3]
    assert all(np.array_equal(a[name], b[name]) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0][name], other[0][name])


def test_networks_without_statistics_are_refused(hybrid) -> None:
    with pytest.raises(UnsupportedError, match="EC367"):
        distil(hybrid, 2)
