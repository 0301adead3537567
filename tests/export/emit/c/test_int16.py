"""Every kernel on int16 against the integer reference, byte for byte, in an arena as planned."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgec.export.emit.c import interpolate, norm
from edgec.export.emit.c.fuse import fuse
from edgec.export.emit.c.lower import lower
from edgec.export.emit.c.source import Sources
from edgec.export.errors import UnsupportedError
from edgec.export.tflite import Model, Operator, Quantization, Subgraph, Tensor

AGREE = "edgec self-test: 3 samples agree\n"
RNG = np.random.default_rng(16)


def act(name: str, *shape: int, scale: float = 2e-4) -> Tensor:
    return Tensor(name, shape, "INT16", None, Quantization.per_tensor(scale))


def narrow(name: str, *shape: int, scale: float = 0.05, zero: int = -7) -> Tensor:
    return Tensor(name, shape, "INT8", None, Quantization.per_tensor(scale, zero))


def const(name: str, *shape: int, scale: float = 2e-4) -> Tensor:
    data = RNG.integers(-32767, 32768, shape).astype(np.int16)
    return replace(act(name, *shape, scale=scale), data=data)


def weights(*shape: int, axis: int | None = 0) -> Tensor:
    data = RNG.integers(-127, 128, shape).astype(np.int8)
    if axis is None:
        return Tensor("w", shape, "INT8", data, Quantization.per_tensor(0.004))
    scale = (RNG.random(shape[axis]) * 0.01 + 1e-4).astype(np.float32)
    return Tensor("w", shape, "INT8", data, Quantization(scale, np.zeros(len(scale), int), axis))


def bias(count: int, most: int = 1 << 22) -> Tensor:
    return Tensor("bias", (count,), "INT64", RNG.integers(-most, most, count))


def ints(name: str, *values: int, shape: tuple[int, ...] | None = None) -> Tensor:
    data = np.array(values, np.int32).reshape(shape or (len(values),))
    return Tensor(name, data.shape, "INT32", data)


def net(*operators: Operator, tensors: list[Tensor]) -> Model:
    """The inputs of the network are operands that nothing writes and that have no content."""
    written = {index for op in operators for index in op.outputs}
    inputs = [i for op in operators for i in op.inputs if i >= 0 and tensors[i].data is None]
    given = [i for i in dict.fromkeys(inputs) if i not in written]
    return Model([Subgraph(tensors, given, list(operators[-1].outputs), list(operators))])


def one(operator: Operator, *tensors: Tensor) -> Model:
    return net(operator, tensors=list(tensors))


def conv(
    size: tuple[int, int],
    in_c: int,
    out_c: int,
    kernel: tuple[int, int],
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
    depthwise: bool = False,
    activation: str = "NONE",
    most: int = 1 << 22,
    scale: float = 2e-3,
) -> Model:
    shape = (1, -(-size[0] // stride), -(-size[1] // stride), out_c)
    weight = (
        weights(1, *kernel, out_c, axis=3) if depthwise else weights(out_c, *kernel, in_c // groups)
    )
    options: dict[str, Any] = {
        "padding": "SAME",
        "stride_w": stride,
        "stride_h": stride,
        "dilation_w_factor": dilation,
        "dilation_h_factor": dilation,
        "fused_activation_function": activation,
    }
    if depthwise:
        options["depth_multiplier"] = out_c // in_c
    code = "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D"
    y = act("y", *shape, scale=scale)
    tensors = [act("x", 1, *size, in_c), weight, bias(out_c, most), y]
    return one(Operator(code, [0, 1, 2], [3], options), *tensors)


def linear(rows: int, inputs: int, outputs: int, most: int = 1 << 22) -> Model:
    return one(
        Operator("FULLY_CONNECTED", [0, 1, 2], [3]),
        act("x", rows, inputs),
        weights(outputs, inputs),
        bias(outputs, most),
        act("y", rows, outputs, scale=4e-3),
    )


def pool(code: str) -> Model:
    options = {
        "padding": "SAME",
        "stride_w": 2,
        "stride_h": 1,
        "filter_width": 3,
        "filter_height": 2,
    }
    return one(Operator(code, [0], [1], options), act("x", 1, 6, 7, 5), act("y", 1, 6, 4, 5))


def layer_norm(*shape: int, axes: tuple[int, ...], code: str = "LayerNormalization") -> Model:
    """DEQUANTIZE, norm, QUANTIZE."""
    size = (1,) * (len(shape) - 1) + shape[-1:]
    gain, offset = (
        Tensor(n, size, "FLOAT32", RNG.normal(m, 0.5, size).astype(np.float32))
        for n, m in (("gain", 1), ("offset", 0))
    )
    options = f'{{"axes": {list(axes)}, "epsilon": 1e-5}}'.encode()
    return net(
        Operator("DEQUANTIZE", [0], [1]),
        Operator("CUSTOM", [1, 2, 3], [4], custom_code=code, custom_options=options),
        Operator("QUANTIZE", [4], [5]),
        tensors=[
            act("x", *shape, scale=1e-4),
            Tensor("real", shape, "FLOAT32"),
            gain,
            offset,
            Tensor("normalised", shape, "FLOAT32"),
            act("y", *shape, scale=1.5e-4),
        ],
    )


def curve(code: str, scale: float, out: float, **options: Any) -> Model:
    return one(
        Operator(code, [0], [1], options),
        act("x", 40, 50, scale=scale),
        act("y", 40, 50, scale=out),
    )


def silu(scale: float, out: float) -> Model:
    return net(
        Operator("LOGISTIC", [0], [1]),
        Operator("MUL", [0, 1], [2]),
        Operator("QUANTIZE", [2], [3]),
        tensors=[
            act("x", 40, 50, scale=scale),
            act("gate", 40, 50, scale=2.0**-15),
            act("product", 40, 50, scale=scale),
            act("y", 40, 50, scale=out),
        ],
    )


CASES: dict[str, Model] = {
    "conv 3x3": conv((7, 9), 5, 6, (3, 3)),
    "conv 3x3, stride 2, ReLU6": conv((8, 9), 3, 8, (3, 3), 2, activation="RELU6"),
    "conv 3x3, dilated": conv((11, 10), 4, 4, (3, 3), dilation=2),
    "conv 3x3, groups": conv((6, 6), 8, 12, (3, 3), groups=4),
    "conv 1x1": conv((6, 5), 13, 10, (1, 1), activation="RELU"),
    "conv 1x1, more channels out": conv((5, 5), 4, 17, (1, 1)),
    "conv 1x1, stride 2": conv((6, 5), 4, 9, (1, 1), 2),
    "conv of sums beyond 32 bits": conv((5, 4), 70, 6, (3, 3), most=1 << 38, scale=1.0),
    "conv to fine steps": conv((5, 4), 4, 6, (1, 1), scale=1e-7),
    "conv of long windows": conv((4, 4), 75, 5, (3, 3), scale=0.1),
    "depthwise 3x3": conv((7, 9), 6, 6, (3, 3), depthwise=True),
    "depthwise 5x5, stride 2": conv((12, 11), 4, 4, (5, 5), 2, depthwise=True),
    "depthwise 9x9": conv((11, 12), 7, 7, (9, 9), depthwise=True),
    "depthwise, two of each": conv((6, 7), 5, 10, (3, 3), depthwise=True),
    "depthwise of wide biases": conv((6, 7), 5, 5, (3, 3), depthwise=True, most=1 << 40, scale=1.0),
    "linear": linear(5, 33, 11),
    "linear, one row": linear(1, 30, 12),
    "linear of sums beyond 32 bits": linear(3, 1200, 7, 1 << 35),
    "batch matmul": one(
        Operator("BATCH_MATMUL", [0, 1], [2]),
        act("a", 2, 3, 5, 7),
        act("b", 2, 3, 7, 6),
        act("y", 2, 3, 5, 6, scale=3e-3),
    ),
    "batch matmul, both transposed": one(
        Operator("BATCH_MATMUL", [0, 1], [2], {"adj_x": True, "adj_y": True}),
        act("a", 3, 7, 5),
        act("b", 3, 4, 7),
        act("y", 3, 5, 4, scale=3e-3),
    ),
    "batch matmul by an int8 matrix": one(
        Operator("BATCH_MATMUL", [0, 1], [2]),
        act("a", 2, 4, 9),
        weights(9, 5, axis=None),
        act("y", 2, 4, 5, scale=1e-3),
    ),
    "batch matmul by an int8 matrix, transposed": one(
        Operator("BATCH_MATMUL", [0, 1], [2], {"adj_y": True}),
        act("a", 2, 4, 9),
        weights(5, 9, axis=None),
        act("y", 2, 4, 5, scale=1e-3),
    ),
    "batch matmul by int8 matrices": one(
        Operator("BATCH_MATMUL", [0, 1], [2]),
        act("a", 2, 4, 3, 9),
        weights(1, 4, 9, 5, axis=None),
        act("y", 2, 4, 3, 5, scale=1e-3),
    ),
    "add": one(
        Operator("ADD", [0, 1], [2], {"pot_scale_int16": False}),
        act("a", 1, 4, 5, 6),
        act("b", 1, 4, 5, 6, scale=1e-4),
        act("y", 1, 4, 5, 6, scale=3e-4),
    ),
    "sub, broadcast": one(
        Operator("SUB", [0, 1], [2], {"pot_scale_int16": False}),
        act("a", 2, 3, 4),
        act("b", 3, 1, scale=1e-4),
        act("y", 2, 3, 4),
    ),
    "mul by a constant": one(
        Operator("MUL", [0, 1], [2]), act("a", 40, 5), const("b", 5), act("y", 40, 5, scale=5e-4)
    ),
    "maximum, broadcast": one(
        Operator("MAXIMUM", [0, 1], [2]), act("a", 4, 5), act("b", 5), act("y", 4, 5)
    ),
    "minimum": one(Operator("MINIMUM", [0, 1], [2]), act("a", 20), act("b", 20), act("y", 20)),
    "average pool": pool("AVERAGE_POOL_2D"),
    "max pool": pool("MAX_POOL_2D"),
    "mean over space": one(
        Operator("MEAN", [0, 1], [2], {"keep_dims": False}),
        act("x", 1, 5, 6, 7),
        ints("axes", 1, 2),
        act("y", 1, 7, scale=1e-4),
    ),
    "sum": one(
        Operator("SUM", [0, 1], [2], {"keep_dims": True}),
        act("x", 3, 5, 4),
        ints("axes", 1),
        act("y", 3, 1, 4, scale=8e-4),
    ),
    "largest": one(
        Operator("REDUCE_MAX", [0, 1], [2], {"keep_dims": False}),
        act("x", 3, 5, 4),
        ints("axes", 1),
        act("y", 3, 4),
    ),
    "smallest": one(
        Operator("REDUCE_MIN", [0, 1], [2], {"keep_dims": True}),
        act("x", 3, 5, 4),
        ints("axes", -1, 1),
        act("y", 3, 1, 1),
    ),
    "softmax": one(
        Operator("SOFTMAX", [0], [1], {"beta": 1.0}),
        act("x", 4, 9),
        act("y", 4, 9, scale=2.0**-15),
    ),
    "softmax of long rows": one(
        Operator("SOFTMAX", [0], [1], {"beta": 1.0}),
        act("x", 3, 300, scale=1e-5),
        act("y", 3, 300, scale=2.0**-15),
    ),
    "layer norm": layer_norm(6, 24, axes=(1,)),
    "instance norm": layer_norm(1, 5, 4, 3, axes=(1, 2), code="InstanceNormalization"),
    "L2 norm": one(
        Operator("L2_NORMALIZATION", [0], [1]), act("x", 5, 17), act("y", 5, 17, scale=2.0**-15)
    ),
    "to another scale": curve("QUANTIZE", 2e-4, 3e-4),
    "to a finer scale": curve("QUANTIZE", 2e-4, 3e-6),
    "ReLU6": curve("RELU6", 3e-4, 2e-4),
    "sigmoid": curve("LOGISTIC", 3e-4, 2.0**-15),
    "tanh": curve("TANH", 3e-4, 2.0**-15),
    "GELU": curve("GELU", 3e-4, 2e-4, approximate=False),
    "HardSwish": curve("HARD_SWISH", 3e-4, 2e-4),
    "SiLU": silu(3e-4, 2.5e-4),
    "resize": one(
        Operator("RESIZE_BILINEAR", [0, 1], [2], {"half_pixel_centers": True}),
        act("x", 1, 3, 4, 2),
        ints("size", 7, 5),
        act("y", 1, 7, 5, 2),
    ),
    "a part in float": net(
        Operator("DEQUANTIZE", [0], [1]),
        Operator("NEG", [1], [2]),
        Operator("EXP", [2], [3]),
        Operator("QUANTIZE", [3], [4]),
        tensors=[
            act("x", 6, 7),
            Tensor("real", (6, 7), "FLOAT32"),
            Tensor("negative", (6, 7), "FLOAT32"),
            Tensor("power", (6, 7), "FLOAT32"),
            act("y", 6, 7, scale=3e-3),
        ],
    ),
    "transpose": one(
        Operator("TRANSPOSE", [0, 1], [2]),
        act("x", 2, 3, 4, 5),
        ints("perm", 3, 0, 2, 1),
        act("y", 5, 2, 4, 3),
    ),
    "pad": one(
        Operator("PAD", [0, 1], [2]),
        act("x", 2, 3, 4),
        ints("amounts", 0, 1, 2, 0, 1, 3, shape=(3, 2)),
        act("y", 3, 5, 8),
    ),
    "pad with a value": one(
        Operator("PADV2", [0, 1, 2], [3]),
        act("x", 3, 4),
        ints("amounts", 1, 0, 2, 3, shape=(2, 2)),
        const("value", 1),
        act("y", 4, 9),
    ),
    "concatenation": one(
        Operator("CONCATENATION", [0, 1, 2], [3], {"axis": -1}),
        act("a", 3, 4),
        act("b", 3, 2),
        const("c", 3, 1),
        act("y", 3, 7),
    ),
    "split": one(
        Operator("SPLIT", [1, 0], [2, 3], {"num_splits": 2}),
        act("x", 2, 4, 6),
        ints("axis", 2, shape=()),
        act("y", 2, 4, 3),
        act("z", 2, 4, 3),
    ),
    "int8 to int16 and back": net(
        Operator("QUANTIZE", [0], [2]),
        Operator("QUANTIZE", [1], [3]),
        Operator("ADD", [2, 3], [4], {"pot_scale_int16": False}),
        Operator("QUANTIZE", [4], [5]),
        tensors=[
            narrow("a", 1, 7, 5, 9),
            narrow("b", 1, 7, 5, 9, scale=0.02, zero=127),
            act("wide a", 1, 7, 5, 9),
            act("wide b", 1, 7, 5, 9, scale=1e-4),
            act("sum", 1, 7, 5, 9, scale=4e-4),
            narrow("y", 1, 7, 5, 9, scale=0.07, zero=11),
        ],
    ),
    "int8 to coarse int16 and back": net(
        Operator("QUANTIZE", [0], [1]),
        Operator("REDUCE_MAX", [1, 4], [2], {"keep_dims": False}),
        Operator("QUANTIZE", [2], [3]),
        tensors=[
            narrow("x", 1, 40, 9),
            act("wide", 1, 40, 9, scale=0.08),
            act("most", 1, 9, scale=0.08),
            narrow("y", 1, 9, scale=1e-3, zero=-100),
            ints("axis", 1),
        ],
    ),
    "gather": one(
        Operator("GATHER", [0, 1], [2], {"axis": 1}),
        act("x", 2, 5, 3),
        ints("indices", 4, 0, 4, 2),
        act("y", 2, 4, 3),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_kernel(name: str, self_test: Callable[..., str]) -> None:
    assert self_test(CASES[name]) == AGREE


def test_ends_of_a_network_are_of_one_type() -> None:
    model = one(Operator("QUANTIZE", [0], [1]), narrow("x", 4), act("y", 4))
    with pytest.raises(UnsupportedError, match="others int16"):
        lower(model)


@pytest.mark.parametrize("name", ["conv 3x3, groups", "linear", "batch matmul", "softmax", "SiLU"])
def test_kernel_by_clang(
    name: str,
    write_c: Callable[..., tuple[Path, Sources]],
    with_kernels: Callable[..., list[str]],
) -> None:
    if shutil.which("clang") is None:
        pytest.skip("needs clang: apt install clang")
    folder, _ = write_c(CASES[name])
    flags = "-std=c99 -O2 -Wall -Wextra -Wconversion -pedantic -Werror"
    done = subprocess.run(
        ["make", "-s", "test", *with_kernels(folder, flags, "clang")],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == (AGREE, "")


def test_what_fits_is_added_up_in_32_bits() -> None:
    def wide(name: str) -> int:
        found = lower(CASES[name]).calls[0].parameters["wide"]
        assert isinstance(found, int)
        return found

    assert wide("conv 3x3") == wide("linear") == wide("depthwise 3x3") == 0
    assert wide("conv of sums beyond 32 bits") == wide("conv to fine steps") == 1


@given(st.floats(1e-5, 2e-3), st.floats(1e-5, 2e-3), st.sampled_from(sorted(interpolate.CURVES)))
@settings(max_examples=40, deadline=None)
def test_curves_are_near_the_real_functions(scale: float, out: float, code: str) -> None:
    """Within the bound of a straight line between neighbours, for every one of the inputs."""
    # where results saturate there is a corner within a line
    out = 2.0**-15 if code in ("LOGISTIC", "TANH") else max(out, scale)
    graph = curve(code, scale, out, approximate=False).main
    width = 128 * scale
    # |f''| is at most 0.8 (TANH), and HardSwish has corners, where the slope changes by 0.5
    line = 0.5 * width / 4 if code == "HARD_SWISH" else 0.8 * width * width / 8
    # half a step each for the value, its correction by the error in the middle of the line and the
    # result, and half of what rounding adds to that error
    assert interpolate.worst_error(graph, graph.operators) <= line / out + 2.01


def test_a_gated_function_is_one_table() -> None:
    model = fuse(silu(3e-4, 2.5e-4))
    (operator,) = model.main.operators
    assert operator.custom_code == interpolate.CODE
    graph = silu(3e-4, 3e-4).main
    assert interpolate.worst_error(graph, graph.operators) < 1.4


def test_straight_functions_need_no_table() -> None:
    assert lower(CASES["ReLU6"]).calls[0].kernel == "edgec_rescale_s16"


@given(st.integers(2, 300), st.integers(0, 1 << 30), st.floats(1e-6, 1e-3))
@settings(max_examples=60, deadline=None)
def test_norms_are_near_real_ones(count: int, seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    x = Tensor("x", (3, count), "INT16", None, Quantization.per_tensor(scale))
    y = Tensor("y", (3, count), "INT16", None, Quantization.per_tensor(2e-4))
    gain, offset = (
        Tensor(n, (1, count), "FLOAT32", rng.normal(0, 1, (1, count)).astype(np.float32))
        for n in "go"
    )
    op = Operator("CUSTOM", [0, 1, 2], [3], custom_options=b'{"axes": [1], "epsilon": 1e-5}')
    found = norm.constants(op, x, gain, offset, y)
    rows = rng.integers(-32768, 32768, (3, count)) >> rng.integers(0, 12, (3, 1))
    rows = rows.astype(np.int16)
    real = rows * float(np.float32(scale))
    centred = real - real.mean(1, keepdims=True)
    unit = centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-5)
    assert gain.data is not None
    assert offset.data is not None
    steps = (unit * gain.data + offset.data) / float(np.float32(2e-4))
    off = np.abs(norm.normalised(found, rows) - np.clip(steps, -32768, 32767))
    assert off.max() <= 0.5 + norm.error_bound(found) + 1e-3


@given(st.integers(1, 200), st.integers(0, 1 << 30))
@settings(max_examples=60, deadline=None)
def test_unit_rows_are_near_real_ones(count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = (rng.integers(-32768, 32768, (4, count)) >> rng.integers(0, 15, (4, 1))).astype(np.int16)
    lengths = np.sqrt((rows.astype(np.float64) ** 2).sum(1, keepdims=True))
    real = np.divide(rows * 32768.0, lengths, out=np.zeros(rows.shape), where=lengths > 0)
    # half a step, and the reciprocal within 2**-28 of itself
    off = np.abs(norm.unit_rows(rows) - np.clip(real, -32768, 32767))
    assert off.max() <= 0.5 + 2.0**-12


def test_what_has_no_kernel() -> None:
    with pytest.raises(UnsupportedError, match="is INT8") as caught:
        lower(
            net(
                Operator("RELU", [0], [1]),
                Operator("QUANTIZE", [1], [2]),
                tensors=[act("x", 4), narrow("middle", 4, scale=0.01), act("y", 4)],
            )
        )
    assert caught.value.code == "EC330"
    coarse = one(
        Operator("MUL", [0, 1], [2]), act("a", 4, scale=1), act("b", 4, scale=1), act("y", 4)
    )
    with pytest.raises(UnsupportedError, match="coarser"):
        lower(coarse)
    constant = replace(weights(4, axis=None), name="b")
    with pytest.raises(UnsupportedError, match="operands of INT16 and INT8"):
        lower(one(Operator("MUL", [0, 1], [2]), act("a", 4), constant, act("y", 4)))
    with pytest.raises(UnsupportedError, match="LEAKY_RELU"):
        lower(curve("LEAKY_RELU", 2e-4, 2e-4, alpha=0.1))
