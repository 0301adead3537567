"""Sensitivities against an explicit Hessian, a closed form, and what quantization really does."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgec.export.errors import InputError
from edgec.export.quantize.calibrate import calibrate
from edgec.export.quantize.graph import prepared_copy
from edgec.export.quantize.plan import plan_quantization
from edgec.export.quantize.replay.graph import Replay
from edgec.export.quantize.rounding.blocks import find_blocks
from edgec.export.quantize.scheme import ORT_X86_VNNI
from edgec.export.quantize.sensitivity.hawq import hawq_sensitivity, hessian_traces
from edgec.export.quantize.sensitivity.measured import damage, measured_sensitivity


@pytest.fixture
def tiny(build, node):
    """Conv, SiLU, mean, Gemm on 2×4×4: 36 + 18 weights."""
    rng = np.random.default_rng(0)

    def weight(*shape: int) -> np.ndarray:
        return (0.7 * rng.standard_normal(shape)).astype(np.float32)

    return build(
        [
            node("Conv", ["x", "w1"], ["c"]),
            node("Sigmoid", ["c"], ["s"]),
            node("Mul", ["c", "s"], ["m"]),
            node("ReduceMean", ["m"], ["g"], axes=[2, 3], keepdims=0),
            node("Gemm", ["g", "w2", "b"], ["y"], transB=1),
        ],
        {"x": [1, 2, 4, 4]},
        {"y": [1, 6]},
        {"w1": weight(3, 2, 3, 2), "w2": weight(6, 3), "b": weight(6)},
    )


@pytest.fixture
def images() -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(1)
    return [{"x": 2 * rng.standard_normal((1, 2, 4, 4)).astype(np.float32)} for _ in range(3)]


def explicit_hessian(model, images, name: str) -> torch.Tensor:
    """All second derivatives of the mean cross-entropy to the float prediction."""
    replay = Replay(prepared_copy(model))
    start = replay.weights[name].detach().clone()
    total = torch.zeros(start.numel(), start.numel())
    for image in images:
        feed = {"x": torch.tensor(image["x"])}
        goal = replay(feed)["y"].detach().softmax(-1)

        def loss(flat, feed=feed, goal=goal):
            weight = flat.reshape(start.shape)
            logits = replay(feed, intercept={name: lambda _: weight})["y"]
            return -(goal * logits.log_softmax(-1)).sum()

        total += torch.autograd.functional.hessian(loss, start.reshape(-1))
    return total / len(images)


def test_traces_are_those_of_the_explicit_hessian(tiny, images):
    found = hessian_traces(tiny, images, ["w1", "w2"], draws=400)
    for name, trace in found.items():
        hessian = explicit_hessian(tiny, images, name)
        assert torch.linalg.eigvalsh(hessian).min() > -1e-5
        exact = float(hessian.trace())
        assert trace.size == len(hessian)
        assert trace.mean == pytest.approx(exact / len(hessian), rel=0.1)
        assert abs(trace.trace - exact) < 4 * trace.error


def test_second_order_estimate_is_the_loss_of_a_small_change(tiny, images):
    """With random ΔW the mean of ΔWᵀHΔW is Tr(H)·‖ΔW‖²/n."""
    hessian = explicit_hessian(tiny, images, "w2")
    rng = np.random.default_rng(2)
    steps = torch.tensor(rng.standard_normal((4000, len(hessian))), dtype=torch.float32)
    quadratic = torch.einsum("bi,ij,bj->b", steps, hessian, steps) / (steps**2).sum(1)
    trace = hessian_traces(tiny, images, ["w2"], draws=400)["w2"]
    assert trace.mean == pytest.approx(float(quadratic.mean()), rel=0.1)


def test_hawq_multiplies_trace_and_distance(tiny, images):
    plan = plan_quantization(tiny, ORT_X86_VNNI)
    blocks = find_blocks(tiny, plan, max_layers=1)
    traces = hessian_traces(tiny, images, ["w1", "w2"], draws=4)
    four, eight = (
        hawq_sensitivity(tiny, ORT_X86_VNNI, blocks, traces, bits=bits) for bits in (4, 8)
    )
    assert set(four) == {"node_c", "node_y"}
    weight = tiny.graph.initializers["w2"].const_value.numpy()
    scale = np.abs(weight).max(axis=1, keepdims=True) / 7
    distance = ((np.rint(weight / scale) * scale - weight) ** 2).sum()
    assert four["node_y"] == pytest.approx(traces["w2"].mean * distance, rel=1e-4)
    for name in four:
        # 127/7 times finer
        assert four[name] / eight[name] == pytest.approx(329, rel=0.9)


def test_unknown_tensors_and_no_samples(tiny, images):
    with pytest.raises(KeyError):
        hessian_traces(tiny, images, ["w3"])
    with pytest.raises(InputError, match="EC760"):
        hessian_traces(tiny, [], ["w1"])


def test_damage_in_closed_form():
    a = np.log(np.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]))
    b = np.log(np.array([[0.25, 0.5, 0.25], [0.1, 0.1, 0.8]]))
    found = damage([a], [b])
    assert found.divergence == pytest.approx(0.5 * 0.25 * np.log(2))
    assert found.agreement == 0.5
    noise = 2 * np.log(2) ** 2
    assert found.sqnr == pytest.approx(10 * np.log10((a**2).sum() / noise))
    same = damage([a], [a.copy()])
    assert (same.divergence, same.sqnr, same.agreement) == (0.0, float("inf"), 1.0)


def test_measured_finds_the_block_that_was_spoiled(hybrid, feeds):
    """A range cut to a fiftieth in one block makes it the worst."""
    copy = prepared_copy(hybrid)
    blocks = find_blocks(copy, plan_quantization(copy, ORT_X86_VNNI), max_layers=2)
    calibration = calibrate(hybrid, feeds)
    spoiled = calibration.range("m1")
    calibration = calibration.with_ranges(
        {"m1": type(spoiled)(spoiled.low / 50, spoiled.high / 50)}
    )
    found = measured_sensitivity(hybrid, calibration, ORT_X86_VNNI, blocks, feeds)
    worst = max(found, key=lambda name: found[name].divergence)
    assert len(found) == len(blocks)
    assert "node_c2" in next(b for b in blocks if b.name == worst).nodes
    others = [d for name, d in found.items() if name != worst]
    assert found[worst].sqnr < min(d.sqnr for d in others) - 10


def test_measured_is_about_the_block_alone(hybrid, feeds):
    copy = prepared_copy(hybrid)
    blocks = find_blocks(copy, plan_quantization(copy, ORT_X86_VNNI), max_layers=2)
    calibration = calibrate(hybrid, feeds)
    fine = measured_sensitivity(hybrid, calibration, ORT_X86_VNNI, blocks, feeds)
    coarse = measured_sensitivity(
        hybrid, calibration, ORT_X86_VNNI.with_bits(weights=4), blocks, feeds
    )
    for name, found in fine.items():
        assert found.sqnr > coarse[name].sqnr + 3
