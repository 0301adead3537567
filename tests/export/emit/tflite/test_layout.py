"""The chosen orders of axes: nothing moves between convolutions, and views become free."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import permutations, product
from typing import Any

import numpy as np
import pytest

from edgec.export.emit.tflite.flavour import LITERT
from edgec.export.emit.tflite.graph import Graph, Node, Value
from edgec.export.emit.tflite.layout import assign, boundary
from edgec.export.emit.tflite.layouts import Choices, Config
from edgec.export.emit.tflite.lower import lower
from edgec.export.emit.tflite.normalise import normalise
from edgec.export.emit.tflite.operators.table import LOWERINGS
from edgec.export.emit.tflite.perms import move_cost
from edgec.export.emit.tflite.read import read_graph

RNG = np.random.default_rng(0)
RULES = {op: entry.rule for op, entry in LOWERINGS.items()}


def weight(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def counts(model: Any) -> tuple[int, int]:
    found = lower(model).operators
    return found.get("TRANSPOSE", 0), found.get("RESHAPE", 0)


def test_squeeze_and_excite_moves_nothing(graph: Callable[..., Any]) -> None:
    text = """a (float[1,8,6,6] x, float[1] w, float[1] r, float[1] e) => (y) {
        c = Conv<pads=[1,1,1,1]>(x, w)  p = GlobalAveragePool(c)  h = Conv(p, r)  q = Relu(h)
        i = Conv(q, e)  s = Sigmoid(i)  g = Mul(c, s)  b = Add(g, x)  y = Conv<pads=[1,1,1,1]>(b, w)
    }"""
    model = graph(text, {"w": weight(8, 8, 3, 3), "r": weight(2, 8, 1, 1), "e": weight(8, 2, 1, 1)})
    assert counts(model) == (0, 0)


def test_channels_last_island_in_onnx_becomes_nothing(graph: Callable[..., Any]) -> None:
    text = """a (float[1,8,6,6] x, float[1] k, float[1] s, float[1] w, float[1] b) => (y) {
        c = Conv<group=8, pads=[1,1,1,1]>(x, k)  t = Transpose<perm=[0,2,3,1]>(c)
        n = LayerNormalization(t, s)  l = MatMul(n, w)  m = Add(l, b)  g = Gelu(m)
        u = Transpose<perm=[0,3,1,2]>(g)  y = Add(u, x)
    }"""
    arrays = {"k": weight(8, 1, 3, 3), "s": weight(8), "w": weight(8, 8), "b": weight(8)}
    lowered = lower(graph(text, arrays))
    assert not {"TRANSPOSE", "RESHAPE"} & set(lowered.operators)
    assert lowered.operators["FULLY_CONNECTED"] == 1


def test_tokens_of_an_image_are_one_reshape(graph: Callable[..., Any]) -> None:
    text = """a (float[1,8,6,6] x, float[1] w, float[1] m) => (y) {
        c = Conv(x, w)  i = Constant<value_ints=[1,8,36]>()  r = Reshape(c, i)
        t = Transpose<perm=[0,2,1]>(r)  y = MatMul(t, m)
    }"""
    model = graph(text, {"w": weight(8, 8, 1, 1), "m": weight(8, 5)})
    assert counts(model) == (0, 1)


def test_transposed_operands_of_a_product_are_free(graph: Callable[..., Any]) -> None:
    text = """a (float[2,9,8] x, float[1] w) => (y) {
        q = MatMul(x, w)  t = Transpose<perm=[0,2,1]>(q)  y = MatMul(x, t) }"""
    model = graph(text, {"w": weight(8, 8)})
    lowered = lower(model)
    assert "TRANSPOSE" not in lowered.operators
    op = next(op for op in lowered.model.main.operators if op.code == "BATCH_MATMUL")
    assert (op.options["adj_x"], op.options["adj_y"]) == (False, True)


def test_a_copy_is_shared_by_its_readers(graph: Callable[..., Any]) -> None:
    text = """a (float[1,8,6,6] x, float[1] w) => (y, z) {
        c = Conv<pads=[1,1,1,1]>(x, w)  t = Softmax<axis=3>(c)  u = Softmax<axis=3>(c)
        v = Add(t, u)  y = Conv<pads=[1,1,1,1]>(v, w)  z = Conv(v, w) }"""
    assert counts(graph(text, {"w": weight(8, 8, 3, 3)})) == (2, 0)


CASES = [
    """a (float[2,3,4] x) => (y) {
        s = Softmax<axis=2>(x)  t = Transpose<perm=[1,2,0]>(s)  n = Neg(t)
        y = Softmax<axis=1>(n) }""",
    """a (float[3,4,4] x) => (y) {
        t = Transpose<perm=[0,2,1]>(x)  p = MatMul(x, t)  s = Softmax<axis=1>(p)
        y = MatMul(s, x) }""",
    """a (float[1,4,3,2] x) => (y) {
        p = MaxPool<kernel_shape=[1,1]>(x)  s = Softmax<axis=3>(p)  n = Neg(p)  q = Add(s, n)
        y = MaxPool<kernel_shape=[1,1]>(q) }""",
]


@pytest.mark.parametrize("text", CASES)
def test_no_assignment_is_cheaper(text: str, graph: Callable[..., Any]) -> None:
    """Against every combination of configs for every order of the axes."""
    read = normalise(read_graph(graph(text), LITERT))
    chosen = assign(read, RULES)
    options = [list(every_config(node)) for node in read.nodes]
    least = min(total(read, dict(zip(read.nodes, c, strict=True))) for c in product(*options))
    assert total(read, chosen) == pytest.approx(least)


def every_config(node: Node) -> Iterator[Config]:
    offered = tuple(tuple(permutations(range(len(v.shape)))) for v in node.operands)
    wanted = tuple(tuple(permutations(range(len(v.shape)))) for v in node.outputs)
    yield from dict.fromkeys(RULES[node.op](node, Choices(offered, wanted)))


def total(graph: Graph, layout: dict[Node, Config]) -> float:
    """Cost of an assignment; the first copy in an order serves all later readers."""
    there: dict[Value, list[tuple[int, ...]]] = {v: [boundary(v)] for v in graph.inputs}
    cost = 0.0

    def fetch(value: Value, perm: tuple[int, ...]) -> float:
        if perm in there[value]:
            return 0.0
        least = min(move_cost(value.shape, known, perm) for known in there[value])
        there[value].append(perm)
        return least

    for node in graph.nodes:
        config = layout[node]
        cost += config.cost
        for value, perm in zip(node.operands, config.inputs, strict=True):
            cost += fetch(value, perm)
        for value, perm in zip(node.outputs, config.outputs, strict=True):
            there[value] = [perm]
    return cost + sum(fetch(value, boundary(value)) for value in graph.outputs)
