"""Fine-tuning of a small hybrid network, end to end."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch

from edgec.export.errors import InputError
from edgec.export.quantize.calibrate import calibrate
from edgec.export.quantize.finetune.distil import Training, finetune
from edgec.export.quantize.finetune.freedom import Freedom, own_biases
from edgec.export.quantize.graph import constant_of
from edgec.export.quantize.insert import quantize
from edgec.export.quantize.kernels import emulation_options
from edgec.export.quantize.replay.graph import Replay
from edgec.export.quantize.scheme import ORT_X86, ORT_X86_VNNI, TENSORRT, TFLITE_FULL
from edgec.export.quantize.weights import is_pair_safe, per_channel

PER_TENSOR = replace(ORT_X86_VNNI, name="per-tensor", per_channel=False)
SCHEMES = (
    ORT_X86,
    TENSORRT,
    TFLITE_FULL,
    PER_TENSOR,
    ORT_X86_VNNI.with_bits(4, 8),
    ORT_X86_VNNI.with_bits(6, 6),
)
QUICK = Training(iterations=40)
Feeds = list[dict[str, np.ndarray]]


@pytest.fixture(scope="module")
def samples() -> Feeds:
    rng = np.random.default_rng(7)
    return [{"x": rng.standard_normal((1, 3, 16, 16)).astype(np.float32)} for _ in range(112)]


def outputs(model: ir.Model, feeds: Feeds) -> np.ndarray:
    data = ir.to_proto(model).SerializeToString()
    session = ort.InferenceSession(data, emulation_options())
    return np.concatenate([session.run(None, feed)[0] for feed in feeds])


def error(model: ir.Model, other: ir.Model, feeds: Feeds) -> float:
    found = outputs(model, feeds) - outputs(other, feeds)
    # what all classes have in common changes no prediction
    return float(((found - found.mean(axis=-1, keepdims=True)) ** 2).mean())


@pytest.mark.parametrize(
    "scheme",
    [scheme.with_bits(4, 8) for scheme in SCHEMES[:4]],
    ids=lambda s: s.name,
)
def test_closer_to_float_on_samples_never_seen(hybrid, samples, scheme) -> None:
    train, test = samples[:96], samples[96:]
    before = ir.to_proto(hybrid).SerializeToString()
    calibration = calibrate(hybrid, train, method="mse")
    made = finetune(hybrid, hybrid, calibration, scheme, train, options=QUICK)
    assert ir.to_proto(hybrid).SerializeToString() == before
    assert made.kept
    assert made.after is not None
    assert made.after < made.before
    assert made.samples == 96
    graph = quantize(made.model, made.calibration, scheme, learned=made.learned)
    onnx.checker.check_model(ir.to_proto(graph), full_check=True)
    plain = quantize(hybrid, calibration, scheme)
    assert [n.op_type for n in graph.graph] == [n.op_type for n in plain.graph]
    assert error(graph, hybrid, test) < 0.9 * error(plain, hybrid, test)


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda s: s.name)
def test_it_starts_at_what_is_quantized(hybrid, samples, scheme) -> None:
    """The trained network is the exported one: same values before the first step."""
    calibration = calibrate(hybrid, samples[:8])
    floats = own_biases(hybrid, scheme, ())
    quantized = quantize(floats, calibration, scheme)
    freedom = Freedom(floats, quantized, calibration, scheme)
    replay = Replay(freedom.skeleton(quantized))
    assert sum(n.op_type == "Identity" for n in freedom.skeleton(quantized).graph) > 0
    values = freedom.values()
    feed = samples[9]
    with torch.no_grad():
        found = replay({"x": torch.from_numpy(feed["x"])}, intercept=freedom.intercepts(values))
    (y,) = found.values()
    wanted = outputs(quantized, [feed])
    step = np.abs(wanted).max() / 127
    # a value half-way between two integers may fall to either side
    assert np.abs(y.numpy() - wanted).max() < 0.1 * step
    graph, ranges, learned = freedom.result()
    again = quantize(graph, ranges, scheme, learned=learned)
    np.testing.assert_allclose(outputs(again, [feed]), wanted, atol=0.1 * step)


def test_weights_stay_pair_safe_and_ranges_inside_an_absorbed_clip(hybrid, samples) -> None:
    calibration = calibrate(hybrid, samples)
    options = replace(QUICK, iterations=10, step_rate=1.0, factor_rate=0.1)
    floats = own_biases(hybrid, ORT_X86, ())
    quantized = quantize(floats, calibration, ORT_X86)
    freedom = Freedom(floats, quantized, calibration, ORT_X86)
    with torch.no_grad():  # as far as a bad training would go
        generator = torch.Generator().manual_seed(0)
        for group, rate in zip(freedom.parameters(), (options.step_rate, 0.5), strict=True):
            for parameter in group:
                parameter += 20 * rate * torch.randn(parameter.shape, generator=generator)
    model, ranges, learned = freedom.result()
    graph = quantize(model, ranges, ORT_X86, learned=learned)
    checked = 0
    for node in graph.graph:
        if node.op_type == "DequantizeLinear" and node.inputs[0].const_value is not None:
            integers = constant_of(node.inputs[0])
            axis = node.attributes.get_int("axis", None)
            if integers.dtype == np.int8 and integers.ndim > 1 and integers.shape[1] > 1:
                assert is_pair_safe(per_channel(integers, axis))
                checked += 1
    assert checked > 2
    for quantizer in freedom.plan.quantizers:
        if quantizer.bounds is not None and quantizer.range_of in ranges.ranges:
            low, high = quantizer.bounds
            found = ranges.range(quantizer.range_of)
            assert low <= found.low <= found.high <= high


def test_same_seed_same_bytes(hybrid, samples) -> None:
    calibration = calibrate(hybrid, samples)
    found = []
    for _ in range(2):
        options = replace(QUICK, iterations=5)
        made = finetune(hybrid, hybrid, calibration, ORT_X86, samples, options=options)
        graph = quantize(made.model, made.calibration, ORT_X86, learned=made.learned)
        found.append(ir.to_proto(graph).SerializeToString())
    assert found[0] == found[1]


def test_a_batch_may_be_split_for_memory(hybrid, samples) -> None:
    calibration = calibrate(hybrid, samples)
    whole, split = (
        finetune(
            hybrid,
            hybrid,
            calibration,
            ORT_X86_VNNI.with_bits(4, 8),
            samples[:32],
            options=replace(QUICK, iterations=1, memory=memory),
        )
        for memory in (1 << 30, 200_000)
    )
    assert whole.samples == split.samples == 32
    assert whole.after == pytest.approx(split.after, rel=0.05)


@pytest.mark.parametrize("rate", [30.0, float("nan")])
def test_a_training_that_does_harm_is_not_kept(hybrid, samples, rate) -> None:
    calibration = calibrate(hybrid, samples)
    options = replace(QUICK, iterations=4, step_rate=rate)
    made = finetune(hybrid, hybrid, calibration, ORT_X86, samples, options=options)
    assert not made.kept
    assert (made.after is None) == np.isnan(rate)
    assert made.model is hybrid
    assert made.calibration is calibration
    assert made.learned == {}


def test_layers_that_share_a_bias_get_their_own(build, node) -> None:
    rng = np.random.default_rng(0)
    constants = {
        "w": rng.standard_normal((4, 4, 1, 1)).astype(np.float32),
        "v": rng.standard_normal((4, 4, 1, 1)).astype(np.float32),
        "b": np.ones(4, np.float32),
    }
    nodes = [node("Conv", ["x", "w", "b"], ["h"]), node("Conv", ["h", "v", "b"], ["y"])]
    model = build(nodes, {"x": [1, 4, 5, 5]}, {"y": [1, 4, 5, 5]}, constants)
    copy = own_biases(model, TENSORRT, ())
    names = [n.inputs[2].name for n in copy.graph]
    assert len(set(names)) == 2
    feeds = [{"x": rng.standard_normal((1, 4, 5, 5)).astype(np.float32)} for _ in range(8)]
    np.testing.assert_array_equal(outputs(copy, feeds), outputs(model, feeds))
    # and an output that is no class score is compared by its squares
    calibration = calibrate(model, feeds)
    four = TENSORRT.with_bits(4, 8)
    made = finetune(model, model, calibration, four, feeds, options=replace(QUICK, iterations=40))
    assert made.kept


def test_a_softmax_is_seen_through_views(build, node) -> None:
    """Probabilities are compared as such also where an exporter reshapes them behind the Softmax:
    taken for logits, they would all look alike, and there would be nothing to learn from."""
    rng = np.random.default_rng(3)
    constants = {
        "w": 3 * rng.standard_normal((6, 5)).astype(np.float32),
        "rows": np.array([4, 5]),
        "back": np.array([1, 4, 5]),
    }
    head = node("MatMul", ["x", "w"], ["m"])
    direct = build(
        [head, node("Softmax", ["m"], ["y"], axis=-1)],
        {"x": [1, 4, 6]},
        {"y": [1, 4, 5]},
        {"w": constants["w"]},
    )
    viewed = [
        head,
        node("Reshape", ["m", "rows"], ["r"]),
        node("Softmax", ["r"], ["p"], axis=1),
        node("Reshape", ["p", "back"], ["y"]),
    ]
    reshaped = build(viewed, {"x": [1, 4, 6]}, {"y": [1, 4, 5]}, constants)
    logits = build([head], {"x": [1, 4, 6]}, {"m": [1, 4, 5]}, {"w": constants["w"]})
    feeds = [{"x": rng.standard_normal((1, 4, 6)).astype(np.float32)} for _ in range(16)]
    four, once = TENSORRT.with_bits(4, 8), replace(QUICK, iterations=1, squares=0.0)
    found = [
        finetune(model, model, calibrate(model, feeds), four, feeds, options=once).before
        for model in (direct, reshaped, logits)
    ]
    assert found[1] == pytest.approx(found[0], rel=1e-6)
    assert found[1] == pytest.approx(found[2], rel=1e-2)


def test_progress_interruption_and_too_few_samples(hybrid, samples) -> None:
    calibration = calibrate(hybrid, samples[:4])
    seen = []

    def stop(done: int, total: int) -> None:
        seen.append((done, total))
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune(hybrid, hybrid, calibration, ORT_X86, samples[:4], options=QUICK, on_progress=stop)
    assert seen == [(1, 40), (2, 40)]
    with pytest.raises(InputError, match="got 1 sample"):
        finetune(hybrid, hybrid, calibration, ORT_X86, samples[:1])
