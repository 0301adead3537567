"""Networks of integers and floats: the same bytes in the reference, the interpreter and the C."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper, shape_inference

from edgec.export.emit.c.lower import lower as lower_to_c
from edgec.export.emit.c.source import Sources
from edgec.export.emit.tflite.flavour import C
from edgec.export.emit.tflite.lower import lower
from edgec.export.errors import UnsupportedError
from edgec.export.tflite import Model, Operator, Quantization, Subgraph, Tensor

AGREE = "edgec self-test: 3 samples agree\n"
FLAGS = "-O1 -std=c99"
Shape = tuple[int, ...]


def weights(*shape: int) -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(sum(shape))
    return rng.normal(size=shape).astype(np.float32)


def ints(*values: int) -> np.ndarray[Any, Any]:
    return np.array(values, np.int64)


def floats(op: str, *operands: Shape | np.ndarray[Any, Any], **attributes: Any) -> Model:
    """One operator on floats; shapes are inputs of the network, arrays constants."""
    names, inputs, constants = [], [], []
    for number, operand in enumerate(operands):
        names.append(f"x{number}")
        if isinstance(operand, tuple):
            info = helper.make_tensor_value_info(names[-1], TensorProto.FLOAT, operand)
            inputs.append(info)
        else:
            constants.append(numpy_helper.from_array(operand, names[-1]))
    node = helper.make_node(op, names, ["y"], **attributes)
    shape = operands[0] if op == "GroupNormalization" else None
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)
    graph = helper.make_graph([node], "net", inputs, [output], constants)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    return lower(ir.from_proto(shape_inference.infer_shapes(made)), C).model


def from_integers(model: Model) -> Model:
    """`model` behind a DEQUANTIZE of each input."""
    graph = model.main
    before = []
    for place, index in enumerate(graph.inputs):
        grid = Quantization.per_tensor(0.03, 4)
        graph.tensors.append(Tensor(f"q{place}", graph.tensors[index].shape, "INT8", None, grid))
        graph.inputs[place] = len(graph.tensors) - 1
        before.append(Operator("DEQUANTIZE", [graph.inputs[place]], [index]))
    graph.operators[:0] = before
    return Model(model.subgraphs)


def to_integers(model: Model) -> Model:
    """`model` before a QUANTIZE of its output."""
    graph = model.main
    (index,) = graph.outputs
    grid = Quantization.per_tensor(0.01, -20)
    graph.tensors.append(Tensor("qy", graph.tensors[index].shape, "INT8", None, grid))
    graph.operators.append(Operator("QUANTIZE", [index], [len(graph.tensors) - 1]))
    graph.outputs[:] = [len(graph.tensors) - 1]
    return Model(model.subgraphs)


CASES: dict[str, Callable[[], Model]] = {
    "conv, padded, stride 2": lambda: floats(
        "Conv", (1, 3, 9, 8), weights(5, 3, 3, 3), weights(5), pads=[1, 1, 1, 1], strides=[2, 2]
    ),
    "conv, dilated, groups": lambda: floats(
        "Conv", (1, 4, 9, 8), weights(6, 2, 3, 2), dilations=[2, 1], group=2
    ),
    "depthwise": lambda: floats(
        "Conv", (1, 4, 6, 7), weights(4, 1, 3, 3), weights(4), pads=[1, 1, 1, 1], group=4
    ),
    "linear": lambda: floats("Gemm", (5, 7), weights(3, 7), weights(3), transB=1),
    "product": lambda: floats("MatMul", (2, 3, 4, 5), (2, 3, 5, 6)),
    "product, broadcast": lambda: floats("MatMul", (3, 1, 4, 5), (2, 5, 6)),
    **{
        op.lower(): lambda op=op: floats(op, (2, 3, 4), (3, 1))  # type: ignore[misc]
        for op in ("Add", "Sub", "Mul", "Div", "Max", "Min")
    },
    "exp": lambda: floats("Exp", (2, 40)),
    "elu": lambda: floats("Elu", (2, 40)),
    "leaky relu": lambda: floats("LeakyRelu", (50,), alpha=0.2),
    "prelu": lambda: floats("PRelu", (1, 3, 4, 5), weights(3, 1, 1)),
    "average pool": lambda: floats(
        "AveragePool", (1, 3, 8, 7), kernel_shape=[3, 2], strides=[2, 1]
    ),
    "max pool": lambda: floats(
        "MaxPool", (1, 3, 8, 7), kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]
    ),
    "mean": lambda: floats("ReduceMean", (2, 3, 4, 5), ints(2, 3)),
    "sum": lambda: floats("ReduceSum", (2, 3, 5), ints(1), keepdims=0),
    "largest": lambda: floats("ReduceMax", (2, 3, 5), ints(-1)),
    "smallest": lambda: floats("ReduceMin", (2, 3, 5), ints(1)),
    "softmax": lambda: floats("Softmax", (4, 9)),
    "log softmax": lambda: floats("LogSoftmax", (4, 9)),
    "l2 norm": lambda: floats("LpNormalization", (4, 9), axis=-1, p=2),
    "layer norm": lambda: floats(
        "LayerNormalization", (2, 5, 8), weights(8), weights(8), axis=-1
    ),
    "instance norm": lambda: floats(
        "InstanceNormalization", (1, 3, 5, 4), weights(3), weights(3)
    ),
    "transpose": lambda: floats("Transpose", (2, 3, 4, 5), perm=[3, 0, 2, 1]),
    "concatenation": lambda: floats("Concat", (2, 3, 4), (2, 2, 4), axis=1),
    "slice": lambda: floats(
        "Slice", (4, 9), ints(1, 2), ints(4, 9), ints(0, 1), ints(1, 3)
    ),
    "pad": lambda: floats("Pad", (2, 3, 4), ints(0, 1, 2, 0, 0, 1)),
    "resize": lambda: floats(
        "Resize", (1, 2, 4, 5), np.array([], np.float32), np.array([], np.float32),
        ints(1, 2, 8, 10), mode="linear",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_floats_are_the_same_to_the_last_bit(
    case: str,
    write_c: Callable[..., tuple[Path, Sources]],
    with_kernels: Callable[..., list[str]],
) -> None:
    """`write_c` executes the plan too, and compares its bytes with the reference's."""
    folder, _ = write_c(from_integers(CASES[case]()))
    if shutil.which("cc") is None or shutil.which("make") is None:
        pytest.skip("needs a C compiler and make: apt install gcc libc6-dev make")
    main = folder / "main.c"
    exact = "#define differ(a, b, n) memcmp(a, b, (size_t)(n) * 4u)\nint main(void) {"
    main.write_text(main.read_text().replace("int main(void) {", exact))
    argv = ["make", "-s", "test", *with_kernels(folder, FLAGS)]
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=False)
    assert done.stdout == AGREE, done.stderr[:2000]


@pytest.mark.parametrize("case", ["conv, padded, stride 2", "softmax", "product", "layer norm"])
def test_integers_follow_floats(case: str, self_test: Callable[..., str]) -> None:
    assert self_test(to_integers(from_integers(CASES[case]()))) == AGREE


def convolution_around(inside: list[Operator], *tensors: Tensor) -> Model:
    """Two int8 convolutions of (1, 6, 5, 4) with `inside` between tensors 2 and 3."""
    rng = np.random.default_rng(1)
    grid = Quantization.per_tensor(0.05, -3)
    options = {"padding": "SAME", "stride_w": 1, "stride_h": 1}

    def weight(name: str) -> Tensor:
        data = rng.integers(-127, 128, (4, 3, 3, 4), dtype=np.int8)
        return Tensor(name, data.shape, "INT8", data, Quantization.per_tensor(0.02, 0))

    shape = (1, 6, 5, 4)
    acts = [Tensor(name, shape, "INT8", None, grid) for name in "xhgy"]
    all_tensors = [acts[0], weight("v"), acts[1], acts[2], weight("w"), acts[3], *tensors]
    operators = [
        Operator("CONV_2D", [0, 1, -1], [2], options),
        *inside,
        Operator("CONV_2D", [3, 4, -1], [5], options),
    ]
    return Model([Subgraph(all_tensors, [0], [5], operators)])


def test_an_island_between_integers(self_test: Callable[..., str]) -> None:
    island = [Tensor(name, (1, 6, 5, 4), "FLOAT32") for name in ("a", "b")]
    inside = [
        Operator("DEQUANTIZE", [2], [6]),
        Operator("SOFTMAX", [6], [7], {"beta": 1.0}),
        Operator("QUANTIZE", [7], [3]),
    ]
    model = convolution_around(inside, *island)
    kernels = [call.kernel for call in lower_to_c(model).calls]
    assert kernels == [
        "edgec_conv_s8",
        "edgec_dequantize_f32",
        "edgec_softmax_f32",
        "edgec_quantize_f32",
        "edgec_conv_s8",
    ]
    assert self_test(model) == AGREE


def test_a_function_in_float_is_still_a_table(self_test: Callable[..., str]) -> None:
    island = [Tensor(name, (1, 6, 5, 4), "FLOAT32") for name in ("a", "b")]
    inside = [
        Operator("DEQUANTIZE", [2], [6]),
        Operator("LOGISTIC", [6], [7]),
        Operator("QUANTIZE", [7], [3]),
    ]
    model = convolution_around(inside, *island)
    kernels = [call.kernel for call in lower_to_c(model).calls]
    assert kernels == ["edgec_conv_s8", "edgec_lookup_s8", "edgec_conv_s8"]
    assert self_test(model) == AGREE


def test_functions_of_the_c_library_stay_out(self_test: Callable[..., str]) -> None:
    island = [Tensor(name, (1, 6, 5, 4), "FLOAT32") for name in ("a", "b")]
    inside = [
        Operator("DEQUANTIZE", [2], [6]),
        Operator("SIN", [6], [7]),
        Operator("QUANTIZE", [7], [3]),
    ]
    with pytest.raises(UnsupportedError, match="C library") as caught:
        lower_to_c(convolution_around(inside, *island))
    assert caught.value.code == "EC330"


def test_integer_weights_of_floats(self_test: Callable[..., str]) -> None:
    """A constant that is dequantized is a float constant."""
    model = from_integers(CASES["linear"]())
    graph = model.main
    place = next(i for i, op in enumerate(graph.operators) if op.code == "FULLY_CONNECTED")
    weight = graph.operators[place].inputs[1]
    stored = np.random.default_rng(0).integers(-127, 128, (3, 7), dtype=np.int8)
    grid = Quantization(np.array([0.01, 0.02, 0.03], np.float32), np.zeros(3, np.int64), 0)
    graph.tensors.append(Tensor("stored", (3, 7), "INT8", stored, grid))
    graph.tensors[weight].data = None
    graph.operators.insert(place, Operator("DEQUANTIZE", [len(graph.tensors) - 1], [weight]))
    assert self_test(model) == AGREE
