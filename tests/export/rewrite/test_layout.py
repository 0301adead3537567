"""The view algebra against numpy, and the plans that it prints."""

from __future__ import annotations

import itertools
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edgec.export.rewrite.layout import NODE_NS, Step, View, cost, plan


def execute(steps: tuple[Step, ...], x: NDArray[Any]) -> NDArray[Any]:
    """The steps by their definition in the ONNX operator documentation."""
    for step in steps:
        if step.op == "Reshape":
            x = x.reshape(step.argument)
        elif step.op == "Transpose":
            x = x.transpose(step.argument)
        else:
            (n, c, h, w), (b,) = x.shape, step.argument
            if step.op == "SpaceToDepth":
                x = x.reshape(n, c, h // b, b, w // b, b).transpose(0, 3, 5, 1, 2, 4)
                x = x.reshape(n, c * b * b, h // b, w // b)
            else:
                c //= b * b
                x = x.reshape(n, b, b, c, h, w).transpose(0, 3, 4, 1, 5, 2)
                x = x.reshape(n, c, h * b, w * b)
        assert x.shape == step.shape
    return x


def numbered(shape: tuple[int, ...]) -> NDArray[Any]:
    return np.arange(math.prod(shape)).reshape(shape)


@st.composite
def chains(draw: st.DrawFn) -> tuple[tuple[int, ...], list[tuple[str, tuple[int, ...]]]]:
    """A random shape and a random chain of views that is legal on it."""
    shape = tuple(draw(st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=1, max_size=4)))
    first, steps = shape, []
    for _ in range(draw(st.integers(1, 5))):
        if draw(st.booleans()):
            perm = tuple(draw(st.permutations(range(len(shape)))))
            steps.append(("Transpose", perm))
            shape = tuple(shape[p] for p in perm)
        else:
            primes = [p for d in shape for p in ([2, 2] if d == 4 else [2, 3] if d == 6 else [d])]
            merged: list[int] = []
            for p in primes:
                if merged and draw(st.booleans()):
                    merged[-1] *= p
                else:
                    merged.append(p)
            shape = tuple(merged)
            steps.append(("Reshape", shape))
    return first, steps


@settings(max_examples=150, deadline=None)
@given(chains(), st.sampled_from([4, 5]))
def test_composed_chain_equals_numpy(
    chain: tuple[tuple[int, ...], list[tuple[str, tuple[int, ...]]]], max_rank: int
) -> None:
    shape, links = chain
    x = want = numbered(shape)
    view: View | None = View.identity(shape)
    for op, argument in links:
        want = want.reshape(argument) if op == "Reshape" else want.transpose(argument)
        view = view.reshape(argument) if op == "Reshape" else view.transpose(argument)
        if view is None:
            return  # a boundary inside a factor: rightly not expressible
    np.testing.assert_array_equal(view.apply(x), want)
    np.testing.assert_array_equal(view.simplified().apply(x), want)
    steps = plan(view, max_rank)
    np.testing.assert_array_equal(execute(steps, x), want)
    check_that_each_step_is_printed(view, steps)
    np.testing.assert_array_equal(view.inverse().apply(want), x)


def check_that_each_step_is_printed(view: View, steps: tuple[Step, ...]) -> None:
    """No neighbouring Transposes, and no Reshape between two that no graph would have."""
    operators = [step.op for step in steps]
    assert ("Transpose", "Transpose") not in itertools.pairwise(operators)
    shapes = [view.in_shape, *(step.shape for step in steps)]
    for step, before in zip(steps, shapes, strict=False):
        assert step.op != "Reshape" or step.shape != before


def test_the_halves_of_a_permutation_do_not_meet_in_one_shape() -> None:
    """Blocks of HaloNet: printed and read again, the plan seemed dearer than itself, for ever."""
    view = View.identity((32, 8, 8, 12, 12)).transpose((0, 3, 1, 4, 2))
    for max_rank in (4, 5):
        steps = plan(view, max_rank)
        check_that_each_step_is_printed(view, steps)
        x = numbered(view.in_shape)
        np.testing.assert_array_equal(execute(steps, x), view.apply(x))


def test_uneven_cut_is_refused() -> None:
    view = View.identity((4, 6)).transpose((1, 0))
    assert view.reshape((6, 4)) is not None
    assert view.reshape((4, 6)) is None


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_to_space_modes_follow_onnx(mode: str) -> None:
    x = numbered((1, 8, 2, 3))
    view = View.identity(x.shape).depth_to_space(2, mode)
    assert view is not None
    if mode == "DCR":
        want = x.reshape(1, 2, 2, 2, 2, 3).transpose(0, 3, 4, 1, 5, 2)
    else:
        want = x.reshape(1, 2, 2, 2, 2, 3).transpose(0, 1, 4, 2, 5, 3)
    np.testing.assert_array_equal(view.apply(x), want.reshape(1, 2, 4, 6))


def test_cancelling_transposes_need_nothing() -> None:
    view = View.identity((1, 8, 4, 4)).transpose((0, 2, 3, 1)).transpose((0, 3, 1, 2))
    assert plan(view) == ()


def test_views_without_movement_are_one_reshape() -> None:
    view = View.identity((1, 8, 4, 4)).reshape((8, 16))
    assert view is not None
    assert [step.op for step in plan(view)] == ["Reshape"]


@pytest.mark.parametrize("remote", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("max_rank", [4, 5])
def test_window_partition_of_rank_six_stays_within_the_limit(
    remote: bool, transposed: bool, max_rank: int
) -> None:
    cut = (1, 160, 7, 2, 7, 2) if remote else (1, 160, 2, 7, 2, 7)
    perm = (0, 3, 5, 1, 2, 4) if remote else (0, 2, 4, 1, 3, 5)
    view = View.identity((1, 160, 14, 14)).reshape(cut)
    assert view is not None
    view = view.transpose(perm).reshape((4, 5, 32, 49))
    assert view is not None
    if transposed:
        view = view.transpose((0, 1, 3, 2))
    for direction in (view, view.inverse()):
        steps = plan(direction, max_rank)
        assert max(len(step.shape) for step in steps) <= max_rank
        x = numbered(direction.in_shape)
        np.testing.assert_array_equal(execute(steps, x), direction.apply(x))


def test_cost_prefers_runs_over_scattered_elements() -> None:
    shape = (5, 128, 14, 14)
    runs = (Step("Transpose", (1, 0, 2, 3), (128, 5, 14, 14)),)
    scattered = (Step("Transpose", (3, 1, 2, 0), (14, 128, 14, 5)),)
    assert cost(runs, shape) < cost(scattered, shape)


def test_cost_of_neighbouring_transposes_is_that_of_the_joined_one() -> None:
    shape = (1920, 4, 8, 4)
    apart = (
        Step("Transpose", (1, 0, 2, 3), (4, 1920, 8, 4)),
        Step("Transpose", (0, 3, 1, 2), (4, 4, 1920, 8)),
    )
    joined = (Step("Transpose", (1, 3, 0, 2), (4, 4, 1920, 8)),)
    between = (*apart[:1], Step("Reshape", (4, 15360, 4), (4, 15360, 4)))
    last = Step("Transpose", (0, 2, 1), (4, 4, 15360))
    assert cost(apart, shape)[0] == pytest.approx(cost(joined, shape)[0] + NODE_NS)
    assert cost((*between, last), shape)[0] < cost(apart, shape)[0]


@pytest.mark.parametrize("max_rank", [4, 5])
def test_onnx_runtime_executes_the_transposes_that_were_planned(max_rank: int) -> None:
    """Its optimizer joins neighbouring Transposes, which would undo a plan that relied on two."""
    view = View.identity((1, 480, 32, 32)).space_to_depth(4)
    assert view is not None
    view = view.reshape((16, 4, 120, 64))
    assert view is not None
    back = view.inverse()
    steps = plan(back, max_rank)
    planned = [step.argument for step in steps if step.op == "Transpose"]
    assert len(planned) == 2
    assert executed_transposes(steps, back.in_shape) == planned


def executed_transposes(steps: tuple[Step, ...], shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Permutations in the graph that ONNX Runtime makes of `steps`."""
    nodes, tensors, value = [], [], "x"
    for i, step in enumerate(steps):
        inputs, attributes = [value], {}
        if step.op == "Reshape":
            tensors.append(numpy_helper.from_array(np.array(step.argument, np.int64), f"s{i}"))
            inputs.append(f"s{i}")
        elif step.op == "Transpose":
            attributes = {"perm": step.argument}
        else:
            attributes = {"blocksize": step.argument[0]}
        value = f"v{i}"
        nodes.append(helper.make_node(step.op, inputs, [value], **attributes))
    float_type = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "view",
        [helper.make_tensor_value_info("x", float_type, shape)],
        [helper.make_tensor_value_info(value, float_type, steps[-1].shape)],
        tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimized.onnx"
        options = ort.SessionOptions()
        options.optimized_model_filepath = str(path)
        ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        executed = onnx.load(path).graph.node
    return [tuple(n.attribute[0].ints) for n in executed if n.op_type == "Transpose"]


def test_image_to_windows_goes_through_channels_last() -> None:
    """Runtimes read convolutions channels-last for free; then whole runs of channels move."""
    view = View.identity((1, 192, 16, 16)).reshape((192, 8, 2, 8, 2))
    assert view is not None
    windows = view.transpose((2, 4, 1, 3, 0)).reshape((256, 192))
    assert windows is not None
    steps = plan(windows)
    assert steps[0] == Step("Transpose", (0, 2, 3, 1), (1, 16, 16, 192))
    assert [step.op for step in steps] == ["Transpose", "Reshape", "Transpose", "Reshape"]
    back = plan(windows.inverse())
    assert back[-1] == Step("Transpose", (0, 3, 1, 2), (1, 192, 16, 16))


def test_dimensions_of_one_do_not_count_as_scattering() -> None:
    flat = (Step("Transpose", (1, 0), (256, 192)),)
    image = (Step("Transpose", (2, 3, 1, 0), (16, 16, 192, 1)),)
    assert cost(image, (1, 192, 16, 16))[0] == cost(flat, (192, 256))[0]
