"""Every kernel against the integer reference, byte for byte, in an arena as tight as planned."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgec.export.emit.c.call import Function, Table
from edgec.export.emit.c.lower import lower
from edgec.export.emit.c.source import Sources
from edgec.export.errors import UnsupportedError
from edgec.export.tflite import Model, Operator, Quantization, Subgraph, Tensor
from edgec.export.tflite.reference.executor import run

AGREE = "edgec self-test: 3 samples agree\n"
RNG = np.random.default_rng(7)


def act(name: str, *shape: int, scale: float = 0.05, zero: int = -7) -> Tensor:
    return Tensor(name, shape, "INT8", None, Quantization.per_tensor(scale, zero))


def const(name: str, *shape: int, scale: float = 0.04, zero: int = 0) -> Tensor:
    data = RNG.integers(-127, 128, shape, dtype=np.int8)
    return Tensor(name, shape, "INT8", data, Quantization.per_tensor(scale, zero))


def channels(name: str, *shape: int, axis: int = 0) -> Tensor:
    data = RNG.integers(-127, 128, shape, dtype=np.int8)
    count = shape[axis]
    scale = (RNG.random(count) * 0.01 + 1e-3).astype(np.float32)
    return Tensor(name, shape, "INT8", data, Quantization(scale, np.zeros(count, np.int64), axis))


def bias(count: int, most: int = 4000) -> Tensor:
    return Tensor("bias", (count,), "INT32", RNG.integers(-most, most, count).astype(np.int32))


def ints(name: str, *values: int, shape: tuple[int, ...] | None = None) -> Tensor:
    data = np.array(values, np.int32).reshape(shape or (len(values),))
    return Tensor(name, data.shape, "INT32", data)


def net(operator: Operator, *tensors: Tensor) -> Model:
    """One operator; the inputs of the network are its operands without content."""
    inputs = [i for i in operator.inputs if i >= 0 and tensors[i].data is None]
    graph = Subgraph(list(tensors), list(dict.fromkeys(inputs)), operator.outputs, [operator])
    return Model([graph])


def conv(
    size: tuple[int, int],
    in_c: int,
    out_c: int,
    kernel: tuple[int, int],
    stride: int = 1,
    dilation: int = 1,
    padding: str = "SAME",
    groups: int = 1,
    depthwise: bool = False,
    activation: str = "NONE",
    with_bias: bool = True,
    most: int = 4000,
) -> Model:
    def out(length: int, taps: int) -> int:
        reach = (taps - 1) * dilation + 1
        return -(-length // stride) if padding == "SAME" else (length - reach) // stride + 1

    shape = (1, out(size[0], kernel[0]), out(size[1], kernel[1]), out_c)
    weight = (
        channels("w", 1, *kernel, out_c, axis=3)
        if depthwise
        else channels("w", out_c, *kernel, in_c // groups)
    )
    options: dict[str, Any] = {
        "padding": padding,
        "stride_w": stride,
        "stride_h": stride,
        "dilation_w_factor": dilation,
        "dilation_h_factor": dilation,
        "fused_activation_function": activation,
    }
    if depthwise:
        options["depth_multiplier"] = out_c // in_c
    code = "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D"
    inputs = [0, 1, 2] if with_bias else [0, 1, -1]
    y = act("y", *shape, scale=0.08, zero=3)
    return net(
        Operator(code, inputs, [3], options), act("x", 1, *size, in_c), weight, bias(out_c, most), y
    )


def linear(
    rows: int, in_size: int, out_size: int, *, scale: float = 0.9, most: int = 4000
) -> Model:
    return net(
        Operator("FULLY_CONNECTED", [0, 1, 2], [3]),
        act("x", rows, in_size),
        const("w", out_size, in_size),
        bias(out_size, most),
        act("y", rows, out_size, scale=scale),
    )


CASES: dict[str, Model] = {
    "conv 3x3": conv((7, 9), 5, 6, (3, 3)),
    "conv 3x3, stride 2, ReLU6": conv((8, 9), 3, 8, (3, 3), 2, activation="RELU6"),
    "conv 2x4, no bias, valid": conv((9, 8), 4, 3, (2, 4), padding="VALID", with_bias=False),
    "conv 3x3, dilated": conv((11, 10), 4, 4, (3, 3), dilation=2),
    "conv 3x3, groups": conv((6, 6), 8, 12, (3, 3), groups=4),
    "conv 1x1": conv((6, 5), 13, 10, (1, 1), activation="RELU"),
    "conv 1x1, more channels out": conv((6, 5), 4, 17, (1, 1)),
    "conv 1x1, stride 2": conv((6, 5), 4, 9, (1, 1), 2),
    "conv 3x3, long biases": conv((7, 9), 5, 6, (3, 3), most=60_000),
    "conv 3x3, groups, long biases": conv((6, 6), 8, 12, (3, 3), groups=4, most=60_000),
    "conv of long windows, long biases": conv((4, 5), 90, 5, (3, 3), most=90_000),
    "depthwise 3x3": conv((7, 9), 6, 6, (3, 3), depthwise=True),
    "depthwise 5x5, stride 2": conv((12, 11), 4, 4, (5, 5), 2, depthwise=True),
    "depthwise, two of each": conv((6, 7), 5, 10, (3, 3), depthwise=True),
    "depthwise, dilated": conv((12, 9), 5, 5, (3, 3), dilation=3, depthwise=True),
    "fully connected": linear(5, 33, 11),
    "fully connected, long biases": linear(5, 33, 11, most=60_000),
    "fully connected, long rows": linear(3, 700, 7, scale=2.0),
    "fully connected, one row": linear(1, 33, 11),
    "fully connected, one row, long biases": linear(1, 34, 10, most=60_000),
    "fully connected, one row, two outputs": linear(1, 33, 2),
    "fully connected of large scales": linear(3, 33, 11, scale=4e-3),
    "fully connected, per channel, ReLU": net(
        Operator("FULLY_CONNECTED", [0, 1, -1], [2], {"fused_activation_function": "RELU"}),
        act("x", 3, 20),
        channels("w", 30, 20),
        act("y", 3, 30, scale=0.1),
    ),
    "batch matmul": net(
        Operator("BATCH_MATMUL", [0, 1], [2]),
        act("a", 2, 3, 5, 7),
        act("b", 2, 3, 7, 4, zero=5),
        act("y", 2, 3, 5, 4, scale=0.2),
    ),
    "batch matmul, both transposed": net(
        Operator("BATCH_MATMUL", [0, 1], [2], {"adj_x": True, "adj_y": True}),
        act("a", 3, 7, 5),
        act("b", 3, 4, 7, zero=5),
        act("y", 3, 5, 4, scale=0.2),
    ),
    "add": net(
        Operator("ADD", [0, 1], [2]),
        act("a", 1, 4, 5, 6),
        act("b", 1, 4, 5, 6, scale=0.02, zero=11),
        act("y", 1, 4, 5, 6, scale=0.06),
    ),
    "add of itself": net(Operator("ADD", [0, 0], [1]), act("a", 30), act("y", 30, scale=0.1)),
    "sub, broadcast": net(
        Operator("SUB", [0, 1], [2]),
        act("a", 2, 3, 4),
        act("b", 3, 1, scale=0.02),
        act("y", 2, 3, 4, scale=0.06),
    ),
    "mul by a constant": net(
        Operator("MUL", [0, 1], [2]),
        act("a", 4, 5),
        const("b", 5, scale=0.01),
        act("y", 4, 5, scale=0.03),
    ),
    "squared difference": net(
        Operator("SQUARED_DIFFERENCE", [0, 1], [2]),
        act("a", 6, 8),
        act("b", 6, 1, scale=0.03, zero=2),
        act("y", 6, 8, scale=0.5, zero=-128),
    ),
    "average pool": net(
        Operator(
            "AVERAGE_POOL_2D",
            [0],
            [1],
            {
                "padding": "SAME",
                "stride_w": 2,
                "stride_h": 2,
                "filter_width": 3,
                "filter_height": 3,
            },
        ),
        act("x", 1, 7, 8, 5),
        act("y", 1, 4, 4, 5),
    ),
    "max pool": net(
        Operator(
            "MAX_POOL_2D",
            [0],
            [1],
            {
                "padding": "VALID",
                "stride_w": 1,
                "stride_h": 2,
                "filter_width": 3,
                "filter_height": 2,
            },
        ),
        act("x", 1, 8, 7, 3),
        act("y", 1, 4, 5, 3),
    ),
    "mean over space": net(
        Operator("MEAN", [0, 1], [2], {"keep_dims": False}),
        act("x", 1, 5, 6, 7),
        ints("axes", 1, 2),
        act("y", 1, 7, scale=0.03),
    ),
    "mean over channels": net(
        Operator("MEAN", [0, 1], [2], {"keep_dims": True}),
        act("x", 4, 9),
        ints("axes", -1),
        act("y", 4, 1, scale=0.02),
    ),
    "transpose": net(
        Operator("TRANSPOSE", [0, 1], [2]),
        act("x", 2, 3, 4, 5, 2),
        ints("perm", 3, 0, 4, 2, 1),
        act("y", 5, 2, 2, 4, 3),
    ),
    "pad": net(
        Operator("PAD", [0, 1], [2]),
        act("x", 2, 3, 4),
        ints("amounts", 0, 1, 2, 0, 1, 3, shape=(3, 2)),
        act("y", 3, 5, 8),
    ),
    "concatenation": net(
        Operator("CONCATENATION", [0, 1, 2], [3], {"axis": -1}),
        act("a", 3, 4),
        act("b", 3, 2),
        const("c", 3, 1, scale=0.05, zero=-7),
        act("y", 3, 7),
    ),
    "batch matmul, broadcast on either side": net(
        Operator("BATCH_MATMUL", [0, 1], [2]),
        act("a", 3, 1, 5, 7),
        act("b", 1, 4, 7, 2, zero=5),
        act("y", 3, 4, 5, 2, scale=0.2),
    ),
    "batch matmul by a constant": net(
        Operator("BATCH_MATMUL", [0, 1], [2], {"adj_y": True}),
        act("a", 2, 4, 3, 7),
        const("b", 1, 4, 5, 7),
        act("y", 2, 4, 3, 5, scale=0.1),
    ),
    "transpose of six dimensions": net(
        Operator("TRANSPOSE", [0, 1], [2]),
        act("x", 2, 3, 2, 4, 2, 5),
        ints("perm", 0, 2, 4, 1, 3, 5),
        act("y", 2, 2, 2, 3, 4, 5),
    ),
    "split along the channels": net(
        Operator("SPLIT", [1, 0], [2, 3, 4], {"num_splits": 3}),
        act("x", 2, 4, 9),
        ints("axis", 2, shape=()),
        act("y", 2, 4, 3),
        act("z", 2, 4, 3),
        act("w", 2, 4, 3),
    ),
    "unpack": net(
        Operator("UNPACK", [0], [1, 2], {"axis": 1, "num": 2}),
        act("x", 3, 2, 7),
        act("y", 3, 7),
        act("z", 3, 7),
    ),
    "slice": net(
        Operator("SLICE", [0, 1, 2], [3]),
        act("x", 3, 4, 5, 6),
        ints("begin", 1, 0, 2, 3),
        ints("size", 2, 3, 3, 2),
        act("y", 2, 3, 3, 2),
    ),
    "slice of long runs over itself": net(
        Operator("SLICE", [0, 1, 2], [3]),
        act("x", 2, 40),
        ints("begin", 0, 3),
        ints("size", 2, 37),
        act("y", 2, 37),
    ),
    "gather": net(
        Operator("GATHER", [0, 1], [2], {"axis": 1}),
        act("x", 2, 5, 3),
        ints("indices", 4, 0, 4, 2),
        act("y", 2, 4, 3),
    ),
    "sum": net(
        Operator("SUM", [0, 1], [2], {"keep_dims": True}),
        act("x", 3, 5, 4),
        ints("axes", 1),
        act("y", 3, 1, 4, scale=0.2),
    ),
    "maximum, broadcast": net(
        Operator("MAXIMUM", [0, 1], [2]), act("a", 4, 5), act("b", 5), act("y", 4, 5)
    ),
    "minimum": net(Operator("MINIMUM", [0, 1], [2]), act("a", 20), act("b", 20), act("y", 20)),
    "largest": net(
        Operator("REDUCE_MAX", [0, 1], [2], {"keep_dims": False}),
        act("x", 3, 5, 4),
        ints("axes", 1),
        act("y", 3, 4),
    ),
    "smallest": net(
        Operator("REDUCE_MIN", [0, 1], [2], {"keep_dims": True}),
        act("x", 3, 5, 4),
        ints("axes", -1, 1),
        act("y", 3, 1, 1),
    ),
    "pack": net(
        Operator("PACK", [0, 1, 2], [3], {"axis": 1, "values_count": 3}),
        act("a", 3, 4),
        act("b", 3, 4),
        const("c", 3, 4, scale=0.05, zero=-7),
        act("y", 3, 3, 4),
    ),
    "every second": net(
        Operator("STRIDED_SLICE", [0, 1, 2, 3], [4], {"end_mask": 1}),
        act("x", 5, 8, 3),
        ints("begin", 1, -6, 0),
        ints("end", 0, 8, 3),
        ints("strides", 2, 3, 1),
        act("y", 2, 2, 3),
    ),
    "broadcast": net(
        Operator("BROADCAST_TO", [0, 1], [2]),
        act("x", 3, 1, 2),
        ints("shape", 2, 3, 4, 2),
        act("y", 2, 3, 4, 2),
    ),
    "tile": net(Operator("TILE", [0, 1], [2]), act("x", 2, 3), ints("times", 2, 3), act("y", 4, 9)),
    "pad with a value": net(
        Operator("PADV2", [0, 1, 2], [3]),
        act("x", 3, 4),
        ints("amounts", 1, 0, 2, 3, shape=(2, 2)),
        const("value", 1),
        act("y", 4, 9),
    ),
    "space to depth": net(
        Operator("SPACE_TO_DEPTH", [0], [1], {"block_size": 2}),
        act("x", 1, 4, 6, 3),
        act("y", 1, 2, 3, 12),
    ),
    "depth to space": net(
        Operator("DEPTH_TO_SPACE", [0], [1], {"block_size": 2}),
        act("x", 1, 2, 3, 12),
        act("y", 1, 4, 6, 3),
    ),
    "nearest, half pixels": net(
        Operator("RESIZE_NEAREST_NEIGHBOR", [0, 1], [2], {"half_pixel_centers": True}),
        act("x", 2, 4, 5, 3),
        ints("size", 9, 7),
        act("y", 2, 9, 7, 3),
    ),
    "conv of large scales": conv((5, 6), 7, 6, (3, 3)),
    "l2 normalization": net(
        Operator("L2_NORMALIZATION", [0], [1]),
        act("x", 9, 33),
        act("y", 9, 33, scale=1 / 128, zero=0),
    ),
    "l2 normalization of long rows": net(
        Operator("L2_NORMALIZATION", [0], [1]),
        act("x", 2, 20000, zero=-128),
        act("y", 2, 20000, scale=1 / 128, zero=0),
    ),
    "resize, half pixels": net(
        Operator("RESIZE_BILINEAR", [0, 1], [2], {"half_pixel_centers": True}),
        act("x", 2, 4, 5, 3),
        ints("size", 9, 7),
        act("y", 2, 9, 7, 3),
    ),
    "resize, corners, smaller": net(
        Operator("RESIZE_BILINEAR", [0, 1], [2], {"align_corners": True}),
        act("x", 1, 9, 8, 2),
        ints("size", 4, 3),
        act("y", 1, 4, 3, 2),
    ),
    "change of scale": net(
        Operator("QUANTIZE", [0], [1]), act("x", 300), act("y", 300, scale=0.08, zero=30)
    ),
}


PADDED = {
    f"{code} after a pad": Model(
        [
            Subgraph(
                [
                    act("x", 1, 6, 7, 4),
                    ints("amounts", 0, 0, 1, 2, 0, 1, 0, 0, shape=(4, 2)),
                    act("p", 1, 9, 8, 4),
                    channels("w", *shape, axis=axis),
                    bias(4),
                    act("y", 1, 4, 3, 4, scale=0.08, zero=3),
                ],
                [0],
                [5],
                [
                    Operator("PAD", [0, 1], [2]),
                    Operator(
                        code,
                        [2, 3, 4],
                        [5],
                        {"padding": "VALID", "stride_w": 2, "stride_h": 2},
                    ),
                ],
            )
        ]
    )
    for code, shape, axis in (
        ("CONV_2D", (4, 3, 3, 4), 0),
        ("DEPTHWISE_CONV_2D", (1, 3, 3, 4), 3),
    )
}
CASES |= PADDED
# exponents that the fast requantization does not take
CASES["conv of large scales"].main.tensors[3].quantization = Quantization.per_tensor(2e-5, 3)


@pytest.mark.parametrize("case", CASES)
def test_kernels_compute_what_the_reference_does(case: str, self_test: Callable[..., str]) -> None:
    assert self_test(CASES[case]) == AGREE


@pytest.mark.parametrize("case", PADDED)
def test_no_padded_copy_exists(case: str) -> None:
    model = PADDED[case]
    (call,) = lower(model).calls
    assert (call.parameters["pad_h"], call.parameters["pad_w"]) == (1, 0)
    # nor is it left out where another operator reads it
    model.main.outputs.append(2)
    assert len(lower(model).calls) == 2
    model.main.outputs.pop()


@pytest.mark.parametrize("depthwise", [False, True])
def test_biases_near_the_end_of_32_bits(depthwise: bool, self_test: Callable[..., str]) -> None:
    """Channels with tiny weights have tiny scales, on which a usual bias is a huge integer."""
    model = conv((5, 6), 8, 8, (3, 3), depthwise=depthwise)
    weight, added = model.main.tensors[1], model.main.tensors[2]
    assert weight.quantization is not None
    weight.quantization.scale[::2] = 1e-9
    assert added.data is not None
    added.data[::2] = np.array([2_000_000_000, -2_000_000_000, 1_300_000_000, -7], np.int32)
    (call,) = lower(model).calls
    assert call.parameters["wide"] == 0, "these outputs are constants"
    assert self_test(model) == AGREE
    # a sum of 1.0954e9 on a step of 1.1e-7 is 120.5: now the weights decide how it is rounded
    weight.quantization.scale[2] = 1.76e-7
    added.data[2] = 1_095_454_545
    (call,) = lower(model).calls
    assert call.parameters["wide"] == Function("edgec_wide_row_s8")
    assert self_test(model) == AGREE


def test_biases_take_as_few_bytes_as_hold_them() -> None:
    def width(case: str) -> int:
        (call,) = lower(CASES[case]).calls
        found = call.parameters["bias"]
        assert isinstance(found, Table)
        assert found.data is not None
        assert found.data.itemsize == call.parameters["bias_width"]
        return found.data.itemsize

    assert width("conv 3x3, long biases") == width("fully connected, one row, long biases") == 4
    assert width("depthwise 3x3") == 4, "its kernel reads no others"
    assert width("conv 3x3") == width("fully connected") == width("fully connected, one row") == 2


def test_kernels_of_linear_layers() -> None:
    def kernel(case: str) -> str:
        (call,) = lower(CASES[case]).calls
        return call.kernel

    assert kernel("fully connected, long rows") == "edgec_fully_connected_s8"
    assert kernel("fully connected, one row") == "edgec_fully_connected_row_s8"
    assert kernel("fully connected of large scales") == "edgec_fully_connected_any_s8"


def test_the_slow_row_is_there_where_it_is_needed(
    write_c: Callable[..., tuple[Path, Sources]],
) -> None:
    _, usual = write_c(CASES["conv 3x3"])
    assert "kernels/edgec_wide_s8.c" not in usual.files
    _, large = write_c(CASES["conv of large scales"])
    assert "kernels/edgec_wide_s8.c" in large.files


def test_windows_of_more_than_16_bits_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="above 32,767"):
        lower(conv((1, 2), 1, 1, (1, 1), stride=40_000))


def test_l2_norm_of_short_and_zero_rows(self_test: Callable[..., str]) -> None:
    """Sums of squares 0, 1, 2, 3, ...: every headroom of the root."""
    rows = np.full((24, 4), -7, np.int8)
    for number in range(24):
        rows[number] += [number // 3, number % 3, number % 2, 0]
    rows[-3:] = [[-128] * 4, [127] * 4, [127, -128, 127, -128]]
    y = act("y", 24, 4, scale=1 / 128, zero=0)
    model = net(Operator("L2_NORMALIZATION", [0], [1]), act("x", 24, 4), y)
    assert self_test(model, samples=[{"x": rows}] * 3) == AGREE


def softmax(x: np.ndarray, scale: float) -> np.ndarray:
    """The kernel's definition, in Python's integers."""
    table = [round(float(v)) for v in np.exp(-scale * np.arange(256)) * (1 << 24)]
    rows = []
    for row in x.reshape(-1, x.shape[-1]):
        shares = [table[int(row.max()) - int(v)] for v in row]
        total = sum(shares)
        inverse = ((1 << 48) + total // 2) // total
        rows.append([min(((s * inverse + (1 << 39)) >> 40) - 128, 127) for s in shares])
    return np.array(rows, np.int8).reshape(x.shape)


@pytest.mark.parametrize(("size", "scale"), [(2, 0.2), (37, 0.05), (300, 0.01)])
def test_softmax(size: int, scale: float, self_test: Callable[..., str]) -> None:
    """Integers only: at most one step from TFLite's kernel, which computes in floats."""
    x, y = act("x", 4, size, scale=scale), act("y", 4, size, scale=1 / 256, zero=-128)
    model = net(Operator("SOFTMAX", [0], [1], {"beta": 1.0}), x, y)
    step = float(np.float32(scale))
    assert self_test(model, expected=lambda feeds: {"y": softmax(feeds["x"], step)}) == AGREE
    for seed in range(20):
        feeds = {"x": np.random.default_rng(seed).integers(-128, 128, (4, size), dtype=np.int8)}
        wanted = run(model, feeds)["y"].astype(int)
        assert np.abs(softmax(feeds["x"], step) - wanted).max() <= 1


def test_wrong_golden_data_is_noticed(self_test: Callable[..., str]) -> None:
    model = CASES["conv 3x3"]

    def wrong(feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        outputs = run(model, feeds)
        outputs["y"][0, 0, 0, 0] ^= 1
        return outputs

    with pytest.raises(AssertionError):
        self_test(model, expected=wrong)


def test_what_has_no_kernel_is_named() -> None:
    model = net(Operator("CUMSUM", [0, 1], [2]), act("x", 4), ints("axis", 0), act("why", 4))
    with pytest.raises(UnsupportedError, match="CUMSUM") as caught:
        lower(model)
    assert caught.value.code == "EC330"
    assert "why" in str(caught.value.where)
    wide = Tensor("i", (4,), "INT32")
    with pytest.raises(UnsupportedError, match="INT32"):
        lower(net(Operator("ADD", [0, 0], [1]), wide, Tensor("y", (4,), "INT32")))
    mixed = Tensor("f", (4,), "FLOAT32")
    with pytest.raises(UnsupportedError, match="FLOAT32"):
        lower(net(Operator("ADD", [0, 0], [1]), act("x", 4), mixed))
