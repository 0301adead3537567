"""Channel links, and the exactness of every transform that uses them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from edgec.export.quantize.equivalent.absorb import absorb_high_biases
from edgec.export.quantize.equivalent.channelwise import channelwise
from edgec.export.quantize.equivalent.equalize import equalize, input_peaks, output_peaks
from edgec.export.quantize.equivalent.links import find_links, rescale
from edgec.export.quantize.equivalent.repq import reparameterize_norms
from edgec.export.quantize.equivalent.smoothquant import smooth
from edgec.export.quantize.equivalent.statistics import channel_statistics
from edgec.export.quantize.graph import prepared_copy
from edgec.export.quantize.scheme import ORT_X86, TENSORRT

Network = tuple[ir.Model, list[dict[str, np.ndarray]]]


def run(model: ir.Model, feed: dict[str, np.ndarray]) -> np.ndarray:
    """All outputs, one behind the other."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = ort.InferenceSession(
        ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return np.concatenate([output.ravel() for output in session.run(None, feed)])


def same(before: ir.Model, after: ir.Model, feeds: list[dict[str, np.ndarray]]) -> bool:
    wanted = [run(before, feed) for feed in feeds]
    found = [run(after, feed) for feed in feeds]
    tolerance = 2e-5 * max(np.abs(w).max() for w in wanted)
    return all(np.abs(w - f).max() <= tolerance for w, f in zip(wanted, found, strict=True))


@pytest.fixture(params=["Relu", "LeakyRelu", "PRelu", "MaxPool", "AveragePool", "Identity"])
def between(request) -> str:
    return request.param


@pytest.fixture
def network(build, node) -> Callable[[str, int], Network]:
    """make(operator, seed): conv, operator, depthwise conv, ReLU, conv, tokens, norm, two linears.

    The channels that the depthwise convolution and the linear layers read differ in range by
    orders of magnitude.
    """

    def make(op_type: str, seed: int = 0) -> Network:
        rng = np.random.default_rng(seed)

        def normal(*shape: int) -> np.ndarray:
            return rng.standard_normal(shape).astype(np.float32)

        spread = np.exp(rng.uniform(-3, 1, 8)).astype(np.float32)
        constants = {
            "w0": normal(8, 3, 3, 3) * spread[:, None, None, None],
            "b0": normal(8) * spread,
            "slope": np.abs(normal(8, 1, 1)) * 0.1,
            "w1": normal(8, 1, 3, 3) / spread[:, None, None, None],
            "b1": normal(8),
            "w2": normal(12, 4, 1, 1),
            "b2": normal(12),
            "tokens": np.array([1, 12, -1]),
            "gain": np.exp(rng.uniform(-2, 2, 12)).astype(np.float32),
            "offset": 3 * normal(12),
            "wq": normal(12, 5),
            "bq": normal(5),
            "wk": normal(12, 5),
        }
        attributes = {
            "LeakyRelu": {"alpha": 0.2},
            "MaxPool": {"kernel_shape": [2, 2]},
            "AveragePool": {"kernel_shape": [2, 2]},
        }.get(op_type, {})
        inputs = ["c0", "slope"] if op_type == "PRelu" else ["c0"]
        if op_type != "PRelu":
            del constants["slope"]
        nodes = [
            node("Conv", ["x", "w0", "b0"], ["c0"], pads=[1, 1, 1, 1]),
            node(op_type, inputs, ["a0"], **attributes),
            node("Conv", ["a0", "w1", "b1"], ["c1"], group=8, pads=[1, 1, 1, 1]),
            node("Relu", ["c1"], ["a1"]),
            node("Conv", ["a1", "w2", "b2"], ["c2"], group=2),
            node("Reshape", ["c2", "tokens"], ["r2"]),
            node("Transpose", ["r2"], ["t2"], perm=[0, 2, 1]),
            node("LayerNormalization", ["t2", "gain", "offset"], ["n"], axis=-1),
            node("MatMul", ["n", "wq"], ["q0"]),
            node("Add", ["q0", "bq"], ["q"]),
            node("MatMul", ["n", "wk"], ["k"]),
            node("Sub", ["q", "k"], ["y"]),
        ]
        size = 5 if op_type.endswith("Pool") else 6
        positions = size * size
        model = build(nodes, {"x": [1, 3, 6, 6]}, {"y": [1, positions, 5]}, constants)
        return model, [{"x": normal(1, 3, 6, 6)} for _ in range(4)]

    return make


@pytest.mark.parametrize("seed", range(3))
def test_random_factors_change_nothing(network, between: str, seed: int) -> None:
    model, feeds = network(between, seed)
    copy = prepared_copy(model)
    links, _ = find_links(copy)
    assert [link.producer.op_type for link in links] == ["Conv", "Conv", "LayerNormalization"]
    rng = np.random.default_rng(seed)
    for link in links:
        rescale(link, np.exp(rng.uniform(-2, 2, link.channels)))
    assert same(model, copy, feeds)
    values = channel_statistics(copy, feeds, {"a0": 1})["a0"].peak
    assert not np.allclose(values, channel_statistics(model, feeds, {"a0": 1})["a0"].peak)


def test_shifts_pass_views_and_biased_readers_only(build, node) -> None:
    rng = np.random.default_rng(0)
    constants = {n: rng.standard_normal(s).astype(np.float32) for n, s in
                 {"g": 4, "o": 4, "w": (4, 3), "b": 3}.items()}  # fmt: skip
    nodes = [
        node("LayerNormalization", ["x", "g", "o"], ["n"], axis=-1),
        node("MatMul", ["n", "w"], ["m"]),
        node("Add", ["m", "b"], ["y"]),
    ]
    model = build(nodes, {"x": [2, 5, 4]}, {"y": [2, 5, 3]}, constants)
    copy = prepared_copy(model)
    (link,), _ = find_links(copy)
    assert link.shift_obstacle() == ""
    rescale(link, np.array([0.5, 2, 3, 1]), np.array([1.0, -2, 0, 4]))
    assert same(model, copy, [{"x": rng.standard_normal((2, 5, 4)).astype(np.float32)}])


def test_shift_is_refused_where_it_is_not_exact(network) -> None:
    links, _ = find_links(prepared_copy(network("Relu", 0)[0]))
    assert "Relu" in links[0].shift_obstacle()
    assert "has no bias" in links[2].shift_obstacle()
    with pytest.raises(ValueError, match="shift"):
        rescale(links[0], np.ones(8), np.ones(8))
    links, _ = find_links(prepared_copy(network("Identity", 0)[0]))
    assert "pads with zeros" in links[0].shift_obstacle()


@pytest.mark.parametrize(
    ("tail", "reason"),
    [
        ([("Sigmoid", ["c"], "s"), ("Mul", ["c", "s"], "a"), ("Conv", ["a", "v"], "y")], "Sigmoid"),
        ([("HardSwish", ["c"], "a"), ("Conv", ["a", "v"], "y")], "HardSwish"),
        ([("Clip", ["c", "zero", "six"], "a"), ("Conv", ["a", "v"], "y")], "Clip"),
        ([("Conv", ["c", "v"], "d"), ("Add", ["c", "d"], "y")], "Add"),
        ([("Softmax", ["c"], "a"), ("Conv", ["a", "v"], "y")], "Softmax"),
        ([("Relu", ["c"], "y")], "output"),
    ],
)
def test_refusals_say_why(build, node, tail, reason: str) -> None:
    constants = {
        "w": np.ones((4, 3, 1, 1), np.float32),
        "v": np.ones((4, 4, 1, 1), np.float32),
        "zero": np.float32(0),
        "six": np.float32(6),
    }
    nodes = [node("Conv", ["x", "w"], ["c"])]
    nodes += [node(op, inputs, [output]) for op, inputs, output in tail]
    used = {name for n in nodes for name in n.input}
    kept = {k: v for k, v in constants.items() if k in used}
    model = build(nodes, {"x": [1, 3, 4, 4]}, {"y": [1, 4, 4, 4]}, kept, opset=17)
    links, refused = find_links(model)
    assert all(str(link.producer.name) != "node_c" for link in links)
    assert reason in next(r.reason for r in refused if r.producer == "node_c")


def test_a_reshape_that_splits_channels_is_refused(build, node) -> None:
    constants = {"w": np.ones((4, 4), np.float32), "s": np.array([2, 2, 2]),
                 "v": np.ones((2, 3), np.float32)}  # fmt: skip
    nodes = [
        node("MatMul", ["x", "w"], ["m"]),
        node("Reshape", ["m", "s"], ["r"]),
        node("MatMul", ["r", "v"], ["y"]),
    ]
    links, refused = find_links(build(nodes, {"x": [2, 4]}, {"y": [2, 2, 3]}, constants))
    assert links == []
    assert "takes the channels apart" in refused[0].reason


def test_equalize_makes_both_ends_equal(network, between: str) -> None:
    """The paper's condition after convergence: r1 = r2 for every channel."""
    model, feeds = network(between, 1)
    result = equalize(model)
    assert same(model, result.model, feeds)
    links, _ = find_links(result.model)
    for link in links[:2]:
        np.testing.assert_allclose(output_peaks(link), input_peaks(link), rtol=5e-3)
    assert len(result.changes) == 2


def test_channelwise_gives_all_channels_one_range(network, between: str) -> None:
    model, feeds = network(between, 2)
    result = channelwise(model, feeds)
    assert same(model, result.model, feeds)
    peaks = channel_statistics(result.model, feeds, {"a0": 1})["a0"].peak
    assert peaks.max() / peaks.min() < 1.01
    assert [len(result.changes), result.changes[0].factors[1]] == [1, 1.0]
    assert any("mixes channels" in r.reason for r in result.refused)


def test_repq_makes_one_range_fit(build, node) -> None:
    rng = np.random.default_rng(5)
    constants = {
        "g": np.exp(rng.uniform(-2, 2, 8)).astype(np.float32),
        "o": (4 * rng.standard_normal(8)).astype(np.float32),
        "w": rng.standard_normal((8, 6)).astype(np.float32),
        "b": rng.standard_normal(6).astype(np.float32),
    }
    nodes = [
        node("LayerNormalization", ["x", "g", "o"], ["n"], axis=-1),
        node("MatMul", ["n", "w"], ["m"]),
        node("Add", ["b", "m"], ["y"]),
    ]
    model = build(nodes, {"x": [1, 64, 8]}, {"y": [1, 64, 6]}, constants)
    feeds = [{"x": rng.standard_normal((1, 64, 8)).astype(np.float32)} for _ in range(3)]
    result = reparameterize_norms(model, feeds)
    assert same(model, result.model, feeds)
    seen = channel_statistics(result.model, feeds, {"n": 2})["n"]
    np.testing.assert_allclose(seen.high, -seen.low, rtol=1e-3)
    np.testing.assert_allclose(seen.high, seen.high[0], rtol=1e-3)
    assert result.changes[0].note == "centred"


def test_repq_without_a_bias_scales_only(network) -> None:
    model, feeds = network("Relu", 3)
    result = reparameterize_norms(model, feeds)
    assert same(model, result.model, feeds)
    assert result.changes[0].note.startswith("no shift")
    peaks = channel_statistics(result.model, feeds, {"n": 2})["n"].peak
    assert peaks.max() / peaks.min() < 1.01


@pytest.mark.parametrize("scheme", [ORT_X86, TENSORRT], ids=lambda s: s.name)
def test_smooth_is_exact_and_lowers_the_error(network, between: str, scheme) -> None:
    model, feeds = network(between, 4)
    result = smooth(model, feeds, scheme)
    assert same(model, result.model, feeds)
    assert result.changes
    assert all("alpha" in change.note and "error −" in change.note for change in result.changes)


def test_high_biases_are_absorbed_where_relu_stays_open(build, node) -> None:
    rng = np.random.default_rng(6)
    bias = np.array([20, 0, 15, -1], np.float32)
    constants = {
        "w": rng.standard_normal((4, 3, 1, 1)).astype(np.float32),
        "b": bias,
        "v": rng.standard_normal((5, 4, 1, 1)).astype(np.float32),
    }
    nodes = [
        node("Conv", ["x", "w", "b"], ["c"]),
        node("Relu", ["c"], ["a"]),
        node("Conv", ["a", "v"], ["y"]),
    ]
    model = build(nodes, {"x": [1, 3, 8, 8]}, {"y": [1, 5, 8, 8]}, constants)
    feeds = [{"x": rng.standard_normal((1, 3, 8, 8)).astype(np.float32)} for _ in range(4)]
    result = absorb_high_biases(model, feeds)
    assert same(model, result.model, feeds)
    assert result.changes[0].note == "2 channels lowered"
    before = channel_statistics(model, feeds, {"a": 1})["a"].high
    after = channel_statistics(result.model, feeds, {"a": 1})["a"].high
    assert (after[[0, 2]] < before[[0, 2]] - 5).all()
    np.testing.assert_allclose(after[[1, 3]], before[[1, 3]], rtol=1e-6)


def test_transforms_do_not_touch_the_given_graph(network) -> None:
    model, feeds = network("Relu", 0)
    before = ir.to_proto(model).SerializeToString()
    equalize(model)
    channelwise(model, feeds)
    smooth(model, feeds, ORT_X86)
    assert ir.to_proto(model).SerializeToString() == before
    first = ir.to_proto(equalize(model).model).SerializeToString()
    assert first == ir.to_proto(equalize(model).model).SerializeToString()


def test_padding_by_name_stands_in_the_way_of_a_lower_bias(build, node) -> None:
    rng = np.random.default_rng(7)
    constants = {
        "w": rng.standard_normal((4, 3, 1, 1)).astype(np.float32),
        "b": np.full(4, 20, np.float32),
        "v": rng.standard_normal((5, 4, 3, 3)).astype(np.float32),
    }
    nodes = [
        node("Conv", ["x", "w", "b"], ["c"]),
        node("Relu", ["c"], ["a"]),
        node("Conv", ["a", "v"], ["y"], auto_pad="SAME_UPPER"),
    ]
    model = build(nodes, {"x": [1, 3, 8, 8]}, {"y": [1, 5, 8, 8]}, constants)
    feeds = [{"x": rng.standard_normal((1, 3, 8, 8)).astype(np.float32)} for _ in range(2)]
    result = absorb_high_biases(model, feeds)
    assert same(model, result.model, feeds)
    assert [r.reason for r in result.refused if r.producer == "node_c"] == [
        "node_y pads with zeros"
    ]


def test_a_reader_that_transposes_its_input_mixes_other_axes(build, node) -> None:
    rng = np.random.default_rng(8)
    constants = {
        "w": np.exp(rng.uniform(-3, 3, (3, 4))).astype(np.float32),
        "v": rng.standard_normal((4, 5)).astype(np.float32),
    }
    nodes = [node("Gemm", ["x", "w"], ["h"]), node("Gemm", ["h", "v"], ["y"], transA=1)]
    model = build(nodes, {"x": [4, 3]}, {"y": [4, 5]}, constants)
    feeds = [{"x": rng.standard_normal((4, 3)).astype(np.float32)}]
    result = equalize(model)
    assert same(model, result.model, feeds)
    assert not result.changes


def test_readers_of_one_link_may_have_their_channels_on_different_axes(build, node) -> None:
    """A convolution reads them first, a linear layer behind a transposition last."""
    rng = np.random.default_rng(9)
    constants = {
        "w": np.exp(rng.uniform(-3, 3, (6, 3, 1, 1))).astype(np.float32),
        "v": rng.standard_normal((5, 6, 1, 1)).astype(np.float32),
        "tokens": np.array([1, 6, 64]),
        "m": rng.standard_normal((6, 7)).astype(np.float32),
    }
    nodes = [
        node("Conv", ["x", "w"], ["c"]),
        node("Conv", ["c", "v"], ["y"]),
        node("Reshape", ["c", "tokens"], ["t"]),
        node("Transpose", ["t"], ["u"], perm=[0, 2, 1]),
        node("MatMul", ["u", "m"], ["z"]),
    ]
    outputs = {"y": [1, 5, 8, 8], "z": [1, 64, 7]}
    model = build(nodes, {"x": [1, 3, 8, 8]}, outputs, constants)
    feeds = [{"x": rng.standard_normal((1, 3, 8, 8)).astype(np.float32)} for _ in range(2)]
    (link,) = find_links(prepared_copy(model))[0]
    assert link.input_axes == {"c": 1, "u": 2}
    result = smooth(model, feeds, TENSORRT)
    assert same(model, result.model, feeds)
    assert result.changes
