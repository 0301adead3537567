"""The search as a whole, on small networks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest

from edgec.export.errors import InputError
from edgec.export.quantize.calibrate import calibrate
from edgec.export.quantize.insert import quantize
from edgec.export.quantize.qhyvit.search import Config, search
from edgec.export.quantize.scheme import ORT_X86, TENSORRT

QUICK = Config(candidates=25, lowest=0.1, rounds=2, samples=4, positions=16, held_out=4, verify=12)


@pytest.mark.parametrize(
    "scheme",
    [ORT_X86, TENSORRT, ORT_X86.with_bits(4, 8), ORT_X86.with_bits(6, 6)],
    ids=lambda s: s.name,
)
def test_result_quantizes_and_is_no_worse(hybrid, feeds, scheme) -> None:
    calibration = calibrate(hybrid, feeds)
    result = search(hybrid, calibration, scheme, feeds, config=QUICK)
    assert result.divergence["result"] <= result.divergence["calibration"]
    assert result.divergence["calibration"] == pytest.approx(result.divergence["minmax"])
    graph = quantize(hybrid, result.calibration, scheme, learned=result.learned)
    assert graph.metadata_props["edgec.quant_scheme"] == scheme.name
    assert all(found.scales.dtype == np.float32 for found in result.learned.values())
    assert [bridge.direction for bridge in result.bridges] == ["to_tokens"]
    for found in result.calibration.ranges.values():
        assert found.low <= 0 <= found.high
        if scheme.symmetric:
            assert found.low == -found.high or found.low == 0  # cut to what Softmax can write


def test_same_inputs_same_result(hybrid, feeds) -> None:
    calibration = calibrate(hybrid, feeds)
    graphs = []
    for _ in range(2):
        result = search(hybrid, calibration, ORT_X86, feeds, config=QUICK)
        graph = quantize(hybrid, result.calibration, ORT_X86, learned=result.learned)
        graphs.append(ir.to_proto(graph).SerializeToString())
    assert graphs[0] == graphs[1]


def outliers(build, node, offset: float = 0.0) -> tuple[ir.Model, list[dict[str, np.ndarray]]]:
    """A convolution whose channel 0 is 200 times the others, and read by weights of zero."""
    rng = np.random.default_rng(0)
    first = rng.standard_normal((8, 3, 1, 1)).astype(np.float32)
    first[0] *= 200
    second = rng.standard_normal((6, 8)).astype(np.float32)
    second[:, 0] = 0
    constants = {
        "w": first,
        "b": np.full(8, offset, np.float32),
        "axes": np.array([2, 3]),
        "v": second,
        "c": np.zeros(6, np.float32),
    }
    nodes = [
        node("Conv", ["x", "w", "b"], ["h"]),
        node("GlobalAveragePool", ["h"], ["g"]),
        node("Flatten", ["g"], ["f"]),
        node("Gemm", ["f", "v", "c"], ["y"], transB=1),
    ]
    del constants["axes"]
    model = build(nodes, {"x": [1, 3, 4, 4]}, {"y": [1, 6]}, constants)
    return model, [{"x": rng.standard_normal((1, 3, 4, 4)).astype(np.float32)} for _ in range(24)]


def test_channels_that_nothing_reads_do_not_set_the_range(build, node) -> None:
    model, feeds = outliers(build, node)
    calibration = calibrate(model, feeds)
    config = replace(QUICK, samples=12, held_out=12, candidates=100, lowest=0.01)
    result = search(model, calibration, ORT_X86, feeds, config=config)
    assert result.calibration.range("h").high < 0.2 * calibration.range("h").high
    assert result.divergence["result"] < 0.1 * result.divergence["calibration"]


def test_all_positive_channels_keep_zero_in_range(build, node) -> None:
    """A zero point of a range without zero would leave the integer grid (paper, section III)."""
    model, feeds = outliers(build, node, offset=5000.0)
    calibration = calibrate(model, feeds)
    assert calibration.extremes("h")[0] > 0
    result = search(model, calibration, ORT_X86, feeds, config=replace(QUICK, held_out=0))
    for found in result.calibration.ranges.values():
        assert found.low <= 0 <= found.high
    graph = quantize(model, result.calibration, ORT_X86, learned=result.learned)
    zero = graph.graph.initializers["h_zero_point"].const_value.numpy()
    assert 0 <= int(zero) <= 255


def test_progress_and_no_samples(hybrid, feeds) -> None:
    calibration = calibrate(hybrid, feeds)
    seen: list[tuple[int, int]] = []
    search(
        hybrid,
        calibration,
        TENSORRT,
        feeds,
        config=replace(QUICK, verify=2),
        on_progress=lambda *p: seen.append(p),
    )
    assert seen[-1][0] == seen[-1][1]
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    with pytest.raises(InputError, match="EC760"):
        search(hybrid, calibration, TENSORRT, [])
