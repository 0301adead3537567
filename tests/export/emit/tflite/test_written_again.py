"""Write, read, write: a file of our own comes back byte by byte."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

from edgec.export.capture import from_tflite
from edgec.export.emit.onnx_file import serialize
from edgec.export.emit.tflite.write import convert
from edgec.export.errors import InputError
from edgec.export.rewrite.engine import run_stages
from edgec.export.tflite import decode, encode
from edgec.export.tflite.marks import METADATA, ORDER_KEY, own_entry
from edgec.runtime.onnx_runner import OnnxRunner

Shape = tuple[int, ...]


@dataclass
class Chain:
    """A random network in ONNX text, operator by operator."""

    draw: Callable[..., Any]
    lines: list[str] = field(default_factory=list)
    weights: dict[str, np.ndarray[Any, Any]] = field(default_factory=dict)
    seen: list[tuple[str, Shape]] = field(default_factory=lambda: [("x", (1, 8, 8, 8))])

    def random(self, *shape: int) -> str:
        name = f"w{len(self.weights)}"
        rng = np.random.default_rng(len(self.weights))
        self.weights[name] = rng.standard_normal(shape).astype(np.float32)
        return name

    def integers(self, *values: int) -> str:
        name = f"w{len(self.weights)}"
        self.weights[name] = np.array(values, np.int64)
        return name

    def add(self, shape: Shape, text: str) -> None:
        name = f"v{len(self.lines)}"
        self.lines.append(f"{name} = {text}")
        self.seen.append((name, shape))

    def step(self) -> None:
        x, shape = self.seen[-1]
        rank = len(shape)
        steps = ["curve", "constant", "pair", "softmax", "mean", "concat", "slice", "split"]
        steps += ["pad", "transpose", "cut", "join", "linear", "layer_norm", "l2_norm", "scores"]
        if rank == 4:
            steps += ["conv", "pool"] * 4
        getattr(self, self.draw(st.sampled_from(steps)))(x, shape, rank)

    def conv(self, x: str, shape: Shape, rank: int) -> None:
        n, c, h, w = shape
        kernel, stride = self.draw(st.sampled_from([(1, 1), (3, 1), (3, 2), (2, 2)]))
        if min(h, w) < 4:
            kernel, stride = 1, 1
        group = self.draw(st.sampled_from([1, c]))
        out = c if group == c else 6
        pad = kernel // 2 if kernel == 3 else 0
        size = [(d + 2 * pad - kernel) // stride + 1 for d in (h, w)]
        attributes = f"strides=[{stride},{stride}], pads=[{pad},{pad},{pad},{pad}], group={group}"
        weight, bias = self.random(out, c // group, kernel, kernel), self.random(out)
        self.add((n, out, *size), f"Conv <{attributes}> ({x}, {weight}, {bias})")
        if self.draw(st.booleans()):
            self.add((n, out, *size), f"Relu ({self.seen[-1][0]})")

    def pool(self, x: str, shape: Shape, rank: int) -> None:
        if min(shape[2:]) < 4:
            return
        kind = self.draw(st.sampled_from(["MaxPool", "AveragePool"]))
        size = [d // 2 for d in shape[2:]]
        self.add((*shape[:2], *size), f"{kind} <kernel_shape=[2,2], strides=[2,2]> ({x})")

    def curve(self, x: str, shape: Shape, rank: int) -> None:
        kind = self.draw(st.sampled_from(["Sigmoid", "Tanh", "Gelu", "HardSwish", "Relu", "Abs"]))
        self.add(shape, f"{kind} ({x})")

    def constant(self, x: str, shape: Shape, rank: int) -> None:
        kind = self.draw(st.sampled_from(["Add", "Mul", "Sub"]))
        axis = self.draw(st.integers(0, rank - 1))
        narrow = [d if i == axis else 1 for i, d in enumerate(shape)]
        self.add(shape, f"{kind} ({x}, {self.random(*narrow)})")

    def pair(self, x: str, shape: Shape, rank: int) -> None:
        others = [name for name, known in self.seen if known == shape]
        kind = self.draw(st.sampled_from(["Add", "Mul"]))
        self.add(shape, f"{kind} ({x}, {self.draw(st.sampled_from(others))})")

    def softmax(self, x: str, shape: Shape, rank: int) -> None:
        axis = self.draw(st.integers(0, rank - 1))
        self.add(shape, f"Softmax <axis={axis}> ({x})")

    def mean(self, x: str, shape: Shape, rank: int) -> None:
        axis, keep = self.draw(st.integers(1, rank - 1)), self.draw(st.integers(0, 1))
        if rank == 2 and not keep:
            return
        left = (*shape[:axis], *((1,) if keep else ()), *shape[axis + 1 :])
        self.add(left, f"ReduceMean <keepdims={keep}> ({x}, {self.integers(axis)})")

    def concat(self, x: str, shape: Shape, rank: int) -> None:
        axis = self.draw(st.integers(0, rank - 1))
        others = [name for name, known in self.seen if known == shape]
        other = self.draw(st.sampled_from(others))
        wide = tuple(2 * d if i == axis else d for i, d in enumerate(shape))
        if prod(wide) <= 4096:
            self.add(wide, f"Concat <axis={axis}> ({x}, {other})")

    def slice(self, x: str, shape: Shape, rank: int) -> None:
        axis, stride = self.draw(st.integers(0, rank - 1)), self.draw(st.integers(1, 2))
        size = len(range(0, shape[axis], stride))
        less = tuple(size if i == axis else d for i, d in enumerate(shape))
        ends = (self.integers(n) for n in (0, shape[axis], axis, stride))
        self.add(less, f"Slice ({x}, {', '.join(ends)})")

    def split(self, x: str, shape: Shape, rank: int) -> None:
        axis = next((i for i, d in enumerate(shape) if d % 2 == 0), None)
        if axis is None:
            return
        half = tuple(d // 2 if i == axis else d for i, d in enumerate(shape))
        number = len(self.lines)
        self.lines.append(f"s{number}a, s{number}b = Split <axis={axis}, num_outputs=2> ({x})")
        self.seen += [(f"s{number}a", half), (f"s{number}b", half)]
        self.add(half, f"Mul (s{number}a, s{number}b)")

    def pad(self, x: str, shape: Shape, rank: int) -> None:
        axis = self.draw(st.integers(0, rank - 1))
        pads = [0] * (2 * rank)
        pads[axis], pads[rank + axis] = self.draw(st.tuples(st.integers(0, 1), st.integers(1, 2)))
        more = pads[axis] + pads[rank + axis]
        wide = tuple(d + more if i == axis else d for i, d in enumerate(shape))
        if prod(wide) <= 4096:
            self.add(wide, f"Pad ({x}, {self.integers(*pads)})")

    def transpose(self, x: str, shape: Shape, rank: int) -> None:
        perm = self.draw(st.permutations(range(rank)))
        moved = tuple(shape[p] for p in perm)
        self.add(moved, f"Transpose <perm={list(perm)}> ({x})")

    def cut(self, x: str, shape: Shape, rank: int) -> None:
        axis = next((i for i, d in enumerate(shape) if d % 2 == 0), None)
        if axis is not None and rank < 5:
            finer = (*shape[:axis], 2, shape[axis] // 2, *shape[axis + 1 :])
            self.add(finer, f"Reshape ({x}, {self.integers(*finer)})")

    def join(self, x: str, shape: Shape, rank: int) -> None:
        if rank > 2:
            axis = self.draw(st.integers(0, rank - 2))
            whole = (*shape[:axis], shape[axis] * shape[axis + 1], *shape[axis + 2 :])
            self.add(whole, f"Reshape ({x}, {self.integers(*whole)})")

    def linear(self, x: str, shape: Shape, rank: int) -> None:
        self.add((*shape[:-1], 6), f"MatMul ({x}, {self.random(shape[-1], 6)})")
        if self.draw(st.booleans()):
            self.add((*shape[:-1], 6), f"Add ({self.seen[-1][0]}, {self.random(6)})")

    def layer_norm(self, x: str, shape: Shape, rank: int) -> None:
        if shape[-1] == 1:  # its means do nothing
            return
        scale, offset = self.random(shape[-1]), self.random(shape[-1])
        self.add(shape, f"LayerNormalization <axis={rank - 1}> ({x}, {scale}, {offset})")

    def l2_norm(self, x: str, shape: Shape, rank: int) -> None:
        axis = self.draw(st.integers(0, rank - 1))
        if shape[axis] == 1:
            return
        self.add(shape, f"LpNormalization <axis={axis}, p=2> ({x})")

    def scores(self, x: str, shape: Shape, rank: int) -> None:
        if rank < 3 or prod(shape[:-1]) * shape[-2] > 4096:
            return
        perm = [*range(rank - 2), rank - 1, rank - 2]
        self.add(
            (*shape[:-2], shape[-1], shape[-2]),
            f"Transpose <perm={perm}> ({x})",
        )
        self.add((*shape[:-1], shape[-2]), f"MatMul ({x}, {self.seen[-1][0]})")

    def text(self) -> str:
        def typed(name: str, shape: Shape) -> str:
            return f"float[{','.join(map(str, shape))}] {name}"

        kinds = {"f": "float", "i": "int64"}
        known = [
            f"{kinds[w.dtype.kind]}[{','.join(map(str, w.shape))}] {name}"
            for name, w in self.weights.items()
        ]
        inputs = ", ".join([typed(*self.seen[0]), *known])
        return f"g ({inputs}) => ({typed(*self.seen[-1])}) {{ {' '.join(self.lines)} }}"


@settings(  # to shrink takes minutes: the networks are small already
    max_examples=20,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(data=st.data())
def test_random_networks(
    data: st.DataObject,
    graph: Callable[..., ir.Model],
    written_again: Callable[[ir.Model], list[bytes]],
) -> None:
    chain = Chain(data.draw)
    chain.lines.append("v0 = Abs (x)")
    chain.seen.append(("v0", chain.seen[0][1]))
    for _ in range(data.draw(st.integers(1, 12))):
        chain.step()
    model = graph(chain.text(), chain.weights)
    run_stages(model, target_opset=20, verify=False)  # operators that do nothing are not read again
    try:
        written_again(model)
    except InputError as error:  # products of products leave the range of float32
        assume(error.code != "EC762")
        raise


ATTENTION = """
g (float[1,8,8,8] x) => (float[1,6,8,8] y, float[1,64,64] scores) {
    features = Conv <kernel_shape=[3,3], pads=[1,1,1,1]> (x, w0, w1)
    rows = Reshape (features, w2)
    columns = Transpose <perm=[0,2,1]> (rows)
    products = MatMul (columns, rows)
    scores = Softmax <axis=2> (products)
    mixed = MatMul (rows, scores)
    image = Reshape (mixed, w3)
    y = Conv <kernel_shape=[1,1]> (image, w4)
}"""


@pytest.fixture
def attention(graph: Callable[..., ir.Model]) -> ir.Model:
    rng = np.random.default_rng(0)
    shapes = ((4, 8, 3, 3), (4,), (6, 4, 1, 1))
    kernel, bias, last = (rng.standard_normal(s).astype(np.float32) for s in shapes)
    weights = {"w0": kernel, "w1": bias, "w4": last}
    weights |= {"w2": np.array([1, 4, 64]), "w3": np.array([1, 4, 8, 8])}
    kinds = {"f": "float", "i": "int64"}
    known = ", ".join(
        f"{kinds[w.dtype.kind]}[{','.join(map(str, w.shape))}] {n}" for n, w in weights.items()
    )
    return graph(ATTENTION.replace("8] x)", f"8] x, {known})"), weights)


def test_attention(attention: ir.Model, written_again: Callable[[ir.Model], list[bytes]]) -> None:
    for content in written_again(attention):
        assert encode(decode(content)) == content


def test_a_reshape_that_only_changes_the_layout_stays(
    graph: Callable[..., ir.Model], written_again: Callable[[ir.Model], list[bytes]]
) -> None:
    """One channel: (N, H, W, 1) and (N, 1, H, W) are the same bytes, but not the same tensor."""
    text = """
    g (float[2,1,4,4] x) => (float[2,1,2,2] y) {
        pooled = AveragePool <kernel_shape=[2,2], strides=[2,2]> (x)
        turned = Transpose <perm=[0,1,3,2]> (pooled)
        product = MatMul (pooled, turned)
        y = Softmax <axis=0> (product)
    }"""
    written_again(graph(text))


def test_an_activation_of_its_own_stays(
    graph: Callable[..., ir.Model], written_again: Callable[[ir.Model], list[bytes]]
) -> None:
    """The last operator of a LayerNormalization could take it in, on reading."""
    text = """
    g (float[1,6,8] x, float[8] scale, float[8] offset) => (float[1,6,8] y) {
        normed = LayerNormalization <axis=2> (x, scale, offset)
        positive = Relu (normed)
        y = Add (positive, offset)
    }"""
    rng = np.random.default_rng(0)
    weights = {name: rng.standard_normal(8).astype(np.float32) for name in ("scale", "offset")}
    written_again(graph(text, weights))


def test_names_of_tensors_stay_when_names_of_values_change(attention: ir.Model) -> None:
    file = convert(attention).content
    read = from_tflite(decode(file))
    for number, node in enumerate(read.graph):
        for output in node.outputs:
            if not output.is_graph_output():
                output.name = f"renamed_{number}"
    assert convert(read).content == file


def test_what_was_rewritten_gets_a_layout_of_its_own(attention: ir.Model) -> None:
    """Marks of values that are gone do not hold the rest."""
    feed = {"x": np.random.default_rng(1).standard_normal((1, 8, 8, 8)).astype(np.float32)}
    want = OnnxRunner(serialize(attention, "")).run(feed)
    read = from_tflite(decode(convert(attention).content))
    softmax = next(node for node in read.graph if node.op_type == "Softmax")
    for value in softmax.outputs:
        del value.metadata_props[ORDER_KEY]
    again = convert(read)
    pytest.importorskip("ai_edge_litert")
    from edgec.runtime.tflite_artifact import TfliteArtifactRunner

    got = TfliteArtifactRunner(again.content).run(feed)
    for name, array in want.items():
        np.testing.assert_allclose(got[name], array, rtol=1e-4, atol=1e-3)


def test_files_of_others_get_a_layout(attention: ir.Model) -> None:
    model = decode(convert(attention).content)
    del model.metadata[METADATA]
    read = from_tflite(model)
    assert not any(ORDER_KEY in value.metadata_props for value in read.graph.inputs)


@pytest.mark.parametrize(
    "entry",
    [b"", b"[]", b"{}", b"\xff", b"[" * 100_000, b'{"schema": "another"}', b'{"schema": []}'],
)
def test_metadata_may_say_anything(attention: ir.Model, entry: bytes) -> None:
    model = decode(convert(attention).content)
    model.metadata[METADATA] = entry
    assert own_entry(model) is None
    from_tflite(model)
