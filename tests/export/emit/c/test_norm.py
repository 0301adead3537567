"""Integer LayerNorm: the definition against real arithmetic, the kernel against the definition."""

from __future__ import annotations

import json
from collections.abc import Callable
from math import isqrt

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgec.export.emit.c.fuse import fuse
from edgec.export.emit.c.lower import lower
from edgec.export.emit.c.norm import (
    Norm,
    constants,
    error_bound,
    inverse_roots,
    normalised,
)
from edgec.export.errors import UnsupportedError
from edgec.export.tflite import Model, Operator, Quantization, Subgraph, Tensor

AGREE = "edgec self-test: 3 samples agree\n"


def int8(name: str, shape: tuple[int, ...], scale: float, zero: int) -> Tensor:
    return Tensor(name, shape, "INT8", None, Quantization.per_tensor(scale, zero))


def floats(name: str, shape: tuple[int, ...], data: np.ndarray | None = None) -> Tensor:
    return Tensor(name, shape, "FLOAT32", None if data is None else data.astype(np.float32))


def network(
    shape: tuple[int, ...],
    axes: list[int],
    *,
    affine: tuple[int, ...],
    code: str = "LayerNormalization",
    in_grid: tuple[float, int] = (0.03, 4),
    out_grid: tuple[float, int] = (0.02, -9),
    epsilon: float = 1e-5,
    seed: int = 0,
) -> Model:
    """DEQUANTIZE, norm, RESHAPE to a line, QUANTIZE, as networks are lowered."""
    rng = np.random.default_rng(seed)
    line = (int(np.prod(shape)),)
    tensors = [
        int8("x", shape, *in_grid),
        floats("real", shape),
        floats("gain", affine, rng.normal(1, 0.5, affine)),
        floats("offset", affine, rng.normal(0, 0.5, affine)),
        floats("norm", shape),
        Tensor("line", (1,), "INT32", np.array(line, np.int32)),
        floats("flat", line),
        int8("y", line, *out_grid),
    ]
    options = json.dumps({"axes": axes, "epsilon": epsilon}).encode()
    operators = [
        Operator("DEQUANTIZE", [0], [1]),
        Operator("CUSTOM", [1, 2, 3], [4], custom_code=code, custom_options=options),
        Operator("RESHAPE", [4, 5], [6]),
        Operator("QUANTIZE", [6], [7]),
    ]
    return Model([Subgraph(tensors, [0], [7], operators)])


def definition(model: Model) -> Norm:
    graph = fuse(model).main
    x, gain, offset = (graph.tensors[i] for i in (0, 2, 3))
    return constants(graph.operators[0], x, gain, offset, graph.tensors[4])


def real_result(model: Model, x: np.ndarray) -> np.ndarray:
    """In double precision, in steps of the output, before rounding."""
    graph = model.main
    options = json.loads(graph.operators[1].custom_options)
    axes = tuple(options["axes"])
    grids = [graph.tensors[i].quantization for i in (0, 7)]
    (s, _), (t, w) = ((float(g.scale[0]), int(g.zero_point[0])) for g in grids if g is not None)
    # exactly zero in constant rows
    count = np.prod([x.shape[a] for a in axes])
    centred = (count * x.astype(np.int64) - x.astype(np.int64).sum(axis=axes, keepdims=True)) * s
    centred = centred / count
    variance = np.maximum((centred**2).mean(axis=axes, keepdims=True), 1e-300)
    gain, offset = (np.asarray(graph.tensors[i].data, np.float64) for i in (2, 3))
    return (centred / np.sqrt(variance + options["epsilon"]) * gain + offset) / t + w


FORMS = {
    "tokens": network((5, 48), [1], affine=(1, 48)),
    "one gain for all": network((2, 6, 17), [2], affine=(1, 1, 1)),
    "two elements": network((40, 2), [1], affine=(1, 2)),
    "long rows": network((1, 4096), [1], affine=(1, 4096)),
    "no epsilon": network((6, 20), [1], affine=(1, 20), epsilon=0.0),
    "epsilon above the variance": network((6, 20), [1], affine=(1, 20), epsilon=40.0),
    "all of an image, a gain per channel": network(
        (2, 3, 4, 6), [1, 2, 3], affine=(1, 1, 1, 6), code="GroupNormalization"
    ),
    "channels of an image": network(
        (2, 3, 4, 6), [1, 2], affine=(1, 1, 1, 6), code="InstanceNormalization"
    ),
}


def samples(shape: tuple[int, ...]) -> list[dict[str, np.ndarray]]:
    """Rows without and with the least spread, saturated rows, any rows."""
    rng = np.random.default_rng(5)
    narrow = np.full(shape, 100, np.int8)
    narrow.reshape(-1)[-1] = 101
    ends = rng.choice(np.array([-128, 127], np.int8), shape)
    return [{"x": narrow}, {"x": ends}, {"x": rng.integers(-128, 128, shape, dtype=np.int8)}]


@pytest.mark.parametrize("form", FORMS)
def test_the_kernel_computes_the_definition(form: str, self_test: Callable[..., str]) -> None:
    model = FORMS[form]
    assert self_test(model, samples=samples(model.main.tensors[0].shape)) == AGREE


@pytest.mark.parametrize("form", FORMS)
def test_the_definition_is_near_real_arithmetic(form: str) -> None:
    model = FORMS[form]
    norm = definition(model)
    assert error_bound(norm) < 0.02
    for feeds in samples(model.main.tensors[0].shape):
        wanted = np.clip(real_result(model, feeds["x"]), -128, 127)
        error = np.abs(normalised(norm, feeds["x"]) - wanted).max()
        assert error <= 0.5 + error_bound(norm)


# a busy machine is no failure
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.integers(-128, 127), min_size=2, max_size=300),
    st.floats(1e-4, 10.0),
    st.floats(5e-3, 0.3),
    st.integers(-128, 127),
    st.floats(0.0, 1e-2),
)
def test_any_row_is_within_the_bound(
    row: list[int], scale: float, out_scale: float, zero: int, epsilon: float
) -> None:
    size = len(row)
    model = network(
        (1, size),
        [1],
        affine=(1, size),
        in_grid=(scale, -3),
        out_grid=(out_scale, zero),
        epsilon=epsilon,
        seed=size,
    )
    x = np.array([row], np.int8)
    norm = definition(model)
    wanted = np.clip(real_result(model, x), -128, 127)
    error = np.abs(normalised(norm, x) - wanted).max()
    # at most one step from the rounded real result
    assert error <= 0.5 + error_bound(norm) < 1


def test_a_norm_in_place_needs_no_second_buffer() -> None:
    program = lower(FORMS["tokens"]).program
    (step,) = (step for step, _ in program.steps())
    assert [overlap.distance for overlap in step.overlaps] == [0]
    (step,) = (step for step, _ in lower(FORMS["channels of an image"]).program.steps())
    assert not step.overlaps


def test_the_model_is_not_modified() -> None:
    model = FORMS["tokens"]
    before = [(op.code, list(op.inputs), list(op.outputs)) for op in model.main.operators]
    fused = fuse(model)
    assert [op.code for op in fused.main.operators] == ["CUSTOM", "RESHAPE"]
    assert [(op.code, op.inputs, op.outputs) for op in model.main.operators] == before
    assert model.main.tensors[4].dtype == "FLOAT32"


def test_what_has_no_integer_form_is_named() -> None:
    with pytest.raises(UnsupportedError, match="65536"):
        lower(network((1, 70000), [1], affine=(1, 1)))
    with pytest.raises(UnsupportedError, match="neighbours"):
        lower(network((2, 3, 4), [0, 2], affine=(1, 1, 1)))


def test_a_norm_whose_float_result_is_needed_stays_in_float() -> None:
    model = network((5, 8), [1], affine=(1, 8))
    model.main.outputs.append(4)
    kernels = [call.kernel for call in lower(model).calls]
    assert kernels == ["edgec_dequantize_f32", "edgec_layer_norm_f32", "edgec_quantize_f32"]


@given(st.integers(1, (1 << 62) - 1) | st.integers(1, (1 << 31) - 1).map(lambda root: root * root))
@settings(max_examples=300, deadline=None)
def test_roots_in_numpy_are_those_of_whole_numbers(x: int) -> None:
    for value in {x, max(x - 1, 1)}:
        inverse, pairs = inverse_roots(np.array([value], np.int64))
        shift = (62 - value.bit_length()) // 2
        assert int(pairs[0]) == shift
        assert int(inverse[0]) == ((1 << 61) - 1) // isqrt(value << 2 * shift)
