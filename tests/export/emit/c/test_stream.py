"""Expansions computed row by row: the same bytes, from less memory."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgec.export.emit.c import execute
from edgec.export.emit.c.forms import Forms, constant_bytes
from edgec.export.emit.c.lower import Lowered, lower
from edgec.export.emit.c.reference import reference
from edgec.export.emit.c.stream import KERNEL, chains, joined
from edgec.export.errors import InternalError
from edgec.export.tflite import Model, Operator, Quantization, Subgraph, Tensor
from edgec.profiles.memory.plan import plan
from edgec.profiles.memory.regions import Region
from edgec.runtime.qemu.boards import BOARDS
from edgec.runtime.qemu.run import COMPILER, SIMULATOR, count_instructions


def inverted_residual(
    height: int = 9,
    width: int = 7,
    wide: int = 24,
    kernel: int = 3,
    stride: int = 2,
    dilation: int = 1,
    same: bool = True,
    function: bool = True,
    multiplier: int = 1,
    dtype: str = "INT8",
) -> Model:
    """1 x 1 convolution, sigmoid, depthwise convolution, 1 x 1 convolution."""
    rng = np.random.default_rng(0)

    words = dtype == "INT16"

    def act(name: str, *shape: int, scale: float = 0.05, zero: int = -3) -> Tensor:
        grid = (scale / 256, 0) if words else (scale, zero)
        return Tensor(name, shape, dtype, None, Quantization.per_tensor(*grid))

    def weight(name: str, *shape: int) -> Tensor:
        data = rng.integers(-127, 128, shape, dtype=np.int8)
        return Tensor(name, shape, "INT8", data, Quantization.per_tensor(0.02, 0))

    reach = (kernel - 1) * dilation + 1
    if same:
        out_h, out_w = -(-height // stride), -(-width // stride)
    else:
        out_h, out_w = (height - reach) // stride + 1, (width - reach) // stride + 1
    options: dict[str, Any] = {"padding": "SAME", "stride_w": 1, "stride_h": 1}
    sliding = {
        "padding": "SAME" if same else "VALID",
        "stride_w": stride,
        "stride_h": stride,
        "dilation_w_factor": dilation,
        "dilation_h_factor": dilation,
        "depth_multiplier": multiplier,
    }
    unit = {"scale": 1 / 128 if words else 1 / 256, "zero": -128} if function else {}
    tensors = [
        act("x", 1, height, width, 8),
        weight("e", wide, 1, 1, 8),
        act("h", 1, height, width, wide),
        act("f", 1, height, width, wide, **unit),
        weight("d", 1, kernel, kernel, wide * multiplier),
        act("n", 1, out_h, out_w, wide * multiplier),
        weight("p", 8, 1, 1, wide * multiplier),
        act("y", 1, out_h, out_w, 8),
    ]
    between = 3 if function else 2
    operators = [
        Operator("CONV_2D", [0, 1, -1], [2], options),
        *([Operator("LOGISTIC", [2], [3])] if function else []),
        Operator("DEPTHWISE_CONV_2D", [between, 4, -1], [5], sliding),
        Operator("CONV_2D", [5, 6, -1], [7], options),
    ]
    return Model([Subgraph(tensors, [0], [7], operators)])


def golden(model: Model) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    shape = model.main.tensors[0].shape
    limits = np.iinfo(model.main.tensors[0].numpy_dtype)
    draw = np.random.default_rng(1)
    feeds = {"x": draw.integers(limits.min, limits.max, shape, limits.dtype, endpoint=True)}
    return [(feeds, reference(model, feeds))]


def streamed(model: Model) -> Lowered:
    return whole_chain_joined(lower(model))


def whole_chain_joined(lowered: Lowered) -> Lowered:
    """The one chain that there is, as one call."""
    (found,) = chains(lowered)
    return joined(lowered, found)


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(5, 10),
    width=st.integers(5, 8),
    kernel=st.sampled_from([1, 2, 3, 5]),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 2),
    same=st.booleans(),
    function=st.booleans(),
    multiplier=st.integers(1, 2),
    dtype=st.sampled_from(["INT8", "INT16"]),
)
def test_every_byte_is_the_references(**form: Any) -> None:
    reach = (form["kernel"] - 1) * form["dilation"] + 1
    if not form["same"] and reach > min(form["height"], form["width"]):
        return
    model = inverted_residual(wide=12, **form)
    lowered = streamed(model)
    kind = "s8" if form["dtype"] == "INT8" else "s16"
    assert [call.kernel for call in lowered.calls] == [KERNEL + kind, f"edgec_conv_{kind}"]
    execute.check(model, lowered, plan(lowered.program, time_limit=1), golden(model))


@pytest.mark.parametrize(("dtype", "width"), [("INT8", 1), ("INT16", 2)])
def test_the_wide_tensor_is_gone(dtype: str, width: int) -> None:
    model = inverted_residual(height=32, width=32, wide=48, dtype=dtype)
    before = lower(model)
    after = streamed(model)
    wide = 32 * 32 * 48 * width
    assert plan(before.program).peak >= wide
    assert plan(after.program).peak < wide / 2
    assert sum(call.macs for call in after.calls) == sum(call.macs for call in before.calls)


def test_an_output_that_comes_too_close_is_noticed() -> None:
    model = inverted_residual(stride=1)
    lowered = streamed(model)
    call = lowered.calls[0]
    (share,) = call.shares
    assert share.distance > 0
    wrong = lowered.by([replace(call, shares=(replace(share, distance=0),)), *lowered.calls[1:]])
    with pytest.raises(InternalError):
        execute.check(model, wrong, plan(wrong.program), golden(model))


def other(model: Model, position: int, operator: Operator) -> Model:
    operators = list(model.main.operators)
    operators[position] = operator
    return Model([replace(model.main, operators=operators)])


def test_what_somebody_else_reads_stays_whole() -> None:
    model = inverted_residual()
    seen = Model([replace(model.main, outputs=[7, 3])])
    assert not list(chains(lower(seen)))
    conv = model.main.operators[0]
    strided = inverted_residual(height=18, width=14)
    tensors = list(strided.main.tensors)
    tensors[2] = replace(tensors[2], shape=(1, 9, 7, 24))
    tensors[3] = replace(tensors[3], shape=(1, 9, 7, 24))
    tensors[5] = replace(tensors[5], shape=(1, 5, 4, 24))
    tensors[7] = replace(tensors[7], shape=(1, 5, 4, 8))
    jumping = Operator(
        "CONV_2D", conv.inputs, conv.outputs, {**conv.options, "stride_w": 2, "stride_h": 2}
    )
    graph = replace(strided.main, tensors=tensors)
    assert not list(chains(lower(other(Model([graph]), 0, jumping))))


@pytest.mark.needs_tool
@pytest.mark.parametrize("dtype", ["INT8", "INT16"])
@pytest.mark.parametrize("function", [True, False])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_the_c_is_equal_too(
    stride: int, function: bool, dtype: str, self_test: Callable[..., str]
) -> None:
    model = inverted_residual(stride=stride, function=function, dtype=dtype)
    assert "3 samples agree" in self_test(model, rewrite=whole_chain_joined)


@pytest.mark.needs_tool
@pytest.mark.skipif(
    not all(map(shutil.which, (COMPILER, SIMULATOR))), reason=f"needs {COMPILER} and {SIMULATOR}"
)
@pytest.mark.parametrize("dtype", ["INT8", "INT16"])
@pytest.mark.parametrize("board", ["mps2-an385", "mps2-an500", "mps3-an547"])
def test_boards_agree(board: str, dtype: str, write_c: Callable[..., Any]) -> None:
    model = inverted_residual(stride=1, dtype=dtype)
    folder, sources = write_c(model, rewrite=whole_chain_joined)
    count = count_instructions(folder, BOARDS[board], steps=len(sources.steps), samples=3)
    assert count.agreed


def test_sizes_are_told_without_writing(write_c: Callable[..., Any]) -> None:
    model = inverted_residual(wide=48)
    whole, rows = (
        write_c(model, rewrite=form)[1] for form in (lambda lowered: lowered, whole_chain_joined)
    )
    assert rows.arena_bytes < whole.arena_bytes
    assert constant_bytes(lower(model)) == whole.weight_bytes == rows.weight_bytes
    forms = Forms(lower(model))

    def told(limit: int | None) -> int:
        return forms.fitted([Region("ram", "ram", limit)]).plan.peak

    assert told(None) == told(whole.arena_bytes) == whole.arena_bytes
    assert told(whole.arena_bytes - 1) == told(rows.arena_bytes) == rows.arena_bytes
    assert told(0) == rows.arena_bytes, "the least there is, where nothing is small enough"
    assert told(None) == whole.arena_bytes
    assert forms.fitted([]).streamed == ()
    assert len(forms.fitted([], limit=rows.arena_bytes).streamed) == 1
