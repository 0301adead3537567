"""Block reconstruction of a small hybrid network, end to end."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch

from edgec.export.errors import InputError
from edgec.export.quantize.calibrate import calibrate
from edgec.export.quantize.insert import quantize
from edgec.export.quantize.kernels import emulation_options
from edgec.export.quantize.rounding.adaround import AdaRound
from edgec.export.quantize.rounding.flexround import FlexRound
from edgec.export.quantize.rounding.pair import GraphPair
from edgec.export.quantize.rounding.reconstruct import Reconstruction, learn_rounding
from edgec.export.quantize.scheme import ORT_ARM, ORT_X86, ORT_X86_VNNI, TENSORRT
from edgec.export.quantize.weights import is_pair_safe, per_channel

FOUR = ORT_X86_VNNI.with_bits(weights=4)
QUICK = Reconstruction(iterations=80, batch=16, max_layers=3)


@pytest.fixture(scope="module")
def samples() -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(7)
    return [{"x": rng.standard_normal((1, 3, 16, 16)).astype(np.float32)} for _ in range(64)]


def outputs(model: ir.Model, feeds) -> np.ndarray:
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), emulation_options())
    return np.concatenate([session.run(None, feed)[0] for feed in feeds])


def error(model: ir.Model, other: ir.Model, feeds) -> float:
    return float(((outputs(model, feeds) - outputs(other, feeds)) ** 2).mean())


@pytest.mark.parametrize(
    ("method", "options"),
    [
        (AdaRound(), QUICK),
        (FlexRound(), QUICK),
        (AdaRound(), replace(QUICK, window=2)),
        (AdaRound(), replace(QUICK, drop=0.5)),
        (AdaRound(), replace(QUICK, fisher=False)),
    ],
    ids=["adaround", "flexround", "windows", "qdrop", "squares"],
)
def test_four_bit_weights_on_samples_never_seen(hybrid, samples, method, options):
    train, test = samples[:48], samples[48:]
    calibration = calibrate(hybrid, train)
    result = learn_rounding(hybrid, calibration, FOUR, train, method=method, options=options)
    assert result.samples == 48
    assert all(block.learned < block.nearest for block in result.blocks if block.kept)
    assert any(block.kept and block.moved > 0 for block in result.blocks)
    nearest = quantize(hybrid, calibration, FOUR)
    learned = quantize(hybrid, calibration, FOUR, learned=result.learned)
    assert error(hybrid, learned, test) < 0.7 * error(hybrid, nearest, test)


PER_TENSOR = replace(ORT_X86, name="per-tensor", per_channel=False)


@pytest.mark.parametrize("scheme", [ORT_X86, ORT_ARM, TENSORRT, PER_TENSOR], ids=lambda s: s.name)
@pytest.mark.parametrize("method", [AdaRound(), FlexRound()], ids=lambda m: m.name)
def test_every_scheme_takes_what_was_learned(hybrid, samples, scheme, method):
    calibration = calibrate(hybrid, samples[:16])
    result = learn_rounding(
        hybrid,
        calibration,
        scheme,
        samples[:16],
        method=method,
        options=replace(QUICK, iterations=15),
    )
    model = quantize(hybrid, calibration, scheme, learned=result.learned)
    nearest = quantize(hybrid, calibration, scheme)
    assert error(hybrid, model, samples[16:]) < 2 * error(hybrid, nearest, samples[16:])
    if scheme.pair_safe:
        for (_, axis), weight in result.learned.items():
            if weight.integers is not None and weight.integers.shape[1] > 1:
                assert is_pair_safe(per_channel(weight.integers, axis))


def test_equal_seeds_give_equal_integers_and_the_callers_state_is_left_alone(hybrid, samples):
    calibration = calibrate(hybrid, samples[:16])
    state = torch.get_rng_state()

    def learned(seed: int) -> bytes:
        options = replace(QUICK, iterations=20, seed=seed, drop=0.5)
        result = learn_rounding(hybrid, calibration, FOUR, samples[:16], options=options)
        return b"".join(w.integers.tobytes() for w in result.learned.values())

    assert learned(0) == learned(0)
    assert learned(0) != learned(1)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_quantized_part_is_the_quantized_graph(hybrid, samples):
    calibration = calibrate(hybrid, samples[:8])
    pair = GraphPair(hybrid, calibration, FOUR)
    part = pair.quantized_part(["x"], ["y"])
    feeds = {"x": torch.from_numpy(np.stack([s["x"] for s in samples[:8]]))}
    weights = {key: target.nearest() for key, target in pair.targets.items()}
    expected = outputs(quantize(hybrid, calibration, FOUR), samples[:8])
    reference = outputs(hybrid, samples[:8])
    for replaced in ({}, weights):
        found = part(feeds, replaced)["y"].numpy()[:, 0]
        assert ((found - expected) ** 2).mean() < 0.02 * ((reference - expected) ** 2).mean()


def test_dropping_everything_leaves_activations_unrounded(hybrid, samples):
    calibration = calibrate(hybrid, samples[:8])
    pair = GraphPair(hybrid, calibration, FOUR.with_bits(8, 6))
    feeds = {"x": torch.from_numpy(np.stack([s["x"] for s in samples[:8]]))}
    floats = {key: torch.tensor(target.weight) for key, target in pair.targets.items()}
    found = pair.quantized_part(["x"], ["y"])(feeds, floats, drop=1.1)["y"].numpy()[:, 0]
    np.testing.assert_allclose(found, outputs(hybrid, samples[:8]), rtol=1e-3, atol=2e-3)


def test_memory_bounds_the_samples(hybrid, samples):
    calibration = calibrate(hybrid, samples[:8])
    options = replace(QUICK, iterations=1, memory=200_000)
    result = learn_rounding(hybrid, calibration, FOUR, samples, options=options)
    assert 2 <= result.samples < 32


def test_progress_counts_the_blocks(hybrid, samples):
    seen = []
    learn_rounding(
        hybrid,
        calibrate(hybrid, samples[:8]),
        FOUR,
        samples[:8],
        options=replace(QUICK, iterations=1),
        on_progress=lambda done, count, block: seen.append((done, count, block.name)),
    )
    assert [done for done, _, _ in seen] == list(range(1, seen[-1][1] + 1))


def test_one_sample_is_too_few_and_wrong_ones_are_named(hybrid, samples):
    with pytest.raises(InputError, match=r"EC760.*got 1 sample"):
        learn_rounding(hybrid, calibrate(hybrid, samples[:4]), FOUR, samples[:1])
    with pytest.raises(InputError, match="EC761"):
        learn_rounding(hybrid, calibrate(hybrid, samples[:4]), FOUR, [{"z": samples[0]["x"]}] * 2)
