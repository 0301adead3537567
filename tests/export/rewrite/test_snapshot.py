"""Snapshots: the numbers and bytes of the whole model, without copies of its weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgec.export.rewrite import numerics
from edgec.export.rewrite.inference import infer_shapes
from edgec.export.rewrite.snapshot import Snapshot, hold_weights, weights_apart


@pytest.fixture
def model(build: Any, rng: np.random.Generator) -> ir.Model:
    """A large weight that is used, one in the branch of an If only, one unused, and a small one."""
    text = """net (bool c, float[2, 64] x, float[64, 64] w, float[64, 32] u, float[64, 64] unread,
                   float[64] b) => (float[2, 64] y)
        { m = MatMul(x, w) a = Add(m, b) y = If(c) <
            then_branch = one () => (float[2, 64] p) { t = MatMul(a, w) p = Relu(t) },
            else_branch = two () => (float[2, 64] q) { s = MatMul(a, u) q = Concat<axis=1>(s, s) }
          > }"""
    weights = {
        name: rng.standard_normal(shape).astype(np.float32)
        for name, shape in {"w": (64, 64), "u": (64, 32), "unread": (64, 64), "b": (64,)}.items()
    }
    built: ir.Model = build(text, weights)
    return built


def test_same_numbers_and_bytes(model: ir.Model) -> None:
    whole = numerics.serialize(model)
    snapshot = Snapshot.of(model)
    assert set(snapshot.weights) == {"w", "u", "unread"}
    assert snapshot.unread == {"unread"}
    assert len(snapshot.proto) < len(whole) / 10
    assert snapshot.to_bytes() == whole
    assert numerics.serialize(model) == whole
    for seed in (1, 2):
        feed = numerics.seeded_inputs(model, seed) | {"c": np.array(seed == 1)}
        want, got = numerics.run(whole, [feed]), snapshot.run([feed])
        np.testing.assert_array_equal(want[0], got[0])


def test_weights_are_shared(model: ir.Model) -> None:
    array = model.graph.initializers["w"].const_value.numpy()  # type: ignore[union-attr]
    assert np.shares_memory(Snapshot.of(model).weights["w"], array)


def test_a_snapshot_keeps_its_moment(model: ir.Model) -> None:
    whole, snapshot = numerics.serialize(model), Snapshot.of(model)
    value = model.graph.initializers["w"]
    value.const_value = ir.tensor(np.zeros((64, 64), np.float32), name="w")
    assert numerics.serialize(model) != whole
    assert snapshot.to_bytes() == whole


def test_weights_return_after_an_error(model: ir.Model) -> None:
    whole = numerics.serialize(model)
    with pytest.raises(RuntimeError), weights_apart(model):
        raise RuntimeError
    assert numerics.serialize(model) == whole


def test_what_a_caller_can_replace_stays(build: Any, rng: np.random.Generator) -> None:
    model = build(
        "net (float[2, 64] x, float[64, 64] w) => (float[2, 64] y) { y = MatMul(x, w) }",
        {"w": rng.standard_normal((64, 64)).astype(np.float32)},
    )
    model.graph.inputs.append(model.graph.initializers["w"])
    assert Snapshot.of(model).weights == {}


def test_held_weights_are_no_copies(model: ir.Model) -> None:
    whole = numerics.serialize(model)
    read = ir.from_proto(onnx.load_model_from_string(whole))
    hold_weights(read)
    tensor = read.graph.initializers["w"].const_value
    assert tensor is not None
    assert np.shares_memory(tensor.numpy(), tensor.numpy())
    assert numerics.serialize(read) == whole


def test_shapes_follow_from_small_initializers(build: Any, rng: np.random.Generator) -> None:
    """Large weights take no part in inference; shapes that an initializer holds do."""
    model = build(
        """net (float[2, 64] x, float[64, 64] w) => (float[4, 32] y) <int64[2] s = {4, 32}>
        { m = MatMul(x, w) y = Reshape(m, s) }""",
        {"w": rng.standard_normal((64, 64)).astype(np.float32)},
    )
    for node in model.graph:
        node.outputs[0].shape = None
    infer_shapes(model)
    assert [n.outputs[0].shape for n in model.graph] == [ir.Shape([2, 64]), ir.Shape([4, 32])]
