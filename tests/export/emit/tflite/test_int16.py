"""int16 activations with int8 weights: what is integer, its grids, and LiteRT beside the graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edgec.export.capture import from_tflite
from edgec.export.emit.onnx_file import serialize
from edgec.export.emit.tflite.flavour import FLAVOURS, INTEGER_16, flavour_for
from edgec.export.emit.tflite.write import TfliteFile, convert
from edgec.export.quantize.calibrate import calibrate
from edgec.export.quantize.insert import quantize
from edgec.export.quantize.scheme import TFLITE_FULL, TFLITE_INT16X8, get_scheme
from edgec.export.tflite import decode, encode
from edgec.runtime.onnx_runner import OnnxRunner

X = "a (float[1,4,6,8] x"
RNG = np.random.default_rng(3)
WEIGHTS = {
    "w": RNG.standard_normal((4, 4, 3, 3)).astype(np.float32) * 0.3,
    "d": RNG.standard_normal((4, 1, 3, 3)).astype(np.float32) * 0.3,
    "u": RNG.standard_normal((4, 4, 2, 2)).astype(np.float32) * 0.3,
    "b": RNG.standard_normal(4).astype(np.float32),
    "m": RNG.standard_normal((8, 5)).astype(np.float32) * 0.3,
    "k": RNG.standard_normal((1, 4, 1, 1)).astype(np.float32),
}
# body, what computes on int16, what stays in float
FORMS: dict[str, tuple[str, set[str], set[str]]] = {
    "convolutions": (
        "c = Conv<pads=[1,1,1,1]>(x, w, b)  r = Relu(c)  y = Conv<group=4>(r, d, b)",
        {"CONV_2D", "DEPTHWISE_CONV_2D"},
        set(),
    ),
    "transposed convolution": (
        "c = ConvTranspose<strides=[2,2]>(x, u, b)  y = Conv(c, w)",
        {"TRANSPOSE_CONV", "CONV_2D"},
        set(),
    ),
    "linear": ("p = MatMul(x, m)  y = Sigmoid(p)", {"FULLY_CONNECTED", "LOGISTIC"}, set()),
    "sums": (
        "c = Conv(x, w)  e = Conv(x, w, b)  s = Add(c, e)  t = Sub(s, c)  y = Mul(t, e)",
        {"ADD", "SUB", "MUL"},
        set(),
    ),
    "constants": ("c = Conv(x, w)  s = Add(c, k)  y = Mul(s, k)", {"ADD", "MUL"}, set()),
    "attention": (
        "t = Transpose<perm=[0,1,3,2]>(x)  p = MatMul(x, t)  s = Softmax(p)  y = MatMul(s, x)",
        {"BATCH_MATMUL", "SOFTMAX", "TRANSPOSE"},
        set(),
    ),
    "activations": (
        "c = Conv(x, w)  t = Tanh(c)  g = Gelu(t)  y = LeakyRelu(g)",
        {"TANH", "GELU", "LEAKY_RELU"},
        set(),
    ),
    "moves": (
        "c = Conv(x, w)  e = Conv(x, w, b)  j = Concat<axis=1>(c, e)  y = GlobalAveragePool(j)",
        {"CONCATENATION", "MEAN"},
        set(),
    ),
    "no kernel": (
        "c = Conv(x, w)  h = HardSwish(c)  y = Conv<pads=[1,1,1,1]>(h, w)",
        {"CONV_2D"},
        {"HARD_SWISH"},
    ),
    "norm": (
        "c = Conv(x, w)  n = LpNormalization<axis=1>(c)  y = Conv<pads=[1,1,1,1]>(n, w)",
        {"CONV_2D"},
        {"RSQRT"},
    ),
}


def feeds() -> list[dict[str, Any]]:
    rng = np.random.default_rng(11)
    return [{"x": rng.standard_normal((1, 4, 6, 8)).astype(np.float32)} for _ in range(4)]


def made(body: str, graph: Callable[..., Any]) -> tuple[Any, Any, TfliteFile]:
    used = [n for n in WEIGHTS if f"{n})" in body or f" {n}," in body]
    heads = "".join(f", float[1] {n}" for n in used)
    model = graph(f"{X}{heads}) => (y) {{ {body} }}", {n: WEIGHTS[n] for n in used}, 21)
    quantized = quantize(model, calibrate(model, feeds(), method="minmax"), TFLITE_INT16X8)
    return model, quantized, convert(quantized, precision="int16x8", flavour=INTEGER_16)


def types(file: TfliteFile, wanted: str) -> set[str]:
    main = file.lowered.model.main
    return {op.code for op in main.operators if main.tensors[op.outputs[0]].dtype == wanted}


@pytest.mark.parametrize("name", FORMS)
def test_form(name: str, graph: Callable[..., Any]) -> None:
    pytest.importorskip("ai_edge_litert")
    from edgec.runtime.tflite_artifact import TfliteArtifactRunner

    body, integers, floats = FORMS[name]
    model, quantized, file = made(body, graph)
    assert integers <= types(file, "INT16")
    assert floats <= types(file, "FLOAT32")
    reference, exact = (
        OnnxRunner(serialize(model, "")),
        OnnxRunner(serialize(quantized, ""), emulate=True),
    )
    for kernels in ("builtin", "reference", "xnnpack"):
        runner = TfliteArtifactRunner(file.content, kernels=kernels)
        for feed in feeds():
            got, want = runner.run(feed)["y"], reference.run(feed)["y"]
            emulated = exact.run(feed)["y"]
            size = float(np.abs(want).max())
            assert np.abs(got - emulated).max() <= 2e-3 * size, kernels
            assert np.abs(got - want).max() <= 5e-2 * size, kernels


@pytest.mark.parametrize("ends", ["float", "integer"])
@pytest.mark.parametrize("name", FORMS)
def test_read_and_written_again(name: str, ends: Any, graph: Callable[..., Any]) -> None:
    """What is written from a file that was read has its operators and computes its integers."""
    pytest.importorskip("ai_edge_litert")
    from edgec.runtime.litert_runner import LiteRTRunner

    _, quantized, _ = made(FORMS[name][0], graph)
    file = convert(quantized, precision="int16x8", ends=ends, flavour=INTEGER_16)
    assert encode(decode(file.content)) == file.content
    again = convert(
        from_tflite(decode(file.content)), precision="int16x8", ends=ends, flavour=INTEGER_16
    )
    assert again.lowered.operators == file.lowered.operators
    one, two = (LiteRTRunner(f.content, kernels="reference") for f in (file, again))
    (((shape, dtype),), ((other, _),)) = (list(r.inputs.values()) for r in (one, two))
    rng = np.random.default_rng(3)
    for _ in range(4):
        data = rng.standard_normal(shape) * (8000 if dtype == "int16" else 1)
        feed = np.clip(data, -32767, 32767).astype(dtype)
        # an input that nothing spatial reads keeps the file's order, and is written as an image
        moved = feed if shape == other else feed.transpose(0, 2, 3, 1)
        want, got = (
            next(iter(r.run({next(iter(r.inputs)): x}).values()))
            for r, x in ((one, feed), (two, moved))
        )
        got = got if got.shape == want.shape else got.transpose(0, 3, 1, 2)
        np.testing.assert_array_equal(got, want)


def test_grids_and_biases(graph: Callable[..., Any]) -> None:
    _, _, file = made(FORMS["convolutions"][0], graph)
    main = decode(file.content).main
    for op in main.operators:
        tensors = [main.tensors[i] for i in (*op.inputs, *op.outputs)]
        wide = [t for t in tensors if t.dtype == "INT16"]
        assert all(t.quantization is not None for t in wide)
        assert all(not t.quantization.zero_point.any() for t in wide if t.quantization)
    (conv,) = [op for op in main.operators if op.code == "CONV_2D"]
    x, weight, bias = (main.tensors[i] for i in conv.inputs)
    assert (x.dtype, weight.dtype, bias.dtype) == ("INT16", "INT8", "INT64")
    assert bias.quantization is not None
    assert weight.quantization is not None
    assert x.quantization is not None
    np.testing.assert_allclose(
        bias.quantization.scale, x.quantization.scale * weight.quantization.scale, rtol=1e-6
    )
    assert conv.version == 4


def test_prescribed_grids(graph: Callable[..., Any]) -> None:
    for name, code in (("attention", "SOFTMAX"), ("linear", "LOGISTIC"), ("activations", "TANH")):
        main = made(FORMS[name][0], graph)[2].lowered.model.main
        (op,) = [op for op in main.operators if op.code == code]
        grid = main.tensors[op.outputs[0]].quantization
        assert grid is not None
        assert (float(grid.scale[0]), int(grid.zero_point[0])) == (2.0**-15, 0)


def test_additions_take_any_scale(graph: Callable[..., Any]) -> None:
    main = made(FORMS["sums"][0], graph)[2].lowered.model.main
    sums = [op for op in main.operators if op.code in ("ADD", "SUB")]
    assert [op.options["pot_scale_int16"] for op in sums] == [False, False]


def test_the_scheme() -> None:
    assert get_scheme("tflite-int16x8") is TFLITE_INT16X8
    assert TFLITE_INT16X8.limits == (-32767, 32767)
    assert TFLITE_INT16X8.lowest_opset == 21
    assert FLAVOURS[TFLITE_INT16X8.name] is INTEGER_16
    older = flavour_for(TFLITE_INT16X8.name, "tflite-runtime")
    assert "Gelu" in older.float_operators
    assert not older.channel_linear
    assert TFLITE_FULL.limits == (-128, 127)
