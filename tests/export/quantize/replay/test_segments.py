"""Parts of a graph, batches of samples, and Q/DQ graphs in torch."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch

from edgec.export.quantize.calibrate import calibrate
from edgec.export.quantize.insert import quantize
from edgec.export.quantize.kernels import emulation_options
from edgec.export.quantize.replay.graph import Replay
from edgec.export.quantize.scheme import SCHEMES

ALL = [*SCHEMES.values(), *(s.with_bits(4, 6) for s in SCHEMES.values())]


def onnxruntime(model: ir.Model, feeds) -> np.ndarray:
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), emulation_options())
    return np.concatenate([session.run(None, feed)[0] for feed in feeds])


def stacked(feeds) -> dict[str, torch.Tensor]:
    return {"x": torch.from_numpy(np.stack([feed["x"] for feed in feeds]))}


def test_two_parts_are_the_whole(hybrid, feeds):
    replay = Replay(hybrid)
    x = {"x": torch.from_numpy(feeds[0]["x"])}
    first, second = replay.between(["x"], ["a2"]), replay.between(["a2"], ["y"])
    assert {step.name for step in first.steps}.isdisjoint(step.name for step in second.steps)
    assert len(first.steps) + len(second.steps) == len(replay.steps)
    torch.testing.assert_close(second(first(x))["y"], replay(x)["y"], rtol=0, atol=0)


def test_a_part_with_two_inputs_and_two_outputs(hybrid, feeds):
    replay = Replay(hybrid)
    found = replay({"x": torch.from_numpy(feeds[0]["x"])}, watch=["t1", "l1", "av", "qs", "a3"])
    part = replay.between(["t1", "l1"], ["a3", "qs"])
    result = part({"t1": found["t1"], "l1": found["l1"]})
    assert list(result) == ["a3", "qs"]
    for name, value in result.items():
        torch.testing.assert_close(value, found[name], rtol=0, atol=0)
    assert "l0" not in part.produced
    assert "av" in part.produced


def test_what_cannot_be_computed_is_named(hybrid):
    with pytest.raises(KeyError, match="x"):
        Replay(hybrid).between(["l1"], ["a3"])
    with pytest.raises(KeyError, match="nothing"):
        Replay(hybrid).between(["x"], ["nothing"])


def test_batches_are_the_samples(hybrid, feeds):
    part = Replay(hybrid).between(["x"], ["y", "a2"])
    together = part.batched(stacked(feeds))
    for i, feed in enumerate(feeds):
        alone = part({"x": torch.from_numpy(feed["x"])})
        for name, value in alone.items():
            torch.testing.assert_close(together[name][i], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scheme", ALL, ids=lambda s: s.name)
def test_quantized_graphs_compute_what_onnxruntime_does(hybrid, feeds, scheme):
    quantized = quantize(hybrid, calibrate(hybrid, feeds), scheme)
    part = Replay(quantized).between(["x"], ["y"])
    found = part.batched(stacked(feeds))["y"].numpy()[:, 0]
    expected = onnxruntime(quantized, feeds)
    # sums in another order may fall on the other side of a rounding
    noise = ((onnxruntime(hybrid, feeds) - expected) ** 2).sum()
    assert ((found - expected) ** 2).sum() < 0.02 * noise


def test_gradients_pass_the_rounding_and_stop_at_saturation():
    from edgec.export.quantize.replay.integers import dequantize_linear, quantize_linear
    from edgec.export.quantize.replay.table import Attributes

    attributes = Attributes({"axis": 0}, 20, 1)
    x = torch.tensor([-40.0, -1.26, 0.0, 0.74, 90.0], requires_grad=True)
    scale, zero = torch.tensor(0.5), torch.tensor(3, dtype=torch.int8)
    q = quantize_linear(attributes, x, scale, zero)
    assert q.tolist() == [-77, 0, 3, 4, 127]
    y = dequantize_linear(attributes, q, scale, zero)
    assert y.tolist() == [-40.0, -1.5, 0.0, 0.5, 62.0]
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [1, 1, 1, 1, 0]


def test_intercepted_noise_differs_per_sample(hybrid, feeds):
    part = Replay(hybrid).between(["x"], ["y"])
    same = {"x": torch.from_numpy(np.stack([feeds[0]["x"]] * 3))}
    noisy = part.batched(same, intercept={"a2": lambda v: v + torch.rand_like(v)})["y"]
    assert not torch.equal(noisy[0], noisy[1])
