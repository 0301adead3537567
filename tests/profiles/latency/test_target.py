"""Which constants a target gets, and what ships."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from edgec.profiles.latency.constants import shipped_fits
from edgec.profiles.latency.features import APART, WORK, matrix
from edgec.profiles.latency.predict import Anchor
from edgec.profiles.latency.target import Anchors, core_of, fit_for, predict_for, transfer
from edgec.profiles.layers import Layer
from edgec.targets import get_target, list_targets


def network(scale: int = 1) -> list[Layer]:
    """Sixteen blocks of depthwise and pointwise convolutions on 14x14."""
    found = []
    for index in range(16):
        n = 196 * 128
        dw = Layer(f"d{index}", "Conv", "depthwise", macs=9 * n, weights=9 * 128, in_elems=n,
                   out_elems=n, kernel=3, stride=1, in_ch=128, out_ch=128, out_hw=196,
                   groups=128)  # fmt: skip
        pw = Layer(f"p{index}", "Conv", "1x1", macs=128 * n * scale, weights=128 * 128,
                   in_elems=n, out_elems=n, kernel=1, stride=1, in_ch=128, out_ch=128,
                   out_hw=196)  # fmt: skip
        found += [dw, pw]
    return found


@pytest.mark.parametrize("fit", shipped_fits(), ids=lambda fit: fit.id)
def test_shipped_constants_are_whole(fit) -> None:
    assert set(fit.features) <= set(WORK)
    # every kind of work is charged somewhere; streaming weights and launches may be free
    free = {"weights", "kernels", "group_kernels", "launch", "far", "functions"}
    free |= {"reductions", "joined", "joins"}
    for name in set(WORK) - free:
        while name not in fit.features:
            assert name in fit.merge or name in APART, name
            name = fit.merge.get(name, APART.get(name))
    for entry in (fit.population, *fit.classes):
        assert entry.mean.shape == (len(fit.features),)
        assert np.linalg.eigvalsh(entry.covariance).min() > 0
        assert entry.boards > 0
    assert len(fit.provenance["data_sha256"]) == 64
    assert fit.provenance["rows"] > 0
    scores = fit.provenance["cross_validation"]["unseen network"]
    assert 75 <= scores["coverage_80"] <= 85
    assert fit.hull.work[0] < fit.hull.work[1]
    if fit.mixture is not None:
        assert all(set(fit.mixture.networks) <= set(known) for known in fit.networks.values())


def test_a_microcontroller_and_a_board() -> None:
    chip = predict_for(network(), "int8", get_target("stm32h743"))
    assert chip.latency_ms is not None
    assert "X-CUBE-AI int8 on Cortex-M7 at 480 MHz" in chip.basis
    assert "tflm and edgec's C were not measured" in chip.basis
    slower = predict_for(network(), "int8", get_target("stm32f746"))
    assert slower.latency_ms == pytest.approx(chip.latency_ms * 480 / 216, rel=1e-6)
    board = predict_for(network(), "fp32", get_target("raspberry-pi-4"))
    assert board.latency_ms is not None
    assert board.latency_ms < chip.latency_ms


@pytest.mark.parametrize("name", ["raspberry-pi-3", "raspberry-pi-4", "raspberry-pi-5", "rk3588"])
@pytest.mark.parametrize("stored", ["fp32", "int8"])
def test_boards_are_predicted_with_one_thread_and_four(name: str, stored: str) -> None:
    large = network() * 6
    one, four = (predict_for(large, stored, get_target(name), threads=n) for n in (1, 4))
    assert one.latency_ms is not None, one.refused
    assert four.latency_ms is not None, four.refused
    assert four.latency_ms < one.latency_ms


def test_more_threads_of_a_targets_core_are_faster() -> None:
    """All fitted networks, on the cores of targets; up to four threads, which are of one kind."""
    cores = {core_of(get_target(name))[0] for name in list_targets()}
    times: dict[tuple[str, str, str], dict[int, float]] = {}
    for fit in shipped_fits():
        for entry in fit.classes if fit.runtime == "ncnn" else ():
            if entry.core in cores and entry.threads in (1, 4):
                for name, work in fit.known(entry.threads).items():
                    by_threads = times.setdefault((fit.precision, entry.core, name), {})
                    by_threads[entry.threads] = float(work @ np.exp(entry.mean))
    both = {key: found for key, found in times.items() if len(found) == 2}
    assert len({core for _, core, _ in both}) >= 4
    slower = [key for key, found in both.items() if found[4] >= found[1]]
    assert not slower


@pytest.mark.parametrize(("stored", "said"), [("fp16", "float16"), ("int8", "8 bits")])
def test_a_phone_is_predicted_by_its_npu(stored: str, said: str) -> None:
    large = network() * 6
    newer = predict_for(large, stored, get_target("snapdragon-8-gen3"), threads=4)
    older = predict_for(large, stored, get_target("snapdragon-8-gen2"))
    for found, npu in ((newer, "v75"), (older, "v73")):
        assert f"TFLite (QNN delegate), {said} on Hexagon HTP {npu}" in found.basis
        assert "litert on the CPU was not measured" in found.basis
    assert newer.latency_ms is not None
    assert older.latency_ms is not None
    assert newer.latency_ms < older.latency_ms
    assert newer.low_ms is not None
    assert newer.low_ms < newer.latency_ms
    assert sum(newer.layer_ms) == pytest.approx(newer.latency_ms)


def test_a_microcontroller_with_an_npu_is_predicted_by_it() -> None:
    chip = get_target("stm32n6")
    found = predict_for(network() * 2, "int8", chip)
    assert found.latency_ms is not None
    assert found.basis.startswith(
        "ST Edge AI Core, 8 bits on Neural-ART; constants of 1 chip with it,"
    )
    assert "tflm and edgec's C on the CPU were not measured" in found.basis
    scaled = replace(network()[0], operator="Mul", kind="elementwise", in_elems=25_088 + 128)
    slower = predict_for([*network() * 2, scaled], "int8", chip)
    assert slower.latency_ms is not None
    # a gate of 128 channels falls to the CPU: as much as several convolutions
    assert slower.latency_ms > 1.02 * found.latency_ms
    assert predict_for(network(), "fp32", chip).refused is not None


def test_an_npu_refuses_attention() -> None:
    norm = Layer("n", "LayerNormalization", "norm", in_elems=50_000, out_elems=50_000)
    found = predict_for([*network(), *[norm] * 8], "int8", get_target("stm32n6"))
    assert found.refused is not None
    assert "normalization work" in found.refused


def test_an_npu_that_was_not_measured_and_a_network_that_is_all_launch() -> None:
    phone = get_target("snapdragon-8-gen3")
    facts = {**phone.facts, "npu": replace(phone.facts["npu"], value="Hexagon HTP v66")}
    found = predict_for(network(), "int8", replace(phone, facts=facts))
    assert (
        found.refused
        == "no Hexagon HTP v66 was measured; there are Hexagon HTP v73, Hexagon HTP v75"
    )
    tiny = predict_for(network()[:2], "int8", phone)
    assert tiny.refused is not None
    assert "of its time would be launch work" in tiny.refused


@pytest.mark.parametrize(
    ("target", "precision", "why"),
    [
        ("jetson", "fp16", "gpu targets"),
        ("coral-edgetpu", "int8", "npu targets"),
        ("stm32h743", "fp32", "fp32 on mcu"),
        ("generic-x86-64", "fp32", "no core"),
        ("nrf5340", "int8", "no Cortex-M33"),
        ("qemu-mps2-an500", "int8", "no core"),
    ],
)
def test_where_nothing_was_measured_there_is_no_number(
    target: str, precision: str, why: str
) -> None:
    found = predict_for(network(), precision, get_target(target))
    assert found.latency_ms is None
    assert found.refused is not None
    assert why in found.refused


def test_threads_that_were_not_measured_name_those_that_were() -> None:
    found = predict_for(network(), "fp32", get_target("raspberry-pi-4"), threads=3)
    assert found.refused is not None
    assert "there are Cortex-A72 (1 thread), Cortex-A72 (2 threads)" in found.refused


def test_no_more_threads_than_cores() -> None:
    """Eight threads of an RK3588 are no prediction for the four cores of a Raspberry Pi 5."""
    large = network() * 6
    assert predict_for(large, "fp32", get_target("rk3588"), threads=8).latency_ms is not None
    refused = predict_for(large, "fp32", get_target("raspberry-pi-5"), threads=8).refused
    assert refused == "raspberry-pi-5 has 4 cores"


def test_anchors_give_a_number_where_the_core_is_unknown() -> None:
    target = get_target("generic-x86-64")
    fit = fit_for(target, "fp32", 2)
    assert fit is not None
    work = [matrix(network(s), fit.features, fit.merge).sum(0)[None] for s in (1, 2, 3)]
    times = [math.exp(2.0) * float((w @ np.exp(fit.population.mean)).sum()) for w in work]
    measured = tuple(
        Anchor(f"n{i}", w, t) for i, (w, t) in enumerate(zip(work, times, strict=True))
    )
    anchors = Anchors(fit, "mine", "onnxruntime", 2, measured)
    found = predict_for(network(2), "fp32", target, anchors=anchors)
    assert found.latency_ms == pytest.approx(times[1], rel=0.1)
    assert "calibrated by 3 measurements on mine, onnxruntime, 2 threads" in found.basis


def test_anchors_of_an_unknown_processor_calibrate_what_ran_on_many() -> None:
    target = get_target("generic-x86-64")
    for threads, expected in ((1, "ncnn-fp32-one"), (4, "ncnn-fp32-several")):
        fit = fit_for(target, "fp32", threads, "onnxruntime")
        assert fit is not None
        assert fit.id == expected
    compiled = fit_for(target, "fp32", 14, "PyTorch 2.4")
    assert compiled is not None
    assert compiled.id == "torch-x86-fp32"


def test_known_networks_are_transferred() -> None:
    fit = fit_for(get_target("raspberry-pi-5"), "fp32", 1)
    assert fit is not None
    assert fit.mixture is not None
    names = fit.mixture.best_anchors(3)
    middle = dict(zip(fit.mixture.networks, fit.mixture.means[0], strict=True))
    anchors = [Anchor(n, fit.known(1)[n][None], math.exp(3 + middle[n])) for n in names]
    found = transfer(Anchors(fit, "mine", "ncnn", 1, tuple(anchors)))
    assert set(found) == set(fit.mixture.networks) - set(names)
    for prediction in found.values():
        assert prediction.low_ms is not None
        assert prediction.latency_ms is not None
        assert prediction.high_ms is not None
        assert prediction.low_ms < prediction.latency_ms < prediction.high_ms
    assert transfer(Anchors(fit, "mine", "ncnn", 1, tuple(anchors[:2]))) == {}


def test_cores_are_read_from_facts() -> None:
    assert core_of(get_target("rk3588")) == ("Cortex-A76", 2400.0)
    assert core_of(get_target("stm32f412")) == ("Cortex-M4", 100.0)
    assert core_of(get_target("generic-c99")) == (None, None)
