"""What the rules of LiteRT leave in float, and what of it is stored as integers."""

import numpy as np
import pytest

from edgec.export.quantize.calibrate import calibrate
from edgec.export.quantize.entries import Weight
from edgec.export.quantize.graph import constant_of, prepared_copy
from edgec.export.quantize.insert import quantize
from edgec.export.quantize.plan import plan_quantization
from edgec.export.quantize.scheme import TFLITE, TFLITE_FULL

RNG = np.random.default_rng(0)


def planned(model, scheme=TFLITE, exclude=()):
    return plan_quantization(prepared_copy(model), scheme, exclude)


def weights(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("index", [0, 1])
def test_of_a_product_with_a_stack_only_the_matrices_are_integers(build, node, index):
    operands = ["w", "x"] if index == 0 else ["x", "w"]
    model = build(
        [node("MatMul", operands, ["y"])],
        {"x": [1, 3, 8, 8]},
        {"y": [1, 3, 8, 8]},
        {"w": weights(3, 8, 8)},
    )
    plan = planned(model)
    axis = 1 + index  # that of the rows of the product, or of its columns
    assert plan.weights == (Weight("node_y", index, "w", axis),)
    assert (plan.quantizers, plan.integer_nodes) == ((), ())
    assert plan.left_float == {"node_y": "product with a stack of matrices"}
    feeds = [{"x": weights(1, 3, 8, 8)}]
    made = quantize(model, calibrate(model, feeds), TFLITE)
    assert sorted(n.op_type for n in made.graph) == ["DequantizeLinear", "MatMul"]
    scales = next(n for n in made.graph if n.op_type == "DequantizeLinear").inputs[1]
    assert constant_of(scales).shape == (8,)

    assert planned(model, TFLITE_FULL).integer_nodes == ("node_y",)
    assert planned(model, exclude=["MatMul"]).weights == ()


def test_one_matrix_is_no_stack(build, node):
    constants = {"w": weights(1, 1, 8, 6)}
    shapes = ({"x": [1, 3, 4, 8]}, {"y": [1, 3, 4, 6]})
    model = build([node("MatMul", ["x", "w"], ["y"])], *shapes, constants)
    assert planned(model).integer_nodes == ("node_y",)


@pytest.mark.parametrize("behind", [False, True])
def test_what_multiplies_nothing_follows_integers(build, node, behind):
    """An Add on its own would only bring conversions."""
    first = node("Conv", ["x", "w"], ["a"]) if behind else node("Softmax", ["x"], ["a"])
    model = build(
        [first, node("Add", ["a", "x"], ["b"]), node("Mul", ["b", "c"], ["y"])],
        {"x": [1, 4, 8, 8]},
        {"y": [1, 4, 8, 8]},
        {"w": weights(4, 4, 1, 1), "c": weights(1, 4, 1, 1)},
    )
    wanted = ("node_a", "node_b", "node_y") if behind else ()
    assert planned(model).integer_nodes == wanted
    assert planned(model, TFLITE_FULL).integer_nodes == ("node_a", "node_b", "node_y")


@pytest.mark.parametrize(("row", "integer"), [(511, True), (512, False)])
def test_a_long_softmax_has_no_grid(build, node, row, integer):
    """On steps of 1/256 attention over many tokens would be zeros."""
    shape = [1, 2, row]
    model = build([node("Softmax", ["x"], ["y"], axis=-1)], {"x": shape}, {"y": shape}, {})
    plan = planned(model, TFLITE_FULL)
    assert (plan.integer_nodes == ("node_y",)) == integer
    assert plan.left_float == ({} if integer else {"node_y": f"softmax over {row} elements"})


@pytest.mark.parametrize("spread", [False, True])
def test_a_prescribed_grid_that_leaves_no_steps_is_left(build, node, spread):
    """The largest of 200 equal weights is 1/200: one step of 1/256."""
    shape = [1, 2, 200]
    model = build([node("Softmax", ["x"], ["y"], axis=-1)], {"x": shape}, {"y": shape}, {})
    x = weights(*shape) * (0.01 if spread else 5.0)
    made = quantize(model, calibrate(model, [{"x": x}], method="minmax"), TFLITE_FULL)
    scale = constant_of(next(n for n in made.graph if n.name == "y_QuantizeLinear").inputs[1])
    if spread:
        assert 1 / 200 / 255 < scale < 1.1 / 200 / 255
    else:
        assert scale == np.float32(1 / 256)


def test_what_computes_in_float_writes_on_any_grid(build, node):
    """A softmax that is left in float, and a product that reads its integers."""
    model = build(
        [node("Softmax", ["x"], ["a"], axis=-1), node("MatMul", ["a", "w"], ["y"])],
        {"x": [1, 4, 8]},
        {"y": [1, 4, 6]},
        {"w": weights(8, 6)},
    )
    assert [q.fixed for q in planned(model, TFLITE_FULL).quantizers if q.tensor == "a"] == [
        (0.0, 255 / 256)
    ]
    kept = planned(model, TFLITE_FULL, ["Softmax"])
    assert [q.fixed for q in kept.quantizers if q.tensor == "a"] == [None]
