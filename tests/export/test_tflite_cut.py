"""Dividing a network between float and integers: as good as trying every division."""

from __future__ import annotations

from itertools import product

import numpy as np
import onnx.parser
import onnx_ir as ir
import pytest

from edgec.export import tflite_cut
from edgec.export.emit.tflite.flavour import LITERT
from edgec.export.emit.tflite.lower import Lowered
from edgec.export.emit.tflite.write import convert
from edgec.export.quantize.calibrate import calibrate
from edgec.export.quantize.scheme import TFLITE
from edgec.export.rewrite.inference import infer_shapes
from edgec.export.tflite_cut import MOVING, Split, Timed, fastest_split
from edgec.export.tflite_mixes import Ground

TEXT = """<ir_version: 9, opset_import: ["" : 20]>
net (float[1,8,4,4] x, float[8,8,1,1] w, float[8] b) => (float[1,8,4,4] y) {
  c = Conv(x, w, b)
  s = Sigmoid(c)
  m = Mul(c, s)
  d = Conv(m, w, b)
  r = Relu(d)
  a = Add(r, m)
  y = Conv(a, w, b)
}"""
ABSORBED = {"r": "d"}
"""The Relu is part of the convolution before it."""
ELEMENTS = 128
CONVERSION = 1e-8
"""Seconds per element."""


@pytest.fixture(scope="module")
def ground() -> Ground:
    model = ir.from_proto(onnx.parser.parse_model(TEXT))
    rng = np.random.default_rng(3)
    for value in list(model.graph.inputs)[1:]:
        assert value.shape is not None
        array = rng.standard_normal(tuple(value.shape.numpy())).astype(np.float32)
        model.graph.inputs.remove(value)
        value.const_value = ir.tensor(array, name=value.name)
        model.graph.register_initializer(value)
    infer_shapes(model)
    for node in model.graph:
        node.name = str(node.outputs[0].name)
    feeds = [{"x": rng.standard_normal((1, 8, 4, 4)).astype(np.float32)} for _ in range(4)]
    return Ground(model, calibrate(model, feeds, method="minmax"), TFLITE, LITERT)


@pytest.fixture(scope="module")
def files(ground: Ground) -> tuple[Lowered, Lowered]:
    return convert(ground.master).lowered, ground.mix("int8").lowered


def timed(lowered: Lowered, cost: dict[str, float]) -> Timed:
    """Conversions by their elements, other operators as `cost` says of their node."""
    main = lowered.model.main
    seconds = [
        CONVERSION * main.tensors[op.outputs[0]].elements if op.code in MOVING else cost[node or ""]
        for op, node in zip(main.operators, lowered.nodes, strict=True)
    ]
    return Timed(lowered, seconds)


def price(
    model: ir.Model, in_float: set[str], floating: dict[str, float], integer: dict[str, float]
) -> float:
    """Time of a division: every node once, every tensor that both sides need converted once."""
    total = sum((floating if node in in_float else integer)[node] for node in floating)
    written = {str(v.name): "ends" for v in model.graph.inputs}
    readers: dict[str, set[str]] = {str(v.name): {"ends"} for v in model.graph.outputs}
    for node in model.graph:
        name = ABSORBED.get(str(node.name), str(node.name))
        written[str(node.outputs[0].name)] = name
        for value in node.inputs:
            readers.setdefault(str(value and value.name), set()).add(name)
    for tensor, producer in written.items():
        sides = {reader in in_float or reader == "ends" for reader in readers[tensor]}
        if (not (producer in in_float or producer == "ends")) in sides:
            total += CONVERSION * ELEMENTS
    return total


@pytest.mark.parametrize("seed", range(12))
def test_no_division_is_faster(
    seed: int,
    ground: Ground,
    files: tuple[Lowered, Lowered],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tflite_cut, "_CLOCK", 0.0)
    rng = np.random.default_rng(seed)
    nodes = ["c", "s", "m", "d", "a", "y"]
    # times from below to above that of a conversion, in whole nanoseconds as the cut counts
    floating, integer = (
        {n: int(t) * 1e-9 for n, t in zip(nodes, rng.integers(1, 4000, len(nodes)), strict=True)}
        for _ in range(2)
    )
    split = fastest_split(
        ground.master,
        timed(files[0], floating),
        timed(files[1], integer),
        ground.scheme.opportunistic,
    )
    found = price(ground.master, set(split.keep_float), floating, integer)
    least = min(
        price(
            ground.master, {n for n, f in zip(nodes, choice, strict=True) if f}, floating, integer
        )
        for choice in product((False, True), repeat=len(nodes))
    )
    assert found == pytest.approx(least, abs=1e-12)
    assert set(split.eager).isdisjoint(split.keep_float)


def test_what_was_absorbed_goes_with_its_operator(
    ground: Ground, files: tuple[Lowered, Lowered]
) -> None:
    fast, slow = dict.fromkeys("csmday", 1e-6), dict.fromkeys("csmday", 1e-3)
    split = fastest_split(
        ground.master, timed(files[0], fast), timed(files[1], slow), ground.scheme.opportunistic
    )
    assert split == Split(("c", "s", "m", "d", "r", "a", "y"))


def test_integers_behind_float_where_they_are_asked_for(ground: Ground) -> None:
    def kinds(split: Split) -> dict[str | None, str]:
        lowered = ground.mix("mix", split).lowered
        main = lowered.model.main
        return {
            op.code: main.tensors[op.outputs[0]].dtype
            for op, node in zip(main.operators, lowered.nodes, strict=True)
            if node in ("c", "s", "m")
        }

    left = kinds(Split(("c",)))
    assert (left["CONV_2D"], left["LOGISTIC"], left["MUL"]) == ("FLOAT32",) * 3
    eager = kinds(Split(("c",), ("s", "m")))
    assert (eager["CONV_2D"], eager["LOGISTIC"], eager["MUL"]) == ("FLOAT32", "INT8", "INT8")
