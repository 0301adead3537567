"""Regions of token-wise operators as matrices."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgec.export.rewrite import numerics
from edgec.export.rewrite.fold.compose_views import ComposeViews
from edgec.export.rewrite.graph import MODULE_KEY, shape_of
from edgec.export.rewrite.legalise.flatten_tokens import FlattenTokens, wants_matrices
from edgec.targets.registry import get_target, list_targets

PASSES = [FlattenTokens, ComposeViews]


def f32(seed: int, *shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def mlp(build: Any, n: int = 3, tokens: int = 4, channels: int = 6) -> ir.Model:
    """LayerNorm, Linear, GELU, Linear, residual on the rows of an image; views at both ends."""
    shape = f"{n}, {tokens}, {channels}"
    weights = {"s": f32(1, channels), "t": f32(2, channels), "v": f32(3, channels, 8)}
    weights |= {"a": f32(4, 8), "w": f32(5, 8, channels), "b": f32(6, channels)}
    declared = ", ".join(
        f"float[{', '.join(map(str, array.shape))}] {name}" for name, array in weights.items()
    )
    model: ir.Model = build(
        f"""net (float[1, {channels}, {n}, {tokens}] x, {declared})
        => (float[{channels}, {n * tokens}] y)
        <int64[3] rank3 = {{{shape}}}, int64[2] rows = {{{n * tokens}, {channels}}}>
        {{
          p = Transpose<perm = [0, 2, 3, 1]>(x)
          q = Reshape(p, rank3)
          l = LayerNormalization(q, s, t)
          h0 = MatMul(l, v)
          h1 = Add(a, h0)
          h2 = Gelu(h1)
          h3 = MatMul(h2, w)
          h4 = Add(h3, b)
          r = Add(q, h4)
          f = Reshape(r, rows)
          y = Transpose<perm = [1, 0]>(f)
        }}""",
        weights,
    )
    return model


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 7))
def test_every_linear_layer_works_on_a_matrix(
    build: Any, run_passes: Any, n: int, tokens: int, channels: int
) -> None:
    outcome = run_passes(mlp(build, n, tokens, channels), PASSES, matrices=True)
    assert outcome.after["MatMul"] == 2
    assert sum(outcome.after.values()) <= sum(outcome.before.values())
    for node in outcome.model.graph:
        if node.op_type in ("MatMul", "Gelu", "LayerNormalization", "Add"):
            assert shape_of(node.outputs[0]) is not None
            assert len(shape_of(node.outputs[0]) or ()) == 2


def test_onnx_runtime_needs_no_reshapes_of_its_own(build: Any, run_passes: Any) -> None:
    """What the pass is for: compare the graphs that ONNX Runtime makes of both."""
    before = optimized(mlp(build))
    after = optimized(run_passes(mlp(build), PASSES, matrices=True).model)
    assert before["Gemm"] == after["Gemm"] == 2
    assert after["Reshape"] < before["Reshape"]


def optimized(model: ir.Model) -> Counter[str]:
    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
        ort.InferenceSession(numerics.serialize(model), options, ["CPUExecutionProvider"])
        graph = onnx.load(options.optimized_model_filepath).graph
    return Counter(node.op_type for node in graph.node)


def test_nothing_happens_for_other_runtimes(build: Any, run_passes: Any) -> None:
    assert run_passes(mlp(build), [FlattenTokens]).matches == 0


def test_only_onnx_runtime_wants_matrices() -> None:
    for name in list_targets():
        runtime = get_target(name).runtime
        assert wants_matrices(runtime) == (runtime.name == "onnxruntime")


def test_one_layer_between_readers_that_are_no_views_is_refused(
    build: Any, run_passes: Any
) -> None:
    model = build(
        """net (float[2, 3, 4] x, float[4, 4] w, float[4] b) => (float[2, 3, 4] y)
        { h = MatMul(x, w) k = Add(h, b) y = Softmax<axis = 1>(k) }""",
        {"w": f32(1, 4, 4), "b": f32(2, 4)},
    )
    outcome = run_passes(model, PASSES, matrices=True)
    assert outcome.matches == 0
    assert outcome.refusals == ["2 Reshapes for 1 layers with bias"]


@pytest.mark.parametrize("axis", [-1, 1, 2])
def test_only_norms_of_the_last_axis_join(build: Any, run_passes: Any, axis: int) -> None:
    size = (3, 4) if axis == 1 else (4,)
    declared = ", ".join(map(str, size))
    model = build(
        f"""net (float[6, 4] x, float[4, 4] w, float[4] b, float[{declared}] s)
        => (float[6, 4] y)
        <int64[3] split = {{2, 3, 4}}, int64[2] rows = {{6, 4}}>
        {{
          p = Reshape(x, split)
          h = MatMul(p, w)
          k = Add(h, b)
          n = LayerNormalization<axis = {axis}>(k, s)
          m = MatMul(n, w)
          o = Add(m, b)
          y = Reshape(o, rows)
        }}""",
        {"w": f32(1, 4, 4), "b": f32(2, 4), "s": f32(3, *size)},
    )
    outcome = run_passes(model, PASSES, matrices=True)
    norm = next(n for n in outcome.model.graph if n.op_type == "LayerNormalization")
    assert len(shape_of(norm.outputs[0]) or ()) == (3 if axis == 1 else 2)


@pytest.mark.parametrize(
    ("shape", "joins"),
    [
        ((4,), True),
        ((1, 1, 4), True),
        ((), True),
        ((2, 3, 4), True),  # a row for each token
        ((1, 3, 4), False),  # the same for each window: not a row for each token
        ((3, 1), False),
        ((2, 1, 1), False),
    ],
)
def test_constant_operands(
    build: Any, run_passes: Any, shape: tuple[int, ...], joins: bool
) -> None:
    declared = f"float[{', '.join(map(str, shape))}]" if shape else "float"
    model = build(
        f"""net (float[6, 4] x, float[4, 4] w, float[4] b, {declared} c) => (float[6, 4] y)
        <int64[3] split = {{2, 3, 4}}, int64[2] rows = {{6, 4}}>
        {{
          p = Reshape(x, split)
          h = MatMul(p, w)
          k = Add(h, b)
          m = Mul(k, c)
          y = Reshape(m, rows)
        }}""",
        {"w": f32(1, 4, 4), "b": f32(2, 4), "c": f32(3, *shape)},
    )
    outcome = run_passes(model, PASSES, matrices=True)
    product = next(n for n in outcome.model.graph if n.op_type == "Mul")
    assert len(shape_of(product.outputs[0]) or ()) == (2 if joins else 3)


def test_graph_outputs_and_module_paths_are_kept(build: Any, run_passes: Any) -> None:
    model = build(
        """net (float[6, 4] x, float[4, 4] w, float[4] b) => (float[2, 3, 4] k, float[2, 3, 4] o)
        <int64[3] split = {2, 3, 4}>
        {
          p = Reshape(x, split)
          h = MatMul(p, w)
          k = Add(h, b)
          m = MatMul(k, w)
          o = Add(m, b)
        }""",
        {"w": f32(1, 4, 4), "b": f32(2, 4)},
    )
    for node in model.graph:
        node.metadata_props[MODULE_KEY] = f"layer.{node.outputs[0].name}"
    kept = {n.metadata_props[MODULE_KEY] for n in model.graph if n.op_type != "Reshape"}
    outcome = run_passes(model, PASSES, matrices=True)
    # two Reshapes at the outputs, none at the input, for two layers: too dear
    assert outcome.matches == 0
    cheap = type("Cheap", (FlattenTokens,), {"per_reshape": 1})
    outcome = run_passes(model, [cheap, ComposeViews], matrices=True)
    found = {n.metadata_props.get(MODULE_KEY) for n in outcome.model.graph}
    assert outcome.matches
    assert kept <= found
    assert None not in found


def test_region_is_found_inside_a_branch(build: Any, run_passes: Any) -> None:
    model = build(
        """net (bool c, float[6, 4] x, float[4, 4] w, float[4] b) => (float[6, 4] y)
        {
          y = If (c) <
            then_branch = a () => (float[6, 4] u) {
              split = Constant<value_ints = [2, 3, 4]>()
              rows = Constant<value_ints = [6, 4]>()
              p = Reshape(x, split)
              h = MatMul(p, w)
              k = Add(h, b)
              u = Reshape(k, rows)
            },
            else_branch = e () => (float[6, 4] z) { z = Neg(x) }
          >
        }""",
        {"w": f32(1, 4, 4), "b": f32(2, 4)},
    )
    outcome = run_passes(model, PASSES, matrices=True)
    assert outcome.matches == 3  # flattened, then the Reshapes at both ends are none
    assert "Reshape" not in outcome.after
