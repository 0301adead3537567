"""Predictions against arithmetic by hand, and when there are none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgec.profiles.latency.constants import Fit
from edgec.profiles.latency.features import idle_factor, layer_work, matrix
from edgec.profiles.latency.predict import (
    Anchor,
    Constants,
    any_board,
    calibrate,
    class_constants,
    predict,
)
from edgec.profiles.layers import Layer


def test_work_of_convolutions_by_what_kernel_runs_them() -> None:
    plain = Layer("x", "Conv", "3x3", kernel=3, stride=1, macs=160, in_ch=16, out_ch=16, out_hw=16)
    assert layer_work(plain)["winograd"] == 160
    # five pixels take two tiles of four
    ragged = replace(plain, out_hw=25)
    assert layer_work(ragged)["winograd"] == pytest.approx(160 * (8 / 5) ** 2)
    assert "conv" in layer_work(replace(plain, stride=2))
    assert "stem" in layer_work(replace(plain, in_ch=3))
    assert "large_stem" in layer_work(replace(plain, in_ch=3, kernel=7, stride=2))
    assert "unpacked" in layer_work(replace(plain, out_ch=18, stride=2))
    assert layer_work(replace(plain, out_ch=18))["unpacked_winograd"] == 160
    grouped = replace(plain, kind="grouped", groups=4, kernel=1)
    work = layer_work(grouped)
    assert work["kernels"] + work["group_kernels"] == 4


def test_what_an_accelerator_tells_apart_belongs_elsewhere_for_others() -> None:
    window = Layer("d", "Conv", "depthwise", macs=100, in_elems=8, out_elems=8, kernel=5)
    gate = Layer("g", "Mul", "elementwise", in_elems=110, out_elems=100)
    turn = Layer("t", "Transpose", "move", in_elems=50, out_elems=50)
    join = Layer("c", "Concat", "move", in_elems=60, out_elems=60, in_ch=12)
    even = replace(join, in_ch=16)
    large = Layer("a", "Add", "elementwise", in_elems=2_000_000, out_elems=1_000_000)
    assert layer_work(replace(gate, functions=7))["functions"] == 7
    names = ("large_depthwise", "gates", "transposed", "unaligned", "far")
    layers = [window, gate, turn, join, even, large]
    apart = matrix(layers, (*names, "memory"), {}) * 1e6
    assert apart.tolist() == [
        [100, 0, 0, 0, 0, 0],
        [0, 210, 0, 0, 0, 0],
        [0, 0, 100, 0, 0, 0],
        [0, 0, 0, 120, 0, 0],
        [0, 0, 0, 0, 0, 120],
        [0, 0, 0, 0, 3_000_000, 3_000_000],
    ]
    together = matrix(layers, ("depthwise", "memory"), {}) * 1e6
    assert together.sum(0).tolist() == pytest.approx([100, 210 + 100 + 120 + 120 + 3_000_000])
    groups = Layer("g", "Conv", "grouped", macs=1, in_ch=32, out_ch=32, kernel=3, groups=4)
    assert matrix([groups], ("kernels",), {}).sum() * 1e6 == pytest.approx(4)
    assert matrix([groups], ("kernels",), {"group_kernels": ""}).sum() * 1e6 == pytest.approx(1)


def test_winograd_saves_half_where_channels_are_not_packed() -> None:
    odd = Layer("x", "Conv", "3x3", kernel=3, stride=1, macs=160, in_ch=16, out_ch=18, out_hw=16)
    features = ("winograd", "conv", "unpacked")
    assert (matrix([odd], features, {"unpacked_winograd": "unpacked"}) * 1e6).tolist() == [
        [0, 0, 80]
    ]
    assert (matrix([odd], features, {}) * 1e6).tolist() == [[160, 0, 0]]
    assert (matrix([odd], features[1:], {"winograd": "conv"}) * 1e6).tolist() == [[160, 0]]


def test_what_a_compiler_leaves_to_libraries_and_what_it_runs_itself() -> None:
    rows = Layer("m", "MatMul", "1x1", macs=160, kernel=1, in_ch=16, out_ch=16, joined=40)
    conv = replace(rows, operator="Conv", joined=0)
    norm = Layer("n", "LayerNormalization", "norm", in_elems=50, out_elems=50)
    join = Layer("c", "Concat", "move", in_elems=60, out_elems=60, in_ch=16)
    layers = [rows, conv, norm, join]
    features = ("gemm", "pointwise", "joined", "joins", "concatenated", "reductions", "kernels")
    assert (matrix(layers, features, {}) * 1e6).tolist() == [
        [160, 0, 40, 1, 0, 0, 1],
        [0, 160, 0, 0, 0, 0, 1],
        [0, 0, 0, 0, 0, 1, 0],
        [0, 0, 0, 0, 120, 0, 1],
    ]
    together = matrix(layers, ("pointwise", "kernels", "memory"), {}).sum(0) * 1e6
    assert together.tolist() == pytest.approx([320, 4, 120])


def test_threads_that_get_no_block_of_channels_are_idle() -> None:
    assert [idle_factor(24, threads) for threads in (0, 1, 2, 3, 4)] == pytest.approx(
        [1, 1, 4 / 3, 1, 4 / 3]
    )
    # five blocks, the last one of two channels, in two rounds
    assert idle_factor(34, 4) == pytest.approx(8 / 5)
    assert idle_factor(8, 64) == idle_factor(8, 8) == 8
    narrow = Layer("x", "Conv", "1x1", macs=160, weights=9, in_elems=50, kernel=1, out_ch=24)
    one, four = layer_work(narrow), layer_work(narrow, 4)
    assert four["pointwise"] == pytest.approx(one["pointwise"] * 4 / 3)
    assert {**four, "pointwise": 0.0} == {**one, "pointwise": 0.0}
    assert matrix([narrow], ("pointwise",), {}, 4).sum() * 1e6 == pytest.approx(160 * 4 / 3)


def test_predictions_and_anchors_count_idle_threads(fit: Fit, layers: list[Layer]) -> None:
    """With three threads, the four blocks of the first layer take two rounds."""
    board = replace(fit.classes[0], threads=3)
    found = predict(fit, class_constants(board, 1000.0), layers, "")
    work = matrix(layers, fit.features, fit.merge, 3)
    assert found.latency_ms == pytest.approx((work @ np.exp(board.mean)).sum())
    assert found.layer_ms[0] > predict(fit, any_board(fit), layers, "").layer_ms[0]
    assert calibrate(fit, any_board(fit, 3), [Anchor("n", work, 9.0)]).threads == 3


def test_work_without_a_constant_is_merged_or_dropped(layers: list[Layer]) -> None:
    work = matrix(layers, ("conv", "memory"), {"pointwise_io": "memory"})
    assert work.shape == (2, 2)
    assert work[0].tolist() == [4.0, 0.0]
    assert work[1, 1] == pytest.approx((18000 + 36000) / 1e6 * 1.0, rel=0.5)


def test_the_launch_of_a_network_is_one_whatever_its_layers(layers: list[Layer]) -> None:
    for count in (1, 3):
        work = matrix(layers * count, ("launch", "kernels"), {})
        assert work[:, 0].sum() == pytest.approx(1e-6)
        assert work[:, 1].sum() == pytest.approx(2e-6 * count)


def test_time_is_the_sum_over_layers_and_goes_with_the_clock(fit: Fit, layers: list[Layer]) -> None:
    slow = class_constants(fit.classes[0], 1000.0)
    fast = class_constants(fit.classes[0], 2000.0)
    found = predict(fit, slow, layers, "by hand")
    expected = (matrix(layers, fit.features, fit.merge) @ np.exp(fit.population.mean)).sum()
    assert found.latency_ms == pytest.approx(expected)
    assert sum(found.layer_ms) == pytest.approx(expected)
    assert predict(fit, fast, layers, "").latency_ms == pytest.approx(expected / 2)
    assert found.low_ms is not None
    assert found.high_ms is not None
    assert found.low_ms < expected < found.high_ms
    assert "80 % interval" in found.line()


def test_the_interval_holds_four_of_five_boards(fit: Fit, layers: list[Layer]) -> None:
    fit = replace(fit, scale=1.2816)
    constants = class_constants(fit.classes[0], 1000.0)
    found = predict(fit, constants, layers, "")
    rng = np.random.default_rng(0)
    work = matrix(layers, fit.features, fit.merge).sum(0)
    boards = rng.multivariate_normal(constants.mean, constants.covariance, 4000)
    noise = rng.normal(0, np.hypot(fit.tau, fit.sigma), 4000)
    times = (np.exp(boards) @ work) * np.exp(noise)
    assert found.low_ms is not None
    assert found.high_ms is not None
    inside = ((times > found.low_ms) & (times < found.high_ms)).mean()
    assert 0.77 < inside < 0.83


def test_a_core_is_found_with_its_threads(fit: Fit) -> None:
    assert fit.core_class("Cortex-A72", 1) is fit.classes[0]
    assert fit.core_class("Cortex-A9", 1) is None
    assert fit.core_class("Cortex-A72", 4) is None


def test_networks_are_known_with_the_nearest_number_of_threads(fit: Fit) -> None:
    several = replace(fit, networks={2: {"n": np.ones(5)}, 8: {"n": np.full(5, 3.0)}})
    assert [several.known(threads)["n"][0] for threads in (2, 4, 7, 64)] == [1, 1, 3, 3]
    assert not fit.known(4)


def test_what_was_not_fitted_is_refused(fit: Fit, layers: list[Layer]) -> None:
    constants = any_board(fit)
    attention = Layer("s", "MatMul", "matmul", macs=20_000_000)
    refused = predict(fit, constants, [*layers, attention], "basis").refused
    assert refused is not None
    assert "matmul work, at most 0 %" in refused
    small = [replace(layer, macs=layer.macs // 50, in_elems=1, out_elems=1) for layer in layers]
    cheap = replace(fit, features=fit.features[:2], hull=replace(fit.hull, share={
        "conv": 1.0, "pointwise": 1.0}), population=replace(
        fit.population, mean=fit.population.mean[:2], covariance=np.eye(2)))  # fmt: skip
    refused = predict(cheap, any_board(cheap), small, "basis").refused
    assert refused is not None
    assert "much smaller" in refused
    found = predict(fit, constants, [], "basis")
    assert found.latency_ms is None
    assert "no prediction" in found.line()


def test_anchors_find_the_speed_of_a_board(fit: Fit, layers: list[Layer]) -> None:
    truth = fit.population.mean + np.log(7.0) + np.array([0.05, -0.05, 0.02, 0.0, 0.0])
    wide = [replace(layer, in_elems=4 * layer.in_elems) for layer in layers]
    networks = [layers, layers[:1], layers[1:], wide]
    works = [matrix(n, fit.features, fit.merge) for n in networks]
    anchors = [
        Anchor(f"n{i}", work, float((work @ np.exp(truth)).sum())) for i, work in enumerate(works)
    ]
    constants = calibrate(fit, any_board(fit), anchors[1:])
    found = predict(fit, constants, layers, "")
    assert found.latency_ms == pytest.approx(anchors[0].latency_ms, rel=0.04)
    before = predict(fit, any_board(fit), layers, "")
    for prediction in (before, found):
        assert prediction.low_ms is not None
        assert prediction.high_ms is not None
    assert found.high_ms / found.low_ms < 2  # type: ignore[operator]
    assert before.high_ms / before.low_ms > 50  # type: ignore[operator]


def test_one_disturbed_measurement_does_not_decide(fit: Fit, layers: list[Layer]) -> None:
    work = matrix(layers, fit.features, fit.merge)
    right = float((work @ np.exp(fit.population.mean)).sum())
    anchors = [Anchor(f"n{i}", work, right) for i in range(4)]
    anchors.append(Anchor("throttled", work, 5 * right))
    constants = calibrate(fit, any_board(fit), anchors)
    latency = predict(fit, constants, layers, "").latency_ms
    assert latency == pytest.approx(right, rel=0.15)


def test_shares_are_those_of_the_board(fit: Fit, layers: list[Layer]) -> None:
    work = matrix(layers, fit.features, fit.merge).sum(0)
    # a board on which moving is so slow that it takes most of the time of what was fitted
    slow = Constants(fit.population.mean + np.array([0, 0, 5.0, 0, 0]), fit.population.covariance)
    wide = replace(fit, hull=replace(fit.hull, work=(-50.0, 50.0)))
    assert predict(wide, slow, layers, "").refused is not None
    known = replace(wide, networks={1: {"like": work}})
    assert predict(known, slow, layers, "").refused is None
