from __future__ import annotations

import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from edgec.export.errors import InputError, UnsupportedError, UsageError
from edgec.export.quantize.calibrate import Calibration, calibrate
from edgec.export.quantize.graph import input_specs
from edgec.export.quantize.ranges import Range
from edgec.export.quantize.stream import activation_names


def all_values(model: ir.Model, feeds) -> dict[str, np.ndarray]:
    """Every activation of every sample, with ONNX Runtime's optimizations off."""
    import onnx

    proto = ir.to_proto(model)
    names = activation_names(model)
    present = {o.name for o in proto.graph.output} | {i.name for i in proto.graph.input}
    proto.graph.output.extend(
        onnx.helper.make_tensor_value_info(n, 1, None) for n in names if n not in present
    )
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(proto.SerializeToString(), options)
    outputs = [o.name for o in session.get_outputs()]
    runs = [dict(zip(outputs, session.run(None, f), strict=True)) | dict(f) for f in feeds]
    return {name: np.stack([run[name] for run in runs]) for name in names}


def test_statistics_equal_those_of_stored_activations(hybrid, feeds):
    steps = []
    calibration = calibrate(hybrid, iter(feeds), on_progress=steps.append)
    expected = all_values(hybrid, feeds)
    assert set(calibration.histograms) == set(expected)
    assert calibration.samples == 8
    assert steps == list(range(1, 9))
    for name, values in expected.items():
        histogram = calibration.histograms[name]
        assert histogram.total == values.size
        np.testing.assert_allclose(
            [histogram.minimum, histogram.maximum],
            [values.min(), values.max()],
            rtol=1e-4,
            atol=1e-5,
        )


def test_fetching_in_groups_gives_the_same_statistics(hybrid, feeds):
    whole = calibrate(hybrid, feeds)
    grouped = calibrate(hybrid, feeds, fetch_bytes=4096)
    assert whole.to_json() == grouped.to_json()


def test_calibration_is_deterministic_and_leaves_the_model_alone(hybrid, feeds):
    before = ir.to_proto(hybrid).SerializeToString(deterministic=True)
    assert calibrate(hybrid, feeds).to_json() == calibrate(hybrid, feeds).to_json()
    assert ir.to_proto(hybrid).SerializeToString(deterministic=True) == before


def test_chosen_tensors_and_fixed_ranges(hybrid, feeds):
    calibration = calibrate(hybrid, feeds, tensors=["r0", "x"])
    assert list(calibration.histograms) == ["x", "r0"]
    assert calibration.range("r0").low == 0.0
    fixed = calibration.with_ranges({"r0": Range(0.0, 2.0)})
    assert fixed.range("r0", symmetric=True) == Range(-2.0, 2.0)
    with pytest.raises(UsageError, match="EC262"):
        calibration.range("p")
    assert calibration.with_method("percentile", 99.0).range("x").high < calibration.range("x").high


def test_a_model_without_types_is_calibrated_after_shape_inference(hybrid, feeds):
    proto = ir.to_proto(hybrid)
    del proto.graph.value_info[:]
    assert set(calibrate(ir.from_proto(proto), feeds).histograms) == set(
        calibrate(hybrid, feeds).histograms
    )


def bad_feeds():
    good = np.zeros((1, 3, 16, 16), np.float32)
    return [
        ([], "EC760"),
        ([{}], "EC761"),
        ([{"x": good, "mask": good}], "EC761"),
        ([{"image": good}], "EC761"),
        ([{"x": good.astype(np.float64)}], "EC761"),
        ([{"x": good.astype(np.uint8)}], "EC761"),
        ([{"x": good[0]}], "EC761"),
        ([{"x": good[:, :1]}], "EC761"),
        ([{"x": good[:, :, :8]}], "EC761"),
        ([{"x": good * np.nan}], "EC762"),
        ([{"x": good}, {"x": good + np.inf}], "EC762"),
    ]


@pytest.mark.parametrize(("samples", "code"), bad_feeds())
def test_bad_samples(hybrid, samples, code):
    with pytest.raises(InputError) as caught:
        calibrate(hybrid, samples)
    assert caught.value.code == code
    if code in ("EC761", "EC762"):
        assert f"sample {len(samples) - 1}" in str(caught.value)


def test_overflow_inside_the_network_names_tensor_and_module(build, node):
    model = build(
        [node("Exp", ["x"], ["e"]), node("Mul", ["e", "e"], ["y"])],
        {"x": [1, 4]},
        {"y": [1, 4]},
        {},
    )
    for n in model.graph:
        n.metadata_props["edgec.module"] = "blocks.3.act"
    with pytest.raises(InputError, match=r"(?s)EC762.*'e'.*blocks\.3\.act"):
        calibrate(model, [{"x": np.full((1, 4), 100, np.float32)}])


def test_unknown_tensors_and_methods(hybrid, feeds):
    with pytest.raises(UsageError, match="EC263"):
        calibrate(hybrid, feeds, tensors=["no such"])
    with pytest.raises(UsageError, match="EC260"):
        calibrate(hybrid, feeds, method="max")  # type: ignore[arg-type]


def test_a_graph_that_does_not_run(build, node):
    model = build(
        [node("Reshape", ["x", "shape"], ["y"])],
        {"x": [1, 4]},
        {"y": ["a", "b"]},
        {"shape": np.array([3, -1])},
    )
    with pytest.raises(InputError, match="EC763"):
        calibrate(model, [{"x": np.zeros((1, 4), np.float32)}])


def test_undeclared_inputs(hybrid):
    hybrid.graph.inputs[0].shape = None
    with pytest.raises(UnsupportedError, match="EC361"):
        input_specs(hybrid)


def test_interrupt_passes_through_and_leaves_no_files(hybrid, feeds, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))

    def interrupted():
        yield feeds[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        calibrate(hybrid, interrupted())
    assert list(tmp_path.iterdir()) == []


def test_python_memory_does_not_grow_with_the_number_of_samples(hybrid, feeds):
    def peak(count: int) -> int:
        tracemalloc.start()
        calibrate(hybrid, (feeds[i % 8] for i in range(count)))
        _, highest = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return highest

    peak(2)  # caches
    assert peak(60) < peak(4) * 1.2 + 200_000


@pytest.mark.slow
def test_process_memory_is_bounded_by_one_sample(tmp_path):
    """Thirty samples of 40 MB of activations each must not cost more than a few of them."""
    script = tmp_path / "peak.py"
    script.write_text(
        """
import resource, sys
import numpy as np, onnx, onnx_ir as ir
from onnx import TensorProto, helper
from edgec.export.quantize.calibrate import calibrate
nodes, last = [], "x"
for i in range(10):
    nodes.append(helper.make_node("Tanh", [last], [f"t{i}"])); last = f"t{i}"
info = helper.make_tensor_value_info
graph = helper.make_graph(nodes, "g", [info("x", 1, [1, 1, 1000, 1000])],
                          [info(last, 1, [1, 1, 1000, 1000])])
model = ir.from_proto(onnx.shape_inference.infer_shapes(
    helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)))
rng = np.random.default_rng(0)
feed = lambda: {"x": rng.standard_normal((1, 1, 1000, 1000)).astype(np.float32)}
calibrate(model, [feed()])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
calibrate(model, (feed() for _ in range(int(sys.argv[1]))))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    )
    source = Path(__file__).parents[3] / ".src"
    env = {**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, str(script), "30"], env=env, capture_output=True, text=True, check=True
    )
    grown_kib = int(result.stdout)
    assert grown_kib < 100 * 1024  # storing them would take 1.2 GB


def test_calibration_without_histograms_is_possible():
    given = Calibration({}, ranges={"t": Range(-1.0, 3.0)})
    assert given.range("t") == Range(-1.0, 3.0)
    assert given.extremes("t") is None
    assert given.to_json()["tensors"] == {"t": {"range": [-1.0, 3.0]}}
