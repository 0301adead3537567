"""Graphs as programs: what is fused, what is a view, what has bytes."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.numpy_helper
import onnx_ir as ir
import pytest

from edgec.export.errors import UnsupportedError
from edgec.profiles.memory.from_onnx import from_onnx
from edgec.profiles.memory.plan import plan
from edgec.profiles.memory.program import Program, Step
from edgec.profiles.memory.validate import validate


def program(text: str, **options: bool | int) -> Program:
    """The program of a graph in ONNX's text form."""
    proto = onnx.shape_inference.infer_shapes(
        onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]> {text}')
    )
    found = from_onnx(ir.from_proto(proto), **options)  # type: ignore[arg-type]
    validate(found)
    return found


def kernels(found: Program) -> list[str]:
    return [step.kernel for step in found.body if isinstance(step, Step)]


def sizes(found: Program) -> dict[str, int]:
    return {b.id: b.size for b in found.buffers if b.kind != "constant"}


def test_activations_join_the_convolution() -> None:
    found = program(
        """g (float[1, 2, 4, 4] x) => (float[1, 3, 4, 4] y)
        <float[3, 2, 1, 1] w = {1, 1, 1, 1, 1, 1}> { c = Conv(x, w) y = Relu(c) }"""
    )
    assert kernels(found) == ["Conv"]
    assert sizes(found) == {"x": 32, "y": 48}
    assert [b.kind for b in found.buffers] == ["input", "constant", "output"]


def test_a_gelu_written_out_is_one_function_of_its_input() -> None:
    text = """g (float[1, 8] x) => (float[1, 8] y)
        <float[8, 8] w = {{{zeros}}}, float two = {{2}}, float one = {{1}}> {{
        a = MatMul(x, w) d = Div(a, two) e = Erf(d) p = Add(e, one) m = Mul(a, p) y = Mul(m, two)
        }}""".format(zeros=", ".join("0" * 64))
    found = program(text)
    assert kernels(found) == ["MatMul"]
    assert sizes(found) == {"x": 8, "y": 8}
    assert plan(found, overlaps=False).peak == 16


def test_two_functions_of_one_value_keep_it() -> None:
    """As DequantizeLinear nodes of one QuantizeLinear are, one for each reader."""
    found = program(
        """g (float[1, 2, 4, 4] x) => (float[1, 2, 4, 4] y)
        <float[2, 2, 1, 1] w = {1, 1, 1, 1}, float[2, 2, 1, 1] v = {1, 1, 1, 1}>
        { c = Conv(x, w) q = Relu(c) d = Neg(q) e = Abs(q) f = Conv(d, w) g = Conv(e, v)
        y = Add(f, g) }"""
    )
    assert kernels(found) == ["Conv", "Neg", "Conv", "Abs", "Conv", "Add"]


PADDED = """g (float[1, 2, 4, 4] x) => (float[1, 2, 3, 3] y)
    <int64[8] pads = {{0, 0, 1, 2, 0, 0, 1, 0}}, float fill = {{{fill}}},
    float[2, 2, 3, 3] w = {{{weights}}}>
    {{ r = Relu(x) p = Pad(r, pads, fill) y = {reader} }}"""
WINDOWS = {
    "Conv": "Conv<pads = [0, 0, 0, 0], strides = [2, 2]>(p, w)",
    "MaxPool": "MaxPool<kernel_shape = [3, 3], strides = [2, 2]>(p)",
    "AveragePool": "AveragePool<kernel_shape = [3, 3], strides = [2, 2]>(p)",
}


@pytest.mark.parametrize(
    ("reader", "fill", "folded"),
    [
        ("Conv", "0", True),
        ("Conv", "1", False),
        ("MaxPool", "-inf", True),
        ("MaxPool", "0", False),
        ("AveragePool", "0", False),
    ],
)
def test_windows_pad_themselves(reader: str, fill: str, folded: bool) -> None:
    text = PADDED.format(
        fill=0 if fill == "-inf" else fill, weights=", ".join("1" * 36), reader=WINDOWS[reader]
    ).replace("float[1, 2, 3, 3] y", "float[1, 2, 2, 2] y")
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]> {text}')
    for tensor in proto.graph.initializer:
        if tensor.name == "fill":
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.float32(fill), "fill"))
    found = from_onnx(ir.from_proto(onnx.shape_inference.infer_shapes(proto)))
    validate(found)
    assert kernels(found) == ["Relu", *([] if folded else ["Pad"]), reader]
    if folded:
        last = found.body[-1]
        assert isinstance(last, Step)
        window = last.parameters["window"]
        assert isinstance(window, tuple)
        # 4 x 4 becomes 2 x 2; padding of 1 row and 2 columns before
        assert window[:4] == (4, 4, 2, 2)
        assert window[10:12] == (1, 2)


def test_a_value_with_two_readers_keeps_its_bytes() -> None:
    found = program(
        """g (float[1, 2, 4, 4] x) => (float[1, 2, 4, 4] y)
        <float[2, 2, 1, 1] w = {1, 1, 1, 1}> { c = Conv(x, w) r = Relu(c) d = Conv(r, w)
        y = Add(c, d) }"""
    )
    assert kernels(found) == ["Conv", "Relu", "Conv", "Add"]
    assert set(sizes(found)) == {"x", "c", "r", "d", "y"}


def test_views_have_no_bytes_and_transposes_as_asked() -> None:
    text = """g (float[1, 2, 4, 4] x) => (float[1, 16, 2] y)
        <int64[3] s = {1, 2, 16}> {
        a = Sigmoid(x) r = Reshape(a, s) t = Transpose<perm = [0, 2, 1]>(r) y = Softmax(t) }"""
    assert kernels(program(text)) == ["Sigmoid", "Softmax"]
    found = program(text, absorb_transposes=False)
    assert kernels(found) == ["Sigmoid", "Transpose", "Softmax"]


def test_elements_have_the_bytes_of_the_artifact() -> None:
    text = "g (float[1, 5] x) => (float[1, 5] y) { y = Softmax(x) }"
    assert sizes(program(text)) == {"x": 5, "y": 5}
    assert sizes(program(text, element_bytes=4)) == {"x": 20, "y": 20}


def test_an_int8_kernel_adds_its_bias_in_32_bits() -> None:
    found = program(
        """g (float[1, 2] x) => (float[1, 3] y)
        <float[2, 3] w = {1, 1, 1, 1, 1, 1}, float[3] b = {1, 1, 1}> { y = Gemm(x, w, b) }"""
    )
    assert {b.id: b.size for b in found.buffers if b.kind == "constant"} == {"w": 6, "b": 12}


def test_outputs_of_a_split_at_the_front_are_parts() -> None:
    found = program(
        """g (float[2, 3] x) => (float[1, 3] a, float[1, 3] c) <int64[2] s = {1, 1}> {
        r = Softmax(x) p, q = Split<axis = 0>(r, s) a = Softmax(p) c = Softmax(q) }"""
    )
    parts = {b.id: (b.parent, b.start) for b in found.buffers if b.parent}
    assert parts == {"p": ("r", 0), "q": ("r", 3)}


def test_an_input_that_is_an_output_has_one_buffer() -> None:
    found = program(
        "g (float[1, 4] x) => (float[1, 4] y, float[4] z) "
        "{ y = Identity(x) z = Constant<value_floats = [1.0, 2.0, 3.0, 4.0]>() }"
    )
    assert sizes(found) == {"x": 4}


def test_kernels_tell_how_far_input_and_output_may_overlap() -> None:
    zeros = ", ".join("0" * 64)
    found = program(
        f"""g (float[1, 8, 6, 6] x) => (float[1, 8, 6, 6] y)
        <float[8, 8, 1, 1] w = {{{zeros}}}> {{ c = Conv(x, w)
        m = MaxPool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(c) s = Softmax(m) y = Add(s, m) }}
        """
    )
    distances = {
        step.kernel: [o.distance for o in step.overlaps]
        for step in found.body
        if isinstance(step, Step)
    }
    # a pointwise layer of equal width overwrites a pixel while it reads it: all but one channel
    assert distances == {"Conv": [7], "MaxPool": [7 * 8], "Softmax": [0], "Add": [0, 0]}


def test_unknown_shapes_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="EC350"):
        program("g (float[N, 4] x) => (float[N, 4] y) { y = Softmax(x) }")


def test_a_kernel_that_reads_through_a_transpose_may_not_overlap() -> None:
    text = """g (float[1, 2, 3, 4] x) => (float[1, 3, 2, 4] y) {
        a = Relu(x) t = Transpose<perm = [0, 2, 1, 3]>(a) y = Softmax(t) }"""
    softmax = program(text).body[-1]
    assert isinstance(softmax, Step)
    assert softmax.kernel == "Softmax"
    assert not softmax.overlaps
    text = """g (float[1, 4, 4] x) => (float[1, 4, 4] y) {
        a = Softmax(x) t = Transpose<perm = [2, 0, 1]>(a) u = Transpose<perm = [1, 0, 2]>(t)
        y = Add(a, u) }"""
    found = program(text)
    assert kernels(found) == ["Softmax", "Add"]
    add = found.body[-1]
    assert isinstance(add, Step)
    assert not add.overlaps


def test_rows_along_an_inner_axis_may_not_overlap() -> None:
    found = program("g (float[1, 3, 4] x) => (float[1, 3, 4] y) { y = Softmax<axis = 1>(x) }")
    step = found.body[0]
    assert isinstance(step, Step)
    assert not step.overlaps
